package generate

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// objects makes json, csv and raw: the same drivers' reports in three forms.
type objects struct {
	c      *Config
	dice   dice
	n      uint64
	ended  bool
	encode func(dst []byte, r *report) []byte
	report report // the one being made; here, so that it is not allocated each time
}

// A report is one message of a driver.
type report struct {
	kind   string
	driver uint64
	cents  int64 // the fare; -1: none
	speed  int64 // in tenths; -1: none
	at     event.Nanos
}

var reportKinds = [...]string{"pickup", "dropoff", "ping"}

func newObjects(c *Config) *objects {
	o := &objects{c: c, dice: newDice(c.Seed, streamMessages)}
	switch c.Kind {
	case JSON:
		o.encode = appendJSON
	case CSV:
		o.encode = appendCSV
	default:
		o.encode = appendRaw
	}
	return o
}

func (o *objects) end()         { o.ended = true }
func (o *objects) made() uint64 { return o.n }

func (o *objects) next(p *parcel) bool {
	if o.ended || o.c.Count > 0 && o.n == o.c.Count {
		return false
	}
	r := &o.report
	*r = report{driver: 100 + o.dice.key(uint64(o.c.Keys)), cents: -1, speed: -1, at: o.c.at(o.n)}
	r.kind = reportKinds[o.dice.below(uint64(len(reportKinds)))]
	if r.kind == "dropoff" {
		r.cents = int64(300 + o.dice.low(9700))
	}
	if o.dice.below(16) > 0 {
		r.speed = int64(o.dice.below(1200))
	}
	o.n++
	*p = parcel{payload: o.encode(p.payload[:0], r), at: r.at, port: uint16(20000 + r.driver%16384), seq: o.n, count: 1}
	return true
}

// appendFixed appends v / 10^digits.
func appendFixed(dst []byte, v, one int64, digits int) []byte {
	dst = append(strconv.AppendInt(dst, v/one, 10), '.')
	for rest, i := v%one, digits; i > 0; i-- {
		one /= 10
		dst = append(dst, byte('0'+rest/one))
		rest %= one
	}
	return dst
}

func appendTime(dst []byte, at event.Nanos) []byte {
	return time.Unix(0, int64(at)).UTC().AppendFormat(dst, time.RFC3339Nano)
}

func appendJSON(dst []byte, r *report) []byte {
	dst = append(append(dst, `{"event_type":"`...), r.kind...)
	dst = strconv.AppendUint(append(dst, `","driver_id":`...), r.driver, 10)
	if r.cents >= 0 {
		dst = appendFixed(append(dst, `,"fare":`...), r.cents, 100, 2)
	}
	dst = appendTime(append(dst, `,"timestamp":"`...), r.at)
	dst = append(dst, `","telemetry":{`...)
	if r.speed >= 0 {
		dst = appendFixed(append(dst, `"speed":`...), r.speed, 10, 1)
	}
	return append(dst, `}}`...)
}

func appendCSV(dst []byte, r *report) []byte {
	dst = append(append(dst, r.kind...), ',')
	dst = append(strconv.AppendUint(dst, r.driver, 10), ',')
	if r.cents >= 0 {
		dst = appendFixed(dst, r.cents, 100, 2)
	}
	dst = append(appendTime(append(dst, ','), r.at), ',')
	if r.speed >= 0 {
		dst = appendFixed(dst, r.speed, 10, 1)
	}
	return append(dst, '\n')
}

func appendRaw(dst []byte, r *report) []byte {
	o := binary.LittleEndian
	dst = o.AppendUint64(dst, r.driver)
	dst = o.AppendUint64(dst, uint64(max(r.cents, 0)))
	dst = o.AppendUint64(dst, uint64(r.at))
	dst = o.AppendUint64(dst, math.Float64bits(float64(max(r.speed, 0))/10))
	var text [8]byte
	copy(text[:], r.kind)
	return append(dst, text[:]...)
}
