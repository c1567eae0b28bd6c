package dataplane

import (
	"fmt"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

// StateVersion is the version of what a worker's region means. It is raised when that
// changes and the layout does not: the next process then begins anew.
const StateVersion = 1

// A Positioned receiver can be taken up where a commit left it; [xsk.Port] is one.
type Positioned interface {
	xsk.Receiver
	// Positions writes, for each ring, the position up to which nothing is to come again,
	// rest being the frames of the last Receive that are, and returns the number of rings.
	Positions(into []uint32, rest []xsk.Frame) int
	// Spent reports that something was received, though it was no frame, and waits for a
	// Release.
	Spent() bool
}

var _ Positioned = (*xsk.Port)(nil)

// memory is a worker's part of its region that belongs to no stage. With an undo log,
// everything of the worker that outlives a batch is there:
//
//   - what windows, sequencers, decoders, channels and counters have in the region is
//     saved in the log before it changes;
//   - the rest, which is small, is written as a whole at every commit, in two copies:
//     the commit word names the one that holds.
//
// What is in the Go heap is scratch, or made from those by [Worker.resume].
type memory struct {
	head   *head
	copies [2]standing
	mark   *mark
	bag    bag
}

// head is the commit word.
type head struct {
	Commit uint64 // number of the last whole batch; its lowest bit names the copy
	// Taking is 1 from when state of other workers was to come here. Without a commit it
	// has not come, or not all of it.
	Taking uint64
}

// standing is one copy of where the worker stands.
type standing struct {
	here   *here
	rings  []uint32         // of the receiver
	sent   []uint64         // of the outgoing lanes, by owner
	places []exchange.Place // of the incoming ones
}

// here is what a standing has of fixed size.
type here struct {
	Worker      segment.WorkerCounters
	Outbox      uint64
	Received    uint64
	Lost, Again uint64
	Stopped     uint64
	Watched     event.Nanos
	Rings       uint32
	Ending      uint32
	Closing     uint32 // number+1 of the feed whose last release is being decoded
	Bag         uint32 // 1, 2: the pocket of the bag that has what was not through; 0: nothing
}

func newMemory(p *plan.Plan, r *arena.Region, batches []int, keeps bool) (*memory, error) {
	m := &memory{}
	heads, err := arena.Slice[head](r, "positions", 1)
	if err != nil {
		return nil, err
	}
	marks, err := arena.Slice[mark](r, "positions", 1)
	if err != nil {
		return nil, err
	}
	m.head, m.mark = &heads[0], &marks[0]
	if !keeps {
		return m, nil
	}
	for i := range m.copies {
		if err := m.copies[i].init(p, r); err != nil {
			return nil, err
		}
	}
	return m, m.bag.init(r, batches)
}

func (s *standing) init(p *plan.Plan, r *arena.Region) error {
	one, err := arena.Slice[here](r, "positions", 1)
	if err != nil {
		return err
	}
	s.here = &one[0]
	if s.rings, err = arena.Slice[uint32](r, "positions", max(1, len(p.Interfaces))*segment.QueuesMax); err != nil {
		return err
	}
	if s.sent, err = arena.Slice[uint64](r, "positions", p.Workers); err != nil {
		return err
	}
	s.places, err = arena.Slice[exchange.Place](r, "positions", p.Workers)
	return err
}

// standing returns the copy of batch number.
func (m *memory) standing(number uint64) *standing { return &m.copies[number&1] }

// commit ends the batch: one word says which copy of the positions is whole, and only
// then do partials, lane records and counters become visible and do frames go back to
// their rings. It returns how much of that is work of its own.
func (w *Worker) commit(now event.Nanos, n int) int {
	w.counters.Worker.Cycles++
	if n > 0 {
		w.counters.Worker.BusyCycles++
	}
	w.bookPort()
	if w.undo != nil {
		w.seal()
		w.carries = w.memory.standing(w.number).here.Bag
	}
	if n > 0 {
		w.showWatermarks()
	}
	swept := w.show()
	if n > 0 && w.waiting == 0 { // at a gate another worker may be counting for this one
		w.publish(now)
		fault.Point()
	}
	w.begin()
	return swept
}

// seal makes the batch hold.
func (w *Worker) seal() {
	w.note()
	fault.Point()
	atomic.StoreUint64(&w.memory.head.Commit, w.number)
	fault.Point()
}

// note writes the copy of the standing that the commit will make the one that holds.
func (w *Worker) note() {
	s := w.memory.standing(w.number)
	h := s.here
	h.Bag = w.pack()
	again := w.untouched()
	h.Worker = w.counters.Worker
	h.Worker.Frames -= uint64(len(again))
	if w.committed != nil { // what the port counts then, the next one counts on from 0
		c := w.committed(again)
		h.Worker.Frames += bad(&c) - w.bad
		h.Worker.UnknownFeed += bad(&c) - w.bad
	}
	fault.Point()
	h.Outbox, h.Received, h.Lost, h.Again, h.Stopped, h.Watched = w.box.Position(), w.received, w.lost, w.again, w.stopped, w.watched
	h.Ending, h.Closing = uint32(w.ending), 0
	if w.closing != nil {
		h.Closing = uint32(w.closing.number) + 1
	}
	h.Rings = uint32(w.rings.Positions(s.rings, again))
	if w.out != nil {
		w.out.Written(s.sent)
		w.inbox.Taken(s.places)
	}
}

// untouched are the frames in hand that were not begun: who comes next receives them
// once more. The bytes of the one that was begun are in the bag.
func (w *Worker) untouched() []xsk.Frame {
	at := w.at
	if w.open {
		at++
	}
	return w.frames[at:w.count]
}

// showWatermarks makes the watermarks visible. It comes before the partials that they
// let out: who starts without this memory must not put out the same windows again.
func (w *Worker) showWatermarks() {
	for q := range w.plan.Queries {
		w.segment.SetWatermark(q, w.windows.Watermark(q))
	}
	fault.Point()
}

// show makes visible what was committed. All of it follows from the memory: to do it
// again changes nothing, and who comes after a kill does.
func (w *Worker) show() int {
	w.box.Publish()
	fault.Point()
	if w.out != nil {
		w.out.Publish(w.reached())
		fault.Point()
		if w.stopped != 0 {
			w.out.Hold(w.stopped)
			fault.Point()
		}
		w.inbox.Release()
		fault.Point()
	}
	if w.at == w.count && (w.count > 0 || w.rings != nil && w.rings.Spent()) {
		w.receiver.Release()
		w.at, w.count = 0, 0
		fault.Point()
	}
	if w.undo == nil {
		return 0
	}
	return w.windows.Sweep(closeMax)
}

// begin begins the next batch.
func (w *Worker) begin() {
	w.number++
	w.epoch++
	w.begun = 0
	w.undo.Begin(w.number)
	w.counters.Begin()
	w.memory.mark.clear(w.number)
}

// publish makes the counters visible.
func (w *Worker) publish(now event.Nanos) {
	if w.undo == nil { // nothing has to be said before it changes
		for q := range w.plan.Queries {
			w.counters.TouchQuery(q)
		}
	}
	w.epoch++ // what is touched from here on is touched again
	w.segment.Publish(uint64(now), w.counters)
}

// recall reads where the last commit left off.
func (w *Worker) recall() (*standing, error) {
	w.number = w.memory.head.Commit
	s := w.memory.standing(w.number)
	h := s.here
	w.counters.Worker = h.Worker
	w.parked = h.Worker.RefillParked
	w.received, w.lost, w.again, w.stopped, w.watched = h.Received, h.Lost, h.Again, h.Stopped, h.Watched
	w.ending = ending(h.Ending)
	if w.ending > ended || int(h.Closing) > len(w.feeds) || h.Bag > 2 || int(h.Rings) > len(s.rings) {
		return nil, fmt.Errorf("positions of batch %d cannot be: %w", w.number, arena.ErrLayout)
	}
	if h.Closing > 0 {
		w.closing = &w.feeds[h.Closing-1]
	}
	return s, nil
}

// resume takes up where the last commit left off, and shows once more what it made
// visible.
func (w *Worker) resume() error {
	s, err := w.recall()
	if err != nil {
		return err
	}
	h := s.here
	w.box.SetPosition(h.Outbox)
	if w.out != nil {
		w.out.Resume(s.sent)
		w.inbox.Resume(s.places)
	}
	if w.carries = h.Bag; h.Bag != 0 {
		if err := w.unpack(); err != nil {
			return err
		}
	}
	w.slow = framesMax
	w.showAll()
	return nil
}

// showAll makes all that was committed visible, where nobody has seen anything of this
// worker yet.
func (w *Worker) showAll() {
	w.counters.TouchAll()
	w.showWatermarks()
	w.show()
	w.publish(event.Nanos(w.counters.Worker.HeartbeatNanos))
}

// remember takes what is the worker's own from the region, first of all, and with an undo
// log takes back what the last batch has left.
func (w *Worker) remember(c Config) (err error) {
	p, r := c.Plan, c.Region
	switch {
	case c.Rollback && p.Replay:
		return fmt.Errorf("a replay takes nothing back: its plan is to say crash: cold")
	case r.Warm() && !c.Rollback:
		return fmt.Errorf("memory that another worker has left, and no undo log: %w", arena.ErrLayout)
	}
	var batches []int
	if c.Rollback {
		for i := range p.Feeds {
			batches = append(batches, plan.NewBatch(p.Feeds[i].Columns).PackWords())
		}
	}
	if w.memory, err = newMemory(p, r, batches, c.Rollback); err != nil {
		return err
	}
	if !c.Rollback {
		w.counters = segment.NewCounters(p)
		return nil
	}
	if w.need, err = stepWords(p); err != nil {
		return err
	}
	if w.undo, err = arena.NewUndo(r, logWords(w.need)); err != nil {
		return err
	}
	if w.counters, err = segment.CountersIn(r, p, w.undo); err != nil {
		return err
	}
	if !r.Warm() {
		return nil
	}
	if m := w.memory.mark; m.Batch == w.memory.head.Commit+1 {
		w.poison = m.read()
	}
	w.undone, err = w.undo.Rollback(w.memory.head.Commit)
	return err
}

// start ends the building: the region is complete, and a warm one is taken up.
func (w *Worker) start(c Config) error {
	if err := c.Region.Complete(StateVersion); err != nil {
		return err
	}
	// Without a commit it is as if the region were new: what building puts there is there.
	committed := w.memory.head.Commit > 0
	if !committed && w.memory.head.Taking != 0 {
		return fmt.Errorf("a transfer of state into it was broken off: throw all regions of it away and go on with those that the state came from: %w", arena.ErrLayout)
	}
	if c.Attach != nil {
		rings := c.Rings
		if committed {
			s := w.memory.standing(w.memory.head.Commit)
			if int(s.here.Rings) > len(s.rings) {
				return fmt.Errorf("positions of %d rings: %w", s.here.Rings, arena.ErrLayout)
			}
			rings = s.rings[:s.here.Rings]
		}
		var err error
		if w.receiver, err = c.Attach(rings); err != nil {
			return err
		}
	}
	if w.undo != nil {
		var ok bool
		if w.rings, ok = w.receiver.(Positioned); !ok {
			return fmt.Errorf("a receiver of type %T, which has no positions, and an undo log", w.receiver)
		}
	}
	if committed {
		if err := w.resume(); err != nil {
			return err
		}
	}
	w.begin()
	return nil
}
