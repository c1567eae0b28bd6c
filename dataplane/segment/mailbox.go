package segment

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// Command is what control asks of the workers. They look once a cycle.
type Command uint64

// The commands, each stronger than the one before.
const (
	Go Command = iota // do your work
	// Hold: take no more frames, finish what is in hand, and wait. Nothing is fired that
	// would not be without it, and frames go on coming into the rings. A worker that has
	// got there is [Held], and nobody's memory changes until the hold ends.
	Hold
	// HoldPast is Hold, but workers that it names take first what lies in their rings when
	// they see it: for a change after which some frames come to another worker.
	HoldPast
	Drain   // take no more frames, fire what is open, end
	Discard // take no more frames, drop what is open, end
	Kill    // end now
)

// Holds reports whether c is one of the holds.
func (c Command) Holds() bool { return c == Hold || c == HoldPast }

// Command returns what control asks. A word that is no command reads as Kill:
// a control plane that writes nonsense must not keep us alive.
func (s *Segment) Command() Command { return min(Command(s.mailbox.Command.Load()), Kill) }

// SetCommand asks for c. Control writes it. A weaker command than the last is
// ignored: a drain cannot be taken back. Only a hold ends with Go.
func (s *Segment) SetCommand(c Command) {
	if last := s.Command(); c > last || c == Go && last.Holds() {
		s.mailbox.Command.Store(uint64(c))
	}
}

// AllWorkers is past of [Segment.SetHold] for every worker.
const AllWorkers = ^uint64(0)

// SetHold asks for a hold, c being one of the two, and returns its number: a worker is
// there when it is [Held] and [Worker.HeldFor] is that number. With HoldPast, past has bit
// w if worker w takes first what lies in its rings; for the others it is a Hold. Control
// writes it. It returns 0 if something stronger has been asked for. [Segment.SetCommand]
// with Go ends the hold.
//
// Where a hold is under way, or all workers are there, the next one takes its place: a
// worker goes on from where it is held.
func (s *Segment) SetHold(c Command, past uint64) uint64 {
	if s.Command() > HoldPast || !c.Holds() {
		return 0
	}
	if c == Hold {
		past = 0
	}
	number := s.mailbox.Hold.Load() + 1
	s.mailbox.Past.Store(past)   // before the number, and
	s.mailbox.Hold.Store(number) // before the command: who sees that sees this
	s.mailbox.Command.Store(uint64(c))
	return number
}

// Hold returns the number of the hold that was asked for last; 0 if none was.
func (s *Segment) Hold() uint64 { return s.mailbox.Hold.Load() }

// Past reports whether worker w takes first what lies in its rings, in the hold whose
// number was read before, or in one after it.
func (s *Segment) Past(w int) bool { return s.mailbox.Past.Load()>>uint(w)&1 != 0 }

// Heartbeat returns CLOCK_MONOTONIC, in nanoseconds, when control last said that
// it lives; 0 before the first time.
func (s *Segment) Heartbeat() uint64 { return s.mailbox.Heartbeat.Load() }

// SetHeartbeat says that control lives, now being CLOCK_MONOTONIC in nanoseconds.
// Control writes it.
func (s *Segment) SetHeartbeat(now uint64) { s.mailbox.Heartbeat.Store(now) }

// ControlGeneration returns the number of control processes that this segment has had.
func (s *Segment) ControlGeneration() uint64 { return s.mailbox.Generation.Load() }

// NextControl counts this process as one more. Control writes it, once, at start.
func (s *Segment) NextControl() uint64 { return s.mailbox.Generation.Add(1) }

// UTCOffset returns what to add to CLOCK_MONOTONIC to get UTC.
func (s *Segment) UTCOffset() time.Duration { return time.Duration(s.mailbox.UTCOffset.Load()) }

// SetUTCOffset publishes the offset from CLOCK_MONOTONIC to UTC. Control writes it.
func (s *Segment) SetUTCOffset(d time.Duration) { s.mailbox.UTCOffset.Store(int64(d)) }

// FlagStream marks the commit of a sink that is no regular file: the offset means
// nothing, and rows after the last commit may come twice.
const FlagStream = 1 << 0

// A Commit says how far a sink has got: every record before Positions is in the
// file's first Offset bytes, and no other is.
type Commit struct {
	Number        uint64 // counted from 1 by the segment
	Offset        uint64 // bytes
	Device, Inode uint64
	Flags         uint64
	Rows, Bytes   uint64 // written since the segment was made
	Global        uint64 // of Rows, those that a group made
	Positions     []uint64
	// Levels are the group's own, two a query and two; without a group there are none.
	Levels []uint64
}

// Commits is the last two commits of one sink. A kill at any instruction of Store
// leaves the commit before, or the new one.
type Commits struct {
	count *atomic.Uint64
	slots [2]*slot
	at    [2][]uint64 // the slots' positions
	level [2][]uint64 // and levels
}

func newCommits(s *Segment, i int) Commits {
	l := s.Layout
	base := l.sinks + i*l.sinkStride
	c := Commits{count: &view[sinkLine](s.control, base).Commits}
	slotBytes := (l.sinkStride - sizeOf[sinkLine]()) / 2
	for n := range c.slots {
		at := base + sizeOf[sinkLine]() + n*slotBytes
		c.slots[n] = view[slot](s.control, at)
		c.at[n] = views[uint64](s.control, at+sizeOf[slot](), l.Workers)
		if l.levels > 0 {
			c.level[n] = views[uint64](s.control, at+sizeOf[slot]()+8*l.Workers, l.levels)
		}
	}
	return c
}

// Load copies the last commit into c, whose Positions and Levels are reused, and reports
// whether there is one. A slot whose sum is wrong counts as none.
func (s *Commits) Load(c *Commit) bool {
	n := s.count.Load()
	return n > 0 && (s.slot(n, c) || n > 1 && s.slot(n-1, c))
}

func (s *Commits) slot(number uint64, c *Commit) bool {
	in := *s.slots[number&1]
	c.Number, c.Offset, c.Device, c.Inode = in.Number, in.Offset, in.Device, in.Inode
	c.Flags, c.Rows, c.Bytes, c.Global = in.Flags, in.Rows, in.Bytes, in.Global
	c.Positions, c.Levels = append(c.Positions[:0], s.at[number&1]...), append(c.Levels[:0], s.level[number&1]...)
	return in.Number == number && in.Sum == c.sum()
}

// Store commits c, whose Number it sets. Control writes it, one goroutine a sink.
//
// The words go into the slot that is not the last commit's; then the count makes
// it the last. So a reader that comes after a kill never sees half a commit.
func (s *Commits) Store(c *Commit) { s.store(c, atomic.StoreUint64) }

// store takes the store as an argument so that a test can stop after any of them.
func (s *Commits) store(c *Commit, put func(*uint64, uint64)) {
	if len(c.Positions) != len(s.at[0]) {
		panic(fmt.Sprintf("segment: a commit of %d positions, the segment has %d workers", len(c.Positions), len(s.at[0])))
	}
	if n := len(s.level[0]); len(c.Levels) != n {
		c.Levels = append(c.Levels, make([]uint64, n)...)[:n]
	}
	c.Number = s.count.Load() + 1
	out, at, level := s.slots[c.Number&1], s.at[c.Number&1], s.level[c.Number&1]
	for i, p := range c.Positions {
		put(&at[i], p)
	}
	for i, t := range c.Levels {
		put(&level[i], t)
	}
	words := [...]uint64{c.Number, c.Offset, c.Device, c.Inode, c.Flags, c.Rows, c.Bytes, c.Global, c.sum()}
	for i, w := range words {
		put(&wordsOf(out)[i], w)
	}
	put(countWord(s.count), c.Number)
}

// sum is a check against slots that nobody committed. It never returns 0, so that
// an empty slot is none.
func (c *Commit) sum() uint64 {
	buf := make([]byte, 0, 8*(8+event.WorkersMax))
	for _, w := range slices.Concat([]uint64{c.Number, c.Offset, c.Device, c.Inode, c.Flags, c.Rows, c.Bytes, c.Global}, c.Positions, c.Levels) {
		buf = event.AppendInt64(buf, int64(w))
	}
	return event.HashKey(buf) | 1
}
