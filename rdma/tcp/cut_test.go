package tcp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// two returns two meshes of one epoch, and the port that the lower listens at.
func two(t *testing.T, within time.Duration) (meshes [2]rdma.Mesh, port uint16) {
	t.Helper()
	var trs [2]*Transport
	var offers [2][][]byte
	for p := range trs {
		var err error
		if trs[p], err = New(Config{Listen: netip.MustParseAddr("127.0.0.1")}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = trs[p].Close() })
		if offers[p], err = trs[p].Prepare(7, 0b11); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	var errs [2]error
	for p := range trs {
		bell, err := rdma.NewBell()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = bell.Close() })
		c := rdma.MeshConfig{Epoch: 7, Me: p, Members: 0b11, Patience: within, Bell: bell, Codec: newCodec(t, p)}
		c.Offers = [][]byte{offers[0][p], offers[1][p]}
		wg.Go(func() { meshes[p], errs[p] = trs[p].Open(c) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = meshes[0].Close(), meshes[1].Close() })
	return meshes, trs[0].Addr().Port()
}

// A peer that is there but does not read is not a failure, however long it takes: its
// kernel answers.
func TestAPeerThatDoesNotReadIsNotAFailure(t *testing.T) {
	const within = 200 * time.Millisecond
	meshes, _ := two(t, within)
	var events [4]rdma.Event
	payload := make([]byte, rdma.FrameMax)
	sent := 0
	for end := time.Now().Add(6 * within); time.Now().Before(end); {
		if meshes[0].Send(collective.Of(1), &frame.Header{Kind: frame.Dense}, payload) != 0 {
			sent++
			continue
		}
		if n := meshes[0].Poll(events[:]); n != 0 {
			t.Fatalf("after %d frames: %v", sent, events[0].Err)
		}
		meshes[0].Park(10 * time.Millisecond)
	}
	for got := 0; got < sent; {
		n := meshes[1].Poll(events[:])
		for _, ev := range events[:n] {
			if ev.Err != nil {
				t.Fatalf("frame %d of %d: %v", got, sent, ev.Err)
			}
			got++
		}
		if n == 0 {
			meshes[0].Poll(nil)
			meshes[1].Park(time.Millisecond)
		}
	}
}

const cutEnv = "HEADRACE_TEST_TCP_CUT"

// A cut that nobody tells of is found out by both ends, though it is of one direction.
func TestASilentCutIsAFailureInTime(t *testing.T) {
	if os.Getenv(cutEnv) != "" {
		silentCut(t)
		return
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft, to drop packets")
	}
	ns := netns.New(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestASilentCutIsAFailureInTime$", "-test.v")
	cmd.Env = append(os.Environ(), cutEnv+"="+nft)
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	ns.Start(t, cmd)
	err = cmd.Wait()
	text, _ := os.ReadFile(out.Name())
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	t.Logf("%s", text)
}

func silentCut(t *testing.T) {
	t.Helper()
	const within = 500 * time.Millisecond
	meshes, port := two(t, within)
	h := frame.Header{Kind: frame.Dense}
	var events [4]rdma.Event
	for from := range meshes {
		meshes[from].Send(collective.Of(1-from), &h, []byte("x"))
		for n := 0; n == 0; n = meshes[1-from].Poll(events[:]) {
			meshes[1-from].Park(time.Second)
		}
	}
	rules := fmt.Sprintf("table inet cut { chain in { type filter hook input priority 0; tcp dport %d drop; }; }", port)
	if out, err := exec.CommandContext(t.Context(), os.Getenv(cutEnv), rules).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	start := time.Now()
	for from := range meshes {
		meshes[from].Send(collective.Of(1-from), &h, []byte("into the void"))
	}
	for failed := [2]bool{}; failed != [2]bool{true, true}; {
		for me := range meshes {
			for _, ev := range events[:meshes[me].Poll(events[:])] {
				if ev.Err != nil && !errors.Is(ev.Err, ErrSilent) {
					t.Errorf("peer %d: %v, want %v", me, ev.Err, ErrSilent)
				}
				if ev.Err != nil {
					failed[me] = true
					t.Logf("peer %d: after %v: %v", me, time.Since(start), ev.Err)
				}
			}
			meshes[me].Park(10 * time.Millisecond)
		}
		if time.Since(start) > 20*within {
			t.Fatalf("after %v: failed %v", time.Since(start), failed)
		}
	}
}
