package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// A hub is a group in memory: members meet in rounds. One that is cut off is in no
// epoch; the others begin a new one.
type hub struct {
	mu     sync.Mutex
	cond   *sync.Cond
	number uint64
	in     collective.Set
	round  uint64
	said   []*said // [peer] of the round in hand
	ports  []*port
}

type said struct {
	head  []byte
	parts [][]byte
}

// A port is one peer's side of a hub.
type port struct {
	hub      *hub
	me       int
	told     uint64 // the epoch that Epoch returned last: a group does not change it before the next call
	woken    chan struct{}
	gathered *rdma.Gathered
	closed   bool
	tooLarge int // contributions beyond that are refused, once each time it is set
}

func newHub(peers int) *hub {
	h := &hub{said: make([]*said, peers)}
	h.cond = sync.NewCond(&h.mu)
	for i := range peers {
		h.ports = append(h.ports, &port{hub: h, me: i, woken: make(chan struct{}, 1)})
	}
	return h
}

// set makes members the epoch. Rounds in hand do not count.
func (h *hub) set(members collective.Set) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	h.in, h.round = members, 0
	clear(h.said)
	h.cond.Broadcast()
	for _, p := range h.ports {
		p.Wake()
	}
}

func (p *port) Wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func (p *port) Wait(d time.Duration) (news rdma.News) {
	p.hub.mu.Lock()
	begun := false
	for q := range p.hub.in.All {
		begun = begun || q != p.me && p.hub.said[q] != nil
	}
	p.hub.mu.Unlock()
	if begun {
		return rdma.NewsRound
	}
	select {
	case <-p.woken:
		return rdma.NewsWoken
	case <-time.After(d):
		return 0
	}
}

func (p *port) Epoch() rdma.Epoch {
	h := p.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	p.told = 0
	if !h.in.Has(p.me) {
		return rdma.Epoch{}
	}
	p.told = h.number
	return rdma.Epoch{Number: h.number, Me: p.me, Members: h.in}
}

func (p *port) Exchange(head []byte, parts [][]byte) (*rdma.Gathered, error) {
	h := p.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.in.Has(p.me) {
		return nil, rdma.ErrNoEpoch
	}
	if p.told != h.number {
		return nil, rdma.ErrAgain
	}
	for _, b := range parts {
		if p.tooLarge > 0 && len(b) > p.tooLarge {
			return nil, fmt.Errorf("hub: %w", rdma.ErrTooLarge)
		}
	}
	s := &said{slices.Clone(head), nil}
	for _, b := range parts {
		s.parts = append(s.parts, slices.Clone(b))
	}
	h.said[p.me] = s
	number, round := h.number, h.round+1
	for q := range h.in.All {
		h.ports[q].Wake()
	}
	all := true
	for q := range h.in.All {
		all = all && h.said[q] != nil
	}
	if all {
		h.round++
		for q := range h.in.All {
			g := &rdma.Gathered{Epoch: rdma.Epoch{Number: h.number, Me: q, Members: h.in}, Round: h.round}
			for from := range h.in.All {
				g.From = append(g.From, rdma.Part{Peer: from, Header: h.said[from].head, Body: h.said[from].parts[q]})
			}
			h.ports[q].gathered = g
		}
		clear(h.said)
		h.cond.Broadcast()
	}
	for h.number == number && h.round < round && !p.closed {
		h.cond.Wait()
	}
	if p.closed {
		return nil, rdma.ErrClosed
	}
	if g := p.gathered; g != nil && g.Epoch.Number == number && g.Round == round {
		return g, nil
	}
	return nil, rdma.ErrAgain
}

func (p *port) Late() *rdma.Late { return nil }

// A drain writes rows on a goroutine of its own.
type drain struct {
	mu     sync.Mutex
	lines  []string
	queue  chan func()
	served sync.WaitGroup
}

func newDrain() *drain {
	d := &drain{queue: make(chan func(), 4)}
	d.served.Go(func() {
		for f := range d.queue {
			f()
		}
	})
	return d
}

func (d *drain) emit(rows []export.InjectedRow, written func()) bool {
	var lines []string
	for _, r := range rows {
		lines = append(lines, string(r.Line))
	}
	select {
	case d.queue <- func() {
		d.mu.Lock()
		d.lines = append(d.lines, lines...)
		d.mu.Unlock()
		written()
	}:
		return true
	default:
		return false
	}
}

func (d *drain) close() { close(d.queue); d.served.Wait() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a group of running clusters over a hub.
type rig struct {
	t      *testing.T
	hub    *hub
	boxes  []*Cluster
	drains []*drain
	ends   []chan error
	cancel context.CancelFunc
}

func newRig(t *testing.T, peers int, c Config) *rig {
	t.Helper()
	r := &rig{t: t, hub: newHub(peers)}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(t.Context())
	for i := range peers {
		c := c
		c.Plan, c.Names, c.Me, c.Group = testPlan(names(peers), i), names(peers), i, r.hub.ports[i]
		c.Sets, c.Values = setsOf(t, c.Plan)
		d := newDrain()
		c.Emit = d.emit
		k, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		r.boxes, r.drains, r.ends = append(r.boxes, k), append(r.drains, d), append(r.ends, make(chan error, 1))
		go func() { r.ends[i] <- k.Run(ctx) }()
	}
	t.Cleanup(func() {
		r.cancel()
		for i := range r.boxes {
			<-r.boxes[i].over
			r.drains[i].close()
		}
	})
	return r
}

// feed puts windows of one box out, as a pump would.
func (r *rig) feed(i, windows int, done *sync.WaitGroup) {
	tap := r.boxes[i].Tap(Generation{Workers: 2, Outboxes: 2})
	done.Go(func() {
		random, batch := rand.New(rand.NewPCG(uint64(i), 5)), newBatch()
		sets, _ := setsOf(r.t, testPlan(names(len(r.boxes)), i))
		after := make([]uint64, 2)
		put := func(w int, p outbox.Partial) {
			after[w] += 8
			tap.Record(w, &p, after[w])
		}
		for n := range windows {
			for w := range 2 {
				for k := range 20 {
					id := windowID{0, event.Nanos(n * width), event.Nanos(n*width + width)}
					state := make([]uint64, sets[0].Words())
					fold(sets[0], batch, state, anyObservation(random, id))
					put(w, outbox.Partial{
						Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: 0, Start: id.start, End: id.end, State: state,
						Key: fmt.Appendf(nil, "%d-%d", w, k),
					})
				}
				put(w, outbox.Partial{Kind: outbox.KindWatermark, Query: 0, End: event.Nanos(n*width + width)})
			}
			if n%10 == 9 {
				time.Sleep(time.Millisecond)
			}
		}
		for !tap.Done() {
			time.Sleep(time.Millisecond)
		}
	})
}

func TestBoxesThatRunAtOnce(t *testing.T) {
	const peers, windows = 3, 60
	r := newRig(t, peers, Config{Period: 20 * time.Millisecond, MaxWait: 10 * time.Second})
	r.hub.set(collective.First(peers))
	var fed sync.WaitGroup
	for i := range peers {
		r.feed(i, windows, &fed)
	}
	time.Sleep(3 * time.Millisecond)
	r.hub.set(collective.First(peers)) // a change in the middle
	for i := range peers {
		r.boxes[i].Finish()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range peers {
		if err := r.boxes[i].Drain(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-r.ends[i]; err != nil {
			t.Fatal(err)
		}
	}
	fed.Wait()
	seen := map[string]string{}
	for i := range peers {
		r.drains[i].mu.Lock()
		for _, line := range r.drains[i].lines {
			row := parse(t, []byte(line))
			id := fmt.Sprintf("%s/%d", row.ID, row.Revision)
			if old, ok := seen[id]; ok && old != line {
				t.Errorf("two rows of one id and revision:\n%s%s", old, line)
			}
			seen[id] = line
			if c := row.Completeness.Complete; len(row.Completeness.Merged) != peers || c != nil && !*c && row.Completeness.Missing == 0 {
				t.Errorf("row %s", row.short())
			}
		}
		r.drains[i].mu.Unlock()
		s := r.boxes[i].Stats()
		if s.KeptBytes != 0 || s.KeptWindows != 0 || s.Waiting != 0 || len(s.Bad) > 0 {
			t.Errorf("box %d: %+v", i, s)
		}
	}
	if len(seen) != windows*40 {
		t.Errorf("%d rows, want %d", len(seen), windows*40)
	}
}

// A stop that finds the others stuck closes the group under Run, in the middle of a
// round: Run ends, and so can the pump.
func TestAGroupThatIsClosedEndsRun(t *testing.T) {
	r := newRig(t, 2, Config{Period: 4 * time.Millisecond})
	var fed sync.WaitGroup
	r.feed(0, 10, &fed)
	r.hub.mu.Lock()
	r.hub.ports[1].closed = true // it is in the epoch, and begins no round after the first
	r.hub.mu.Unlock()
	r.hub.set(3)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.boxes[0].Drain(ctx); !errors.Is(err, ErrNotDrained) {
		t.Errorf("Drain() = %v, want %v", err, ErrNotDrained)
	}
	r.cancel()
	select {
	case err := <-r.ends[0]:
		t.Fatalf("Run() = %v while a round waits for a member", err)
	case <-time.After(20 * time.Millisecond):
	}
	r.hub.mu.Lock()
	r.hub.ports[0].closed = true
	r.hub.cond.Broadcast()
	r.hub.mu.Unlock()
	if err := <-r.ends[0]; !errors.Is(err, rdma.ErrClosed) {
		t.Errorf("Run() = %v, want %v", err, rdma.ErrClosed)
	}
	fed.Wait()
}

func TestWithoutAnEpochNothingGoesOutAndDrainSaysSo(t *testing.T) {
	r := newRig(t, 1, Config{Period: 4 * time.Millisecond})
	r.feedOne(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.boxes[0].Drain(ctx); !errors.Is(err, ErrNotDrained) {
		t.Errorf("Drain() = %v, want %v", err, ErrNotDrained)
	}
	if r.drains[0].mu.Lock(); len(r.drains[0].lines) > 0 {
		t.Errorf("%d rows without an epoch", len(r.drains[0].lines))
	}
	r.drains[0].mu.Unlock()
}

// feedOne puts out one window and no more.
func (r *rig) feedOne(t *testing.T) {
	t.Helper()
	tap := r.boxes[0].Tap(Generation{Workers: 1, Outboxes: 1})
	state := make([]uint64, r.boxes[0].engine.s.limits.Words[0])
	fold(r.boxes[0].engine.s.sets[0], newBatch(), state, observation{size: 1})
	for k := range 50 {
		tap.Record(0, &outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, End: width, Key: fmt.Appendf(nil, "k%d", k), State: state}, uint64(8*k+8))
	}
	tap.Record(0, &outbox.Partial{Kind: outbox.KindWatermark, End: width}, 408)
}

// A window that does not fit into a round is contributed without its records, so that
// the group goes on.
func TestAWindowThatIsTooLarge(t *testing.T) {
	r := newRig(t, 1, Config{Period: 4 * time.Millisecond})
	r.hub.ports[0].tooLarge = 1000
	r.feedOne(t)
	r.hub.set(1)
	for range 2000 {
		if s := r.boxes[0].Stats(); len(s.Queries) > 0 && s.Queries[0].Overflow > 0 && s.Queries[0].Fired > 0 && s.KeptWindows == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%+v", r.boxes[0].Stats())
}

// What a control process has stored is where the next one goes on.
func TestPositionsSurviveTheControlProcess(t *testing.T) {
	p := testPlan(names(1), 0)
	p.OutboxBytes, p.WorkersMax = 1<<16, 2
	p.OrphanTimeout = time.Second
	for i := range p.Queries {
		p.Queries[i].Panes, p.Queries[i].Keys = 4, 64
	}
	seg, err := segment.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 1, Config{Period: 4 * time.Millisecond})
	g := GenerationOf(p, seg)
	tap := r.boxes[0].Tap(g)
	if tap.Resume() != nil {
		t.Fatalf("a new segment resumes at %v", tap.Resume())
	}
	sets, _ := setsOf(t, p)
	state := make([]uint64, sets[0].Words())
	fold(sets[0], newBatch(), state, observation{size: 1})
	tap.Record(0, &outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, End: width, Key: []byte("k"), State: state}, 64)
	tap.Record(0, &outbox.Partial{Kind: outbox.KindWatermark, End: width}, 120)
	tap.Record(1, &outbox.Partial{Kind: outbox.KindWatermark, End: width}, 56)
	if tap.Acked(0) != 0 {
		t.Fatalf("freed up to %d before the group has it", tap.Acked(0))
	}
	r.hub.set(1)
	for n := 0; tap.Acked(0) != 120 || tap.Acked(1) != 56; n++ {
		if n > 5000 {
			t.Fatalf("freed up to %d and %d", tap.Acked(0), tap.Acked(1))
		}
		time.Sleep(time.Millisecond)
	}
	tap.End()
	next := newRig(t, 1, Config{}).boxes[0].Tap(g)
	defer seg.Close()
	defer next.End()
	if got := next.Resume(); !slices.Equal(got[:2], []uint64{120, 56}) {
		t.Errorf("Resume() = %v, want [120 56]", got)
	}
}

func TestAConfigThatCannotBe(t *testing.T) {
	p := testPlan(names(2), 0)
	sets, values := setsOf(t, p)
	for _, c := range []Config{
		{Plan: p, Sets: sets, Values: values},
		{Plan: p, Sets: sets, Values: values, Names: names(2), Me: 2},
		{Plan: p, Sets: sets[:1], Values: values, Names: names(2)},
		{Plan: &plan.Plan{Queries: p.Queries}, Names: names(2)},
	} {
		if _, err := New(c); !errors.Is(err, ErrConfig) {
			t.Errorf("New(%d names) = %v, want %v", len(c.Names), err, ErrConfig)
		}
	}
}
