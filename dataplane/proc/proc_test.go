package proc

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/internal/netns"
)

func TestTheClockIsThatOfTheFramesStamps(t *testing.T) {
	clock := monotonic()
	for range 100 {
		var before, after unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
		now := clock()
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
		// It was set by comparison, so it may be off by what that takes.
		const off = event.Nanos(100 * time.Microsecond)
		if now < event.Nanos(before.Nano())-off || now > event.Nanos(after.Nano())+off {
			t.Fatalf("the clock says %d, between %d and %d", now, before.Nano(), after.Nano())
		}
	}
	if n := testing.AllocsPerRun(100, func() { clock() }); n != 0 {
		t.Errorf("reading the clock allocates %v times", n)
	}
}

func TestAThreadWithAPrivilegeLeftIsFound(t *testing.T) {
	const none = "Name:\theadrace\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n" +
		"CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n"
	for _, c := range []struct{ name, old, changed, want string }{
		{"none has any", "", "", ""},
		{"one is effective", "CapEff:\t0000000000000000", "CapEff:\t0000000000002000", "CapEff"},
		{"one is permitted", "CapPrm:\t0000000000000000", "CapPrm:\t0000000000002000", "CapPrm"},
		{"one could be inherited", "CapAmb:\t0000000000000000", "CapAmb:\t0000000000002000", "CapAmb"},
		{"a program could give new ones", "NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for thread, text := range map[string]string{"11": none, "12": strings.Replace(none, c.old, c.changed, 1)} {
				if err := os.Mkdir(filepath.Join(dir, thread), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, thread, "status"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := checkPrivileges(dir)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), "thread 12") || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("checkPrivileges = %v, want %q", err, c.want)
			}
		})
	}
}

// The collector is off in the data plane, so nothing that goes on for ever may
// allocate: here, the look at the sockets and the interface.
func TestRootLookingAfterTheSocketsAllocatesNothing(t *testing.T) {
	netns.Need(t)
	pair := netns.NewPair(t, netns.Options{Queues: 2})
	sizes, err := xsk.Fit(xsk.Wish{Workers: 2, RxRing: 64, TxRing: 64, FillReserve: 64})
	if err != nil {
		t.Fatal(err)
	}
	l := xsk.Layout{Interfaces: []xsk.Interface{{Name: pair.B.Interface, Index: pair.B.Index, Queues: 2}}, Workers: 2, Sizes: sizes}
	var mesh *xsk.Mesh
	pair.B.Do(t, func() { mesh, err = xsk.OpenMesh(l) })
	if err != nil {
		t.Fatal(err)
	}
	defer mesh.Close()
	p := &process{
		plan:  &plan.Plan{Workers: 2, WorkersMax: 2, OutboxBytes: 4096, Interfaces: []plan.Interface{{Name: pair.B.Interface}}},
		start: handover.StartBody{Layout: l}, owners: mesh.Owners, ports: mesh.Ports, lost: make([]atomic.Uint64, 2), clock: monotonic(),
	}
	if p.segment, err = segment.Create(p.plan); err != nil {
		t.Fatal(err)
	}
	defer p.segment.Close()
	p.init(p)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	p.conn = handover.New(fds[0])
	defer p.conn.Close()
	p.every = 0
	p.running.Store(2)
	if n := testing.AllocsPerRun(200, func() {
		p.checked = 0
		if ready, err := p.wait(); ready || err != nil {
			t.Fatal(ready, err)
		}
		p.look()
		if done, err := p.finished(); done || err != nil {
			t.Fatal(done, err)
		}
	}); n != 0 {
		t.Errorf("a round of looking allocates %v times", n)
	}
	for q := range 2 {
		for w := range 2 {
			if p.segment.Socket(0, q, w).Bound.Load() != 1 {
				t.Errorf("queue %d, worker %d: the socket is not in the segment", q, w)
			}
		}
	}
	// Now the interface goes, and control is told.
	pair.Delete(t)
	p.checked = 0
	p.look()
	other := handover.New(fds[1])
	if err := other.Limit(time.Second); err != nil {
		t.Fatal(err)
	}
	var lost handover.LostBody
	if _, err := other.Expect(handover.Lost, &lost); err != nil || lost.Interface != pair.B.Interface {
		t.Errorf("told of %+v, %v", lost, err)
	}
}
