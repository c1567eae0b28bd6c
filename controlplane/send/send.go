package send

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
)

// A Mode says when a frame is due.
type Mode uint8

// The modes.
const (
	// Pace keeps the distances between the capture's time stamps. A stamp that goes
	// back is due at once.
	Pace Mode = iota
	// Rate sends PPS frames a second.
	Rate
	// FlatOut sends as fast as the interface takes the frames.
	FlatOut
)

// Config says what to send.
type Config struct {
	// Interface to send on. Required.
	Interface string
	// Paths are the captures, merged by time stamp; "-" is Stdin. Required.
	Paths []string
	Stdin io.Reader
	Mode  Mode
	// PPS is the rate in frames a second of mode Rate.
	PPS float64
	// Rounds is how often the captures are sent: zero means once, less than zero
	// until the context is done. More than one round of a sequenced feed gives
	// duplicates from the second on.
	Rounds int
	// Progress is where to show how far it is; nil for nowhere. A terminal gets a
	// bar, everything else a line now and then.
	Progress io.Writer
}

// A Summary says what became of all frames: Records = Sent + Refused + TooLong +
// TooShort + Cut + Snapped.
type Summary struct {
	Records uint64 `json:"records"`
	Counts
	// Cut records, which the end of the file cut off, and Snapped ones, of which the
	// capture holds less than was on the wire, are not sent.
	Cut     uint64  `json:"cut"`
	Snapped uint64  `json:"snapped"`
	Rounds  int     `json:"rounds"` // completed
	Seconds float64 `json:"seconds"`
	PPS     float64 `json:"packets_per_second"` // sent
	// Late is the most by which a frame missed its time, in seconds.
	Late float64 `json:"late_seconds_max"`
}

// ErrNothing reports captures without a frame that could be sent.
var ErrNothing = errors.New("the capture holds no frame that can be sent")

// Run sends captures. It returns when they have been sent, with the summary so far
// and an error when something failed, and with the summary and nil when ctx is
// done: a stop is not a failure.
func Run(ctx context.Context, c Config) (Summary, error) {
	s, err := Open(c.Interface)
	if err != nil {
		return Summary{}, err
	}
	p := &player{c: c, s: s}
	err = p.run(ctx)
	sum := p.summary()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return sum, errors.Join(err, s.Close())
}

// records is a capture, from its file or in memory.
type records interface {
	capture.Records
	Progress() (read, total int64)
}

// A player turns records into frames with a schedule.
type player struct {
	c     Config
	s     *Sender
	in    records
	close func() error
	again func() error // begins the next round

	sum     Summary
	begin   time.Time
	elapsed time.Duration

	offered uint64 // frames given to the sender, of all rounds
	round   uint64 // offered when the round began
	first   event.Nanos
	base    time.Duration // where the round begins in the stream's time
	due     time.Duration

	// For the meter, which another goroutine shows.
	read, total, rounds atomic.Int64
}

func (p *player) run(ctx context.Context) (err error) {
	if err := p.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	meter := NewMeter(p.c.Progress, p.status)
	if slices.Contains(p.c.Paths, "-") && p.c.Mode != FlatOut {
		p.s.Eager() // a pipe may be silent for long
	}
	p.begin = time.Now()
	err = p.s.Stream(ctx, p.next)
	p.elapsed = time.Since(p.begin)
	meter.Stop()
	return err
}

// open opens the captures. What will be needed again but cannot be read again is
// read into memory.
func (p *player) open() error {
	once := p.c.Rounds == 0 || p.c.Rounds == 1
	for _, path := range p.c.Paths {
		if path != "-" || once {
			continue
		}
		m, err := capture.Preload(p.c.Paths, p.c.Stdin)
		if err != nil {
			return err
		}
		p.in, p.close = m, func() error { return nil }
		p.again = func() error { m.Rewind(); return nil }
		return nil
	}
	r, err := capture.Open(p.c.Paths, p.c.Stdin)
	if err != nil {
		return err
	}
	p.in, p.close = r, r.Close
	p.again = func() error {
		if err := p.close(); err != nil {
			return err
		}
		r, err := capture.Open(p.c.Paths, nil)
		if err != nil {
			p.close = func() error { return nil }
			return err
		}
		p.in, p.close = r, r.Close
		return nil
	}
	return nil
}

// next is the sender's Frames.
func (p *player) next() ([]byte, time.Duration, error) {
	var r capture.Record
	for {
		err := p.in.Next(&r)
		switch {
		case errors.Is(err, io.EOF):
			if err := p.turn(); err != nil {
				return nil, 0, err
			}
			continue
		case err != nil:
			return nil, 0, err
		}
		if p.sum.Records%batchFrames == 0 {
			read, total := p.in.Progress()
			p.read.Store(read)
			p.total.Store(total)
		}
		p.sum.Records++
		switch {
		case r.Cut:
			p.sum.Cut++
			continue
		case len(r.Data) < r.WireLength:
			p.sum.Snapped++
			continue
		}
		return r.Data, p.when(r.Stamp), nil
	}
}

// turn begins the next round, or returns io.EOF if there is none.
func (p *player) turn() error {
	p.sum.Rounds++
	p.rounds.Store(int64(p.sum.Rounds))
	if p.c.Rounds >= 0 && p.sum.Rounds >= max(p.c.Rounds, 1) {
		return io.EOF
	}
	if p.offered == p.round {
		return fmt.Errorf("send: %w", ErrNothing)
	}
	p.base, p.round = p.due, p.offered
	return p.again()
}

// when returns the time at which the next frame is due.
func (p *player) when(stamp event.Nanos) time.Duration {
	n := p.offered
	p.offered++
	switch p.c.Mode {
	case FlatOut:
		return 0
	case Rate:
		p.due = time.Duration(float64(n) / p.c.PPS * 1e9)
		return p.due
	}
	if n == p.round {
		p.first = stamp
	}
	p.due = max(p.due, p.base+time.Duration(stamp-p.first))
	return p.due
}

func (p *player) summary() Summary {
	s := p.sum
	s.Counts = p.s.Counts()
	s.Seconds = p.elapsed.Seconds()
	if s.Seconds > 0 {
		s.PPS = float64(s.Sent) / s.Seconds
	}
	s.Late = p.s.Late().Seconds()
	return s
}

// status is what the meter shows.
func (p *player) status() Status {
	st := Status{Fraction: -1, Counts: p.s.Counts()}
	if read, total := p.read.Load(), p.total.Load(); total > 0 && p.c.Rounds >= 0 {
		done := float64(p.rounds.Load()) + float64(read)/float64(total)
		st.Fraction = min(done/float64(max(p.c.Rounds, 1)), 1)
	}
	return st
}

// endless turns the end of a stream into success.
func endless(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
