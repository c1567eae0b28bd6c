package value

import (
	"math"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// SetNumber sets column c of the event being added, an int64, decimal or float64, to
// the number written in text.
func SetNumber(b *event.Batch, c int, text []byte) event.Drop {
	col := &b.Cols[c]
	switch col.Type {
	case event.Int64:
		v, d := Int(text)
		b.SetNum(c, v)
		return d
	case event.Decimal:
		v, d := Decimal(text, col.Scale)
		b.SetNum(c, v)
		return d
	case event.Float64:
		v, d := Float(text)
		b.SetNum(c, int64(math.Float64bits(v)))
		return d
	}
	return event.DropBadValue
}

// CheckColumn says whether a format whose columns the config declares can give c.
func CheckColumn(c *plan.Column) bool {
	switch c.Type {
	case event.Int64, event.Float64, event.Text:
		return c.Scale == 0
	case event.Decimal:
		return c.Scale <= event.ScaleMax
	}
	return false
}

// CheckUnit says whether u is a unit of times in the data, or of receipt.
func CheckUnit(u plan.TimeUnit) bool {
	switch u {
	case plan.UnitRFC3339, plan.UnitS, plan.UnitMS, plan.UnitUS, plan.UnitNS, plan.UnitReceive:
		return true
	}
	return false
}
