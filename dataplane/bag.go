package dataplane

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire"
)

// frameBytes is the greatest frame that a bag can hold.
const frameBytes = 1 << 16

// A bag keeps what a batch could not bring to its end: events that no lane had room
// for, and the rest of the release that they are of. Mostly it is empty: a batch ends
// behind a frame, and everything in it is on its way. It has two pockets, of which the
// last commit names one; the other may be overwritten.
type bag struct {
	pockets [2]pocket
}

type pocket struct {
	rest    *rest
	frame   []byte
	batches [][]uint64 // by feed
}

// rest is the release under way.
type rest struct {
	Batches  [event.FeedsMax / 64]uint64 // feeds whose batch is in the pocket
	Feed     uint32                      // number+1 of the release's feed; 0: there is none
	InFrame  bool                        // it came with the frame, else by time or at the end of input
	InSpan   bool
	Rank     uint32
	Item     uint64
	Latest   event.Nanos
	Events   uint64
	Covered  uint32
	Source   uint32
	Receive  event.Nanos // of the release of an unsequenced feed
	Progress wire.Progress

	Meta   steer.Meta
	Packet uint64
	Bytes  uint32 // of the frame
}

func (b *bag) init(r *arena.Region, batches []int) error {
	for i := range b.pockets {
		p := &b.pockets[i]
		one, err := arena.Slice[rest](r, "unfinished batch", 1)
		if err != nil {
			return err
		}
		p.rest = &one[0]
		if p.frame, err = arena.Slice[byte](r, "unfinished batch", frameBytes); err != nil {
			return err
		}
		for _, words := range batches {
			batch, err := arena.Slice[uint64](r, "unfinished batch", words)
			if err != nil {
				return err
			}
			p.batches = append(p.batches, batch)
		}
	}
	return nil
}

// pack puts what is not through into the bag and returns the pocket's number from 1,
// or 0: everything is.
func (w *Worker) pack() uint32 {
	release := w.closing
	if w.open {
		release = &w.feeds[w.frames[w.at].Meta.Feed]
	}
	if release == nil && !w.pending() {
		return 0
	}
	if w.carries != 0 && !w.changed {
		return w.carries // as it was
	}
	w.changed = false
	number := uint32(1)
	if w.carries == 1 {
		number = 2
	}
	p := &w.memory.bag.pockets[number-1]
	*p.rest = rest{}
	if release != nil {
		release.pack(p.rest)
		if w.open {
			w.packFrame(p)
		}
	}
	for i := range w.feeds {
		f := &w.feeds[i]
		if !f.pending() {
			continue
		}
		if f.keyed {
			panic("dataplane: a batch that is half on its way is to be kept")
		}
		p.rest.Batches[i/64] |= 1 << (uint(i) % 64)
		f.batch.Pack(p.batches[i])
		fault.Point()
	}
	return number
}

func (w *Worker) packFrame(p *pocket) {
	fr := &w.frames[w.at]
	if len(fr.Data) > len(p.frame) {
		panic(fmt.Sprintf("dataplane: a frame of %d bytes", len(fr.Data)))
	}
	p.rest.InFrame, p.rest.Meta, p.rest.Packet = true, fr.Meta, fr.Packet
	p.rest.Bytes = uint32(copy(p.frame, fr.Data)) // onto itself, if it came out of this pocket
	fault.Point()
}

// pack writes the feed's place in its release.
func (f *feed) pack(r *rest) {
	r.Feed, r.InSpan, r.Rank, r.Item = uint32(f.number)+1, f.inSpan, f.rank, uint64(f.item)
	r.Latest, r.Events, r.Covered, r.Source = f.latest, f.events, f.covered, f.source
	r.Progress = f.packet.Progress
	if f.sequencer == nil {
		r.Receive = f.plain.Items[0].Span.Receive
		return
	}
	f.sequencer.Carry()
}

// unpack takes up what the last commit had to leave unfinished.
func (w *Worker) unpack() error {
	p := &w.memory.bag.pockets[w.carries-1]
	for i := range w.feeds {
		if p.rest.Batches[i/64]>>(uint(i)%64)&1 != 0 {
			w.feeds[i].batch.Unpack(p.batches[i])
		}
	}
	r := p.rest
	if r.Feed == 0 {
		return nil
	}
	if int(r.Feed) > len(w.feeds) || int(r.Bytes) > len(p.frame) {
		return fmt.Errorf("unfinished batch of feed %d, frame of %d bytes: %w", r.Feed, r.Bytes, arena.ErrLayout)
	}
	f := &w.feeds[r.Feed-1]
	if r.InFrame {
		fr := &w.frames[0]
		fr.Meta, fr.Data, fr.Packet = r.Meta, p.frame[:r.Bytes], r.Packet
		w.at, w.count, w.open = 0, 1, true
	}
	return f.unpack(r, w.open)
}

// unpack goes on with a release where pack left it.
func (f *feed) unpack(r *rest, inFrame bool) error {
	var payload []byte
	if inFrame {
		f.frame = &f.w.frames[0]
		payload = f.payload()
	}
	if f.sequencer == nil {
		f.plain.Items[0].Span.Receive = r.Receive
		f.release = &f.plain
	} else if f.release = f.sequencer.Resume(payload); f.release == nil {
		return fmt.Errorf("feed %s: no release in hand, where one was: %w", f.plan.Name, arena.ErrLayout)
	}
	f.inSpan, f.rank, f.item = r.InSpan, r.Rank, int(r.Item)
	f.latest, f.events, f.covered, f.source = r.Latest, r.Events, r.Covered, r.Source
	if f.item > len(f.release.Items) || f.inSpan && f.item == len(f.release.Items) {
		return fmt.Errorf("feed %s: item %d of a release of %d: %w", f.plan.Name, f.item, len(f.release.Items), arena.ErrLayout)
	}
	if f.inSpan {
		f.aim(&f.release.Items[f.item].Span)
		f.packet.Progress = r.Progress
	}
	return nil
}
