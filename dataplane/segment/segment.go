package segment

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrMismatch reports a segment that was made for other work or by another build.
var ErrMismatch = errors.New("the segment is another one")

// A MismatchError says what differs. It wraps [ErrMismatch].
type MismatchError struct {
	Field     string // magic, version, side, size, generation, record version, layout, plan
	Got, Want string
}

var mismatchFixes = map[string]string{
	"version":        "the two processes are different builds; stop the running one and start both from one binary",
	"record version": "the two processes are different builds; stop the running one and start both from one binary",
	"layout":         "the two processes are different builds; stop the running one and start both from one binary",
	"plan":           "the running data plane was started from another config; drain it first, or start with that config",
	"size":           "the running data plane was started from another config or build; drain it first",
	"generation":     "the two files belong to different segments; hand over both files of one run",
	"side":           "the two files were handed over in the wrong order",
	"magic":          "this is not a segment",
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%v: its %s is %s, not %s: %s", ErrMismatch, e.Field, e.Got, e.Want, mismatchFixes[e.Field])
}

// Unwrap returns [ErrMismatch].
func (e *MismatchError) Unwrap() error { return ErrMismatch }

// Side says whose part of the segment a process may write.
type Side uint8

// The sides. Both is for one process that runs both halves.
const (
	Data Side = iota + 1
	Control
	Both
)

// String names the side.
func (s Side) String() string {
	switch s {
	case Data:
		return "data"
	case Control:
		return "control"
	case Both:
		return "both"
	}
	return "unknown"
}

// A Segment is the two memory files, mapped. Its parts may be used from many
// goroutines within the limits that each of them states; Close must come last.
type Segment struct {
	Layout *Layout

	side               Side
	dataFD, controlFD  int
	data, control      []byte
	dataHead, ctrlHead header // copies; the mapped ones are not looked at again
	workers            []Worker
	sinks              []Commits
	mailbox            *controlLines
}

// Create makes p's segment, with both files mapped for writing. The caller that
// is only one of the sides calls [Segment.Restrict] next.
func Create(p *plan.Plan) (*Segment, error) {
	l, err := NewLayout(p)
	if err != nil {
		return nil, err
	}
	s := &Segment{Layout: l, side: Both, dataFD: -1, controlFD: -1}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	generation := binary.LittleEndian.Uint64(random[:]) | 1
	s.dataHead, s.ctrlHead = l.identity(p, Data, generation), l.identity(p, Control, generation)
	if s.dataFD, err = newFile("headrace-data", l.DataBytes); err == nil {
		s.controlFD, err = newFile("headrace-control", l.ControlBytes)
	}
	if err == nil {
		err = s.mapBoth()
	}
	if err != nil {
		return nil, fmt.Errorf("segment: %w", errors.Join(err, s.Close()))
	}
	*view[header](s.data, 0), *view[header](s.control, 0) = s.dataHead, s.ctrlHead
	return s, nil
}

// Open maps the files of a segment that another process made: side's own for
// writing, the other read-only. It takes the descriptors over, also on error. The
// error wraps [ErrMismatch] if the segment was not made for p by this build.
func Open(dataFD, controlFD int, side Side, p *plan.Plan) (*Segment, error) {
	s := &Segment{side: side, dataFD: dataFD, controlFD: controlFD}
	err := s.open(p)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Segment) open(p *plan.Plan) error {
	l, err := NewLayout(p)
	if err != nil {
		return err
	}
	s.Layout = l
	if err := s.readHeader(s.dataFD, Data, p); err != nil {
		return fmt.Errorf("data file: %w", err)
	}
	if err := s.readHeader(s.controlFD, Control, p); err != nil {
		return fmt.Errorf("control file: %w", err)
	}
	if d, c := s.dataHead.Generation, s.ctrlHead.Generation; d != c {
		return &MismatchError{"generation", fmt.Sprintf("%016x in one file", d), fmt.Sprintf("%016x as in the other", c)}
	}
	return s.mapBoth()
}

// readHeader checks the header before the size, so that the error is about the
// build or the plan and not about a number of bytes.
func (s *Segment) readHeader(fd int, side Side, p *plan.Plan) error {
	buf := make([]byte, sizeOf[header]())
	if n, err := unix.Pread(fd, buf, 0); err != nil || n < len(buf) {
		return fmt.Errorf("a header of %d of %d bytes: %w", max(n, 0), len(buf), errors.Join(ErrMismatch, os.NewSyscallError("pread", err)))
	}
	got := *view[header](buf, 0)
	want := s.Layout.identity(p, side, got.Generation)
	if err := got.match(&want); err != nil {
		return err
	}
	if side == Data {
		s.dataHead = got
	} else {
		s.ctrlHead = got
	}
	return checkFile(fd, int(want.Size))
}

func (h *header) match(want *header) error {
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"magic", h.Magic, want.Magic},
		{"version", h.Version, want.Version},
		{"record version", h.RecordVersion, want.RecordVersion},
		{"side", Side(h.Side), Side(want.Side)},
		{"layout", fmt.Sprintf("%x", h.Layout[:8]), fmt.Sprintf("%x", want.Layout[:8])},
		{"plan", fmt.Sprintf("%x", h.Plan[:8]), fmt.Sprintf("%x", want.Plan[:8])},
		{"size", h.Size, want.Size},
	} {
		if f.got != f.want {
			return &MismatchError{f.name, fmt.Sprint(f.got), fmt.Sprint(f.want)}
		}
	}
	if h.Layout != want.Layout || h.Plan != want.Plan {
		return &MismatchError{"plan", fmt.Sprintf("%x", h.Plan), fmt.Sprintf("%x", want.Plan)}
	}
	return nil
}

// mapBoth maps the files and makes the typed parts.
func (s *Segment) mapBoth() (err error) {
	l := s.Layout
	if s.data, err = mapFile(s.dataFD, l.DataBytes, s.side != Control); err != nil {
		return fmt.Errorf("data file of %d bytes: %w", l.DataBytes, err)
	}
	if s.control, err = mapFile(s.controlFD, l.ControlBytes, s.side != Data); err != nil {
		return fmt.Errorf("control file of %d bytes: %w", l.ControlBytes, err)
	}
	s.mailbox = view[controlLines](s.control, sizeOf[header]())
	s.workers = make([]Worker, l.Workers)
	for i := range s.workers {
		s.workers[i] = newWorker(s, i)
	}
	s.sinks = make([]Commits, len(l.Sinks))
	for i := range s.sinks {
		s.sinks[i] = newCommits(s, i)
	}
	return nil
}

// Restrict makes the other side's file read-only. A write to it is then a fault
// of the process that makes it.
func (s *Segment) Restrict(side Side) error {
	other := s.control
	if side == Control {
		other = s.data
	}
	if side != Both {
		if err := unix.Mprotect(other, unix.PROT_READ); err != nil {
			return fmt.Errorf("segment: %w", os.NewSyscallError("mprotect", err))
		}
	}
	s.side = side
	return nil
}

// Close unmaps the files and closes the descriptors. Nothing made from the
// segment may be used afterwards.
func (s *Segment) Close() error {
	var errs []error
	for _, mem := range []*[]byte{&s.data, &s.control} {
		if *mem != nil {
			errs = append(errs, os.NewSyscallError("munmap", unix.Munmap(*mem)))
			*mem = nil
		}
	}
	for _, fd := range []*int{&s.dataFD, &s.controlFD} {
		if *fd >= 0 {
			errs = append(errs, os.NewSyscallError("close", unix.Close(*fd)))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}

// FDs returns the descriptors of the two files; they stay the segment's.
func (s *Segment) FDs() (data, control int) { return s.dataFD, s.controlFD }

// Side returns whose part this process may write.
func (s *Segment) Side() Side { return s.side }

// Generation tells this segment from every other. It is never 0.
func (s *Segment) Generation() uint64 { return s.dataHead.Generation }

// Worker returns worker w's part, w < Layout.Workers.
func (s *Segment) Worker(w int) *Worker { return &s.workers[w] }

// Socket returns the counters of the socket that takes interface i's queue q to
// worker w. The data plane's housekeeping thread writes them.
func (s *Segment) Socket(i, q, w int) *SocketCounters {
	l := s.Layout
	if i < 0 || i >= l.Interfaces || q < 0 || q >= QueuesMax || w < 0 || w >= l.Workers {
		panic(fmt.Sprintf("segment: no socket for interface %d, queue %d, worker %d", i, q, w))
	}
	n := (i*QueuesMax+q)*l.Workers + w
	return view[SocketCounters](s.data, l.sockets+n*sizeOf[SocketCounters]())
}

// Sink returns the commits of the named sink, or nil if the plan has none of that name.
func (s *Segment) Sink(name string) *Commits {
	for i, n := range s.Layout.Sinks {
		if n == name {
			return &s.sinks[i]
		}
	}
	return nil
}

// Limits returns what good records of p look like, given the number of state
// words of each query's partials.
func Limits(p *plan.Plan, words []int) outbox.Limits {
	lim := outbox.Limits{Words: words, KeyWidth: make([]int, len(p.Queries))}
	for i := range p.Queries {
		lim.KeyWidth[i] = event.KeyMax
		if w := p.Streams[p.Queries[i].Stream].KeyWidth; w > 0 && w < event.KeyMax {
			lim.KeyWidth[i] = w
		}
	}
	return lim
}
