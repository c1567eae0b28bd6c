package dataplane

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/recorder"
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
	// Rollback keeps an undo log, so that the next process can take back what a batch
	// that was not committed has changed, and go on: where Region is warm, this is that
	// process. The receiver is a [Positioned] one then. Not in replay.
	Rollback bool
	// Attach, if set, makes the Receiver, given the positions of its rings up to which
	// everything was taken; nil if nothing was.
	Attach func(rings []uint32) (xsk.Receiver, error)
	// Rings are the positions that a worker begins at that has committed nothing itself:
	// those of the worker that it takes over from ([Worker.Rings]).
	Rings []uint32
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
	rings    Positioned // the receiver, with an undo log
	segment  *segment.Worker
	box      *outbox.Writer
	windows  *window.State
	undo     *arena.Undo // nil: a batch that is not committed is lost
	need     int         // words that a step between two looks at the log may save
	undone   bool        // the log had something of a batch that was not committed
	shared   *window.Shared
	memory   *memory
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

	number  uint64 // of the batch under way
	epoch   uint64 // changes with number, and whenever counters are published
	begun   int    // frames that the batch has begun
	carries uint32 // the pocket of the bag that the last commit names
	changed bool   // something may be other than in that pocket
	slow    int    // frames to be taken one at a time: after a crash the next one says more
	poison  Mark
	skip    *Mark // left out and counted as poison; nil: nothing is

	now     event.Nanos
	watched event.Nanos // when silence was last looked for

	// The end of input.
	ending  ending
	starts  []channelStart // channels in order of first sight
	next    int            // of starts: the next to finish
	closing *feed          // the feed whose last release is being decoded

	// Live.
	port *xsk.Counters // nil: not live
	// recorder keeps the latest frames; nil in a replay. recording says that it has those in
	// hand.
	recorder  *recorder.Ring
	recording bool
	// committed is what port's are without what is to be received again.
	committed func(again []xsk.Frame) xsk.Counters
	parked    uint64 // what RefillParked was when the port was made
	hold      uint64 // the hold that is asked for; 0: none
	quota     int    // frames that are still to be taken in it
	stopped   uint64 // the hold in which nothing is taken or decoded any more
	lost      uint64 // frames lost before the rings, as far as windows were told
	again     uint64 // frames received when they are to be told once more; 0: not
	bad       uint64 // frames that the port could not give, as far as they were counted
	discard   bool   // the end drops what is open

	// Replay with several workers.
	gate     *Gate
	waiting  uint64 // the gate's turn that this worker waits for, 0: none
	frontier uint64 // position being decoded
	told     uint64 // frontier that the lanes were told last
}

// cycle does one batch of work and reports how much it did; 0 means that there was
// nothing to do. It does not block, allocate, read a clock or return an error: what
// is bad is counted, and a broken invariant panics. now is the clock that the
// caller lives by, monotonic nanoseconds.
func (w *Worker) cycle(now event.Nanos) int {
	w.now = now
	w.memory.mark.Time = uint64(now)
	n := w.fold()  // exchange: what others decoded for us -> our panes
	n += w.close() // close: windows behind the watermark -> outbox
	if w.ready() {
		w.changed = true
		n += w.receive() // receive: ring -> frames in hand
		n += w.decode()  // sequence, decode: frames -> messages in order -> events
		if !w.more || w.undo != nil {
			n += w.flush() // exchange, fold: events -> their owners' lanes or our panes
		}
	}
	return n + w.commit(now, n) // the positions of this batch, then everything becomes visible
}

// saves reports whether the undo log has room for one more step.
func (w *Worker) saves() bool { return w.undo.Room(w.need) }

// NewWorker builds a worker from c. It takes memory from c.Region and touches it, so
// call it on the worker's own thread. Over a warm region it takes back what was not
// committed and goes on; an error wrapping [arena.ErrLayout] says that it cannot, and
// that the region is of no use any more.
func NewWorker(c Config) (*Worker, error) {
	w := &Worker{
		plan: c.Plan, id: c.Worker, receiver: c.Receiver, segment: c.Segment,
		gate: c.Gate, sent: make([]uint64, event.QueriesMax),
	}
	err := fits(c)
	if err == nil {
		err = w.build(c)
	}
	if err == nil {
		if c.Plan.Workers > 1 {
			w.exchange(c)
		}
		err = w.start(c)
	}
	if err != nil {
		return nil, fmt.Errorf("dataplane: worker %d: %w", c.Worker, err)
	}
	return w, nil
}

// fits builds a worker in memory that is thrown away, to find out whether a warm region
// is laid out as its will be: only then may what is there be looked at.
func fits(c Config) (err error) {
	warm := c.Region
	if !warm.Warm() {
		return nil
	}
	if c.Region, err = arena.New("headrace probe", probeBytes); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Region.Close()) }()
	probe := &Worker{plan: c.Plan, id: c.Worker, segment: c.Segment}
	if err := probe.build(c); err != nil {
		return err
	}
	return warm.Fits(StateVersion, c.Region.Layout())
}

// build takes everything from the region.
func (w *Worker) build(c Config) error {
	if err := w.remember(c); err != nil {
		return err
	}
	if w.shared = c.Shared; c.Segment != nil {
		w.box = outbox.NewWriter(c.Segment.Ring())
	}
	p, limit := c.Plan, window.Alone
	switch {
	case p.Workers > 1 && p.Replay:
		limit = window.Settled
	case p.Workers > 1:
		limit = window.SharedLimit
	}
	var err error
	if w.windows, err = window.New(window.Config{
		Plan: p, Limit: limit, Shared: c.Shared, Wait: p.Replay, Counters: w.counters.Queries,
		Resume: c.Resume, Undo: w.undo,
	}, c.Region); err != nil {
		return err
	}
	w.feeds = make([]feed, len(p.Feeds))
	for i := range p.Feeds {
		if err := w.feeds[i].init(w, i, c.Region); err != nil {
			return fmt.Errorf("feed %s: %w", p.Feeds[i].Name, err)
		}
	}
	return w.record(c.Region)
}

// record makes the recorder: as the plan wants it, or one for when somebody asks for frames.
func (w *Worker) record(r *arena.Region) (err error) {
	p := w.plan
	switch {
	case p.Replay:
	case p.Recorder.Frames > 0:
		w.recorder, err = recorder.New(r, p.Recorder.Frames, p.Recorder.Snap, len(p.Feeds), true)
	default:
		w.recorder, err = recorder.New(r, recorder.DefaultFrames, recorder.DefaultSnap, len(p.Feeds), false)
	}
	return err
}

// Recorder says where in the region the latest frames are.
func (w *Worker) Recorder() recorder.Place { return w.recorder.Place() }

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
	most := len(w.frames)
	if w.slow > 0 {
		most = 1
	}
	if w.hold != 0 {
		most = min(most, w.quota)
	}
	if w.at = 0; most == 0 {
		w.count, w.more = 0, false
		return 0
	}
	w.count = w.receiver.Receive(w.frames[:most])
	w.more = w.count == most
	w.quota -= min(w.quota, w.count)
	w.slow -= min(w.slow, w.count)
	w.counters.Worker.Frames += uint64(w.count)
	if w.count > 0 {
		w.received = oldest(w.frames[:w.count], uint64(w.now))
		w.causedAt(w.received)
		if w.recording = w.recorder != nil && w.recorder.Wanted(); w.recording {
			w.recorder.Put(w.frames[:w.count])
		}
	}
	return w.count
}

// positionOf is the position of what a frame lets through. Live there is no order of all
// frames, and lanes need not say where each begins.
func (w *Worker) positionOf(fr *xsk.Frame) uint64 {
	if w.plan.Replay {
		return fr.Packet
	}
	return 0
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
		w.memory.mark.by(w.closing.number)
		if !w.closing.step() {
			return 0
		}
		w.closing = nil
		n++
	}
	for w.at < w.count {
		if !w.saves() {
			return n
		}
		fr := &w.frames[w.at]
		if int(fr.Meta.Feed) >= len(w.feeds) {
			w.counters.Worker.UnknownFeed++
			w.at++
			continue
		}
		f := &w.feeds[fr.Meta.Feed]
		if !w.frame(f, fr) {
			return n
		}
		w.open = false
		w.at++
		n++
	}
	return n + w.rest()
}

// frame goes on with a frame of f, or begins it, and reports whether it is through.
func (w *Worker) frame(f *feed, fr *xsk.Frame) bool {
	poison := w.skip != nil && w.poisoned(fr)
	w.memory.mark.frame(fr, w.begun == 0 && !w.open && !w.pending())
	if !w.open {
		if poison {
			return f.leaveOut(fr)
		}
		w.frontier = w.positionOf(fr)
		w.begun++
		f.begin(fr, w.utcOffset)
		w.open = true
		fault.Point()
	}
	if poison {
		return f.abandon()
	}
	return f.step()
}

// flush sends everything decoded on its way and reports how many events that were.
// What the lanes or the panes cannot take yet stays.
func (w *Worker) flush() int {
	w.memory.mark.stage(StageFold)
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
	w.memory.mark.stage(StageClose)
	if w.undo != nil && w.windows.Closing() {
		for q := range w.plan.Queries {
			if w.windows.Puts(q) {
				w.counters.TouchQuery(q)
			}
		}
	}
	return w.windows.Close(w.box, closeMax)
}

// fold takes what came through the lanes into the panes.
func (w *Worker) fold() int {
	if w.inbox == nil || w.atGate() || w.gate != nil && w.gate.over.Load() {
		return 0
	}
	w.causedAt(uint64(w.now)) // a lane does not say when a packet came
	w.memory.mark.stage(StageExchange)
	n := 0
	for ; n < recordsMax && w.saves(); n++ {
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
				return n + 1
			}
		case exchange.Gate:
			w.foldAll()
			w.waiting = w.gate.arrive(w.inbox.Reached)
			return n + 1
		case exchange.Empty:
			w.foldAll()
			return n
		}
	}
	w.foldAll()
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
	w.feeds[w.plan.Streams[s].Feed].touch()
	for j, q := range w.plan.Streams[s].Queries {
		w.counters.Queries[q].Arrived += uint64(len(k.Select[j]))
	}
	w.windows.Fold(s, k)
	k.Reset()
	k.Batch.Reset()
}

// Counters returns the worker's own counters. They are exact once the worker has
// ended. With an undo log they are gone with the region.
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
