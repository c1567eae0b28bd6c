// Package wiretest is what the tests of formats share: it drives a decoder as a
// worker does, checks the account, and reads captures. Only tests import it.
package wiretest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// A Row is one decoded event.
type Row struct {
	Time        event.Nanos
	Chan, Order uint64
	Seq         uint64
	Index       uint32
	// Values has, for each column, nil, an int64 (also a float's bits) or a string.
	Values []any
}

// Region returns an arena that ends with the test.
func Region(tb testing.TB, limit int) *arena.Region {
	tb.Helper()
	r, err := arena.New("wiretest", limit)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// Columns returns the named built-in columns of f, or all of the first 16.
func Columns(tb testing.TB, f *wire.Format, names ...string) []plan.Column {
	tb.Helper()
	var columns []plan.Column
	if names == nil {
		for i := range f.Fields[:min(len(f.Fields), event.ColumnsMax)] {
			names = append(names, f.Fields[i].Name)
		}
	}
	for _, name := range names {
		found := false
		for i, field := range f.Fields {
			if field.Name == name {
				columns = append(columns, plan.Column{Name: name, Type: field.Type, Scale: field.Scale, Field: i})
				found = true
			}
		}
		if !found {
			tb.Fatalf("format %s has no column %s", f.Name, name)
		}
	}
	return columns
}

// Kinds returns the mask of the named kinds of f; all without names.
func Kinds(tb testing.TB, f *wire.Format, names ...string) uint64 {
	tb.Helper()
	var mask uint64
	for _, k := range f.Kinds {
		if names == nil {
			mask |= 1 << k.Bit
		}
		for _, name := range names {
			if name == k.Name {
				mask |= 1 << k.Bit
			}
		}
	}
	return mask
}

// Batch returns an empty batch for the feed's columns.
func Batch(feed *plan.Feed) *event.Batch {
	return plan.NewBatch(feed.Columns)
}

// Rows returns b's events.
func Rows(b *event.Batch, feed *plan.Feed) []Row {
	rows := make([]Row, b.N)
	for i := range rows {
		rows[i].Time = b.Time[i]
		if feed.Identity {
			rows[i].Chan, rows[i].Order, rows[i].Seq, rows[i].Index = b.Chan[i], b.Order[i], b.Seq[i], b.Index[i]
		}
		for c := range feed.Columns {
			col := &b.Cols[c]
			var v any
			switch {
			case !col.Valid.Has(i) && col.Type == event.Text && col.Len[i] != 0,
				!col.Valid.Has(i) && col.Type != event.Text && col.Num[i] != 0:
				v = "null with a value"
			case !col.Valid.Has(i):
			case col.Type == event.Text:
				v = string(b.TextAt(c, i))
			default:
				v = col.Num[i]
			}
			rows[i].Values = append(rows[i].Values, v)
		}
	}
	return rows
}

// Decode decodes p from its beginning with batches of at most limit events and
// returns all of them. It reports an error if the account does not balance or a
// batch is over its limit.
func Decode(d wire.Decoder, feed *plan.Feed, p *wire.Packet, b *event.Batch, limit int) ([]Row, error) {
	var rows []Row
	b.Limit = limit
	for {
		b.Reset()
		more := d.Decode(p, b)
		if b.N > limit {
			return nil, fmt.Errorf("%d events in a batch of %d", b.N, limit)
		}
		if more && b.N == 0 {
			return nil, errors.New("no progress: more, but no event")
		}
		rows = append(rows, Rows(b, feed)...)
		if !more {
			return rows, Balance(p, len(rows))
		}
	}
}

// Balance says whether p's account accounts for every message.
func Balance(p *wire.Packet, events int) error {
	sum := p.Events + p.Filtered
	lost := uint64(0)
	for i, n := range p.Drops {
		sum += n
		if event.Drop(i) != event.DropSkippedType {
			lost += n
		}
	}
	switch {
	case sum != p.Messages:
		return fmt.Errorf("%d messages, but %d events, %d filtered and drops %v", p.Messages, p.Events, p.Filtered, p.Drops)
	case p.Events != uint64(events):
		return fmt.Errorf("%d events counted, %d appended", p.Events, events)
	case p.Hit != (lost > 0):
		return fmt.Errorf("hit is %v with drops %v", p.Hit, p.Drops)
	case p.Drops[event.Kept] != 0:
		return errors.New("a drop for no reason")
	}
	return nil
}

// A Captured is one frame of a capture.
type Captured struct {
	Stamp event.Nanos
	Frame []byte
}

// Capture reads a pcap file. What its end cuts off is not returned.
func Capture(tb testing.TB, path string) []Captured {
	tb.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := pcapgo.NewReader(bytes.NewReader(file))
	if err != nil {
		tb.Fatal(err)
	}
	var frames []Captured
	for {
		frame, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return frames
		}
		if err != nil {
			tb.Fatal(err)
		}
		frames = append(frames, Captured{event.Nanos(info.Timestamp.UnixNano()), frame})
	}
}

// UDP returns the UDP payload of an Ethernet frame with IPv4, one VLAN tag or none,
// or nil.
func UDP(frame []byte) []byte {
	at := 14
	if len(frame) > 18 && frame[12] == 0x81 && frame[13] == 0 {
		at = 18
	}
	if len(frame) < at+28 || frame[at-2] != 8 || frame[at-1] != 0 || frame[at+9] != 17 {
		return nil
	}
	at += int(frame[at]&15)*4 + 8
	if at > len(frame) {
		return nil
	}
	length := int(frame[at-4])<<8 | int(frame[at-3])
	return frame[at:min(len(frame), at+max(0, length-8))]
}
