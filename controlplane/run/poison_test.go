package run

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/internal/netns"
)

// frameOf returns the number'th frame of a capture, from 0, and the end of its payload,
// which no other one has.
func frameOf(t *testing.T, path string, number int) (frame, end []byte) {
	t.Helper()
	r, err := capture.Open([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all [][]byte
	for {
		var x capture.Record
		err := r.Next(&x)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, bytes.Clone(x.Data))
	}
	frame = all[number]
	end = frame[42:] // behind the headers of Ethernet, IPv4 and UDP
	n := 0
	for _, other := range all {
		if bytes.Contains(other, end) {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d frames carry %q", n, end)
	}
	return frame, end
}

// feedLine returns the ledger's line of a feed's frames.
func feedLine(t *testing.T, r *status.Report) status.Line {
	t.Helper()
	for _, l := range r.Ledger {
		if l.Layer == "frames" {
			return l
		}
	}
	t.Fatal("no line frames in the ledger")
	return status.Line{}
}

// A frame that a worker fails at costs one process and itself: the next process leaves it
// out, says so, and everything else is as if it had not been there.
func TestRootAFrameThatAWorkerFailsAtIsLeftOut(t *testing.T) {
	netns.Need(t)
	for _, c := range []struct {
		name, how, idle, failure string
		workers                  int
	}{
		{"a panic", "panic", "adaptive", "a packet that a test has poisoned", 2},
		{"an access to memory that is not there", "wild", "adaptive", "invalid memory address", 1},
		{"a panic of a worker that spins", "panic", "spin", "a panic in fault.Poison", 1},
		{"a wild access of a worker that spins", "wild", "spin", "a fault of memory in fault.Poison", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := netns.NewPair(t, netns.Options{})
			capture := cars(t, 10000, 2000)
			want := replayed(t, p.B, carsConfig, capture)
			frame, end := frameOf(t, capture, 5000)
			withoutLoss(t, func() uint64 {
				a := newAppliance(t, p.B, carsConfig, patient+", idle: "+c.idle, "--workers", fmt.Sprint(c.workers))
				a.tags = "faults"
				a.env = []string{"HEADRACE_POISON=" + c.how + ":" + hex.EncodeToString(end)}
				a.start()
				s := sendCapture(t, p.A, "--pps", "5000", capture)
				r := a.settle(s.Sent)
				l, f := xdpLine(t, r), feedLine(t, r)
				if code := a.stop(); code != 0 {
					t.Fatalf("exit code %d", code)
				}
				if l.Applied != s.Sent {
					return s.Sent - l.Applied
				}
				if f.Received != s.Sent || f.Applied != s.Sent-1 || f.Difference != 0 || len(f.Dropped) != 1 || f.Dropped[0] != (status.Count{Name: "poison", Count: 1}) {
					t.Errorf("ledger %+v", f)
				}
				a.balanced()
				k := r.Snapshot.Continuity
				if n := strings.Count(a.log.String(), "goes on where it was"); n != 1 || k.Takeovers != 1 || k.Poison != 1 {
					t.Errorf("%d processes went on, %+v", n, k)
				}
				inFile(t, k.PoisonFile, frame, "of feed \"cars\"", "stage decode", c.failure)
				almost(t, a.rows(), want)
				return 0
			})
		})
	}
}

// inFile checks that a file holds one frame and says of it certain things.
func inFile(t *testing.T, path string, frame []byte, comments ...string) {
	t.Helper()
	r, err := capture.Open([]string{path}, nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Close()
	var x capture.Record
	if err := r.Next(&x); err != nil {
		t.Error(err)
	} else if !bytes.Equal(x.Data, frame) {
		t.Errorf("the file has %x, want %x", x.Data, frame)
	} else if age := time.Since(time.Unix(0, int64(x.Stamp))); age < 0 || age > time.Minute {
		t.Errorf("the frame came %v ago", age)
	}
	if err := r.Next(&x); !errors.Is(err, io.EOF) {
		t.Errorf("behind the frame there is something: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range comments {
		if !bytes.Contains(b, []byte(c)) {
			t.Errorf("nothing in the file says %q: %q", c, b)
		}
	}
}

// almost checks that rows are those wanted, but for some that say that they are not
// complete, and one of these that counts one event less.
func almost(t *testing.T, rows, want []string) {
	t.Helper()
	marked, missing := 0, 0
	for _, row := range rows {
		row = strings.Replace(row, `"firing":"flush"`, `"firing":"on_time"`, 1)
		whole := strings.Replace(row, `"complete":false`, `"complete":null`, 1)
		there := false
		for _, w := range want {
			there = there || strings.Replace(w, `"firing":"flush"`, `"firing":"on_time"`, 1) == whole
		}
		switch {
		case whole != row && !there:
			missing++
			fallthrough
		case whole != row:
			marked++
		case !there:
			t.Errorf("a row that replay has not: %s", row)
		}
	}
	if len(rows) != len(want) || missing != 1 || marked > 3*50 {
		t.Errorf("%d rows, want %d; %d are marked, of which %d lack something", len(rows), len(want), marked, missing)
	}
}

// Three such frames within a minute, and no process is started any more: packets are the
// network stack's, and the state can be looked at until somebody ends the run.
func TestRootADataPlaneThatFailsThreeTimesStaysDown(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	capture := cars(t, 2000, 2000)
	_, end := frameOf(t, capture, 1000)
	a := newAppliance(t, p.B, carsConfig, patient, "--workers", "1")
	a.tags = "faults"
	a.env = []string{"HEADRACE_POISON=panic:" + hex.EncodeToString(end)}
	a.start()
	got := listenFor(t, p.B, "239.1.1.1:9000")
	for i := range 2 {
		sendCapture(t, p.A, "--pps", "5000", capture)
		a.awaitCount("goes on where it was", i+1)
	}
	if n := got(); n != 0 {
		t.Errorf("%d packets went to the network stack", n)
	}
	sendCapture(t, p.A, "--pps", "5000", capture)
	a.await("is not started again")
	time.Sleep(300 * time.Millisecond)
	passed := got()
	s := sendCapture(t, p.A, "--pps", "2000", capture)
	time.Sleep(300 * time.Millisecond)
	if n := got() - passed; n != int(s.Sent) {
		t.Errorf("%d of %d packets went to the network stack", n, s.Sent)
	}
	out := headrace(t, p.B, "status", "--name", a.name)
	if !strings.Contains(out, "the data plane is down") || !strings.Contains(out, "a packet that a test has poisoned") || !strings.Contains(out, ".pcapng") {
		t.Errorf("status does not say what happened:\n%s", out)
	}
	if code := a.stop(); code == 0 {
		t.Error("exit code 0 of a run that failed")
	}
}

// listenFor receives what is sent to a group, and returns how to ask how many packets that
// were.
func listenFor(t *testing.T, end *netns.End, address string) func() int {
	t.Helper()
	var c *net.UDPConn
	end.Do(t, func() {
		to, err := net.ResolveUDPAddr("udp4", address)
		if err != nil {
			t.Fatal(err)
		}
		nic, err := net.InterfaceByName(end.Interface)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = net.ListenMulticastUDP("udp4", nic, to); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { c.Close() })
	_ = c.SetReadBuffer(8 << 20)
	n, b := 0, make([]byte, 2048)
	return func() int {
		for {
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := c.Read(b); err != nil {
				return n
			}
			n++
		}
	}
}

func TestRootASystemCallThatTheDataPlaneMayNotMakeIsDeniedAndTold(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, carsConfig, patient, "--workers", "1")
	a.tags = "faults"
	a.env = []string{"HEADRACE_FORBIDDEN=/etc/passwd"}
	a.start()
	a.await("tried to open /etc/passwd: open /etc/passwd: operation not permitted")
	a.await("call=openat")
	sendSome(t, p, a, 1000)
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}
