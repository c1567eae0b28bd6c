package dataplane

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/wire"
)

// A Journal is which worker owns each key group, and the move of a group that is under
// way, in a region of its own. A move changes the memory of several workers, whose undo
// logs know nothing of each other: so it says here what it does, and one word decides
// whether a kill in it is taken back or finished.
type Journal struct {
	head  *journal
	moved []movedChannel
}

type journal struct {
	State    uint64 // one of the steps
	Group    uint32
	From, To uint32
	Count    uint32 // of moved
	Owner    [event.GroupCount]uint16
}

// The steps of a move.
const (
	atRest  = iota
	copying // To gets what From has: taken back after a kill
	leaving // To has it, From forgets it: finished after a kill
)

// movedChannel is a channel of the group: its slots on both workers.
type movedChannel struct {
	Feed, From, To uint32
}

// NewJournal takes a journal for p's workers from r. In a fresh region groups are
// spread as steer spreads them.
func NewJournal(r *arena.Region, p *plan.Plan) (*Journal, error) {
	one, err := arena.Slice[journal](r, "owners", 1)
	if err != nil {
		return nil, fmt.Errorf("dataplane: %w", err)
	}
	channels := 0
	for i := range p.Feeds {
		channels += p.Feeds[i].Channels
	}
	j := &Journal{head: &one[0]}
	if j.moved, err = arena.Slice[movedChannel](r, "owners", channels); err != nil {
		return nil, fmt.Errorf("dataplane: %w", err)
	}
	if !r.Warm() {
		j.head.Owner = steer.OwnerTable(p.Workers)
	}
	return j, nil
}

// Owner returns the worker that owns each key group. Who moves groups changes it while
// all workers are held.
func (j *Journal) Owner() *[event.GroupCount]uint16 { return &j.head.Owner }

// AtRest reports that no move is under way.
func (j *Journal) AtRest() bool { return j.head.State == atRest }

// Recover finishes or takes back the move that a kill has interrupted. All workers have
// been built, and none runs.
func (j *Journal) Recover(workers []*Worker) error {
	h := j.head
	if h.State == atRest {
		return nil
	}
	if h.State > leaving || h.Group >= event.GroupCount || int(max(h.From, h.To)) >= len(workers) || int(h.Count) > len(j.moved) {
		return fmt.Errorf("dataplane: a move of group %d from worker %d to %d: %w", h.Group, h.From, h.To, arena.ErrLayout)
	}
	m := move{j, workers, workers[h.From], workers[h.To]}
	if h.State == copying {
		return m.takeBack()
	}
	return m.leave()
}

// Move gives key groups to worker to, with all that their owners have of them: the keys
// of every open window, the channels that are placed there, what these hold and know.
// All workers are held (see [segment.Hold]), and stay so: the caller sees to it that
// frames of these groups that lie in rings of their owners have been taken, and that
// later ones come to worker to. It returns how many groups were moved; with an error the
// others stay where they are.
func (j *Journal) Move(workers []*Worker, groups []int, to int) (int, error) {
	if to < 0 || to >= len(workers) {
		return 0, fmt.Errorf("dataplane: there is no worker %d", to)
	}
	for n, group := range groups {
		if group < 0 || group >= event.GroupCount {
			return n, fmt.Errorf("dataplane: there is no key group %d", group)
		}
		from := int(j.head.Owner[group])
		if from == to {
			continue
		}
		m := move{j, workers, workers[from], workers[to]}
		if err := m.run(group, from, to); err != nil {
			return n, fmt.Errorf("dataplane: key group %d from worker %d to %d: %w", group, from, to, err)
		}
	}
	return len(groups), nil
}

// move is one group on its way.
type move struct {
	*Journal
	workers  []*Worker
	src, dst *Worker
}

func (m *move) run(group, from, to int) error {
	for _, w := range m.workers {
		if w.undo == nil {
			return errors.New("without an undo log: the plan is to say crash: rollback")
		}
		if !w.quiet() {
			return fmt.Errorf("worker %d has something in hand", w.id)
		}
	}
	channels, err := m.channelsOf(group)
	if err != nil {
		return err
	}
	h := m.head
	h.Group, h.From, h.To, h.Count = uint32(group), uint32(from), uint32(to), 0
	atomic.StoreUint64(&h.State, copying)
	fault.Point()
	if err := m.copy(channels); err != nil {
		return errors.Join(err, m.takeBack())
	}
	atomic.StoreUint64(&h.State, leaving)
	fault.Point()
	return m.leave()
}

// channelsOf are the channels whose packets are placed by the group.
func (m *move) channelsOf(group int) ([]movedChannel, error) {
	var found []movedChannel
	var buf [steer.PlaceMax]byte
	for i := range m.src.feeds {
		f := &m.src.feeds[i]
		if f.sequencer == nil {
			continue
		}
		channels := f.sequencer.Channels()
		if f.plan.Place.Kind != plan.PlaceChannel && len(channels) > 0 {
			return nil, fmt.Errorf("feed %s: its packets are not placed by channel: nobody knows whose they are", f.plan.Name)
		}
		for _, c := range channels {
			placed, _ := steer.Place(&f.plan.Place, c.Session.Header(f.plan.Sequence), nil, &buf)
			if event.Group(event.HashKey(placed)) == group {
				found = append(found, movedChannel{Feed: uint32(i), From: uint32(c.Slot)})
			}
		}
	}
	return found, nil
}

// copy gives dst what src has. A channel is noted before the commit that makes it dst's.
func (m *move) copy(channels []movedChannel) error {
	for _, c := range channels {
		from, to := &m.src.feeds[c.Feed], &m.dst.feeds[c.Feed]
		slot, err := to.takeChannel(from, int(c.From))
		if err != nil {
			return err
		}
		c.To = uint32(slot)
		m.moved[m.head.Count] = c
		fault.Point()
		atomic.StoreUint32(&m.head.Count, m.head.Count+1)
		fault.Point()
		m.dst.commitHeld()
		if err := to.takeDecoded(from, int(c.From), slot, m.dst.commitHeld); err != nil {
			return err
		}
	}
	return window.CopyGroup(m.dst.windows, m.src.windows, m.queries(), int(m.head.Group))
}

func (m *move) queries() (all []window.Pair) {
	for q := range m.src.plan.Queries {
		all = append(all, window.Pair{Dst: q, Src: q})
	}
	return all
}

// takeBack makes dst forget what it has got.
func (m *move) takeBack() error {
	if err := m.dst.rollBack(); err != nil {
		return err
	}
	for _, c := range m.moved[:m.head.Count] {
		if m.both(c) {
			m.dst.feeds[c.Feed].forgetChannel(int(c.To))
			m.dst.commitHeld()
		}
	}
	m.dst.windows.ClearGroup(int(m.head.Group))
	fault.Point()
	atomic.StoreUint64(&m.head.State, atRest)
	return nil
}

// leave makes src forget what dst has, and everybody know.
func (m *move) leave() error {
	h := m.head
	for _, c := range m.moved[:h.Count] {
		old, now := m.src.feeds[c.Feed].sourceOf(int(c.From)), m.dst.feeds[c.Feed].sourceOf(int(c.To))
		for _, w := range m.workers {
			if err := w.windows.RenumberSource(int(c.Feed), old, now); err != nil {
				return err
			}
		}
		if m.both(c) {
			m.src.feeds[c.Feed].forgetChannel(int(c.From))
			m.src.commitHeld()
		}
	}
	m.src.windows.ClearGroup(int(h.Group))
	fault.Point()
	h.Owner[h.Group] = uint16(h.To)
	fault.Point()
	atomic.StoreUint64(&h.State, atRest)
	return nil
}

// both reports whether src and dst have the channel.
func (m *move) both(c movedChannel) bool {
	a, ok := channelAt(m.src.feeds[c.Feed].sequencer, int(c.From))
	b, has := channelAt(m.dst.feeds[c.Feed].sequencer, int(c.To))
	return ok && has && a.Session == b.Session
}

func channelAt(s *sequence.Sequencer, slot int) (sequence.Channel, bool) {
	for _, c := range s.Channels() {
		if c.Slot == slot {
			return c, true
		}
	}
	return sequence.Channel{}, false
}

// takeChannel copies channel slot of other, without what the decoder knows of it, and
// returns its slot here. Packets that are held count where they are held.
func (f *feed) takeChannel(other *feed, slot int) (int, error) {
	f.touch()
	held := f.sequencer.HeldPackets()
	now, err := f.sequencer.MoveChannel(other.sequencer, slot)
	if err != nil {
		return 0, err
	}
	*f.change(now) = other.channels[slot]
	fault.Point()
	f.countHeld(held)
	return now, nil
}

// takeDecoded copies what the decoder of other knows of channel slot from to slot to. What
// does not fit into one undo log goes in parts, after each of which next begins another.
func (f *feed) takeDecoded(other *feed, from, to int, next func()) error {
	mover, ok := other.decoder.(wire.Mover)
	if !ok {
		return nil
	}
	if err := mover.Fits(f.decoder, from, to); err != nil {
		return err
	}
	for at := 0; ; {
		on, err := mover.Move(f.decoder, from, to, at)
		if err != nil {
			return err
		}
		next()
		switch on {
		case 0:
			return nil
		case at:
			return fmt.Errorf("its state is too large for the undo log: %w", arena.ErrFull)
		}
		at = on
	}
}

// forgetChannel takes out a channel that another worker has.
func (f *feed) forgetChannel(slot int) {
	f.touch()
	held := f.sequencer.HeldPackets()
	f.sequencer.ForgetChannel(slot)
	f.decoder.Forget(slot)
	fault.Point()
	*f.change(slot) = channelState{Max: event.MinNanos}
	f.countHeld(held)
}

// countHeld counts the packets that are held, of which there were so many.
func (f *feed) countHeld(before int) {
	f.counters.FramesHeld += uint64(f.sequencer.HeldPackets() - before)
	f.counters.MessagesHeld = f.sequencer.HeldMessages()
	fault.Point()
}

// quiet reports that the worker has nothing in hand, and nothing that waits to be put
// out or cleared: what a hold brings about.
func (w *Worker) quiet() bool {
	return w.at == w.count && w.closing == nil && !w.pending() && w.windows.Quiescent()
}

// commitHeld commits what was done to a worker that is held.
func (w *Worker) commitHeld() { w.commit(w.now, 1) }

// rollBack takes back what was done since the last commit to a worker that is held.
func (w *Worker) rollBack() error {
	did, err := w.undo.Rollback(w.memory.head.Commit)
	if err != nil {
		return err
	}
	if did {
		w.windows.Derive()
	}
	w.number-- // nothing of it has happened
	w.begin()
	return nil
}
