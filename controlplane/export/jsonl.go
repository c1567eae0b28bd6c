package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/segment"
)

// ErrNotRows reports a file whose end is neither a whole line nor the beginning of
// a row: it is somebody else's.
var ErrNotRows = errors.New("the file does not end in a row; move it away or give another path")

// ErrInUse reports a file that another process writes rows to.
var ErrInUse = errors.New("another process writes rows to the file; give another path")

// JSONLConfig says where rows go.
type JSONLConfig struct {
	// Name is the sink's name in the config. Required.
	Name string
	// Path is the file's path; "-" is standard output. Required.
	Path string
	// Truncate begins with an empty file, as replay does.
	Truncate bool
	// Workers is the number of outboxes that a commit has positions of
	// (segment.Layout.Workers). Required.
	Workers int
	// Commits is where commits go and the last one is found. Nil: nowhere.
	Commits *segment.Commits
	// Log is told of trouble with the file, at most once in ten seconds. Nil: nobody is.
	Log *slog.Logger
}

const (
	retryLeast = 10 * time.Millisecond
	retryMost  = time.Second
	logEvery   = 10 * time.Second
	tailBytes  = 4 << 20 // no row is longer
	rowStart   = `{"query":`
)

// JSONL is a [Sink] that appends rows to a file.
//
// To a regular file it writes whole lines only: a line that the system took in
// part, because the disk was full, is cut off again before anything else happens.
// A reader may see a line grow while one write call is under way. The file is not
// synced: rows survive every death of a process, not a loss of power.
//
// If another file is found under the path (log rotation), that one is opened and
// the sink goes on there.
type JSONL struct {
	account
	c       JSONLConfig
	f       *os.File
	regular bool
	id      fileID
	end     int64 // the file's length, as far as we know; all of it whole lines
	torn    bool  // what follows end is part of a line and could not be cut off yet

	// write and truncate are f's, unless a test puts trouble between.
	write    func([]byte) (int, error)
	truncate func(int64) error
}

type fileID struct{ device, inode uint64 }

// OpenJSONL opens the file.
//
// If a control process before this one committed to the same file (device and
// inode), everything after the commit is cut off and [JSONL.Resume] says where the
// outboxes go on. Else a torn last line is cut off and the sink appends.
func OpenJSONL(c JSONLConfig) (*JSONL, error) {
	s := &JSONL{c: c, account: account{log: c.Log, commits: c.Commits, stats: Stats{Name: c.Name, Target: c.Path}}}
	if err := s.open(); err != nil {
		if s.f != nil {
			err = errors.Join(err, s.closeFile())
		}
		return nil, fmt.Errorf("export: sink %s: %w", c.Name, err)
	}
	return s, nil
}

func (s *JSONL) open() error {
	if err := s.openFile(); err != nil {
		return err
	}
	found := s.begin(s.c.Workers)
	if s.regular {
		same := found && s.commit.Flags&segment.FlagStream == 0 && s.id == fileID{s.commit.Device, s.commit.Inode}
		if err := s.cut(same); err != nil {
			return err
		}
	}
	s.store() // so that a kill before the first rows finds this file
	return nil
}

// openFile opens the path and learns what is there.
func (s *JSONL) openFile() error {
	if s.c.Path == "-" {
		s.f = os.Stdout
	} else {
		// Reading is for the last line. A pipe opened so would never lose its reader.
		flag := os.O_RDWR | os.O_APPEND | os.O_CREATE
		if st, err := os.Stat(s.c.Path); err == nil && !st.Mode().IsRegular() {
			flag = os.O_WRONLY
		}
		f, err := os.OpenFile(s.c.Path, flag, 0o644)
		if err != nil {
			return err
		}
		s.f = f
	}
	s.write, s.truncate = s.f.Write, s.f.Truncate
	// Stat and not Fd, which would make a pipe block and its writer deaf to a stop.
	st, err := s.f.Stat()
	if err != nil {
		return err
	}
	sys := st.Sys().(*syscall.Stat_t)
	// Standard output is never cut, even where the shell made it a file.
	s.regular = st.Mode().IsRegular() && s.c.Path != "-"
	s.id, s.end = fileID{sys.Dev, sys.Ino}, st.Size()
	if !s.regular {
		return nil
	}
	// The lock goes with the descriptor: a kill releases it. File systems without
	// locks go without.
	if err := unix.Flock(int(s.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", s.c.Path, ErrInUse)
	}
	return nil
}

// cut takes off what must not be in the file: everything when a replay begins,
// what was written after the last commit to it, or a torn last line.
func (s *JSONL) cut(committed bool) error {
	var end int64
	switch {
	case s.c.Truncate: // all of it
	case committed && int64(s.commit.Offset) <= s.end:
		end = int64(s.commit.Offset)
	default:
		if committed {
			s.stats.Cut++
		}
		var err error
		if end, err = lastLine(s.f, s.end); err != nil {
			return fmt.Errorf("%s: %w", s.c.Path, err)
		}
	}
	if end != s.end {
		if err := s.truncate(end); err != nil {
			return err
		}
	}
	s.end = end
	return nil
}

// lastLine returns where the last whole line of f ends, f being size bytes long.
func lastLine(f io.ReaderAt, size int64) (int64, error) {
	n := min(size, tailBytes)
	tail := make([]byte, n)
	if _, err := f.ReadAt(tail, size-n); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	torn := tail[bytes.LastIndexByte(tail, '\n')+1:]
	if int64(len(torn)) == n && size > n || !bytes.HasPrefix([]byte(rowStart), torn[:min(len(torn), len(rowStart))]) {
		return 0, ErrNotRows
	}
	return size - int64(len(torn)), nil
}

// Write appends lines to the file and commits. An error of a regular file is
// retried, with pauses up to a second, until ctx ends: no row is lost to a full
// disk. An error of a pipe is final.
func (s *JSONL) Write(ctx context.Context, lines []byte, n RowCount, positions []uint64) error {
	if len(lines) > 0 {
		if s.regular {
			s.follow()
		}
		if err := s.writeAll(ctx, lines); err != nil {
			return err
		}
	}
	s.add(len(lines), n, positions)
	s.store()
	s.show()
	return nil
}

// store puts the commit into the segment.
func (s *JSONL) store() {
	if s.commits == nil {
		return
	}
	s.commit.Offset, s.commit.Device, s.commit.Inode, s.commit.Flags = uint64(s.end), s.id.device, s.id.inode, 0
	if !s.regular {
		s.commit.Offset, s.commit.Flags = 0, segment.FlagStream
	}
	s.commits.Store(&s.commit)
}

// writeAll writes lines, each of which is whole in the file or not there at all
// when it returns.
func (s *JSONL) writeAll(ctx context.Context, lines []byte) error {
	if !s.regular {
		// A pipe that nobody reads must not hold up a stop. Files that cannot have a
		// deadline say so, and then block for as long as the other end wants.
		stop := context.AfterFunc(ctx, func() { _ = s.f.SetWriteDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	for wait := retryLeast; ; wait = min(2*wait, retryMost) {
		err := s.mend()
		if err == nil {
			var n int
			n, err = s.write(lines)
			s.count(func(t *Stats) { t.Writes++ })
			if err == nil {
				s.end += int64(n)
				return nil
			}
			if !s.regular {
				return fmt.Errorf("%s: %w", s.c.Path, err)
			}
			whole := bytes.LastIndexByte(lines[:n], '\n') + 1
			s.torn = n > whole
			s.end += int64(whole)
			lines = lines[whole:]
			// At once, not after the pause: readers are looking.
			err = errors.Join(err, s.mend())
		}
		s.wait(err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// mend cuts off what was left of a line.
func (s *JSONL) mend() error {
	if !s.torn {
		return nil
	}
	if err := s.truncate(s.end); err != nil {
		return err
	}
	s.torn = false
	return nil
}

// follow looks whether the path still names our file and whether that is as long
// as we left it, and goes over to another file if need be.
func (s *JSONL) follow() {
	if s.torn {
		return
	}
	var st unix.Stat_t
	err := unix.Stat(s.c.Path, &st)
	switch {
	case err == nil && s.id == fileID{st.Dev, st.Ino}:
		if st.Size < s.end {
			s.count(func(t *Stats) { t.Cut++ })
		}
		s.end = st.Size // others may append, or empty the file, as copytruncate does
		return
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		s.wait(os.NewSyscallError("stat", err))
		return
	}
	next := &JSONL{c: s.c}
	next.c.Truncate = false
	err = next.openFile()
	if err == nil && next.regular {
		err = next.cut(false)
	}
	if err != nil {
		if next.f != nil {
			err = errors.Join(err, next.closeFile())
		}
		s.wait(fmt.Errorf("another file is under the path, and the old one is kept: %w", err))
		return
	}
	if err := s.closeFile(); err != nil {
		s.wait(err)
	}
	s.f, s.write, s.truncate = next.f, next.write, next.truncate
	s.regular, s.id, s.end = next.regular, next.id, next.end
	s.store() // before the first row: what the new file has then is ours
	s.count(func(t *Stats) { t.Reopened++ })
}

func (s *JSONL) wait(err error) { s.trouble("rows wait for the file", "path", err) }

// Close closes the file, unless it is standard output.
func (s *JSONL) Close() error { return s.closeFile() }

func (s *JSONL) closeFile() error {
	if s.f == nil || s.f == os.Stdout {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}
