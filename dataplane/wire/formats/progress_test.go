package formats

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

// relay decodes a packet in batches of limit events, each by a decoder of its own over
// the memory of the one before, which is given nothing but the packet and its Progress.
type relay struct {
	t      *testing.T
	feed   *plan.Feed
	format wire.Format
	region *arena.Region
}

func (r *relay) decoder() wire.Decoder {
	r.t.Helper()
	d, err := r.format.New(r.feed, r.region, nil)
	if err == nil {
		err = r.region.Complete(1)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *relay) next() wire.Decoder {
	r.t.Helper()
	fd, err := unix.Dup(r.region.FD())
	if err != nil {
		r.t.Fatal(err)
	}
	_ = r.region.Close()
	if r.region, err = arena.Open(fd); err != nil {
		r.t.Fatal(err)
	}
	return r.decoder()
}

func (r *relay) decode(d wire.Decoder, p wire.Packet, limit int) ([]wiretest.Row, wire.Progress, wire.Decoder) {
	r.t.Helper()
	var rows []wiretest.Row
	b := wiretest.Batch(r.feed)
	b.Limit = limit
	progress := p.Progress
	for {
		again := p // as it was before anything was decoded
		again.Progress = progress
		b.Reset()
		more := d.Decode(&again, b)
		if more && b.N == 0 {
			r.t.Fatal("no progress: more, but no event")
		}
		rows = append(rows, wiretest.Rows(b, r.feed)...)
		progress = again.Progress
		if !more {
			return rows, progress, d
		}
		d = r.next()
	}
}

// packets returns what feeds of a format are given.
func packets(t *testing.T, f *wire.Format, feed *plan.Feed) []wire.Packet {
	t.Helper()
	line := func(text string) wire.Packet { return wire.Packet{Payload: []byte(text), Receive: 7} }
	switch f.Name {
	case "json":
		return []wire.Packet{line("{\"a\":\"x\"}\n{\"a\":1}\n\n{\"a\":\"\\u0041\"}\n{\"a\":\"y\"}\nnot json\n{}\n{\"a\":\"z\"}"), line("{\"a\":\"x\"}\n{\"a\":\"y\"}\n{\"a\":")}
	case "csv":
		return []wire.Packet{line("a,b\n\"c\"\"d\",e\n\nf,g\nbad\"quote\nh,i\r\n\"j\""), line("k\nl\nm")}
	case "raw":
		return []wire.Packet{line("abcdefgh0123456789ABCDEF"), line("abcdefgh0123")}
	}
	files, err := filepath.Glob(filepath.Join(testdata.Path(t, "venues"), "*", "*", "*.pcap"))
	if err != nil || len(files) < 30 {
		t.Fatalf("%d captures (%v)", len(files), err)
	}
	var all []wire.Packet
	venue := map[plan.Sequence]string{plan.IEXTP: "IEX", plan.MoldUDP64: "Totalview"}[f.Sequence]
	for _, file := range files {
		for i, c := range wiretest.Capture(t, file) {
			payload := wiretest.UDP(c.Frame)
			p := wire.Packet{Payload: payload, Frame: c.Frame, Receive: c.Stamp, Count: 1000}
			switch header := map[plan.Sequence]int{plan.IEXTP: 40, plan.MoldUDP64: 20}[f.Sequence]; {
			case i == 5 || header > len(payload) || !strings.Contains(strings.ToLower(file), strings.ToLower(venue)):
				continue
			case f.Sequence == plan.IEXTP:
				p.Count = int(binary.LittleEndian.Uint16(payload[14:]))
				p.Payload = payload[header:]
			case f.Sequence == plan.MoldUDP64:
				p.Count = int(binary.BigEndian.Uint16(payload[18:]))
				p.Payload = payload[header:]
			}
			all = append(all, p)
		}
	}
	return append(all, merged(feed, all))
}

// merged is one packet of the messages of many.
func merged(feed *plan.Feed, all []wire.Packet) wire.Packet {
	p := wire.Packet{Receive: 1548853200e9}
	if feed.Sequence == plan.Unsequenced {
		return all[0]
	}
	for i := range all {
		p.Payload = append(p.Payload, all[i].Payload...)
		p.Count += all[i].Count
	}
	return p
}

// A decoder keeps nothing to itself between two batches of a packet.
func TestAnotherDecoderGoesOnInTheMiddleOfAPacket(t *testing.T) {
	for _, name := range Names() {
		f, _ := Lookup(name)
		feed := &plan.Feed{Name: name, Sequence: f.Sequence, Kinds: ^uint64(0), Channels: 1, Orders: 100, Identity: true, Time: plan.EventTime{Unit: plan.UnitReceive}}
		if f.Fields != nil {
			feed.Columns = wiretest.Columns(t, &f)
		} else {
			feed.Columns = []plan.Column{{Name: "a", Type: event.Text, Path: []string{"a"}, Width: 8}}
			feed.Stride = map[string]int{"raw": 8}[name]
		}
		all := packets(t, &f, feed)
		for limit := range 6 {
			var want, got []string
			one := &relay{t: t, feed: feed, format: f, region: wiretest.Region(t, 4<<20)}
			d := one.decoder()
			region, err := arena.New("relay", 4<<20)
			if err != nil {
				t.Fatal(err)
			}
			many := &relay{t: t, feed: feed, format: f, region: region}
			e := many.decoder()
			for i := range all {
				all[i].Max = event.MinNanos
				p := all[i]
				b := wiretest.Batch(feed)
				rows, err := wiretest.Decode(d, feed, &p, b, event.BatchMax)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, fmt.Sprint(rows, p.Progress))
				var progress wire.Progress
				rows, progress, e = many.decode(e, all[i], limit+1)
				got = append(got, fmt.Sprint(rows, progress))
			}
			if !reflect.DeepEqual(got, want) {
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("%s, limit %d, packet %d:\n got %s\nwant %s", name, limit+1, i, got[i], want[i])
					}
				}
			}
			if err := many.region.Close(); err != nil {
				t.Fatal(err)
			}
			if limit == 0 {
				t.Logf("%s: %d packets", name, len(all))
			}
		}
	}
}
