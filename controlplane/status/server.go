package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNotRunning reports that nothing runs under a name.
var ErrNotRunning = errors.New("nothing runs under this name")

// ErrRunning reports that something runs under a name already.
var ErrRunning = errors.New("a run of this name is there already; give another --name")

// ErrBadName reports a name that cannot be a socket's.
var ErrBadName = errors.New("a name is 1 to 64 letters, digits, dots, dashes and underscores, and does not begin with a dot")

const (
	nameMax     = 64
	sampleEvery = time.Second
	askTimeout  = 5 * time.Second
)

// checkName keeps names inside their folder.
func checkName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
	if bad || name == "" || len(name) > nameMax || name[0] == '.' {
		return fmt.Errorf("status: name %q: %w", name, ErrBadName)
	}
	return nil
}

// dirs are the folders in which sockets may be, the first that can be used being
// where a new one is made.
func dirs() []string {
	const system = "/run/headrace"
	var list []string
	if d := os.Getenv("RUNTIME_DIRECTORY"); d != "" { // a unit's own, with RuntimeDirectory=
		d, _, _ = strings.Cut(d, ":")
		list = append(list, d)
	}
	// A service has it made for its user.
	if first := os.Geteuid() == 0 || ours(system) == nil; first {
		list = append(list, system)
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		list = append(list, filepath.Join(d, "headrace"))
	}
	list = append(list, filepath.Join(os.TempDir(), fmt.Sprintf("headrace-%d", os.Getuid())))
	if !slices.Contains(list, system) {
		list = append(list, system) // to ask a run of root's, if it lets us
	}
	return list
}

// runtimeDir makes and returns the first usable folder.
func runtimeDir() (string, error) {
	var errs []error
	for _, d := range dirs() {
		err := os.MkdirAll(d, 0o755) // the sockets in it say who may ask
		if err == nil {
			err = ours(d)
		}
		if err == nil {
			return d, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// ours refuses a folder that somebody else made under a name that we could guess.
func ours(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() || int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder that only we can write", dir)
	}
	return nil
}

// Listen makes the run's socket, NAME.sock. A socket that a dead process left is
// replaced. The error wraps [ErrRunning] if a live one has the name.
func Listen(name string) (net.Listener, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir, err := runtimeDir()
	if err != nil {
		return nil, fmt.Errorf("status: socket of %s: %w", name, err)
	}
	path := filepath.Join(dir, name+".sock")
	if c, err := net.DialTimeout("unix", path, askTimeout); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("status: %s: %w", path, ErrRunning)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("status: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, fmt.Errorf("status: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

// A Reporter keeps the last second's snapshot, so that a report has rates.
type Reporter struct {
	source *Source

	mu            sync.Mutex
	before, newer *Snapshot
}

// NewReporter returns a reporter of source's figures.
func NewReporter(source *Source) *Reporter { return &Reporter{source: source} }

// Report returns the figures of now, with rates over the last one to two seconds
// while Sample runs.
func (s *Reporter) Report() *Report {
	now := s.source.Snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	return NewReport(s.before, now)
}

func (s *Reporter) sample() {
	snap := s.source.Snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.newer = s.newer, snap
	if s.before == nil {
		s.before = snap
	}
}

// Sample takes a snapshot now and then until ctx ends, so that reports have rates.
func (s *Reporter) Sample(ctx context.Context) {
	s.sample()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.sample()
		}
	}
}

// serve runs an HTTP server on l until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: askTimeout, WriteTimeout: 4 * askTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status: %w", err)
	}
	return nil
}

// Dial connects to the socket of the run of the given name. The error wraps
// [ErrNotRunning] and lists the names that do run.
func Dial(ctx context.Context, name string) (net.Conn, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var d net.Dialer
	for _, dir := range dirs() {
		c, err := d.DialContext(ctx, "unix", filepath.Join(dir, name+".sock"))
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("status: %w", err)
		}
	}
	running := "nothing is running"
	if names := Names(); len(names) > 0 {
		running = "running: " + strings.Join(names, ", ")
	}
	return nil, fmt.Errorf("status: %s: %w; %s", name, ErrNotRunning, running)
}

// Transport asks the run of the given name, over its socket. The error is also that of
// [Dial].
func Transport(name string) http.RoundTripper {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return Dial(ctx, name) },
	}
}

// Fetch asks the run of the given name for its report, as JSON. The error is that of
// [Dial], or says what the answer was.
func Fetch(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return ask(ctx, name)
}

// Names returns the names that answer, sorted.
func Names() []string {
	var names []string
	for _, d := range dirs() {
		paths, _ := filepath.Glob(filepath.Join(d, "*.sock")) // the pattern is a good one
		for _, p := range paths {
			if c, err := net.DialTimeout("unix", p, askTimeout); err == nil {
				_ = c.Close()
				names = append(names, strings.TrimSuffix(filepath.Base(p), ".sock"))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Dir returns the folder in which the run of the given name has its sockets, made if
// need be. The error wraps [ErrBadName] if no run can have that name.
func Dir(name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	dir, err := runtimeDir()
	if err != nil {
		return "", fmt.Errorf("status: folder of %s: %w", name, err)
	}
	return dir, nil
}
