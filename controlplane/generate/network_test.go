package generate

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/netns"
)

const multicastMAC = "\x01\x00\x5e"

// tap opens a socket that sees every IPv4 frame that arrives at e.
func tap(t *testing.T, e *netns.End) int {
	t.Helper()
	const ipv4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8
	var fd int
	var err error
	e.Do(t, func() {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ipv4); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: e.Index, Protocol: ipv4})
		}
	})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20)
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// arrived reads what tap saw, until nothing more comes.
func arrived(fd int) [][]byte {
	var out [][]byte
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return out
		}
		if bytes.HasPrefix(buf, []byte(multicastMAC)) {
			out = append(out, slices.Clone(buf[:n]))
		}
	}
}

func TestTheStreamArrivesInRealTime(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	fd := tap(t, p.B)
	c := Config{Kind: ITCH, Count: 20_000, Rate: 40_000, Lines: 2, Loss: 0.01, Reorder: 4, Duplicate: 0.01}
	var r Report
	var err error
	<-p.A.Go(func() { r, err = Run(t.Context(), c, Output{Interface: p.A.Interface}) })
	if err != nil || r.Sending.Sent != r.Frames || r.Sending.Refused != 0 || r.Seconds < 0.499 || r.Seconds > 3 {
		t.Fatalf("%+v, %v; want all frames sent in half a second", r, err)
	}
	s := source(t, c)
	for i, got := range arrived(fd) {
		if want, _, ok := s.Next(); !ok || !bytes.Equal(got, want) {
			t.Fatalf("frame %d is not that of the source", i)
		}
	}
	if _, _, ok := s.Next(); ok {
		t.Error("frames are missing at the end")
	}
}

func TestAStopEndsTheSessions(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	fd := tap(t, p.B)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var r Report
	var err error
	<-p.A.Go(func() { r, err = Run(ctx, Config{Kind: ITCH, Channels: 2}, Output{Interface: p.A.Interface}) })
	if err != nil || r.Sending.Sent != r.Frames || r.Seconds > 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	all := arrived(fd)
	if len(all) != int(r.Frames) {
		t.Fatalf("%d frames arrived, want %d", len(all), r.Frames)
	}
	total := uint64(0)
	for _, f := range all[len(all)-2:] {
		_, seq, count, _ := mold(t, f[42:62])
		if total += seq - 1; count != moldEndOfSession {
			t.Errorf("one of the last two packets has count %d, want an end of session", count)
		}
	}
	if total != r.Messages {
		t.Errorf("the ends of session tell of %d messages, want %d", total, r.Messages)
	}
	<-p.A.Go(func() { _, err = Run(t.Context(), Config{Kind: JSON}, Output{Interface: "no-such-if"}) })
	if !errors.Is(err, send.ErrGone) {
		t.Errorf("got %v, want %v", err, send.ErrGone)
	}
}
