package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/testdata"
)

// killInHold has a control ask for a hold that does not come about, and kills it in it.
func (a *appliance) killInHold() {
	a.t.Helper()
	data := a.dataPID()
	if err := syscall.Kill(data, syscall.SIGSTOP); err != nil {
		a.t.Fatal(err)
	}
	path, err := binary()
	if err != nil {
		a.t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = a.end.Output(a.t, path, "rebalance", "--groups", "0-511", "--to", "1", "--name", a.name)
	}()
	time.Sleep(time.Second)
	_ = a.cmd.Process.Kill()
	a.exit()
	<-asked
	if err := syscall.Kill(data, syscall.SIGCONT); err != nil {
		a.t.Fatal(err)
	}
}

// A control that is killed while workers are held leaves no data plane that stands still,
// and the next control does not take the hold for a stop.
func TestRootAHoldEndsWithItsControl(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	for _, first := range []string{"the orphan goes on", "the next control"} {
		t.Run(first, func(t *testing.T) {
			a := newAppliance(t, p.B, deepConfig, patient, "--workers", "2")
			a.start()
			a.killInHold()
			var s send.Summary
			if first == "the orphan goes on" {
				time.Sleep(200 * time.Millisecond)
				s = sendCapture(t, p.A, "--pps", "20000", capture)
			}
			a.launch()
			a.awaitCount("receiving", 2)
			if s.Sent == 0 {
				s = sendCapture(t, p.A, "--pps", "20000", capture)
			}
			l := xdpLine(t, a.settle(s.Sent))
			// A machine whose cores are taken by others has rings that overflow: that is counted.
			if l.Received != s.Sent || l.Difference != 0 || l.Applied < s.Sent/4 {
				t.Errorf("sent %d, ledger %+v", s.Sent, l)
			}
			if code := a.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			a.balanced()
		})
	}
}

// After a change a control that is started again takes the data plane over: with the
// config that is in force, with the one from before, and after workers came.
func TestRootAControlComesBackAfterAChange(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	for _, c := range []string{"new config", "old config", "feed renamed", "workers"} {
		t.Run(c, func(t *testing.T) {
			a := newAppliance(t, p.B, moreDeep, patient, "--workers", "2")
			a.start()
			more := a.changed(fmt.Sprintf(pricesQuery, "rows"), "")
			switch c {
			case "workers":
				t.Log(a.asks("workers", "3"))
			case "feed renamed": // so that numbers are others than those of a fresh plan
				text, err := os.ReadFile(more)
				if err != nil {
					t.Fatal(err)
				}
				again := strings.ReplaceAll(strings.ReplaceAll(string(text), "  deep:", "  deeper:"), "from: deep", "from: deeper")
				if err := os.WriteFile(more, []byte(again), 0o600); err != nil {
					t.Fatal(err)
				}
				fallthrough
			default:
				t.Log(a.asks("apply", more))
			}
			_ = a.cmd.Process.Kill()
			a.exit()
			if c == "new config" || c == "feed renamed" {
				a.config = more
			}
			a.launch()
			a.await("took over the running data plane")
			a.awaitCount("receiving", 2)
			if code := a.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// withABadSink sends a capture to an appliance that writes rows to a file in folder, while
// applies is given a config that cannot be put in force: a sink of it cannot be opened.
// Nothing may be missing then.
func withABadSink(t *testing.T, folder string, applies func(a *appliance, apply func())) {
	t.Helper()
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, patient, "--workers", "2", "--out", "")
	a.writesTo(filepath.Join(folder, "rows.jsonl"))
	a.start()
	more := a.changed(fmt.Sprintf(pricesQuery, "bad"), "  bad: {jsonl: {path: /dev/null/rows.jsonl}}\n")
	want := replayed(t, p.B, deepConfig, capture)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan send.Summary, 1)
	go func() { sent <- sendCapture(t, p.A, "--pps", "15000", capture) }()
	time.Sleep(300 * time.Millisecond)
	applies(a, func() {
		out, err := a.end.Output(t, path, "apply", more, "--name", a.name)
		t.Logf("%v: %s", err, out)
		if err == nil {
			t.Error("it was applied")
		}
	})
	s := <-sent
	l := xdpLine(t, a.settle(s.Sent))
	if l.Applied != s.Sent {
		t.Errorf("sent %d, ledger %+v", s.Sent, l)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	a.balanced()
	if strings.Contains(a.log.String(), "state was lost") {
		t.Errorf("state was lost:\n%s", a.log)
	}
	if got := a.rows(); l.Applied == s.Sent && !slices.Equal(got, want) {
		t.Errorf("%d rows, replay has %d", len(got), len(want))
	}
}

// A config whose sink cannot be opened is refused, and what runs goes on where it was.
func TestRootASinkThatCannotBeOpenedCostsNothing(t *testing.T) {
	withABadSink(t, t.TempDir(), func(_ *appliance, apply func()) {
		for range 3 {
			apply()
		}
	})
}

// Sinks that can be opened no more, those of before included, keep rows waiting until they
// can.
func TestRootRowsWaitForSinks(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "rows")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	withABadSink(t, folder, func(a *appliance, apply func()) {
		if err := errors.Join(os.Rename(folder, folder+".away"), os.WriteFile(folder, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		apply()
		a.await("no sink takes rows")
		time.Sleep(1500 * time.Millisecond)
		if err := errors.Join(os.Remove(folder), os.Rename(folder+".away", folder)); err != nil {
			t.Fatal(err)
		}
		a.await("rows flow again")
	})
}

// A control that is killed anywhere in a handover leaves what the next one goes on with.
func TestRootAControlKilledInAHandover(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, moreDeep, patient, "--workers", "2")
	a.start()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan send.Summary, 1)
	go func() { sent <- sendCapture(t, p.A, "--pps", "5000", capture) }()
	kills := 6
	if long {
		kills = 60
	}
	for i := range kills {
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			_, _ = a.end.Output(t, path, "workers", []string{"3", "2"}[i%2], "--name", a.name)
		}()
		time.Sleep(time.Duration(100+i*67%400) * time.Millisecond)
		_ = a.cmd.Process.Kill()
		a.exit()
		<-asked
		a.launch()
		a.awaitCount("took over the running data plane", i+1)
		a.awaitCount("msg=receiving", i+2)
	}
	s := <-sent
	l := xdpLine(t, a.settle(s.Sent))
	t.Logf("sent %d, ledger %+v", s.Sent, l)
	if l.Difference != 0 {
		t.Errorf("sent %d, ledger %+v", s.Sent, l)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if id := twice(t, a.rows()); id != "" {
		t.Errorf("row %s is there twice", id)
	}
}
