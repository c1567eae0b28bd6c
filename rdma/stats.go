package rdma

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// Stats counts what a group did since it was made.
type Stats struct {
	Epoch Epoch
	// Fallback: the epoch's transport is not the one that is preferred here.
	Fallback bool
	// Fallbacks counts the epochs of which that is so.
	Fallbacks uint64
	// TransportFailures counts transports that could not be prepared or opened, or
	// whose probe did not come through.
	TransportFailures uint64
	// Crossover is the present epoch's; the greatest number: never.
	Crossover uint64
	// EpochChanges counts the epochs that ended, by reason.
	EpochChanges map[string]uint64
	// EpochChange is how long there was no epoch, from the end of one to the next.
	EpochChange Histogram
	// Ops has the rounds that came to a result, by op; that of Exchange is "exchange".
	Ops map[string]OpStats
	// RoundsComplete counts the rounds that came to a result, RoundsRerun those that
	// did not count, RoundsTaken those of complete whose result another member had,
	// RoundsHanded the results that we gave to another member.
	RoundsComplete, RoundsRerun, RoundsTaken, RoundsHanded uint64
	// Peers are by number.
	Peers []PeerStats
	// BadFrames counts, by reason, what the codec refused, and as "round" what cannot
	// be in the state of its round. Frames of another epoch are not among them.
	BadFrames map[string]uint64
	// StaleDrops counts frames of another epoch.
	StaleDrops uint64
	// BadMessages counts control messages that were refused.
	BadMessages uint64
}

// OpStats says where the time of rounds goes.
type OpStats struct {
	Whole  Histogram // from the call to the return
	Post   Histogram // until all was sent
	Wait   Histogram // from then until all was there
	Reduce Histogram // from then to the return
}

// PeerStats is what was exchanged with one peer.
type PeerStats struct {
	SentBytes, ReceivedBytes uint64 // payload
	// Waited is how long rounds waited for this peer alone: its contribution was the
	// last, and all was sent. WaitedRounds counts them.
	Waited       time.Duration
	WaitedRounds uint64
	MeshFailures uint64 // times that frames did not get through
	Stalls       uint64 // times that it was heard and left out, because it began no rounds
}

// A Histogram counts durations.
type Histogram struct {
	// Counts[i] is how many were at most HistogramBounds[i] and above the bound
	// before; the last entry counts the rest.
	Counts [histogramBounds + 1]uint64
	Sum    time.Duration
}

const histogramBounds = 19

// HistogramBounds are 1, 2, 5 … microseconds up to a second.
var HistogramBounds = func() (bounds [histogramBounds]time.Duration) {
	at := time.Microsecond
	for i := range bounds {
		bounds[i] = [3]time.Duration{at, 2 * at, 5 * at}[i%3]
		if i%3 == 2 {
			at *= 10
		}
	}
	return bounds
}()

// Count is the number of durations.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

func (h *Histogram) add(d time.Duration) {
	i, _ := slices.BinarySearch(HistogramBounds[:], d)
	h.Counts[i]++
	h.Sum += d
}

// opExchange stands for an Exchange where ops are counted.
const opExchange = Op(0)

// tally is where a Group counts. The group's goroutine writes, any reads.
type tally struct {
	mu      sync.Mutex
	stats   Stats
	ops     [256]*OpStats
	changes [changeCount]uint64
	bad     map[string]uint64 // of codecs that are no more
	stale   uint64
	codecIn *frame.Codec
	state   State
}

func (t *tally) begin(c *GroupConfig) {
	t.stats.Peers = make([]PeerStats, len(c.Names))
	t.stats.Crossover = never
	t.stats.Epoch.Me, t.state.Epoch.Me = c.Me, c.Me
	t.state.Hears = make([]collective.Set, len(c.Names))
	t.bad = map[string]uint64{"round": 0}
}

func (t *tally) count(n *uint64) {
	t.mu.Lock()
	*n++
	t.mu.Unlock()
}

func (t *tally) badMessage()         { t.count(&t.stats.BadMessages) }
func (t *tally) transportFailed()    { t.count(&t.stats.TransportFailures) }
func (t *tally) handed()             { t.count(&t.stats.RoundsHanded) }
func (t *tally) took()               { t.count(&t.stats.RoundsTaken) }
func (t *tally) changed(c Change)    { t.count(&t.changes[c]) }
func (t *tally) meshFailed(peer int) { t.count(&t.stats.Peers[peer].MeshFailures) }

func (t *tally) stalled(peer int) { t.count(&t.stats.Peers[peer].Stalls) }

func (t *tally) badFrame() {
	t.mu.Lock()
	t.bad["round"]++
	t.mu.Unlock()
}

func (t *tally) crossover(n uint64) {
	t.mu.Lock()
	t.stats.Crossover = n
	t.mu.Unlock()
}

func (t *tally) healed(d time.Duration) {
	t.mu.Lock()
	t.stats.EpochChange.add(d)
	t.mu.Unlock()
}

func (t *tally) epoch(e Epoch, transport int) {
	t.mu.Lock()
	t.stats.Epoch, t.state.Epoch, t.state.Round = e, e, 0
	t.stats.Fallback = e.Number != 0 && transport > 0
	if t.stats.Fallback {
		t.stats.Fallbacks++
	}
	t.mu.Unlock()
}

func (t *tally) hears(hears []collective.Set, shunned collective.Set) {
	t.mu.Lock()
	copy(t.state.Hears, hears)
	t.state.Shunned = shunned
	t.mu.Unlock()
}

// codec makes c the one that counts bad frames now.
func (t *tally) codec(c *frame.Codec) {
	t.mu.Lock()
	if t.codecIn != nil {
		t.stale += addBad(t.bad, t.codecIn)
	}
	t.codecIn = c
	t.mu.Unlock()
}

// addBad adds to bad what c refused, but for frames of another epoch, which it returns.
func addBad(bad map[string]uint64, c *frame.Codec) (stale uint64) {
	for _, r := range frame.Reasons {
		if n := c.Count(r); r == frame.ErrEpoch { //nolint:errorlint // Reasons are plain
			stale = n
		} else {
			bad[frame.ReasonName(r)] += n
		}
	}
	return stale
}

// round counts a round that a call has left.
func (t *tally) round(op Op, h *hand, traffic []struct{ sent, received uint64 }, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range t.stats.Peers {
		t.stats.Peers[p].SentBytes += traffic[p].sent
		t.stats.Peers[p].ReceivedBytes += traffic[p].received
	}
	if err != nil {
		t.stats.RoundsRerun++
		return
	}
	t.stats.RoundsComplete++
	t.state.Round = h.round
	if h.completed.IsZero() || h.posted.IsZero() { // alone, or another had the result
		return
	}
	o := t.ops[op]
	if o == nil {
		o = &OpStats{}
		t.ops[op] = o
	}
	end := time.Now()
	wait := max(0, h.completed.Sub(h.posted))
	o.Whole.add(end.Sub(h.began))
	o.Post.add(h.posted.Sub(h.began))
	o.Wait.add(wait)
	o.Reduce.add(max(0, end.Sub(h.completed)))
	if h.last != h.epoch.Me {
		t.stats.Peers[h.last].Waited += wait
		t.stats.Peers[h.last].WaitedRounds++
	}
}

// Stats returns a copy of the counters. Any goroutine may call it.
func (g *Group) Stats() *Stats {
	t := &g.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Peers = slices.Clone(s.Peers)
	s.EpochChanges = make(map[string]uint64, changeCount)
	for c, n := range t.changes {
		s.EpochChanges[Change(c).String()] = n
	}
	s.Ops = map[string]OpStats{}
	for op, o := range t.ops {
		if o == nil {
			continue
		}
		name := "exchange"
		if Op(op) != opExchange {
			name = Op(op).String()
		}
		s.Ops[name] = *o
	}
	s.BadFrames, s.StaleDrops = maps.Clone(t.bad), t.stale
	if t.codecIn != nil {
		s.StaleDrops += addBad(s.BadFrames, t.codecIn)
	}
	return &s
}

// State returns what is known of the group now. Any goroutine may call it.
func (g *Group) State() State {
	g.tally.mu.Lock()
	defer g.tally.mu.Unlock()
	s := g.tally.state
	s.Hears = slices.Clone(s.Hears)
	return s
}
