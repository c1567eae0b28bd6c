package dataplane

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/xsk"
)

// A FrameRef names a frame by its place in a ring of the worker's receiver: see
// [xsk.Frame.Place].
type FrameRef struct {
	Ring, Position uint32
}

// A Stage is what a worker was doing.
type Stage uint8

// The stages.
const (
	StageNone     Stage = iota
	StageExchange       // folding what came through the lanes
	StageClose          // putting partials out
	StageDecode         // sequencing and decoding one frame
	StageFold           // folding the events of the frames before
	StageTime           // giving up what was waited for
)

var stageNames = [...]string{"none", "exchange", "close", "decode", "fold", "time"}

// String returns the stage's name in reports.
func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return "unknown"
}

// A Mark says what a worker had in hand in a batch that was not committed.
type Mark struct {
	FrameRef
	Feed  int
	Stage Stage
	// Framed says that FrameRef names the last frame that the batch began.
	Framed bool
	// Alone says that no other frame had a part in it: so it is, or the memory.
	Alone bool
	// Held says that it was a packet held for order, let through with this frame, that was
	// being decoded: that of sequence number Seq.
	Held bool
	Seq  uint64
	// Since is the worker's clock when it began the cycle. A worker that died stands still
	// there, while others go on until the process has ended.
	Since event.Nanos
}

// mark is a Mark in the region. It is written without being saved, since it must
// outlive the taking back of the batch, and is void in any other batch.
type mark struct {
	Batch uint64
	Frame uint64 // ring << 32 | position, as the receiver says it
	What  uint64 // stage | framed << 8 | alone << 9 | feed << 32
	Held  uint64 // sequence number of a held packet, 0: none
	Time  uint64 // the worker's clock in this cycle
}

const (
	markFramed = 1 << 8
	markAlone  = 1 << 9
)

func (m *mark) clear(batch uint64) { m.Batch, m.Frame, m.What, m.Held = batch, 0, 0, 0 }

// span notes the packet whose messages are decoded next.
func (m *mark) span(s *sequence.Span) {
	if m.Held = 0; s.Held {
		m.Held = s.Seq
	}
}

// stage notes what is done next, with the frame that was begun last.
func (m *mark) stage(s Stage) { m.What = m.What&^0xff | uint64(s) }

// by notes that something of feed is given up that no frame has let through.
func (m *mark) by(feed int) { m.What = uint64(StageTime) | uint64(feed)<<32 }

// frame notes that fr is decoded next, alone in its batch or behind others.
func (m *mark) frame(fr *xsk.Frame, alone bool) {
	m.Frame = fr.Packet
	what := uint64(StageDecode) | markFramed | uint64(fr.Meta.Feed)<<32
	if alone {
		what |= markAlone
	}
	m.What = what
}

func (m *mark) read() Mark {
	return Mark{
		FrameRef: FrameRef{uint32(m.Frame >> 32), uint32(m.Frame)}, Feed: int(m.What >> 32), Stage: Stage(m.What),
		Framed: m.What&markFramed != 0, Alone: m.What&markAlone != 0, Held: m.Held != 0, Seq: m.Held, Since: event.Nanos(m.Time),
	}
}

// Poison returns what the worker before this one had in hand when it ended, if it
// ended in a batch that it did not commit. Whether that is why, who saw it end knows:
// a process that is killed has something in hand too.
func (w *Worker) Poison() (Mark, bool) { return w.poison, w.poison.Stage != StageNone }

// LeaveOut makes the worker leave out what [Worker.Poison] names, if that alone can have
// been the end of the worker before this one, and reports whether it does. It is called
// before the worker runs.
func (w *Worker) LeaveOut() bool {
	if w.poison.Sure() {
		w.skip = &w.poison
	}
	return w.skip != nil
}

// InHand returns what the worker is doing, and the frame that it has begun last if it
// is still there: for who has caught it in a panic.
func (w *Worker) InHand() (m Mark, frame *xsk.Frame) {
	m = w.memory.mark.read()
	if m.Framed && w.at < w.count {
		frame = &w.frames[w.at]
	}
	return m, frame
}

// Sure reports whether the marked frame alone can have been the worker's end.
func (m *Mark) Sure() bool { return m.Framed && (m.Alone || m.Stage == StageDecode) }

// poisoned reports whether fr is the frame to leave out.
func (w *Worker) poisoned(fr *xsk.Frame) bool {
	ring, position := fr.Place()
	return w.skip.Framed && !w.skip.Held && int(w.skip.Ring) == ring && w.skip.Position == position
}

// poisoned reports whether s is of the packet to leave out.
func (f *feed) poisoned(s *sequence.Span) bool {
	skip := f.w.skip
	return skip.Held && s.Held && skip.Feed == f.number && skip.Seq == s.Seq
}

// leaveOut drops a frame that was not begun, and reports whether there was room for
// saying so.
func (f *feed) leaveOut(fr *xsk.Frame) bool {
	if !f.room() {
		return false
	}
	f.touch()
	f.countFrame(fr)
	f.counters.FrameDrops[event.DropPoison]++
	if f.sequencer == nil {
		f.hit() // what a sequenced feed lacks then, its sequence numbers tell
	}
	return true
}

// abandon drops what is left of a release that was begun: the worker ended in it. Its
// gaps are announced and its messages counted all the same.
func (f *feed) abandon() bool {
	f.touch()
	for ; f.item < len(f.release.Items); f.item++ {
		if !f.room() {
			return false
		}
		it := &f.release.Items[f.item]
		if it.Gap.Count > 0 {
			f.miss(it.Gap.Count)
			continue
		}
		if !f.inSpan {
			f.openSpan(&it.Span)
		}
		f.dropSpan(&it.Span)
	}
	if !f.room() {
		return false
	}
	f.end()
	if !f.release.More {
		return true
	}
	r := f.sequencer.Rest()
	f.account(r)
	f.start(r)
	return f.abandon()
}

// dropSpan counts what is left of an open span as poison.
func (f *feed) dropSpan(s *sequence.Span) {
	p := &f.packet
	p.Hit = true
	left := uint64(1) // of an unsequenced packet nobody knows how many
	if f.sequencer != nil {
		left = uint64(s.Count) - min(p.Messages, uint64(s.Count))
	}
	p.Messages += left
	p.Drops[event.DropPoison] += left
	f.closeSpan(s)
}
