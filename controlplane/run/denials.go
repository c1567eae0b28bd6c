package run

import (
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/confine"
)

// watchDenials tells of system calls that the data plane tries and may not make. fds are
// the descriptors that came with its answer, one if it is confined; they are taken over.
func (r *control) watchDenials(fds []int, why string) {
	if len(fds) != 1 {
		closeAll(fds)
		if why != "" {
			r.Log.Warn("the data plane is not confined: it could make any system call", "error", why)
		}
		return
	}
	l, err := confine.NewListener(fds[0])
	if err != nil {
		_ = unix.Close(fds[0])
		r.Log.Warn("denied system calls of the data plane are not told of", "error", err)
		return
	}
	// It ends with the process that it hears of.
	go func() {
		defer l.Close() //nolint:errcheck // nothing was written
		if err := l.Watch(func(d confine.Denied) {
			r.Log.Error("the data plane tried a system call that it may not make, and was refused", "call", d.Name(), "thread", d.Thread, "times", d.Times)
		}); err != nil {
			r.Log.Warn("denied system calls of the data plane are not told of any more", "error", err)
		}
	}()
}
