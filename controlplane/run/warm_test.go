package run

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/testdata"
)

// undisturbed sends a capture to a running appliance while disturb does its worst, and
// checks that nothing of it shows: all frames received, the ledgers balanced, the rows
// those of replay. It tries again if the rings were too small for this machine.
func undisturbed(t *testing.T, workers int, config string, disturb func(a *appliance)) {
	t.Helper()
	undisturbedAs(t, workers, config, func(*appliance) {}, disturb)
}

// undisturbedAs is undisturbed with a say in how it is started.
func undisturbedAs(t *testing.T, workers int, config string, prepare, disturb func(a *appliance)) {
	t.Helper()
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	want := replayed(t, p.B, config, capture)
	withoutLoss(t, func() uint64 {
		a := newAppliance(t, p.B, config, patient, "--workers", fmt.Sprint(workers))
		prepare(a)
		a.start()
		sent := make(chan send.Summary, 1)
		go func() { sent <- sendCapture(t, p.A, "--pps", "20000", capture) }()
		time.Sleep(200 * time.Millisecond)
		disturb(a)
		s := <-sent
		l := xdpLine(t, a.settle(s.Sent))
		if code := a.stop(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if strings.Contains(a.log.String(), "do not balance") {
			t.Errorf("the ledger does not balance:\n%s", a.log)
		}
		if l.Applied != s.Sent {
			return s.Sent - l.Applied
		}
		if got := a.rows(); !slices.Equal(got, want) {
			t.Errorf("%d rows, replay has %d", len(got), len(want))
		}
		return 0
	})
}

func TestRootKilledDataPlanesGoOnWhereTheyWere(t *testing.T) {
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			undisturbed(t, workers, deepConfig, func(a *appliance) {
				for i := range 20 {
					if err := syscall.Kill(a.dataPID(), syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
					a.awaitCount("goes on where it was", i+1)
					time.Sleep(time.Duration(20+i*17%100) * time.Millisecond)
				}
			})
		})
	}
}

// asks runs a command of headrace against the appliance.
func (a *appliance) asks(args ...string) string {
	a.t.Helper()
	return string(headrace(a.t, a.end, append(args, "--name", a.name)...))
}

// starDeep is deepConfig with another window as a second query.
const moreDeep = deepConfig + "workers_max: 4\n"

func TestRootWorkersComeAndGoUnderLoad(t *testing.T) {
	undisturbed(t, 1, moreDeep, func(a *appliance) {
		for _, n := range []string{"3", "2", "4", "1", "2"} {
			t.Log(a.asks("workers", n))
			time.Sleep(200 * time.Millisecond)
		}
	})
}

func TestRootAnUpgradeIsNotNoticed(t *testing.T) {
	undisturbed(t, 2, deepConfig, func(a *appliance) {
		for range 3 {
			t.Log(a.asks("upgrade", "--anyway"))
			time.Sleep(100 * time.Millisecond)
		}
	})
}
