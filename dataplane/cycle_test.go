package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/formats"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/internal/packet"
)

const (
	beltFirst = int64(1577959200000000000) // 2020-01-02T10:00:00Z
	beltStep  = int64(50 * time.Microsecond)
)

// belt is a receiver that always has a batch of frames, made beforehand.
type belt struct {
	frames []xsk.Frame
	at     int
}

func (b *belt) Receive(frames []xsk.Frame) int {
	n := copy(frames, b.frames[b.at:])
	b.at += n
	return n
}

func (b *belt) Release() {}

func (b *belt) Spent() bool { return false }

func (b *belt) Positions(into []uint32, rest []xsk.Frame) int {
	into[0] = uint32(b.at - len(rest))
	return 1
}

// payloads makes packet number i of a format: a few events, at the time of the packet.
var payloads = map[string]func(i int) []byte{
	"csv": func(i int) (p []byte) {
		for k := range 4 {
			p = fmt.Appendf(p, "sensor%d,%d,%d,%d.5\n", (i+k)%100, beltFirst+int64(i)*beltStep, k, i%1000)
		}
		return p
	},
	"json": func(i int) (p []byte) {
		for k := range 4 {
			p = fmt.Appendf(p, `{"name":"sensor%d","at":%d,"size":%d,"price":%d.5}`+"\n", (i+k)%100, beltFirst+int64(i)*beltStep, k, i%1000)
		}
		return p
	},
	"raw": func(i int) (p []byte) {
		for k := range 4 {
			p = append(p, fmt.Sprintf("sensor%-10d", (i+k)%100)...)
			p = binary.LittleEndian.AppendUint64(p, uint64(beltFirst+int64(i)*beltStep))
			p = binary.LittleEndian.AppendUint64(p, uint64(k))
			p = binary.LittleEndian.AppendUint64(p, uint64(i%1000))
		}
		return p
	},
	"flow": func(int) []byte { return []byte("anything") },
	"iex-deep": func(i int) []byte {
		const count = 3
		p := make([]byte, 40)
		p[0] = 1
		binary.LittleEndian.PutUint16(p[2:], 0x8004)
		binary.LittleEndian.PutUint32(p[4:], 1)
		binary.LittleEndian.PutUint32(p[8:], 1)
		binary.LittleEndian.PutUint16(p[12:], count*40)
		binary.LittleEndian.PutUint16(p[14:], count)
		binary.LittleEndian.PutUint64(p[24:], uint64(1+gappy(i)*count))
		binary.LittleEndian.PutUint64(p[32:], uint64(beltFirst+int64(i)*beltStep))
		for k := range count {
			p = append(p, 38, 0, 'T', 0)
			p = binary.LittleEndian.AppendUint64(p, uint64(beltFirst+int64(i)*beltStep))
			p = append(p, fmt.Sprintf("SYM%-5d", (i+k)%100)...)
			p = binary.LittleEndian.AppendUint32(p, uint32(k))
			p = binary.LittleEndian.AppendUint64(p, uint64(i%1000))
			p = append(p, make([]byte, 8)...)
		}
		return p
	},
	"itch50": func(i int) []byte {
		const count = 3
		p := append([]byte("SESSION001"), make([]byte, 10)...)
		binary.BigEndian.PutUint64(p[10:], uint64(1+gappy(i)*count))
		binary.BigEndian.PutUint16(p[18:], count)
		for k := range count {
			m := make([]byte, 44)
			m[0] = 'P'
			var t [8]byte
			binary.BigEndian.PutUint64(t[:], uint64(int64(10*time.Hour)+int64(i)*beltStep))
			copy(m[5:], t[2:])
			m[19] = 'B'
			binary.BigEndian.PutUint32(m[20:], uint32(k))
			copy(m[24:], fmt.Sprintf("SYM%-5d", (i+k)%100))
			binary.BigEndian.PutUint32(m[32:], uint32(i%1000))
			p = append(binary.BigEndian.AppendUint16(p, 44), m...)
		}
		return p
	},
}

// gappy numbers packets so that one in 20 comes twice, one is missing and one is late.
func gappy(i int) int {
	switch i % 20 {
	case 5:
		return i - 1 // a copy; its own number is missing
	case 10:
		return i + 1
	case 11:
		return i - 1
	}
	return i
}

// beltPlan is a plan with one query, whose windows close every few cycles.
func beltPlan(format string, workers int) *plan.Plan {
	f, _ := formats.Lookup(format)
	p := &plan.Plan{
		Version: plan.Version, Workers: workers, WorkersMax: workers, Batch: event.BatchMax, OutboxBytes: 1 << 20, LaneBytes: 1 << 18, Flush: true,
		Feeds: []plan.Feed{{
			Name: "belt", Format: format, Rules: []plan.Rule{{Protocol: 17, Destination: netip.MustParsePrefix("239.1.1.1/32")}}, Place: f.Place,
			Sequence: f.Sequence, Kinds: ^uint64(0), Identity: true, Channels: 4, HoldPackets: 16, HoldBytes: 16 << 10, HoldFor: 50 * time.Millisecond,
			Orders: 100, Day: "2020-01-02", Zone: "UTC", LittleEndian: true,
		}},
	}
	feed := &p.Feeds[0]
	names := []string{"symbol", "size", "price"}
	if format == "flow" {
		names = []string{"source", "bytes", "source_port"}
	}
	if f.Fields != nil {
		feed.Time.Unit = plan.UnitOwn
		for _, name := range names {
			i := slices.IndexFunc(f.Fields, func(x wire.Field) bool { return x.Name == name })
			feed.Columns = append(feed.Columns, plan.Column{Name: name, Type: f.Fields[i].Type, Scale: f.Fields[i].Scale, Field: i})
		}
	} else {
		feed.Columns = []plan.Column{
			{Name: "name", Type: event.Text, Path: []string{"name"}, Index: 0, Offset: 0, Width: 16},
			{Name: "size", Type: event.Int64, Path: []string{"size"}, Index: 2, Offset: 24, Width: 8},
			{Name: "price", Type: event.Decimal, Scale: 4, Path: []string{"price"}, Index: 3, Offset: 32, Width: 8},
		}
		feed.Time = plan.EventTime{Unit: plan.UnitNS, Column: plan.Column{Name: "at", Type: event.Int64, Path: []string{"at"}, Index: 1, Offset: 16, Width: 8}}
		feed.Stride = 40
		if format != "raw" {
			feed.Stride = 0
		}
	}
	column := func(c int) plan.Program {
		col := feed.Columns[c]
		return plan.Program{Ops: []plan.Op{{Code: plan.OpColumn, Column: c, Type: col.Type, Scale: col.Scale}}, Type: col.Type, Scale: col.Scale}
	}
	where := plan.Program{Ops: []plan.Op{{Code: plan.OpColumn, Column: 1, Type: event.Int64}, {Code: plan.OpInt, Int: 0, Type: event.Int64}, {Code: plan.OpGe, Type: event.Bool}}, Type: event.Bool}
	p.Streams = []plan.Stream{{Key: []int{0}, Columns: []int{1, 2}, Queries: []int{0}, KeyWidth: event.TextMax}}
	p.Queries = []plan.Query{{
		Name: "q", Where: where, Width: 20 * time.Millisecond, Delay: 5 * time.Millisecond, Keys: 1000, Panes: 10,
		Aggregates: []plan.Aggregate{
			{Name: "n", Kind: plan.Count},
			{Name: "sum", Kind: plan.Sum, Args: []plan.Program{column(1)}},
			{Name: "first", Kind: plan.First, Args: []plan.Program{column(2)}},
			{Name: "last", Kind: plan.Last, Args: []plan.Program{column(2)}},
			{Name: "mean", Kind: plan.Mean, Args: []plan.Program{column(1)}},
			{Name: "variance", Kind: plan.Variance, Args: []plan.Program{column(1)}},
		},
	}}
	return p
}

// newBelt makes n frames of a format and steers them.
func newBelt(t *testing.T, p *plan.Plan, n int) *belt {
	t.Helper()
	s, err := steer.New(p.Feeds)
	if err != nil {
		t.Fatal(err)
	}
	b := &belt{}
	for i := range n {
		u := packet.UDP{
			Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), uint16(1000+i%7)),
			Destination: netip.MustParseAddrPort("239.1.1.1:9000"),
		}
		f := xsk.Frame{Data: u.Append(nil, payloads[p.Feeds[0].Format](i)), Packet: uint64(i + 1)}
		if v := s.Steer(f.Data, len(f.Data), false, uint64(beltFirst+int64(i)*beltStep), &f.Meta); v != steer.Steered {
			t.Fatalf("frame %d is %v", i, v)
		}
		b.frames = append(b.frames, f)
	}
	return b
}

// newWorkers builds the workers of a running data plane, each with its receiver.
func newWorkers(t *testing.T, p *plan.Plan, rollback bool, receivers ...xsk.Receiver) ([]*Worker, *segment.Segment) {
	t.Helper()
	seg, err := segment.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = seg.Close() })
	region := func() *arena.Region {
		r, err := arena.New("test", 1<<36)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	var lanes [][]*exchange.Lane
	if p.Workers > 1 {
		if lanes, err = NewLanes(p, region()); err != nil {
			t.Fatal(err)
		}
	}
	owner := steer.OwnerTable(p.Workers)
	shared, err := window.NewShared(region(), len(p.Queries))
	if err != nil {
		t.Fatal(err)
	}
	var workers []*Worker
	for i := range p.Workers {
		w, err := NewWorker(Config{
			Plan: p, Worker: i, Receiver: receivers[i], Segment: seg.Worker(i), Region: region(), Lanes: lanes, Owner: &owner, Shared: shared, Rollback: rollback,
		})
		if err != nil {
			t.Fatal(err)
		}
		workers = append(workers, w)
	}
	return workers, seg
}

// A cycle allocates nothing, in any format, with one worker or with an exchange:
// frames that are in order, copies, gaps and late ones, closing windows included.
func TestACycleAllocatesNothing(t *testing.T) {
	const warm, runs = 40, 60
	for format := range payloads {
		for k := range 4 {
			workers, rollback := 1+k%2, k >= 2
			t.Run(fmt.Sprintf("%s/workers=%d/rollback=%v", format, workers, rollback), func(t *testing.T) {
				p := beltPlan(format, workers)
				b := newBelt(t, p, (warm+runs+10)*framesMax*workers)
				receivers := make([]xsk.Receiver, workers)
				for i := range receivers {
					own := &belt{}
					for _, f := range b.frames {
						if int(f.Meta.Group)*workers/event.GroupCount == i {
							own.frames = append(own.frames, f)
						}
					}
					receivers[i] = own
				}
				ws, seg := newWorkers(t, p, rollback, receivers...)
				now := event.Nanos(0)
				cycle := func() {
					now += event.Nanos(time.Millisecond)
					for i, w := range ws {
						w.cycle(now)
						ring := seg.Worker(i).Ring()
						ring.Freed.Store(ring.Produced.Load())
					}
				}
				for range warm {
					cycle()
				}
				if n := testing.AllocsPerRun(runs, cycle); n != 0 {
					t.Errorf("%v allocations a cycle, want 0", n)
				}
				var frames, applied, partials, missing uint64
				for _, w := range ws {
					frames += w.counters.Worker.Frames
					applied += w.counters.Queries[0].Applied
					partials += w.counters.Queries[0].Partials
					missing += w.counters.Feeds[0].Missing
				}
				if sequenced := p.Feeds[0].Sequence != plan.Unsequenced; frames < runs*framesMax || applied < frames/2 || partials < 100 || sequenced && missing == 0 {
					t.Errorf("%d frames, %d events, %d partials, %d missing: the cycles did not do what they are measured for", frames, applied, partials, missing)
				}
			})
		}
	}
}
