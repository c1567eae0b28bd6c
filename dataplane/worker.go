package dataplane

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	framesMax  = 64   // frames taken from the receiver at a time
	closeMax   = 1024 // partials put out in one cycle
	recordsMax = 4096 // lane records taken in one cycle
)

// Config is what a worker is made of. Everything in it outlives the worker.
type Config struct {
	Plan   *plan.Plan
	Worker int
	// Receiver gives the frames.
	Receiver xsk.Receiver
	// Segment is the worker's part of the shared memory.
	Segment *segment.Worker
	// Region is the memory for all state of this worker.
	Region *arena.Region
	// Lanes are all lanes, Lanes[from][to]; nil with one worker.
	Lanes [][]*exchange.Lane
	// Owner is the worker that owns each key group; read live.
	Owner *[event.GroupCount]uint16
	// Shared is the workers' common allowance of keys, in run with several workers.
	Shared *window.Shared
	// Gate is where the workers of a replay agree; nil otherwise.
	Gate *Gate
	// Resume are the queries' watermarks on this worker in the data plane before this
	// one, nil if there was none: windows behind them are closed and those that may
	// have been open are incomplete.
	Resume []event.Nanos
}

// A Worker owns key groups and all their state. One thread runs it.
type Worker struct {
	plan     *plan.Plan
	id       int
	receiver xsk.Receiver
	segment  *segment.Worker
	box      *outbox.Writer
	windows  *window.State
	feeds    []feed
	counters *segment.Counters

	// The frames in hand: frames[at:count] are still to be decoded.
	frames    [framesMax]xsk.Frame
	at, count int
	open      bool // frames[at] has been sequenced
	more      bool // the receiver had as many frames as were asked for: batches may fill up
	utcOffset event.Nanos
	received  uint64 // when the oldest of them came, CLOCK_MONOTONIC

	out    *exchange.Out   // nil with one worker
	inbox  *exchange.Inbox // nil with one worker
	gather []*event.Keyed  // by stream: what came through lanes, before it is folded
	sent   []uint64
	batch  *batchPositions

	now     event.Nanos
	watched event.Nanos // when silence was last looked for

	// The end of input.
	ending  ending
	starts  []channelStart // channels in order of first sight
	next    int            // of starts: the next to finish
	closing *feed          // the feed whose last release is being decoded

	// Live.
	lost    uint64 // frames lost before the rings, as far as windows were told
	again   uint64 // frames received when they are to be told once more; 0: not
	bad     uint64 // frames that the port could not give, as far as they were counted
	discard bool   // the end drops what is open

	// Replay with several workers.
	gate     *Gate
	waiting  uint64 // the gate's turn that this worker waits for, 0: none
	frontier uint64 // position being decoded
	told     uint64 // frontier that the lanes were told last
}

// batchPositions are the private positions of every ring, in two copies: the end of
// a batch writes the copy that is not current and then turns the commit word, so
// that a start after a crash finds a whole set.
type batchPositions struct {
	commit uint64 // number of the last whole batch; its lowest bit names the copy
	copies [2]positions
}

type positions struct {
	outbox uint64
	frames uint64
	taken  [event.WorkersMax]uint64
	sent   [event.WorkersMax]uint64
}

// cycle does one batch of work and reports how much it did; 0 means that there was
// nothing to do. It does not block, allocate, read a clock or return an error: what
// is bad is counted, and a broken invariant panics. now is the clock that the
// caller lives by, monotonic nanoseconds.
func (w *Worker) cycle(now event.Nanos) int {
	w.now = now
	n := w.fold()  // exchange: what others decoded for us -> our panes
	n += w.close() // close: windows behind the watermark -> outbox
	if w.ready() {
		n += w.receive() // receive: ring -> frames in hand
		n += w.decode()  // sequence, decode: frames -> messages in order -> events
		if !w.more {
			n += w.flush() // exchange, fold: events -> their owners' lanes or our panes
		}
	}
	w.commit(now, n) // the positions of this batch, then everything becomes visible
	return n
}

// NewWorker builds a worker from c. It takes memory from c.Region and touches it, so
// call it on the worker's own thread.
func NewWorker(c Config) (*Worker, error) {
	p := c.Plan
	w := &Worker{
		plan: p, id: c.Worker, receiver: c.Receiver, segment: c.Segment,
		counters: segment.NewCounters(p), gate: c.Gate, sent: make([]uint64, event.QueriesMax),
	}
	w.box = outbox.NewWriter(c.Segment.Ring())
	limit := window.Alone
	switch {
	case p.Workers > 1 && p.Replay:
		limit = window.Settled
	case p.Workers > 1:
		limit = window.SharedLimit
	}
	var err error
	if w.windows, err = window.New(window.Config{
		Plan: p, Limit: limit, Shared: c.Shared, Wait: p.Replay, Counters: w.counters.Queries,
		Resume: c.Resume,
	}, c.Region); err != nil {
		return nil, fmt.Errorf("dataplane: worker %d: %w", c.Worker, err)
	}
	w.feeds = make([]feed, len(p.Feeds))
	for i := range p.Feeds {
		if err := w.feeds[i].init(w, i, c.Region); err != nil {
			return nil, fmt.Errorf("dataplane: worker %d: feed %s: %w", c.Worker, p.Feeds[i].Name, err)
		}
	}
	commit, err := arena.Slice[batchPositions](c.Region, "positions", 1)
	if err != nil {
		return nil, fmt.Errorf("dataplane: worker %d: %w", c.Worker, err)
	}
	w.batch = &commit[0]
	if p.Workers > 1 {
		w.exchange(c)
	}
	return w, nil
}

// exchange sets up lanes: in replay a worker sends its own events through a lane
// too, to be merged with the others' by position.
func (w *Worker) exchange(c Config) {
	in := make([]*exchange.Lane, c.Plan.Workers)
	out := make([]*exchange.Lane, c.Plan.Workers)
	for i := range in {
		if i != w.id || c.Plan.Replay {
			in[i], out[i] = c.Lanes[i][w.id], c.Lanes[w.id][i]
		}
	}
	w.out = exchange.NewOut(c.Plan, out, c.Owner)
	w.inbox = exchange.NewInbox(c.Plan, in, c.Plan.Replay)
	w.inbox.Gate = gateEvery
	for s := range c.Plan.Streams {
		st := &c.Plan.Streams[s]
		k := event.NewKeyed(plan.NewBatch(c.Plan.Feeds[st.Feed].Columns), st.KeyWidth, len(st.Queries))
		if c.Plan.Replay {
			k.Position = make([]uint64, event.BatchMax)
		}
		w.gather = append(w.gather, k)
	}
	if w.gate != nil {
		w.gate.join(w)
	}
}

// ready reports whether new events can go all the way: nothing decoded waits, and
// every lane has room for a whole batch.
func (w *Worker) ready() bool {
	w.causedAt(w.received) // what is decoded already came with the last frames
	if w.plan.Replay && w.inbox == nil && w.windows.Closing() {
		return false
	}
	for i := range w.feeds {
		if f := &w.feeds[i]; f.keyed && !f.apply() {
			return false
		}
	}
	if w.out != nil && !w.out.Room() {
		w.counters.Worker.LaneFull++
		return false
	}
	return true
}

// receive takes frames if none are in hand.
func (w *Worker) receive() int {
	if w.at < w.count || w.ending > flowing {
		return 0
	}
	w.at = 0
	w.count = w.receiver.Receive(w.frames[:])
	w.more = w.count == len(w.frames)
	w.counters.Worker.Frames += uint64(w.count)
	if w.count > 0 {
		w.received = oldest(w.frames[:w.count], uint64(w.now))
		w.causedAt(w.received)
	}
	return w.count
}

// oldest is when the first of frames came, now if no stamp is of our clock.
func oldest(frames []xsk.Frame, now uint64) uint64 {
	for i := range frames {
		if m := &frames[i].Meta; m.Flags&steer.FlagNICTime == 0 {
			now = min(now, m.ReceiveNanos)
		}
	}
	return now
}

// causedAt says what the windows that close from here on are measured from. A
// replay's clock is the capture's, and its rows are not measured.
func (w *Worker) causedAt(nanos uint64) {
	if !w.plan.Replay {
		w.windows.SetCause(nanos)
	}
}

// decode takes the frames in hand through sequence and decode, as far as batches and
// lanes have room; it goes on there in the next cycle.
func (w *Worker) decode() int {
	n := 0
	if w.closing != nil {
		if !w.closing.step() {
			return 0
		}
		w.closing = nil
		n++
	}
	for w.at < w.count {
		fr := &w.frames[w.at]
		if int(fr.Meta.Feed) >= len(w.feeds) {
			w.counters.Worker.UnknownFeed++
			w.at++
			continue
		}
		f := &w.feeds[fr.Meta.Feed]
		if !w.open {
			w.frontier = fr.Packet
			f.begin(fr, w.utcOffset)
			w.open = true
		}
		if !f.step() {
			return n
		}
		w.open = false
		w.at++
		n++
	}
	return n + w.rest()
}

// flush sends everything decoded on its way and reports how many events that were.
// What the lanes or the panes cannot take yet stays.
func (w *Worker) flush() int {
	n := 0
	for i := range w.feeds {
		n += w.feeds[i].batch.N
	}
	if w.out != nil && !w.send() {
		return 0
	}
	for i := range w.feeds {
		if f := &w.feeds[i]; f.pending() {
			f.apply()
		}
	}
	return n
}

// send puts the batches of all feeds into their owners' lanes, release by release in
// order of position, and reports false if the lanes have no room for that. A lane's
// records are in order over all feeds: that is what owners merge by.
func (w *Worker) send() bool {
	if !w.pending() {
		return true
	}
	if !w.out.Room() {
		w.counters.Worker.LaneFull++
		return false
	}
	for i := range w.feeds {
		f := &w.feeds[i]
		f.sent, f.sentMarks = 0, 0
		if f.pending() {
			f.prepare()
			for j := range f.streams {
				w.out.Prepare(f.streams[j].number, f.streams[j].keyed)
			}
		}
	}
	for {
		var first *feed
		least := uint64(exchange.End)
		for i := range w.feeds {
			if at, ok := w.feeds[i].next(); ok && at < least {
				first, least = &w.feeds[i], at
			}
		}
		if first == nil {
			break
		}
		first.sendNext(w.out)
	}
	for i := range w.feeds {
		if f := &w.feeds[i]; f.pending() {
			f.unselect(w.out)
		}
	}
	return true
}

// close puts partials of closing windows out, unless the workers still have to agree
// on what is in them.
func (w *Worker) close() int {
	if w.atGate() {
		return 0
	}
	return w.windows.Close(w.box, closeMax)
}

// fold takes what came through the lanes into the panes.
func (w *Worker) fold() int {
	if w.inbox == nil || w.atGate() || w.gate != nil && w.gate.over.Load() {
		return 0
	}
	w.causedAt(uint64(w.now)) // a lane does not say when a packet came
	n := 0
	for ; n < recordsMax; n++ {
		if w.plan.Replay && w.windows.Closing() {
			break // partials first: a pane's memory may be needed
		}
		switch w.inbox.Next() {
		case exchange.Event:
			k := w.gather[w.inbox.Stream]
			if k.Batch.N == w.plan.Batch {
				w.foldStream(w.inbox.Stream)
			}
			w.inbox.Take(k)
		case exchange.Mark:
			m := &w.inbox.Mark
			quiet := w.windows.Quiet(w.inbox.Feed, m)
			if !quiet {
				w.foldFeed(w.inbox.Feed)
			}
			if w.windows.Mark(w.inbox.Feed, m) && w.gate != nil {
				w.foldAll()
				w.waiting = w.gate.arrive(w.inbox.Position)
				w.inbox.Release()
				return n + 1
			}
		case exchange.Gate:
			w.foldAll()
			w.inbox.Release()
			w.waiting = w.gate.arrive(w.inbox.Reached)
			return n + 1
		case exchange.Empty:
			w.foldAll()
			w.inbox.Release()
			return n
		}
	}
	w.foldAll()
	w.inbox.Release()
	return n
}

func (w *Worker) foldAll() {
	for s := range w.gather {
		w.foldStream(s)
	}
}

func (w *Worker) foldFeed(feed int) {
	for s := range w.gather {
		if w.plan.Streams[s].Feed == feed {
			w.foldStream(s)
		}
	}
}

func (w *Worker) foldStream(s int) {
	k := w.gather[s]
	if k.Batch.N == 0 {
		return
	}
	for j, q := range w.plan.Streams[s].Queries {
		w.counters.Queries[q].Arrived += uint64(len(k.Select[j]))
	}
	w.windows.Fold(s, k)
	k.Reset()
	k.Batch.Reset()
}

// commit ends the batch: one word says which copy of the positions is whole, and
// only then do partials, lane records and counters become visible and do frames go
// back to their rings.
func (w *Worker) commit(now event.Nanos, n int) {
	b := w.batch
	next := &b.copies[(b.commit+1)&1]
	next.outbox = w.box.Position()
	next.frames += uint64(n)
	if w.out != nil {
		w.out.Written(next.sent[:])
		w.inbox.Taken(next.taken[:])
	}
	b.commit++
	if n > 0 {
		// Before the partials that they let out: who starts after a crash must not put
		// out the same windows again.
		for q := range w.plan.Queries {
			w.segment.SetWatermark(q, w.windows.Watermark(q))
		}
	}
	w.box.Publish()
	if w.out != nil {
		w.out.Publish(w.reached())
	}
	if w.count > 0 && w.at == w.count {
		w.receiver.Release()
		w.at, w.count = 0, 0
	}
	w.counters.Worker.Cycles++
	if n > 0 {
		w.counters.Worker.BusyCycles++
		if w.waiting == 0 { // at a gate another worker may be counting for this one
			w.publish(now)
		}
	}
}

// publish makes the counters visible.
func (w *Worker) publish(now event.Nanos) {
	for q := range w.plan.Queries {
		w.counters.TouchQuery(q)
	}
	w.segment.Publish(uint64(now), w.counters)
}

// Counters returns the worker's own counters. They are exact once the worker has
// ended.
func (w *Worker) Counters() *segment.Counters { return w.counters }

// NewLanes takes the lanes between all pairs of p's workers from r; in replay also
// those from each worker to itself.
func NewLanes(p *plan.Plan, r *arena.Region) ([][]*exchange.Lane, error) {
	widest := 0
	for s := range p.Streams {
		h := exchange.NewShape(p, s)
		widest = max(widest, h.Words())
	}
	words := max(2*exchange.Need(p, widest), p.LaneBytes/8)
	lanes := make([][]*exchange.Lane, p.Workers)
	for from := range lanes {
		lanes[from] = make([]*exchange.Lane, p.Workers)
		for to := range lanes[from] {
			if from == to && !p.Replay {
				continue
			}
			var err error
			if lanes[from][to], err = exchange.NewLane(r, words); err != nil {
				return nil, fmt.Errorf("dataplane: lane %d to %d: %w", from, to, err)
			}
		}
	}
	return lanes, nil
}
