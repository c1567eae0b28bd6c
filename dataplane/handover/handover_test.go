package handover

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends returns two connected ends.
func ends(tb testing.TB) (a, b *Conn) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	a, b = New(fds[0]), New(fds[1])
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestAMessageArrivesWholeWithAllItsDescriptors(t *testing.T) {
	for _, c := range []struct {
		name        string
		bytes, fds  int
		fitsInPiece bool
	}{
		{"without anything", 0, 0, true},
		{"small", 10, 3, true},
		{"more text than a piece", 5*pieceBytes + 17, 2, false},
		{"more descriptors than a piece", 5, 3*pieceFDs + 1, false},
		{"exactly two pieces", 2*pieceBytes - 2, 2 * pieceFDs, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := openFDs(t)
			a, b := ends(t)
			text := strings.Repeat("x", c.bytes)
			files := make([]int, c.fds)
			for i := range files {
				fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := unix.Write(fd, []byte{byte(i), byte(i >> 8)}); err != nil {
					t.Fatal(err)
				}
				files[i] = fd
			}
			sent := make(chan error, 1)
			go func() { sent <- a.Send(Keep, text, files) }()
			m, err := b.Receive()
			if err != nil || <-sent != nil {
				t.Fatal(err)
			}
			var got string
			if err := m.Decode(&got); err != nil || m.Kind != Keep || got != text {
				t.Errorf("%v of %d bytes, %v; want %d", m.Kind, len(got), err, len(text))
			}
			if len(m.FDs) != c.fds {
				t.Fatalf("%d descriptors, want %d", len(m.FDs), c.fds)
			}
			for i, fd := range m.FDs {
				var b [2]byte
				if _, err := unix.Pread(fd, b[:], 0); err != nil || int(b[0])|int(b[1])<<8 != i {
					t.Fatalf("descriptor %d is that of file %v: %v", i, b, err)
				}
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Fatalf("descriptor %d would be inherited", i)
				}
			}
			m.Close()
			for _, fd := range files {
				unix.Close(fd)
			}
			a.Close()
			b.Close()
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors are open, %d were", after, before)
			}
		})
	}
}

func TestTheEndOfTheOtherSideIsSeen(t *testing.T) {
	a, b := ends(t)
	a.Close()
	if _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("Receive = %v, want the end", err)
	}
	if err := b.Send(Ready, nil, nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Send = %v, want EPIPE and no signal", err)
	}
	a, b = ends(t)
	done := make(chan error)
	go func() { _, err := b.Receive(); done <- err }()
	b.Shutdown()
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Errorf("Receive after Shutdown = %v", err)
	}
	a.Close()
}

func TestNonsenseIsAnErrorAndLeaksNothing(t *testing.T) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	before := openFDs(t)
	for name, pieces := range map[string][][]byte{
		"one byte":              {{byte(Keep)}},
		"kind nought":           {{0, 0, '1'}},
		"two kinds in one":      {{byte(Keep), 1, '1'}, {byte(Lost), 0, '2'}},
		"the end in the middle": {{byte(Keep), 1, '1'}},
	} {
		a, b := ends(t)
		for _, p := range pieces {
			if err := unix.Sendmsg(a.fd, p, unix.UnixRights(fd), nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		a.Close()
		if m, err := b.Receive(); err == nil {
			t.Errorf("%s: %v", name, m)
		}
		b.Close()
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

func TestAnotherKindThanExpectedIsAnErrorAndARefusalSpeaks(t *testing.T) {
	a, b := ends(t)
	if err := errors.Join(a.Send(Ready, nil, nil), a.Send(Refused, RefusedBody{"no memory"}, nil), a.Send(Owners, "text", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Expect(Owners, nil); !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "ready") {
		t.Errorf("Expect = %v", err)
	}
	if _, err := b.Expect(Owners, nil); err == nil || err.Error() != "no memory" {
		t.Errorf("Expect = %v", err)
	}
	if _, err := b.Expect(Owners, &OwnersBody{}); !errors.Is(err, ErrPeer) {
		t.Errorf("Expect = %v", err)
	}
}

func TestALimitBoundsTheWait(t *testing.T) {
	_, b := ends(t)
	if err := b.Limit(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Receive(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("Receive = %v, want EAGAIN", err)
	}
}

func TestAnOrphanIsFoundByItsFolderOnlyWhileItListens(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(dir); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Dial before = %v, want ENOENT", err)
	}
	if err := os.WriteFile(filepath.Join(dir, socketName), nil, 0o600); err != nil {
		t.Fatal(err) // what a dead one left is replaced
	}
	l, err := Bind(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Dial(dir); err == nil {
		t.Fatalf("connected to %v before it listens", c)
	}
	if err := Listen(l); err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(l); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("Accept of nobody = %v, want EAGAIN", err)
	}
	a, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Accept(l)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := a.PeerPID(); err != nil || pid != os.Getpid() {
		t.Errorf("the other end is process %d, %v", pid, err)
	}
	if err := a.Send(Adopt, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Expect(Adopt, nil); err != nil {
		t.Error(err)
	}
	a.Close()
	b.Close()
	unix.Close(l)
	if _, err := Dial(dir); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("Dial after = %v, want ECONNREFUSED", err)
	}
}

// FuzzReceive checks that no packet makes Receive panic, hang or leak a descriptor.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{byte(Keep), 0, '{', '}'}, []byte{})
	f.Add([]byte{byte(Running), 1, '1'}, []byte{byte(Running), 0, '2'})
	f.Add([]byte{0, 0}, []byte{255, 255})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		a, b := ends(t)
		defer b.Close()
		for _, p := range [][]byte{first, second} {
			if len(p) > 0 && len(p) < pieceBytes {
				if err := unix.Sendmsg(a.fd, p, nil, nil, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		a.Close()
		for {
			m, err := b.Receive()
			if err != nil {
				return
			}
			var body RunningBody
			_ = m.Decode(&body)
			m.Close()
		}
	})
}
