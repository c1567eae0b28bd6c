package dataplane

import (
	"encoding/binary"
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/expr"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/formats"
	"github.com/headrace/headrace/dataplane/xsk"
)

// marksReserve is the room for marks that a step may need at once.
const marksReserve = 8

// A feed is one feed on one worker: from frames to batches of events.
type feed struct {
	w         *Worker
	number    int
	plan      *plan.Feed
	counters  *segment.FeedCounters
	sequencer *sequence.Sequencer // nil: unsequenced
	decoder   wire.Decoder
	batch     *event.Batch
	streams   []streamStage
	channels  []channelState

	// The release being decoded; step goes on from here.
	release  *sequence.Release
	plain    sequence.Release // of an unsequenced packet: one item
	item     int
	inSpan   bool
	packet   wire.Packet
	frame    *xsk.Frame
	latest   event.Nanos // greatest event time of this release so far
	rank     uint32
	events   uint64
	covered  uint32 // gaps of the channel that an event has followed, up to this number
	position uint64
	source   uint32

	touched uint64   // the worker's epoch in which touch was called last
	kept    []uint64 // by channel: the log's round in which it was saved last

	// keyed: the batch has been filtered and keyed, and waits to be folded.
	keyed           bool
	sent, sentMarks int // of the batch, while it is being sent
}

// streamStage filters and keys a feed's batches for one stream.
type streamStage struct {
	number  int
	queries []int
	filters []*expr.Kernel // by query; nil: all
	keyer   *exchange.Keyer
	keyed   *event.Keyed
	drop    func(query int, reason event.Drop, n uint64)
}

// channelState is what the decoding worker knows of a source. It is in the arena.
type channelState struct {
	Max    event.Nanos // greatest event time, over all epochs
	Since  event.Nanos // the clock when it last released something
	Idle   uint64      // nanoseconds of silence that the owners know of
	Seen   uint32      // owners know the source
	Gaps   uint32      // gaps opened
	Closed uint32      // gaps closed: all up to this number
}

func (f *feed) init(w *Worker, number int, r *arena.Region) (err error) {
	f.w, f.number, f.plan = w, number, &w.plan.Feeds[number]
	f.counters = &w.counters.Feeds[number]
	format, ok := formats.Lookup(f.plan.Format)
	if !ok {
		return fmt.Errorf("unknown format %q", f.plan.Format)
	}
	if f.decoder, err = format.New(f.plan, r, w.undo); err != nil {
		return err
	}
	channels := 1
	if f.plan.Sequence != plan.Unsequenced {
		channels = f.plan.Channels
		if f.sequencer, err = sequence.New(f.plan, r, w.undo); err != nil {
			return err
		}
	}
	if f.channels, err = arena.Slice[channelState](r, "channels", channels); err != nil {
		return err
	}
	if !r.Warm() {
		for i := range f.channels {
			f.channels[i].Max = event.MinNanos
		}
	}
	f.kept = make([]uint64, channels)
	f.plain = sequence.Release{Outcome: sequence.Outcome{Retired: -1}, Items: make([]sequence.Item, 1)}
	f.batch = plan.NewBatch(f.plan.Columns)
	f.batch.Feed = number
	f.batch.Limit = max(1, min(w.plan.Batch, event.BatchMax))
	for i := range w.plan.Streams {
		if w.plan.Streams[i].Feed != number {
			continue
		}
		if err := f.addStream(i); err != nil {
			return err
		}
	}
	keyed := make([]*event.Keyed, len(f.streams))
	for i := range f.streams {
		keyed[i] = f.streams[i].keyed
	}
	w.windows.Attach(number, keyed)
	return nil
}

func (f *feed) addStream(number int) error {
	st := &f.w.plan.Streams[number]
	s := streamStage{
		number: number, queries: st.Queries, keyer: exchange.NewKeyer(st),
		keyed: event.NewKeyed(f.batch, st.KeyWidth, len(st.Queries)),
	}
	for _, q := range st.Queries {
		var k *expr.Kernel
		if where := &f.w.plan.Queries[q].Where; len(where.Ops) > 0 {
			var err error
			if k, err = expr.Compile(where, f.plan.Columns); err != nil {
				return fmt.Errorf("query %s: where: %w", f.w.plan.Queries[q].Name, err)
			}
		}
		s.filters = append(s.filters, k)
	}
	counters := f.w.counters.Queries
	s.drop = func(query int, reason event.Drop, n uint64) { counters[st.Queries[query]].Drops[reason] += n }
	f.streams = append(f.streams, s)
	return nil
}

// touch says that the counters of the feed and of its queries change.
func (f *feed) touch() {
	if f.touched == f.w.epoch {
		return
	}
	f.touched = f.w.epoch
	f.w.counters.TouchFeed(f.number)
	for _, q := range f.w.windows.QueriesOf(f.number) {
		f.w.counters.TouchQuery(q)
	}
}

// payload is what the frame in hand carries.
func (f *feed) payload() []byte {
	m := &f.frame.Meta
	return f.frame.Data[m.PayloadOffset:][:m.PayloadLength]
}

// begin takes a frame through the sequence stage: f.release is what it lets through.
func (f *feed) begin(fr *xsk.Frame, offset event.Nanos) {
	f.frame = fr
	m := &fr.Meta
	f.touch()
	f.countFrame(fr)
	truncated := m.Flags&steer.FlagTruncated != 0
	if truncated {
		f.counters.Truncated++
	}
	receive := event.Nanos(m.ReceiveNanos) + offset
	f.position, f.rank = f.w.positionOf(fr), 0
	fault.Point()
	if f.sequencer == nil {
		f.plain.Items[0].Span = sequence.Span{Receive: receive}
		f.start(&f.plain)
		return
	}
	r := f.sequencer.Push(f.payload(), m.Line, receive, truncated)
	f.account(r)
	f.start(r)
}

// countFrame counts a frame that has come, whatever becomes of it.
func (f *feed) countFrame(fr *xsk.Frame) {
	c := f.counters
	c.Frames++
	c.Bytes += uint64(len(fr.Data))
	c.LineFrames[fr.Meta.Line&3]++
}

// account books a sequenced packet, or one of the two parts of a packet that begins a
// new session: the messages are in the second.
func (f *feed) account(r *sequence.Release) {
	c := f.counters
	switch fate := r.Fate(); {
	case r.More: // said of the second part
	case fate == event.DropDuplicate:
		c.FramesDuplicate++
	case fate != event.Kept:
		c.FrameDrops[fate]++
	case r.Heartbeat:
		c.FramesHeartbeat++
	case r.Held > 0:
		c.FramesHeld++ // moves to applied when it leaves the hold
	default:
		c.FramesApplied++
	}
	c.Messages += r.Messages
	c.Duplicate += r.Duplicate
	c.MessageDrops[event.DropAncient] += r.Ancient
	if r.Drop != event.Kept {
		c.MessageDrops[r.Drop] += r.Messages
	}
	c.LineFirst[r.Line&3] += r.Fresh + r.Held
	f.tally(r)
}

// tally books what any release says, whatever it came from.
func (f *feed) tally(r *sequence.Release) {
	c := f.counters
	f.touch()
	if r.New {
		c.Channels++
	}
	if r.Began {
		c.Epochs++
	}
	c.Missing += r.Missing
	c.MessagesHeld = f.sequencer.HeldMessages()
}

// start makes r the release to decode.
func (f *feed) start(r *sequence.Release) {
	f.release, f.item, f.inSpan = r, 0, false
	f.latest, f.events, f.covered = event.MinNanos, 0, 0
	f.source = f.sourceOf(r.Channel)
	if r.Channel >= 0 && r.New {
		*f.change(r.Channel) = channelState{Max: event.MinNanos}
		f.w.firstSeen(f, r.Channel)
	}
}

func (f *feed) sourceOf(channel int) uint32 {
	if f.sequencer == nil || channel < 0 {
		return 0
	}
	return uint32(f.w.id*plan.SourceStride + channel)
}

// step goes on with the release and reports whether it is through. It stops where a
// batch is full and cannot be sent on yet.
func (f *feed) step() bool {
	f.touch()
	for {
		for f.item < len(f.release.Items) {
			if !f.room() {
				return false
			}
			it := &f.release.Items[f.item]
			if it.Gap.Count > 0 {
				f.miss(it.Gap.Count)
				f.item++
				continue
			}
			if !f.inSpan {
				f.openSpan(&it.Span)
			}
			f.w.memory.mark.span(&it.Span)
			if f.w.skip != nil && f.poisoned(&it.Span) {
				f.dropSpan(&it.Span)
				f.item++
				continue
			}
			if f.decodeSpan() {
				continue // the batch is full
			}
			f.closeSpan(&it.Span)
			f.item++
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
	}
}

// room makes room for at least one event and the marks of a step. There is none in a
// batch that is on its way, nor if what a step changes could not be saved.
func (f *feed) room() bool {
	if !f.w.saves() {
		return false
	}
	if !f.keyed && !f.batch.Full() && len(f.batch.Marks) <= event.MarksMax-marksReserve {
		return true
	}
	f.w.flush()
	f.w.memory.mark.stage(StageDecode)
	return !f.pending()
}

func (f *feed) openSpan(s *sequence.Span) {
	f.aim(s)
	if f.sequencer != nil && s.NewEpoch {
		f.decoder.Forget(f.release.Channel)
	}
	f.inSpan = true
}

// aim makes s the packet to decode.
func (f *feed) aim(s *sequence.Span) {
	p := &f.packet
	p.Reset()
	p.Receive = s.Receive
	if f.sequencer == nil {
		p.Payload = f.payload()
		p.Frame, p.PayloadOffset = f.frame.Data, int(f.frame.Meta.PayloadOffset)
		p.Cut = f.frame.Meta.Flags&steer.FlagTruncated != 0
	} else {
		p.Payload = f.sequencer.Body(s)
		p.Skip, p.Count, p.Seq, p.Channel = s.Skip, s.Count, s.Seq, f.release.Channel
		session := &f.release.Session
		p.Chan = binary.BigEndian.Uint64(session[:8])
		p.Order = uint64(binary.BigEndian.Uint16(session[8:10]))<<48 | uint64(s.Epoch)
	}
}

// decodeSpan decodes until the span ends or the batch is full.
func (f *feed) decodeSpan() (full bool) {
	b := f.batch
	from := b.N
	fault.Poison(f.packet.Payload)
	full = f.decoder.Decode(&f.packet, b)
	b.Position = f.position
	for i := from; i < b.N; i++ {
		b.Source[i], b.Rank[i] = f.source, f.rank
		f.rank++
	}
	return full
}

// closeSpan books a decoded span.
func (f *feed) closeSpan(s *sequence.Span) {
	p, c := &f.packet, f.counters
	dropped := p.Dropped()
	if dropped > 0 {
		for i, n := range p.Drops {
			c.MessageDrops[i] += n
		}
	}
	c.Applied += p.Messages - dropped
	c.Events += p.Events + p.Filtered
	if f.sequencer == nil {
		c.Messages += p.Messages
		c.FramesApplied++
	}
	if s.Held {
		c.MessagesHeld = f.sequencer.HeldMessages()
	}
	for _, q := range f.w.windows.QueriesOf(f.number) {
		k := &f.w.counters.Queries[q]
		k.Received += p.Events + p.Filtered
		k.Drops[event.DropFiltered] += p.Filtered
	}
	if p.Hit {
		f.openGap(event.MarkHit, 0, event.MinNanos)
	}
	if n := p.Events + p.Filtered; n > 0 {
		f.events += n
		f.latest = max(f.latest, p.Max)
		if i := f.channel(); i >= 0 {
			f.covered = f.channels[i].Gaps
		}
	}
	f.inSpan = false
}

// openGap announces that count messages are missing from here on, or that something
// was lost to a drop. before is the greatest event time of this release before that.
func (f *feed) openGap(kind event.MarkKind, count uint64, before event.Nanos) {
	i := f.channel()
	if i < 0 {
		return
	}
	c := f.change(i)
	c.Gaps++
	fault.Point()
	f.mark(event.Mark{Kind: kind, Gap: c.Gaps, Time: max(c.Max, before), Count: count})
}

// miss accounts for messages that did not come, and notes in the recorder, if that has the
// frame in hand, that something is missing before it.
func (f *feed) miss(count uint64) {
	f.openGap(event.MarkGapOpen, count, f.latest)
	f.counters.Gaps++
	if w := f.w; w.recording {
		w.recorder.Gap(f.number, w.count-w.at, uint64(w.now))
	}
}

// channel is the number of the release's source; negative if it has none.
func (f *feed) channel() int {
	if f.sequencer == nil {
		return 0
	}
	return f.release.Channel
}

// change returns the state of channel i, saved.
func (f *feed) change(i int) *channelState {
	if round := f.w.undo.Round(); f.kept[i] != round {
		f.kept[i] = round
		arena.Save(f.w.undo, &f.channels[i])
	}
	return &f.channels[i]
}

func (f *feed) mark(m event.Mark) {
	f.w.changed = true
	m.At, m.Source, m.Position = uint32(f.batch.N), f.source, f.position
	f.batch.Marks = append(f.batch.Marks, m)
}

// end ends the release: gaps before it get their end, and its source's time
// advances.
func (f *feed) end() {
	i := f.channel()
	if i < 0 {
		return
	}
	c := f.change(i)
	f.counters.FramesHeld -= uint64(f.release.Unheld)
	f.counters.FramesApplied += uint64(f.release.Unheld)
	if f.events > 0 {
		f.advance(c)
	}
	if f.release.Retired >= 0 {
		f.mark(event.Mark{Kind: event.MarkRetire, Time: c.Max})
		*c = channelState{Max: event.MinNanos}
	}
}

// advance announces the release's greatest event time, and the end of the gaps that
// its events followed. A time that changes nothing is announced only where owners
// need to know where a release ends.
func (f *feed) advance(c *channelState) {
	news := f.latest > c.Max || c.Seen == 0 || c.Idle != 0
	c.Max = max(c.Max, f.latest)
	fault.Point()
	if f.covered > c.Closed {
		c.Closed = f.covered
		fault.Point()
		if f.sequencer != nil {
			f.mark(event.Mark{Kind: event.MarkGapClose, Gap: c.Closed, Time: c.Max})
		}
		news = news || f.sequencer == nil // its release closes it
	}
	if news || f.w.out != nil {
		m := event.Mark{Kind: event.MarkRelease, Time: f.latest}
		if !news && f.sequencer != nil {
			m.Count = 1
		}
		f.mark(m)
	}
	c.Seen, c.Idle, c.Since = 1, 0, f.w.now
	fault.Point()
}

// pending reports whether something decoded has not gone all the way: to its owners'
// lanes, or into the panes.
func (f *feed) pending() bool { return f.keyed || f.batch.N > 0 || len(f.batch.Marks) > 0 }

// apply folds what this worker keeps of the batch and empties it. It reports false if
// the panes cannot take it all yet: the next call goes on.
func (f *feed) apply() bool {
	f.touch()
	if !f.keyed {
		f.prepare()
	}
	if f.w.gate == nil && !f.w.windows.Apply(f.number, f.batch) {
		return false
	}
	f.batch.Reset()
	f.keyed = false
	return true
}

// prepare selects each query's events and gives them keys.
func (f *feed) prepare() {
	b := f.batch
	f.touch()
	f.keyed = true
	f.w.counters.Worker.Batches++
	for i := range f.streams {
		s := &f.streams[i]
		for j, q := range s.queries {
			sel := s.keyed.Select[j][:0]
			if k := s.filters[j]; k != nil {
				sel = k.Filter(b, sel)
			} else {
				for e := range b.N {
					sel = append(sel, uint16(e))
				}
			}
			s.keyed.Select[j] = sel
			f.w.counters.Queries[q].Drops[event.DropFiltered] += uint64(b.N - len(sel))
		}
		s.keyer.Keys(s.keyed, s.drop)
	}
}

// next returns the position of the first release that has not been sent, and false if
// there is none.
func (f *feed) next() (position uint64, ok bool) {
	b := f.batch
	if f.sentMarks < len(b.Marks) {
		return b.Marks[f.sentMarks].Position, true
	}
	return b.Position, f.sent < b.N
}

// sendNext puts what stands before the next mark into the owners' lanes, and the mark
// into all; behind the last mark, the rest.
func (f *feed) sendNext(out *exchange.Out) {
	b := f.batch
	if f.sentMarks == len(b.Marks) {
		out.Begin(b.Position, b.Source[b.N-1])
		f.sendTo(out, b.N)
		return
	}
	m := &b.Marks[f.sentMarks]
	f.sentMarks++
	out.Begin(m.Position, m.Source)
	f.sendTo(out, int(m.At))
	if m.Kind != event.MarkRelease || m.Count == 0 {
		out.Mark(f.number, m)
	}
}

func (f *feed) sendTo(out *exchange.Out, to int) {
	for i := range f.streams {
		out.Send(f.streams[i].number, f.streams[i].keyed, f.sent, to)
	}
	f.sent = to
}

// unselect leaves only what this worker keeps, and counts the rest as sent.
func (f *feed) unselect(out *exchange.Out) {
	for i := range f.streams {
		s := &f.streams[i]
		sent := f.w.sent[:len(s.queries)]
		clear(sent)
		out.Unselect(s.keyed, sent)
		for j, q := range s.queries {
			f.w.counters.Queries[q].Sent += sent[j]
		}
	}
}
