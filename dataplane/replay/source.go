package replay

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/xsk"
)

// framesHeld is the number of frames that a source copies ahead.
const framesHeld = 64

// A Source turns a capture into frames. It is one worker's receiver, or what a
// Spreader reads. One goroutine uses it, but for Counts and Packets.
type Source struct {
	records capture.Records
	steer   *steer.Steerer
	stable  bool // records stay valid: no copy is needed
	packet  uint64
	ended   bool
	err     error
	record  capture.Record
	copies  []byte
	// Greatest stamp so far: the clock of a replay.
	stamp event.Nanos

	// What was read, and what readers of Counts and Packets see of it: as of the last
	// Receive.
	verdicts [steer.VerdictCount]uint64
	cuts     uint64
	counts   [steer.VerdictCount]atomic.Uint64
	packets  atomic.Uint64
	cut      atomic.Uint64
}

// NewSource reads records. Where their bytes stay valid between calls, as those of
// a [capture.Memory] do, frames are not copied.
func NewSource(records capture.Records, s *steer.Steerer) *Source {
	_, stable := records.(*capture.Memory)
	return &Source{records: records, steer: s, stable: stable}
}

// next reads the next frame that some feed wants, and false at the end.
func (s *Source) next(f *xsk.Frame) bool {
	for !s.ended {
		if err := s.records.Next(&s.record); err != nil {
			s.ended = true
			if !errors.Is(err, io.EOF) {
				s.err = err
			}
			return false
		}
		s.packet++
		r := &s.record
		s.stamp = max(s.stamp, r.Stamp)
		if r.Cut {
			s.cuts++
		}
		wire := r.WireLength
		v := s.steer.Steer(r.Data, wire, r.Cut || wire > len(r.Data), uint64(r.Stamp), &f.Meta)
		s.verdicts[v]++
		if v == steer.Steered {
			f.Data, f.Packet = r.Data, s.packet
			return true
		}
	}
	return false
}

// publish lets Counts and Packets see what was read.
func (s *Source) publish() {
	for v, n := range s.verdicts {
		if n != s.counts[v].Load() {
			s.counts[v].Store(n)
		}
	}
	s.cut.Store(s.cuts)
	s.packets.Store(s.packet)
}

// Receive implements [xsk.Receiver].
func (s *Source) Receive(frames []xsk.Frame) int {
	n := 0
	s.copies = s.copies[:0]
	for n < len(frames) && n < framesHeld && s.next(&frames[n]) {
		if !s.stable {
			// The record's bytes are gone with the next one. Growing may move earlier
			// copies only if the buffer is too small, so it is made large enough first.
			if cap(s.copies)-len(s.copies) < len(frames[n].Data) {
				s.grow(frames[:n], len(frames[n].Data))
			}
			at := len(s.copies)
			s.copies = append(s.copies, frames[n].Data...)
			frames[n].Data = s.copies[at:]
		}
		n++
	}
	s.publish()
	return n
}

// grow makes room for more bytes and leaves the frames already received where they
// are: they keep the old buffer alive.
func (s *Source) grow(_ []xsk.Frame, more int) {
	s.copies = make([]byte, 0, max(2*cap(s.copies), framesHeld*2048, more))
}

// Release implements [xsk.Receiver].
func (s *Source) Release() {}

// Ended reports that the capture has no more frames.
func (s *Source) Ended() bool { return s.ended }

// Err returns what ended the reading, if it was not the end of the capture.
func (s *Source) Err() error { return s.err }

// Now is the greatest stamp so far: the clock of a replay.
func (s *Source) Now() event.Nanos { return s.stamp }

// Packets returns how many packets have been read, and how many of them the end of
// the file cuts.
func (s *Source) Packets() (read, cut uint64) { return s.packets.Load(), s.cut.Load() }

// Counts returns the packets by verdict.
func (s *Source) Counts() (c steer.Counts) {
	for i := range c {
		c[i] = s.counts[i].Load()
	}
	return c
}
