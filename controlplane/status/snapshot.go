package status

import (
	"sync"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// Rows is what status asks of the pump ([export.Pump]).
type Rows interface {
	Sinks() []export.Stats
	Rows(query int) uint64
	Faults(f outbox.Fault) uint64
}

// XDPSnapshot is what the kernel counted before a worker saw a frame.
type XDPSnapshot struct {
	// Steered are the frames that the program sent to a socket, by the plan's feeds.
	Steered    []uint64       `json:"steered"`
	Interfaces []InterfaceXDP `json:"interfaces"`
}

// InterfaceXDP is one interface's part.
type InterfaceXDP struct {
	Name     string `json:"name"`
	Mode     string `json:"mode"` // as read back: native or generic
	ZeroCopy bool   `json:"zero_copy"`
	// Verdicts are the program's frames by verdict, in the program's order.
	Verdicts []Count `json:"verdicts"`
	Sockets
}

// Sockets sums the AF_XDP sockets of an interface.
type Sockets struct {
	RxDropped  uint64 `json:"rx_dropped"`
	RxRingFull uint64 `json:"rx_ring_full"`
	// FillRingEmpty belongs to the queues; it is never added to what was lost.
	FillRingEmpty uint64 `json:"fill_ring_empty"`
	RxInvalid     uint64 `json:"rx_invalid"`
	TxInvalid     uint64 `json:"tx_invalid"`
	InRing        uint64 `json:"in_ring"` // frames that wait in RX rings now
}

// SumSockets adds up what the data plane read of interface i's sockets.
func SumSockets(s *segment.Segment, i int) Sockets {
	var t Sockets
	for q := range segment.QueuesMax {
		var fill uint64
		for w := range s.Layout.Workers {
			c := s.Socket(i, q, w)
			if c.Bound.Load() == 0 {
				continue
			}
			t.RxDropped += c.RxDropped.Load()
			t.RxRingFull += c.RxRingFull.Load()
			t.RxInvalid += c.RxInvalid.Load()
			t.TxInvalid += c.TxInvalid.Load()
			t.InRing += c.InRing.Load()
			fill = max(fill, c.RxFillRingEmpty.Load()) // the kernel shows the queue's at each socket
		}
		t.FillRingEmpty += fill
	}
	return t
}

// Count is a number with a name from a closed set.
type Count struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// A Snapshot is everything that was counted, at about one instant.
type Snapshot struct {
	Name     string         `json:"name"`
	At       time.Time      `json:"at"`
	Control  uint64         `json:"control"`  // control processes that this run has had
	Restarts uint64         `json:"restarts"` // of the data plane; counts are sums over all of them
	Drained  bool           `json:"drained"`  // every worker ended and every outbox is empty
	Workers  []Worker       `json:"workers"`
	Feeds    []Feed         `json:"feeds"`
	Queries  []Query        `json:"queries"`
	Sinks    []export.Stats `json:"sinks"`
	Faults   []Count        `json:"outbox_faults"`
	XDP      *XDPSnapshot   `json:"xdp,omitempty"`
	Group    *Group         `json:"group,omitempty"`
	// Continuity is nil where there is no process to replace, as in a replay.
	Continuity *Continuity `json:"continuity,omitempty"`
	// Placement is nil where workers are not placed, as in a replay.
	Placement *Placement `json:"placement,omitempty"`

	workers []segment.Counters // consistent copies, by worker
	expects []uint64           // rows that each sink will have in the end
	former  *Former
}

// Worker is one worker's own counts.
type Worker struct {
	Worker       int    `json:"worker"`
	State        string `json:"state"`
	Failure      string `json:"failure,omitempty"`
	Stale        bool   `json:"stale"` // the counts are not one consistent whole
	Cycles       uint64 `json:"cycles"`
	BusyCycles   uint64 `json:"busy_cycles"`
	Frames       uint64 `json:"frames"`
	Batches      uint64 `json:"batches"`
	UnknownFeed  uint64 `json:"unknown_feed"`
	OutboxFull   uint64 `json:"outbox_full"`
	LaneFull     uint64 `json:"lane_full"`
	RefillParked uint64 `json:"refill_parked"`
	OutboxUsed   uint64 `json:"outbox_used_bytes"`
	Heartbeat    uint64 `json:"heartbeat_nanos"` // the worker's clock
}

// Feed is one feed's counts, summed over the workers.
type Feed struct {
	Name         string   `json:"name"`
	Frames       uint64   `json:"frames"`
	Bytes        uint64   `json:"bytes"`
	Applied      uint64   `json:"frames_applied"`
	Duplicate    uint64   `json:"frames_duplicate"`
	Heartbeat    uint64   `json:"frames_heartbeat"`
	Held         uint64   `json:"frames_held"`
	Drops        []Count  `json:"frames_dropped"`
	Messages     uint64   `json:"messages"`
	MApplied     uint64   `json:"messages_applied"`
	MDuplicate   uint64   `json:"messages_duplicate"`
	MHeld        uint64   `json:"messages_held"`
	MessageDrops []Count  `json:"messages_dropped"`
	Events       uint64   `json:"events"`
	Truncated    uint64   `json:"truncated"`
	Channels     uint64   `json:"channels"`
	Epochs       uint64   `json:"epochs"`
	Gaps         uint64   `json:"gaps"`
	Missing      uint64   `json:"missing"`
	LineFrames   []uint64 `json:"line_frames"`
	LineFirst    []uint64 `json:"line_first"`
}

// Query is one query's counts, summed over the workers.
type Query struct {
	Name          string      `json:"name"`
	Received      uint64      `json:"received"`
	Applied       uint64      `json:"applied"`
	Sent          uint64      `json:"sent"`
	Arrived       uint64      `json:"arrived"`
	Drops         []Count     `json:"dropped"`
	Partials      uint64      `json:"partials"`
	WindowsClosed uint64      `json:"windows_closed"`
	Rows          uint64      `json:"rows"`      // made by this control process
	Watermark     event.Nanos `json:"watermark"` // the least over the workers
}

// A Source makes snapshots. It may be used from several goroutines.
type Source struct {
	Plan    *plan.Plan
	Segment *segment.Segment
	Rows    Rows               // nil: no rows are shown
	XDP     func() XDPSnapshot // nil: no XDP is shown, as in replay
	Clock   func() time.Time   // nil: time.Now
	Group   func() *Group      // nil: the box is in no group
	Former  Former             // what the data planes before this one counted

	// Continuity says how processes were replaced; nil: it cannot be.
	Continuity func() *Continuity
	// Placement says where the workers are; nil: it is not known.
	Placement func() *Placement

	mu   sync.Mutex
	last []*segment.Counters // the last consistent copy of each worker
}

// Replace makes s a source of the figures of another data plane, perhaps of another plan,
// those before it being in former. Afterwards nobody reads the old segment any more.
func (s *Source) Replace(p *plan.Plan, seg *segment.Segment, pump Rows, xdp func() XDPSnapshot, former Former) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Plan = p
	s.Segment, s.Rows, s.XDP, s.Former, s.last = seg, pump, xdp, former, nil
}

// Snapshot reads everything.
func (s *Source) Snapshot() *Snapshot {
	clock := s.Clock
	if clock == nil {
		clock = time.Now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	former := s.Former // the next one may come before the ledger is made
	snap := &Snapshot{
		Name: s.Plan.Name, At: clock().UTC(), Control: s.Segment.ControlGeneration(), Restarts: s.Former.Restarts, Drained: true,
		former: &former,
	}
	if s.Rows != nil { // before the workers: what is written was put before
		snap.Sinks = s.Rows.Sinks()
		for i := range snap.Sinks {
			old := s.Former.Sinks[snap.Sinks[i].Name]
			snap.Sinks[i].Rows += old.Rows
			snap.Sinks[i].Bytes += old.Bytes
			snap.Sinks[i].Global += old.Global
		}
		for f := outbox.Fault(1); f < outbox.FaultCount; f++ {
			snap.Faults = append(snap.Faults, Count{f.String(), s.Rows.Faults(f)})
		}
	}
	if s.XDP != nil {
		x := s.XDP()
		for i := range min(len(x.Interfaces), len(s.Former.Sockets)) {
			x.Interfaces[i].add(&s.Former.Sockets[i])
		}
		snap.XDP = &x
	}
	if s.Continuity != nil {
		snap.Continuity = s.Continuity()
	}
	if s.Placement != nil {
		snap.Placement = s.Placement()
	}
	if s.Group != nil {
		snap.Group = s.Group()
	}
	for w := range max(s.Plan.Workers, 1) {
		snap.worker(s, w)
	}
	for i := range s.Plan.Feeds {
		snap.feed(s.Plan.Feeds[i].Name, i)
	}
	for i := range s.Plan.Queries {
		snap.query(s, i)
	}
	snap.expect(s.Plan)
	return snap
}

func (snap *Snapshot) worker(s *Source, w int) {
	if s.last == nil {
		s.last = make([]*segment.Counters, max(s.Plan.Workers, 1))
	}
	seg := s.Segment.Worker(w)
	ring := seg.Ring()
	used := ring.Produced.Load() - ring.Freed.Load()
	state := seg.State()
	snap.Drained = snap.Drained && state.Final() && used == 0

	c := segment.NewCounters(s.Plan)
	stale := seg.Read(c) != nil
	switch {
	case !stale:
		s.last[w] = c
	case state.Final() || s.last[w] == nil:
		seg.ReadTorn(c) // a worker that died in the middle: its last words
	default:
		c = s.last[w]
	}
	if s.Former.Restarts > 0 {
		sum := segment.NewCounters(s.Plan)
		segment.Add(sum, c)
		s.Former.addTo(w, sum)
		c = sum
	}
	k := &c.Worker
	snap.workers = append(snap.workers, *c)
	snap.Workers = append(snap.Workers, Worker{
		Worker: w, State: state.String(), Failure: seg.Failure(), Stale: stale,
		Cycles: k.Cycles, BusyCycles: k.BusyCycles, Frames: k.Frames, Batches: k.Batches, UnknownFeed: k.UnknownFeed,
		OutboxFull: k.OutboxFull, LaneFull: k.LaneFull, RefillParked: k.RefillParked,
		OutboxUsed: min(used, uint64(len(ring.Bytes))), Heartbeat: k.HeartbeatNanos,
	})
}

func (snap *Snapshot) feed(name string, i int) {
	f := Feed{Name: name, LineFrames: make([]uint64, 4), LineFirst: make([]uint64, 4)}
	var frames, messages event.Drops
	for w := range snap.workers {
		c := &snap.workers[w].Feeds[i]
		f.Frames += c.Frames
		f.Bytes += c.Bytes
		f.Applied += c.FramesApplied
		f.Duplicate += c.FramesDuplicate
		f.Heartbeat += c.FramesHeartbeat
		f.Held += c.FramesHeld
		f.Messages += c.Messages
		f.MApplied += c.Applied
		f.MDuplicate += c.Duplicate
		f.MHeld += c.MessagesHeld
		f.Events += c.Events
		f.Truncated += c.Truncated
		f.Channels += c.Channels
		f.Epochs += c.Epochs
		f.Gaps += c.Gaps
		f.Missing += c.Missing
		for l := range c.LineFrames {
			f.LineFrames[l] += c.LineFrames[l]
			f.LineFirst[l] += c.LineFirst[l]
		}
		add(&frames, &c.FrameDrops)
		add(&messages, &c.MessageDrops)
	}
	f.Drops, f.MessageDrops = named(&frames), named(&messages)
	snap.Feeds = append(snap.Feeds, f)
}

func (snap *Snapshot) query(s *Source, i int) {
	q := Query{Name: s.Plan.Queries[i].Name, Watermark: event.MaxNanos}
	var drops event.Drops
	for w := range snap.workers {
		c := &snap.workers[w].Queries[i]
		q.Received += c.Received
		q.Applied += c.Applied
		q.Sent += c.Sent
		q.Arrived += c.Arrived
		q.Partials += c.Partials
		q.WindowsClosed += c.WindowsClosed
		add(&drops, &c.Drops)
		q.Watermark = min(q.Watermark, s.Segment.Worker(w).Watermark(i))
	}
	q.Drops = named(&drops)
	if s.Rows != nil {
		q.Rows = s.Rows.Rows(i) + pick(s.Former.Rows, i)
	}
	snap.Queries = append(snap.Queries, q)
}

// expect works out how many rows of this box each sink must have when all is drained.
func (snap *Snapshot) expect(p *plan.Plan) {
	for _, sink := range snap.Sinks {
		// What a former data plane put out and no sink has was lost with it.
		former := snap.former.Sinks[sink.Name]
		n := former.Rows - former.Global
		for i := range p.Queries {
			for _, name := range p.Queries[i].Local() {
				if name == sink.Name {
					n += snap.Queries[i].Partials - snap.former.partials(i)
				}
			}
		}
		snap.expects = append(snap.expects, n)
	}
}

func add(sum, drops *event.Drops) {
	for i, n := range drops {
		sum[i] += n
	}
}

// named lists the reasons that were counted.
func named(d *event.Drops) []Count {
	counts := []Count{}
	for i, n := range d {
		if n > 0 {
			counts = append(counts, Count{event.Drop(i).String(), n})
		}
	}
	return counts
}

func total(counts []Count) (n uint64) {
	for _, c := range counts {
		n += c.Count
	}
	return n
}
