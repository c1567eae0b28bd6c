package rollback

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire/formats"
	"github.com/headrace/headrace/dataplane/xsk"
)

// A Load is a plan and the frames of a capture, steered.
type Load struct {
	Plan   *plan.Plan
	frames []xsk.Frame
}

// NewLoad compiles the config for one live worker and reads the capture.
func NewLoad(configPath, capturePath string) (*Load, error) {
	c, err := config.Load(configPath)
	if err != nil {
		return nil, err
	}
	l := &Load{}
	if l.Plan, err = compile.Compile(c, compile.Options{Formats: formats.Lookup, Workers: 1, Replay: true}); err != nil {
		return nil, err
	}
	l.Plan.Replay = false
	records, err := capture.Preload([]string{capturePath}, nil)
	if err != nil {
		return nil, err
	}
	s, err := steer.New(l.Plan.Feeds)
	if err != nil {
		return nil, err
	}
	var r capture.Record
	for {
		if err := records.Next(&r); errors.Is(err, io.EOF) {
			return l, nil
		} else if err != nil {
			return nil, err
		}
		f := xsk.Frame{Data: r.Data}
		if s.Steer(r.Data, r.WireLength, r.Cut, uint64(r.Stamp), &f.Meta) == steer.Steered {
			l.frames = append(l.frames, f)
		}
	}
}

// port gives a load's frames and takes everything out of the outbox at once.
type port struct {
	frames []xsk.Frame
	at     int
	box    outbox.Ring
	begun  time.Duration // of the thread's processor time
}

func (p *port) Receive(frames []xsk.Frame) int {
	if p.at == 0 {
		p.begun = threadCPU()
	}
	p.box.Freed.Store(p.box.Produced.Load())
	n := copy(frames, p.frames[p.at:])
	p.at += n
	return n
}

func (p *port) Release() {}

func (p *port) Spent() bool { return false }

func (p *port) Positions(into []uint32, rest []xsk.Frame) int {
	into[0] = uint32(p.at - len(rest))
	return 1
}

func (p *port) InRing() int { return len(p.frames) - p.at }

func (p *port) Wait(time.Duration) error { return nil }

// mailbox asks for a drain from the beginning: the worker ends when it has had all.
type mailbox struct{}

func (mailbox) Command() segment.Command { return segment.Drain }
func (mailbox) Hold() uint64             { return 0 }
func (mailbox) Past(int) bool            { return false }
func (mailbox) UTCOffset() time.Duration { return 0 }

// A Reading is one way through a load.
type Reading struct {
	CPU                      time.Duration
	Messages, Events, Cycles uint64
	Partials                 uint64
}

// Run takes the load through a new worker.
func (l *Load) Run(rollback bool) (r Reading, err error) {
	seg, err := segment.Create(l.Plan)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, seg.Close()) }()
	region, err := arena.New("rollback", 1<<40)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, region.Close()) }()
	p := &port{frames: l.frames, box: seg.Worker(0).Ring()}
	owner := steer.OwnerTable(1)
	w, err := dataplane.NewWorker(dataplane.Config{
		Plan: l.Plan, Receiver: p, Segment: seg.Worker(0), Region: region, Owner: &owner, Rollback: rollback,
	})
	if err != nil {
		return r, err
	}
	var stop atomic.Bool
	var lost atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		start := time.Now()
		w.Live(dataplane.Live{
			Port: p, Counters: &xsk.Counters{}, Mailbox: mailbox{}, Stop: &stop, Lost: &lost,
			Clock: func() event.Nanos { return event.Nanos(time.Since(start)) },
		})
		r.CPU = threadCPU() - p.begun
	}()
	<-done
	if s := seg.Worker(0).State(); s != segment.Done {
		return r, fmt.Errorf("the worker is %v: %s", s, seg.Worker(0).Failure())
	}
	c := w.Counters()
	r.Cycles = c.Worker.Cycles
	for i := range c.Feeds {
		r.Messages += c.Feeds[i].Applied
		r.Events += c.Feeds[i].Events
	}
	for i := range c.Queries {
		r.Partials += c.Queries[i].Partials
	}
	return r, nil
}

// threadCPU is the processor time of the calling thread, which its goroutine has kept.
func threadCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic("rollback: clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}
