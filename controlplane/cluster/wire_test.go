package cluster

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

func testShape(tb testing.TB, peers int) *shape {
	tb.Helper()
	c := &Config{Plan: testPlan(names(peers), 0), Names: names(peers)}
	c.Sets, c.Values = setsOf(tb, c.Plan)
	return newShape(c)
}

func anyWindow(t *rapid.T) windowID {
	q := uint16(rapid.IntRange(0, 1).Draw(t, "query") * 2)
	w := int64(width)
	if q == 2 {
		w *= 2
	}
	i := rapid.Int64Range(-5, 1<<40).Draw(t, "window")
	return windowID{q, event.Nanos(i * w), event.Nanos(i*w + w)}
}

func anySet(t *rapid.T, peers int) collective.Set {
	return collective.Set(rapid.Uint32Range(0, 1<<peers-1).Draw(t, "set"))
}

func anyHeader(t *rapid.T, s *shape) *header {
	h := &header{
		phase: phase(rapid.IntRange(1, 3).Draw(t, "phase")), final: rapid.Bool().Draw(t, "final"), stopping: rapid.Bool().Draw(t, "stopping"),
		position: position{rapid.Uint64().Draw(t, "epoch"), rapid.Uint64().Draw(t, "round")},
	}
	for range s.queries {
		h.marks = append(h.marks, mark{event.Nanos(rapid.Int64().Draw(t, "mark")), event.Nanos(rapid.Int64().Draw(t, "floor")), event.Nanos(rapid.Int64().Draw(t, "since")), idle(rapid.IntRange(0, 2).Draw(t, "idle"))})
	}
	for range s.peers() {
		h.durable = append(h.durable, rapid.Uint64().Draw(t, "durable"))
	}
	part := func() section { return section{rapid.Uint32().Draw(t, "bytes"), rapid.Uint64().Draw(t, "sum")} }
	for range rapid.IntRange(0, 4).Draw(t, "closes") {
		c := closing{
			window: anyWindow(t), again: rapid.Bool().Draw(t, "again"), firing: outbox.Firing(rapid.IntRange(1, 2).Draw(t, "firing")),
			flags: uint8(rapid.IntRange(0, 3).Draw(t, "flags")), missing: rapid.Uint64().Draw(t, "missing"), homes: anySet(t, s.peers()),
		}
		for range c.homes.Len() {
			c.parts = append(c.parts, part())
		}
		h.closes = append(h.closes, c)
	}
	for range rapid.IntRange(0, 3).Draw(t, "forced") {
		h.forced = append(h.forced, anyWindow(t))
	}
	for range rapid.IntRange(0, 3).Draw(t, "moves") {
		h.moves = append(h.moves, move{anyWindow(t), uint8(rapid.IntRange(0, s.peers()-1).Draw(t, "home")), rapid.Bool().Draw(t, "damaged"), part()})
	}
	h.snapshot = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "snapshot")
	return h
}

func TestAHeaderDecodesToItself(t *testing.T) {
	s := testShape(t, 3)
	rapid.Check(t, func(t *rapid.T) {
		h := anyHeader(t, s)
		b := h.append(nil)
		got, fault := decodeHeader(s, b, h.phase)
		if fault != FaultNone {
			t.Fatalf("fault %v of %+v", fault, h)
		}
		if len(h.snapshot) == 0 {
			h.snapshot, got.snapshot = nil, nil
		}
		if !reflect.DeepEqual(h, got) {
			t.Fatalf("got %+v, want %+v", got, h)
		}
		for cut := range len(b) {
			if _, fault := decodeHeader(s, b[:cut], h.phase); fault != FaultLength && fault != FaultVersion {
				t.Fatalf("the first %d of %d bytes: %v, want %v", cut, len(b), fault, FaultLength)
			}
		}
		if _, fault := decodeHeader(s, append(b, 0), h.phase); fault != FaultLength {
			t.Fatalf("a byte too many: %v", fault)
		}
	})
}

// Which local queries a box has is its own affair: the hash that peers compare leaves
// them out.
func TestAPeerWithMoreQueriesOfItsOwnIsUnderstood(t *testing.T) {
	shapeOf := func(p *plan.Plan) *shape {
		sets, values := setsOf(t, p)
		return newShape(&Config{Plan: p, Sets: sets, Values: values, Names: names(2)})
	}
	one, other := testPlan(names(2), 0), testPlan(names(2), 1)
	own := other.Queries[1]
	own.Name = "more"
	other.Queries = append(other.Queries, own)
	a, b := newMember(shapeOf(one), nil, nil, 0), newMember(shapeOf(other), nil, nil, 0)
	a.begin(rdma.Epoch{Number: 1, Members: 3})
	head, _ := a.contribute(&saying{marks: make([]mark, len(a.s.queries))})
	if _, fault := decodeHeader(b.s, head, rollCall); fault != FaultNone {
		t.Errorf("a header: %v", fault)
	}
	if decodeSnapshot(b.s, a.registry.snapshot()) == nil {
		t.Error("a snapshot is not understood")
	}
}

func TestEveryFaultOfAHeaderIsNamed(t *testing.T) {
	s := testShape(t, 3)
	w := windowID{0, 10, 20}
	good := &header{
		phase: plain, marks: make([]mark, 3), durable: make([]uint64, 3), forced: []windowID{w}, moves: []move{{window: w, home: 2}},
		closes: []closing{{window: w, firing: outbox.OnTime, homes: 4, parts: make([]section, 1)}},
	}
	closes := len((&header{marks: good.marks, durable: good.durable}).append(nil))
	forced := closes + closingBytes + partBytes
	for _, c := range []struct {
		name string
		at   int
		to   byte
		want Fault
	}{
		{"another version", 0, 9, FaultVersion},
		{"another phase", 1, byte(carrying), FaultPhase},
		{"an end that is none", 2, 8, FaultContent},
		{"another group", 3, 4, FaultShape},
		{"other queries", 4, 2, FaultShape},
		{"more windows than there is room for", 27, 1, FaultLength},
		{"an idleness that is none", closes - 3*8 - 8, 3, FaultContent},
		{"a local query's window", closes, 1, FaultWindow},
		{"a query that the plan lacks", closes, 3, FaultWindow},
		{"a window between two", closes + 8, 11, FaultWindow},
		{"a window too long", closes + 16, 30, FaultWindow},
		{"a flag that is none", closes + 24, 2, FaultContent},
		{"a firing that is none", closes + 25, 0, FaultContent},
		{"row flags that are none", closes + 26, 4, FaultContent},
		{"a home that is no peer's", closes + 28, 12, FaultContent},
		{"a forced window that is none", forced, 1, FaultWindow},
		{"a move to the home of no peer", forced + windowBytes + 24, 3, FaultContent},
	} {
		b := good.append(nil)
		if _, fault := decodeHeader(s, b, plain); fault != FaultNone {
			t.Fatalf("the good header: %v", fault)
		}
		b[c.at] = c.to
		if _, fault := decodeHeader(s, b, plain); fault != c.want && (c.want != FaultContent || fault != FaultLength) {
			t.Errorf("%s: fault %v, want %v", c.name, fault, c.want)
		}
	}
}

// FuzzHeader checks that what decodes is exactly what encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	s := testShape(f, 3)
	w := windowID{0, 10, 20}
	f.Add((&header{
		phase: plain, marks: make([]mark, 3), durable: make([]uint64, 3), forced: []windowID{w}, moves: []move{{window: w}},
		closes: []closing{{window: w, firing: outbox.OnTime, homes: 5, parts: make([]section, 2)}}, snapshot: []byte("s"),
	}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 {
			return
		}
		h, fault := decodeHeader(s, b, phase(b[1]))
		if fault != FaultNone {
			return
		}
		if again := h.append(nil); !bytes.Equal(again, b) {
			t.Errorf("decoded % x, encoded % x", b, again)
		}
	})
}

// FuzzSnapshot checks the same of what has happened so far, and that a registry that
// was read goes on without a panic.
func FuzzSnapshot(f *testing.F) {
	s := testShape(f, 3)
	r := newRegistry(s, 7)
	r.members = s.all()
	for p := range 2 {
		r.accept(p, &closing{window: windowID{0, 10, 20}, firing: outbox.OnTime, missing: 3})
		r.accept(p, &closing{window: windowID{2, 20, 40}, firing: outbox.Flush})
	}
	f.Add(r.snapshot())
	r.fire(7, []windowID{{0, 10, 20}})
	r.lose(1)
	f.Add(r.snapshot())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := decodeSnapshot(s, b)
		if r == nil {
			return
		}
		if again := r.snapshot(); !bytes.Equal(again, b) {
			t.Errorf("decoded % x, encoded % x", b, again)
		}
		r.begin()
		r.follow(collective.Of(0, 2), collective.Of(2))
		r.accept(2, &closing{window: windowID{0, 10, 20}, firing: outbox.OnTime})
		r.accept(0, &closing{window: windowID{2, 20, 40}, again: true, firing: outbox.OnTime})
		r.lose(2)
		r.fire(9, []windowID{{0, 10, 20}, {2, 20, 40}})
		r.expire([]mark{{floor: 50}, {floor: 50}, {floor: 50}})
	})
}

func newTestHolder(tb testing.TB, s *shape) *holder {
	tb.Helper()
	p := testPlan(s.names, 0)
	_, values := setsOf(tb, p)
	return newHolder(s, rows.New(p, values), &faults{counts: make([][FaultCount]uint64, s.peers())})
}

// FuzzShare checks that any bytes of a moved state are a fault, or a state that makes
// rows and can be moved on.
func FuzzShare(f *testing.F) {
	s := testShape(f, 1)
	h := newTestHolder(f, s)
	id := shareID{windowID{2, 20, 40}, 0}
	state := make([]uint64, s.limits.Words[2])
	fold(s.sets[2], newBatch(), state, observation{time: 21, size: 5, x: 1.5}, observation{time: 22, size: 6, x: -2})
	h.merge(id, 0, appendState(appendState(nil, id.window, []byte("a"), state), id.window, []byte("b"), state))
	sh := h.shares[id]
	f.Add(h.encode(id, sh))
	sh.incomplete = true
	sh.frozen = append(sh.frozen, lines{3, []byte("x\ny\n"), []int{2, 4}})
	f.Add(h.encode(id, sh))
	f.Fuzz(func(t *testing.T, b []byte) {
		h.clear()
		h.adopt(id, 0, b)
		sh := h.shares[id]
		if sh.damaged {
			if h.bytes != 0 {
				t.Fatalf("%d bytes of nothing", h.bytes)
			}
			return
		}
		e := &entry{id: id.window, contributors: 1}
		fi := &firing{sequence: 9, firing: outbox.OnTime, merged: []collective.Set{1}}
		h.form(e, fi, 0)
		once := h.encode(id, sh)
		h.adopt(id, 0, once)
		if sh = h.shares[id]; sh.damaged || !bytes.Equal(once, h.encode(id, sh)) {
			t.Fatalf("what was read is not read again: % x", once)
		}
		h.merge(id, 0, appendState(nil, id.window, []byte("a"), state))
		h.drop(id)
		if h.bytes != 0 {
			t.Fatalf("%d bytes are left", h.bytes)
		}
	})
}
