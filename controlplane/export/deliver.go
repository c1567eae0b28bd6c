package export

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/rdma/deliver"
)

// DeliverConfig says which consumer gets rows.
type DeliverConfig struct {
	// Name is the sink's name in the config. Required.
	Name string
	// Address, Pins, Transport, Device and Seal are those of [deliver.ProducerConfig].
	Address   string
	Pins      []string
	Transport string
	Device    string
	Seal      bool
	// Certificate is asked for our key. Required.
	Certificate func() (*tls.Certificate, error)
	// Workers is the number of outboxes that a commit has positions of
	// (segment.Layout.Workers). Required.
	Workers int
	// Commits is where commits go and the last one is found. Nil: nowhere.
	Commits *segment.Commits
	// Log is told of the connection and of trouble with it, at most once in ten
	// seconds. Nil: nobody is.
	Log *slog.Logger
}

const (
	redialLeast = 50 * time.Millisecond
	redialMost  = 5 * time.Second
	// avoidFor is how long verbs are left alone after they did not come about.
	avoidFor = time.Minute
	// deliverMark stands where a commit of another sink has a device.
	deliverMark = 0x7265_7669_6c65_64 // "deliver"
)

// Deliver is a [Sink] that sends rows to a consumer on another box.
//
// A batch counts when the consumer has acknowledged it: then it is in the consumer's
// ring. While there is no consumer, or its ring is full, Write waits. A commit holds
// the stream and the number of the last batch, so that what comes after a restart of
// control goes on with both.
type Deliver struct {
	account
	c      DeliverConfig
	stream uint64
	batch  uint64 // last that was acknowledged, as far as we know
	// pending is how many bytes batch+1 has, which was sent over a connection that
	// ended before it was acknowledged. 0: no such batch.
	pending int
	session *deliver.Producer // nil: none
	// vain counts the sessions since a batch arrived: the next waits longer.
	vain int

	cancel  context.CancelFunc // ends the dialing
	dialing sync.WaitGroup
	dialed  chan *deliver.Producer

	known bool      // there was a connection; the dialing goroutine's
	avoid time.Time // the dialing goroutine's: until then verbs are not tried
}

// OpenDeliver makes the sink and begins to dial. It does not wait for the consumer.
func OpenDeliver(c DeliverConfig) (*Deliver, error) {
	s := &Deliver{
		c: c, account: account{log: c.Log, commits: c.Commits, stats: Stats{Name: c.Name, Target: c.Address}},
		cancel: func() {}, dialed: make(chan *deliver.Producer, 1),
	}
	if _, err := c.Certificate(); err != nil {
		return nil, fmt.Errorf("export: sink %s: %w", c.Name, err)
	}
	s.begin(c.Workers)
	if s.commit.Device == deliverMark && s.commit.Inode != 0 {
		s.stream, s.batch = s.commit.Inode, s.commit.Offset
	} else {
		var b [8]byte
		_, _ = rand.Read(b[:]) // it never fails
		s.stream = binary.LittleEndian.Uint64(b[:]) | 1
	}
	s.store() // so that a kill before the first rows leaves the stream
	s.dial()
	return s, nil
}

// Write sends lines, waits until the consumer has them, and commits. It tries for ever,
// until ctx ends: no row is lost to a consumer that is away.
func (s *Deliver) Write(ctx context.Context, lines []byte, n RowCount, positions []uint64) error {
	for rest := lines; len(rest) > 0; {
		sent, err := s.send(ctx, rest)
		switch {
		case err == nil:
			rest = rest[sent:]
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			s.drop(err)
		}
	}
	s.add(len(lines), n, positions)
	s.store()
	s.show()
	return nil
}

// send sends the first lines, as many as make a batch, and returns how many bytes they
// have when the consumer has them.
func (s *Deliver) send(ctx context.Context, lines []byte) (int, error) {
	if s.session == nil {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case s.session = <-s.dialed:
		}
		if last := s.session.Last(); last > s.batch && s.pending > 0 {
			// It arrived; only the acknowledgment did not.
			sent := s.pending
			s.batch, s.pending = last, 0
			return sent, nil
		} else if last > s.batch {
			s.batch = last // sent by a process before this one, and not committed
		}
	}
	part, err := s.session.Fit(lines)
	if err != nil {
		return 0, err
	}
	s.count(func(t *Stats) { t.Writes++ })
	s.pending = len(part)
	if err := s.session.Send(ctx, s.batch+1, part); err != nil {
		return 0, err
	}
	s.batch, s.pending, s.vain = s.batch+1, 0, 0
	return len(part), nil
}

// drop ends the session after an error and dials anew.
func (s *Deliver) drop(err error) {
	s.wait(err)
	if s.session == nil {
		return
	}
	_ = s.session.Close()
	s.session = nil
	s.count(func(t *Stats) { t.Transport = "" })
	s.dial()
}

// dial connects in the background, again and again, and puts the connection in dialed.
func (s *Deliver) dial() {
	s.cancel()
	s.dialing.Wait() // it has given its connection, or it is told to end
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	wait := min(redialLeast<<s.vain, redialMost)
	pause := s.vain > 0
	s.vain = min(s.vain+1, 10)
	s.dialing.Go(func() {
		for ; ctx.Err() == nil; wait = min(2*wait, redialMost) {
			if pause {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
			pause = true
			p, err := deliver.Dial(ctx, s.producer())
			if err == nil {
				s.connected(p)
				s.dialed <- p // has room for the one that there is
				return
			}
			var t *deliver.TransportError
			if errors.As(err, &t) && t.Transport == deliver.Verbs && s.c.Transport != deliver.Verbs {
				s.fallBack(err.Error())
				s.avoid = time.Now().Add(avoidFor)
				pause = false
				continue
			}
			if ctx.Err() == nil {
				s.wait(err)
			}
		}
	})
}

func (s *Deliver) producer() deliver.ProducerConfig {
	p := deliver.ProducerConfig{
		Address: s.c.Address, Pins: s.c.Pins, Certificate: s.c.Certificate, Stream: s.stream, Name: s.c.Name,
		Transport: s.c.Transport, Device: s.c.Device, Seal: s.c.Seal, Log: s.c.Log,
	}
	if time.Now().Before(s.avoid) {
		p.Transport = deliver.TCP
	}
	return p
}

// connected notes a new connection.
func (s *Deliver) connected(p *deliver.Producer) {
	name, why := p.Transport()
	if why != "" && name == deliver.TCP && s.c.Transport != deliver.TCP {
		s.fallBack(why)
	}
	s.mu.Lock()
	if s.known {
		s.stats.Reconnects++
	}
	s.known = true
	s.stats.Transport = name
	again := s.stats.Reconnects
	s.mu.Unlock()
	s.log.Info("rows go to the consumer", "sink", s.c.Name, "address", s.c.Address, "transport", name, "sealed", s.c.Seal, "reconnects", again)
}

// fallBack says that rows go by tcp though verbs were wanted.
func (s *Deliver) fallBack(why string) {
	s.count(func(t *Stats) { t.Fallbacks++ })
	s.log.Warn("rows fall back from verbs to tcp", "sink", s.c.Name, "address", s.c.Address, "reason", why)
}

// store puts the commit into the segment.
func (s *Deliver) store() {
	if s.commits == nil {
		return
	}
	s.commit.Offset, s.commit.Device, s.commit.Inode, s.commit.Flags = s.batch, deliverMark, s.stream, segment.FlagStream
	s.commits.Store(&s.commit)
}

func (s *Deliver) wait(err error) { s.trouble("rows wait for the consumer", "address", err) }

// Close ends the connection.
func (s *Deliver) Close() error {
	s.cancel()
	s.dialing.Wait()
	if s.session == nil {
		select {
		case s.session = <-s.dialed:
		default:
			return nil
		}
	}
	err := s.session.Close()
	s.session = nil
	return err
}
