package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// A story is a world that a file of testdata tells: its commands are the cases of run.
type story struct {
	*world
	t     *testing.T
	shown int
	spoil func(from, to int, part *rdma.Part)
	out   strings.Builder
}

// TestStories tells how a group of boxes makes rows. Windows are of the query volumes,
// 20 ns wide; window=1 is [20,40). A key's one event in a box has as its size the
// box's number plus one, times ten to the power of the key's number.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		t.Helper()
		s := &story{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			s.out.Reset()
			s.run(t, d)
			return s.out.String()
		})
	})
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func arg[T any](t *testing.T, d *datadriven.TestData, name string, def T) T {
	t.Helper()
	if !d.HasArg(name) {
		return def
	}
	d.ScanArgs(t, name, &def)
	return def
}

func (s *story) box(t *testing.T, d *datadriven.TestData) *box {
	t.Helper()
	return s.boxes[slices.Index(s.names, arg(t, d, "box", "a"))]
}

func (s *story) run(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	switch d.Cmd {
	case "group":
		s.world = newWorld(t, arg(t, d, "peers", 3), Config{
			MaxWait: time.Duration(arg(t, d, "max-wait", 50)), CorrectFor: time.Duration(arg(t, d, "correct-for", 1000)), Period: 40,
			Keep: arg(t, d, "keep", 1<<30), Hold: arg(t, d, "hold", 1<<30),
		})
	case "put":
		s.put(t, d)
	case "watermark":
		b := s.box(t, d)
		for w := range b.outbox {
			if only := arg(t, d, "worker", w); only == w {
				b.watermark(w, 2, event.Nanos(arg(t, d, "end", 0)))
				b.pump(w, 1)
			}
		}
	case "epoch":
		var members collective.Set
		for _, a := range d.CmdArgs {
			members = members.With(slices.Index(s.names, a.Key))
		}
		s.enter(members)
	case "round":
		for range arg(t, d, "n", 1) {
			s.commitSpoiled()
		}
	case "broken": // a round that does not count
		s.contribute()
	case "time":
		n, _ := strconv.Atoi(d.CmdArgs[0].Key)
		s.now += time.Duration(n)
	case "write":
		b := s.box(t, d)
		b.flush(len(b.sink))
	case "crash":
		b := s.box(t, d)
		b.crash(arg(t, d, "written", 0))
	case "start":
		b := s.box(t, d)
		b.start()
		b.pumpAll()
	case "dataplane-dies":
		b := s.box(t, d)
		b.tap.Done()
		b.outbox, b.from = make([][]put, 2), make([]uint64, 2)
		b.attach()
	case "without":
		b := s.box(t, d)
		began := s.now
		b.engine.seen = func(int) (bool, time.Duration) { return false, began }
	case "stop":
		b := s.box(t, d)
		b.Finish()
		b.tap.Done()
	case "spoil":
		s.spoiler(d)
	case "status":
		s.status(s.box(t, d))
	default:
		t.Fatalf("%s: no such command", d.Cmd)
	}
	s.show(arg(t, d, "rows", true))
}

func (s *story) put(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	b, worker, n := s.box(t, d), arg(t, d, "worker", 0), arg(t, d, "window", 0)
	id := windowID{2, event.Nanos(20 * n), event.Nanos(20*n + 20)}
	f, flags := outbox.OnTime, uint8(outbox.FlagSequenced)
	if d.HasArg("flush") {
		f = outbox.Flush
	}
	if d.HasArg("unsequenced") {
		flags = 0
	}
	if d.HasArg("incomplete") {
		flags |= outbox.FlagIncomplete
	}
	missing := uint64(arg(t, d, "missing", 0))
	var keys []string
	for _, a := range d.CmdArgs {
		if a.Key == "keys" {
			keys = a.Vals
		}
	}
	for _, k := range keys {
		size := int64(b.me + 1)
		for range k[len(k)-1] - '0' {
			size *= 10
		}
		b.partial(worker, id, k, f, flags, missing, observation{time: id.start, size: size, x: float64(size) / 8})
		b.pump(worker, 1)
	}
	b.windowDone(worker, id, f, flags, missing)
	b.pump(worker, 1)
}

// spoiler changes what one box sends, in the next round.
func (s *story) spoiler(d *datadriven.TestData) {
	what := d.CmdArgs[0].Key
	who := slices.Index(s.names, d.CmdArgs[1].Key)
	only := -1
	if len(d.CmdArgs) > 2 {
		only = slices.Index(s.names, d.CmdArgs[2].Key)
	}
	s.spoil = func(from, to int, part *rdma.Part) {
		if from != who || only >= 0 && to != only {
			return
		}
		switch what {
		case "header":
			part.Header[0]++
		case "body":
			if len(part.Body) > 0 {
				part.Body[0]++
			}
		case "records":
			spoilRecords(s.boxes[who].engine.s, part)
		}
	}
}

// spoilRecords makes every record one of another layout, under a sum that is right.
func spoilRecords(sh *shape, part *rdma.Part) {
	h, fault := decodeHeader(sh, part.Header, plain)
	if fault != FaultNone {
		panic(fault)
	}
	at := 0
	for i := range h.closes {
		for j := range h.closes[i].parts {
			p := &h.closes[i].parts[j]
			b := slices.Clone(part.Body)
			if at+int(p.bytes) <= len(b) {
				b[at+4]++
				part.Body = b
				p.sum = sumOf(b[at : at+int(p.bytes)])
				at += int(p.bytes)
			}
		}
	}
	part.Header = h.append(nil)
}

func (s *story) commitSpoiled() {
	for p, g := range s.contribute() {
		if g == nil {
			continue
		}
		for i := range g.From {
			part := &g.From[i]
			part.Header, part.Body = slices.Clone(part.Header), slices.Clone(part.Body)
			if s.spoil != nil {
				s.spoil(part.Peer, p, part)
			}
		}
		s.boxes[p].take(g)
	}
	s.spoil = nil
}

// show prints the rows on their way into sinks, each once.
func (s *story) show(rows bool) {
	if s.world == nil || !rows {
		return
	}
	for _, b := range s.boxes {
		var lines []string
		for i := range b.sink {
			in := &b.sink[i]
			if in.shown {
				continue
			}
			in.shown = true
			for _, l := range in.lines {
				lines = append(lines, parse(s.t, l).short())
			}
		}
		slices.Sort(lines)
		for _, l := range lines {
			s.say("%s gives out %s", s.names[b.me], l)
		}
	}
	// What reaches a sink is checked: see world.see.
}

func (s *story) status(b *box) {
	n := b.engine
	r := n.member.registry
	c, own := r.counts[2], n.contributor.counts[2]
	p, lag := r.straggler(2)
	straggler := "nobody"
	if p >= 0 {
		straggler = fmt.Sprintf("%s by %d", s.names[p], lag)
	}
	whole := 0
	for _, sh := range n.member.holder.shares {
		if !sh.damaged {
			whole++
		}
	}
	s.say("kept %d windows, held %d shares, known %d windows, %d open; behind: %s", len(n.contributor.windows), whole, len(r.windows), len(r.open), straggler)
	s.say("fired %d corrected %d forced %d unknown %d short %d late %d repeated %d; again %d overflow %d late %d unknown %d stray %d lonely %d; unmade %d",
		c.fired, c.corrected, c.forced, c.unknown, c.short, c.late, c.repeated, own.again, own.overflow, own.late, own.unknown, own.stray, own.lonely, n.member.unmade[2])
	s.say("needed outbox from %d %d; drained %v", b.tap.Acked(0), b.tap.Acked(1), n.drained())
	for p, counts := range n.faults.counts {
		for f, k := range counts {
			if k > 0 {
				s.say("bad: %s of %s: %d", Fault(f), s.names[p], k)
			}
		}
	}
}
