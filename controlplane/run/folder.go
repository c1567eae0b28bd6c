package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/proc"
)

const (
	// lockPatience is how long a lock may still be held by a process that is dying.
	lockPatience = time.Second
	lockPause    = 5 * time.Millisecond
)

// folder is where the processes of one name find each other. Two locks in it say who
// lives; the kernel releases a lock with its process, whatever that dies of. Data planes
// share theirs: in a handover the next one has it before the last one dies.
type folder struct {
	path    string
	control *os.File
}

// openFolder makes the folder of a run and locks it for this control process. The
// error wraps [status.ErrRunning] if another one lives.
func openFolder(name string) (*folder, error) {
	dir, err := status.Dir(name)
	if err != nil {
		return nil, err
	}
	f := &folder{path: filepath.Join(dir, name+".run")}
	if err := os.Mkdir(f.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("run: %w", err)
	}
	f.control, err = f.lock(handover.ControlLock, unix.LOCK_EX, lockPatience)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("run: %s: %w", name, status.ErrRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	return f, nil
}

// hasWords reports whether the last data plane has said why it died: nobody who is killed
// does.
func (f *folder) hasWords() bool {
	st, err := os.Stat(filepath.Join(f.path, proc.WordsFile))
	return err == nil && st.Size() > 0
}

func (f *folder) close() { _ = f.control.Close() }

// lock takes the named lock as flock(2) says. The error wraps EWOULDBLOCK if it is held for
// longer than patience.
func (f *folder) lock(name string, how int, patience time.Duration) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(f.path, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(lockPause) {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("%s: %w", file.Name(), err), file.Close())
		}
	}
}
