package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/systemd/notify"
)

// A service manager keeps, for the time when neither process lives, everything that
// each of the two keeps for the other: these are the names in its store.
const (
	storeAbout   = "headrace-about"   // a memory file with [stored], as JSON
	storeSegment = "headrace-segment" // its two files
	storeStock   = "headrace-stock"   // in the order of handover.KeptBody
	storeNetwork = "headrace-network" // programs, maps, links, joins
	aboutMax     = 16 << 20
	storePatient = 5 * time.Second
)

var storeNames = []string{storeAbout, storeSegment, storeStock, storeNetwork}

// stored says what the descriptors in the store are.
type stored struct {
	Version int
	Layout  xsk.Layout
	Kept    handover.KeptBody
	Network json.RawMessage // a [description]
}

// A store is the service manager's store of descriptors. The zero value is none.
type store struct {
	socket *notify.Socket // nil: nobody manages us
	found  map[string][]int
	names  []string // all that it keeps

	// What was put last.
	g       *generation
	network []int
	abouts  int
}

// openStore connects to the service manager, if there is one, and takes what it kept.
func openStore() (*store, error) {
	socket, err := notify.Open()
	if err != nil {
		return nil, err
	}
	s := &store{socket: socket, found: map[string][]int{}}
	list, err := notify.Inherited()
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	at := map[string]int{}
	for _, d := range list {
		s.names = append(s.names, d.Name)
		at[d.Name] = d.FD
	}
	for _, name := range storeNames {
		for i := 0; i < len(list); i++ {
			if fd, ok := at[numbered(name, i)]; ok {
				delete(at, numbered(name, i))
				s.found[name] = append(s.found[name], fd)
			}
		}
	}
	for _, fd := range at {
		_ = unix.Close(fd) // nothing of ours
	}
	return s, nil
}

// numbered names a descriptor: the manager remembers no order.
func numbered(name string, i int) string { return fmt.Sprintf("%s-%d", name, i) }

// keep makes the manager keep descriptors, which come back in their order.
func (s *store) keep(name string, fds ...int) error {
	for i, fd := range fds {
		if err := s.socket.Keep(numbered(name, i), fd); err != nil {
			return err
		}
		s.names = append(s.names, numbered(name, i))
	}
	return nil
}

// keeps reports whether what we give it survives us.
func (s *store) keeps() bool { return s.socket != nil && s.socket.Room() != 0 }

// put makes the manager keep g, and the network that text and fds describe, in the place of
// what it kept before. Where those are others than before, a death of both processes loses
// the state until it has all of it, and only that: it takes no descriptor twice.
func (s *store) put(g *generation, text []byte, fds []int) error {
	if !s.keeps() || g.stock == nil {
		return nil
	}
	about, err := memoryFile(&stored{handover.Version, g.layout, g.stock.body, text})
	if err != nil {
		return err
	}
	defer about.Close() //nolint:errcheck // the manager has it
	data, control := g.segment.FDs()
	var errs []error
	if g != s.g || !slices.Equal(fds, s.network) {
		errs = append(
			errs,
			s.forget(),
			s.keep(storeSegment, data, control),
			s.keep(storeStock, g.stock.descriptors()...),
			s.keep(storeNetwork, fds...),
		)
	}
	// Last: without it nothing counts. Else it is only said anew what they are, and at no
	// time is nothing kept.
	errs = append(errs, s.keepAbout(int(about.Fd())), s.socket.Barrier(storePatient))
	if err := errors.Join(errs...); err != nil {
		s.g = nil // the next time all of it
		return err
	}
	s.g, s.network = g, fds
	return nil
}

// keepAbout puts a description in the place of the last one.
func (s *store) keepAbout(fd int) error {
	before := numbered(storeAbout, s.abouts)
	s.abouts = 1 - s.abouts
	now := numbered(storeAbout, s.abouts)
	if err := s.socket.Keep(now, fd); err != nil {
		return err
	}
	if !slices.Contains(s.names, before) {
		s.names = append(s.names, now)
		return nil
	}
	s.names[slices.Index(s.names, before)] = now
	return s.socket.Forget(before)
}

// forget has the manager keep nothing.
func (s *store) forget() error {
	if s.socket == nil {
		return nil
	}
	var errs []error
	for _, name := range s.names {
		errs = append(errs, s.socket.Forget(name))
	}
	s.names = nil
	return errors.Join(errs...)
}

// busyWithin bounds what is done in one piece.
const busyWithin = time.Minute

// busy keeps the watchdog content until done is called, for a minute at most.
func (s *store) busy() (done func()) { return s.socket.Busy(busyWithin) }

func (s *store) stopping(text string) { _ = s.socket.Stopping(text) }

// ready tells the manager that the run is up, alive that it lives, reloading that another
// config is being read.
func (s *store) ready(text string) {
	if s.socket != nil {
		_ = s.socket.Ready(text) // who does not hear it says so
	}
}

func (s *store) alive() { _ = s.socket.Watchdog() }

func (s *store) reloading() error {
	if s.socket == nil {
		return nil
	}
	return s.socket.Reloading()
}

// drop closes what was found and not taken.
func (s *store) drop() {
	for _, fds := range s.found {
		closeAll(fds)
	}
	s.found = nil
}

// close ends the conversation; what is kept stays kept.
func (s *store) close() {
	s.drop()
	_ = s.socket.Close()
}

// memoryFile returns a file that holds v as JSON.
func memoryFile(v any) (*os.File, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("describe what is kept: %w", err)
	}
	fd, err := unix.MemfdCreate(storeAbout, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), storeAbout)
	if _, err := f.Write(text); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// resume makes a generation of what the service manager kept while neither process
// lived, and starts a data plane that goes on with it. It returns nil if nothing was
// kept. The error wraps [errCold] if what was kept cannot be gone on with.
func (r *control) resume() (*generation, status.Former, error) {
	found := r.store.found
	if len(found[storeAbout]) == 0 || r.Plan.Crash != plan.Rollback {
		return nil, status.Former{}, nil
	}
	defer r.store.drop()
	g := newGeneration()
	former, err := r.takeStored(g, found)
	if err == nil {
		err = r.takeOver(g, launch{}, time.Now())
	}
	if err != nil {
		return nil, former, errors.Join(fmt.Errorf("%w: %w", errCold, err), g.close(), r.dropNetwork())
	}
	return g, former, nil
}

// takeStored takes the parts out of found.
func (r *control) takeStored(g *generation, found map[string][]int) (former status.Former, err error) {
	var s stored
	text := make([]byte, aboutMax)
	n, err := unix.Pread(found[storeAbout][0], text, 0)
	if err != nil {
		return former, os.NewSyscallError("pread", err)
	}
	if err := json.Unmarshal(text[:n], &s); err != nil {
		return former, fmt.Errorf("what is kept is described by nonsense: %w", err)
	}
	if s.Version != handover.Version || len(found[storeSegment]) != 2 || len(found[storeStock]) != s.Kept.Descriptors() {
		return former, fmt.Errorf("version %d of what is kept, this binary wants %d: %w", s.Version, handover.Version, handover.ErrPeer)
	}
	take := func(name string) []int {
		fds := found[name]
		delete(found, name)
		return fds
	}
	g.layout, g.zeroCopy = s.Layout, s.Kept.ZeroCopy
	if g.stock, _, err = stockOf(&s.Kept, take(storeStock)); err != nil {
		return former, err
	}
	var d description
	if err := json.Unmarshal(s.Network, &d); err != nil {
		return former, fmt.Errorf("what is kept is described by nonsense: %w", err)
	}
	if err := r.adoptSetup(&d); err != nil {
		return former, err
	}
	files := take(storeSegment)
	if g.segment, err = segment.Open(files[0], files[1], segment.Control, r.Plan); err != nil {
		return former, err
	}
	if r.network, former, err = adoptNetwork(r.Plan, r.Log, &d, take(storeNetwork)); err != nil {
		return former, err
	}
	g.segment.NextControl()
	g.beat()
	return former, r.startPump(g)
}
