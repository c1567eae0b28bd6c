package replay

import (
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	chunkFrames = 64  // frames handed to a worker at a time
	chunksAhead = 8   // chunks that wait for a worker
	syncEvery   = 256 // packets after which every worker gets what there is
)

// A chunk is frames for one worker, with their bytes.
type chunk struct {
	frames []xsk.Frame
	bytes  []byte
}

// A Spreader deals a capture's frames out to the workers that their placement names.
type Spreader struct {
	source *Source
	owner  *[event.GroupCount]uint16
	ports  []*Port
	stop   atomic.Bool
	wake   func()
}

// Port is one worker's receiver. That worker's thread uses it.
type Port struct {
	queue chan *chunk
	free  chan *chunk
	// bound is the number of the next packet that can come, set by the spreader
	// after everything before it is in the queue.
	bound atomic.Uint64
	ended atomic.Bool
	now   atomic.Int64

	open     *chunk // the spreader's: being filled
	current  *chunk // the worker's
	at       int
	frontier uint64
}

// NewSpreader deals source's frames out to workers by owner. It calls wake, from Run,
// when workers have got frames or know more of what comes.
func NewSpreader(source *Source, workers int, owner *[event.GroupCount]uint16, wake func()) *Spreader {
	s := &Spreader{source: source, owner: owner, wake: wake}
	for range workers {
		p := &Port{queue: make(chan *chunk, chunksAhead), free: make(chan *chunk, chunksAhead+2)}
		for range chunksAhead + 2 {
			p.free <- &chunk{frames: make([]xsk.Frame, 0, chunkFrames)}
		}
		s.ports = append(s.ports, p)
	}
	return s
}

// Port returns worker w's receiver.
func (s *Spreader) Port(w int) *Port { return s.ports[w] }

// Stop makes Run return soon.
func (s *Spreader) Stop() { s.stop.Store(true) }

// Run reads the capture to its end. It waits where a worker's queue is full.
func (s *Spreader) Run() {
	var f xsk.Frame
	for !s.stop.Load() && s.source.next(&f) {
		p := s.ports[s.owner[f.Meta.Group]]
		c := p.open
		if c == nil {
			c = s.empty(p)
			p.open = c
		}
		if s.source.stable {
			c.frames = append(c.frames, f)
		} else {
			at := len(c.bytes)
			c.bytes = append(c.bytes, f.Data...) // older frames keep a buffer that is outgrown
			f.Data = c.bytes[at:]
			c.frames = append(c.frames, f)
		}
		p.now.Store(int64(s.source.stamp))
		if len(c.frames) == chunkFrames {
			s.send(p)
		}
		if f.Packet%syncEvery == 0 {
			s.source.publish()
			s.sync(f.Packet+1, nil)
		}
	}
	s.source.publish()
	for _, p := range s.ports {
		if p.open != nil {
			s.send(p)
		}
	}
	for _, p := range s.ports {
		p.bound.Store(exchange.End)
		p.ended.Store(true)
	}
	s.wake()
}

// empty takes an empty chunk for p. Where it must wait for one, no other worker may
// wait for a packet that lies in an unsent chunk meanwhile.
func (s *Spreader) empty(p *Port) *chunk {
	select {
	case c := <-p.free:
		return c
	default:
	}
	s.sync(s.source.packet, p)
	return <-p.free
}

// send hands p's open chunk over.
func (s *Spreader) send(p *Port) {
	select {
	case p.queue <- p.open:
	default:
		s.sync(s.source.packet, p)
		p.queue <- p.open
	}
	p.open = nil
	s.wake()
}

// sync hands every worker but except what there is for it, as far as its queue has
// room, and tells it that no packet before bound will follow.
func (s *Spreader) sync(bound uint64, except *Port) {
	for _, p := range s.ports {
		if p == except {
			continue
		}
		if p.open == nil {
			p.bound.Store(bound)
			continue
		}
		select {
		case p.queue <- p.open:
			p.open = nil
			p.bound.Store(bound)
		default: // it has enough to do
		}
	}
	s.wake()
}

// Receive implements [xsk.Receiver].
func (p *Port) Receive(frames []xsk.Frame) int {
	if p.current == nil {
		bound := p.bound.Load() // before the queue: who finds that empty may trust this
		select {
		case p.current = <-p.queue:
			p.at = 0
		default:
			p.frontier = bound
			return 0
		}
	}
	n := copy(frames, p.current.frames[p.at:])
	p.at += n
	p.frontier = frames[n-1].Packet + 1
	return n
}

// Release implements [xsk.Receiver].
func (p *Port) Release() {
	if c := p.current; c != nil && p.at == len(c.frames) {
		c.frames, c.bytes = c.frames[:0], c.bytes[:0]
		p.current = nil
		p.free <- c
	}
}

// Frontier returns a number that no packet still to come is below.
func (p *Port) Frontier() uint64 { return p.frontier }

// Ended reports that no more frames will come.
func (p *Port) Ended() bool { return p.ended.Load() && p.current == nil && len(p.queue) == 0 }

// Now is the greatest stamp of any packet so far.
func (p *Port) Now() event.Nanos { return event.Nanos(p.now.Load()) }
