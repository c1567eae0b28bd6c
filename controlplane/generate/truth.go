package generate

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// A Truth is what a generated stream really held: an independent account to hold
// results against. It is filled while the stream is read.
type Truth struct {
	// Width of the bars. Zero means a minute. Windows count from 1970.
	Width time.Duration
	// Lost are the runs of messages that were lost on every line, in the order of
	// their sending.
	Lost []Lost

	bars map[barKey]*Bar
}

// A Lost is a run of messages of one packet that no line delivers.
type Lost struct {
	Session string // ITCH: 10 bytes; else empty
	Seq     uint64 // number of the first, from 1
	Count   int
	At      event.Nanos // time of its last message
}

// A Trade is an execution that counts: ITCH P, E, and C if printable.
type Trade struct {
	Symbol string // without padding
	At     event.Nanos
	Price  int64 // in 1/10000
	Shares int64
}

// A Bar is what was traded of a symbol in a window, before any loss. Prices and
// Notional (the sum of price times shares) are in 1/10000.
type Bar struct {
	Symbol                 string
	Start                  event.Nanos
	Open, High, Low, Close int64
	Volume, Trades         int64
	Notional               int64
}

type barKey struct {
	symbol string
	window int64
}

// trade adds t, which is later than all trades before it. It does nothing on nil.
func (t *Truth) trade(x Trade) {
	if t == nil {
		return
	}
	if t.Width == 0 {
		t.Width = time.Minute
	}
	if t.bars == nil {
		t.bars = map[barKey]*Bar{}
	}
	k := barKey{x.Symbol, x.At.Index(t.Width, 0)}
	b := t.bars[k]
	if b == nil {
		b = &Bar{Symbol: x.Symbol, Start: event.WindowStart(k.window, t.Width, 0), Open: x.Price, High: x.Price, Low: x.Price}
		t.bars[k] = b
	}
	b.High, b.Low, b.Close = max(b.High, x.Price), min(b.Low, x.Price), x.Price
	b.Volume += x.Shares
	b.Trades++
	b.Notional += x.Price * x.Shares
}

func (t *Truth) lost(l Lost) {
	if t != nil {
		t.Lost = append(t.Lost, l)
	}
}

// Bars returns the bars in order of window, then symbol.
func (t *Truth) Bars() []Bar {
	var out []Bar
	for b := range maps.Values(t.bars) {
		out = append(out, *b)
	}
	slices.SortFunc(out, func(a, b Bar) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), strings.Compare(a.Symbol, b.Symbol))
	})
	return out
}
