package run

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/testdata"
)

// A trial is a running appliance to which a capture is sent.
type trial struct {
	workers int
	config  string
	capture string // DEEP10 if empty
	prepare func(a *appliance)
}

// undisturbed sends the capture while disturb does its worst, and checks that nothing of
// it shows: all frames received, the ledgers balanced, the rows those of replay. It tries
// again if the rings were too small for this machine.
func (tr trial) undisturbed(t *testing.T, disturb func(a *appliance)) {
	t.Helper()
	netns.Need(t)
	capture := tr.capture
	if capture == "" {
		capture = testdata.Path(t, "iex", "DEEP10.pcap.gz")
	}
	p := netns.NewPair(t, netns.Options{})
	want := replayed(t, p.B, tr.config, capture)
	withoutLoss(t, func() uint64 {
		a := newAppliance(t, p.B, tr.config, patient, "--workers", fmt.Sprint(tr.workers))
		if tr.prepare != nil {
			tr.prepare(a)
		}
		a.start()
		sent := make(chan send.Summary, 1)
		go func() { sent <- sendCapture(t, p.A, "--pps", cmp.Or(a.pps, "20000"), capture) }()
		time.Sleep(200 * time.Millisecond)
		disturb(a)
		s := <-sent
		l := xdpLine(t, a.settle(s.Sent))
		if code := a.stop(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		a.balanced()
		if l.Applied != s.Sent {
			return s.Sent - l.Applied
		}
		got := slices.DeleteFunc(a.rows(), func(row string) bool { return strings.Contains(row, `"query":"prices"`) })
		if !slices.Equal(got, want) {
			t.Errorf("%d rows, replay has %d", len(got), len(want))
		}
		return 0
	})
}

func TestRootKilledDataPlanesGoOnWhereTheyWere(t *testing.T) {
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			trial{workers: workers, config: deepConfig}.undisturbed(t, func(a *appliance) {
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

// long says that tests are to take their time.
var long = os.Getenv("HEADRACE_LONG") != ""

// asks runs a command of headrace against the appliance.
func (a *appliance) asks(args ...string) string {
	a.t.Helper()
	return headrace(a.t, a.end, append(args, "--name", a.name)...)
}

// moreDeep is deepConfig with room for more workers.
const moreDeep = deepConfig + "workers_max: 4\n"

func TestRootWorkersComeAndGoUnderLoad(t *testing.T) {
	trial{workers: 1, config: moreDeep}.undisturbed(t, func(a *appliance) {
		for _, n := range []string{"3", "2", "4", "1", "2"} {
			t.Log(a.asks("workers", n))
			time.Sleep(200 * time.Millisecond)
		}
	})
}

func TestRootAnUpgradeIsNotNoticed(t *testing.T) {
	trial{workers: 2, config: deepConfig}.undisturbed(t, func(a *appliance) {
		for range 3 {
			t.Log(a.asks("upgrade", "--anyway"))
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestRootAnotherConfigTakesNoFrame(t *testing.T) {
	changes := 10
	tr := trial{workers: 2, config: deepConfig}
	query := fmt.Sprintf(pricesQuery, "rows")
	if long { // packets have to come for as long as configs do
		changes = 100
		tr.config, tr.capture = carsConfig, cars(t, 600_000, 20_000)
		query = strings.NewReplacer("from: deep", "from: cars", `    where: message == "trade"`+"\n", "",
			"[symbol]", "[event_type]", "max(price)", "max(fare)").Replace(query)
	}
	tr.undisturbed(t, func(a *appliance) {
		more := a.changed(query, "")
		before := time.Now()
		for i := range changes {
			out := a.asks("apply", []string{more, a.config}[i%2], "-o", "json")
			if i < 2 {
				t.Log(out)
			}
		}
		t.Logf("%d changes within %v", changes, time.Since(before))
	})
}

func TestRootKilledAtAnyStatement(t *testing.T) {
	built, err := built.Headrace("faults")
	if err != nil {
		t.Fatal(err)
	}
	wanted := 10
	if long {
		wanted = 250
	}
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			for kills := 0; kills < wanted; {
				// Another number each time, so that other statements are the last ones.
				every := fmt.Sprintf("HEADRACE_KILL_AFTER=%d", 20000+7919*kills%30011)
				before := kills
				// Slowly: it is dead for a good part of the time.
				slow := func(a *appliance) { a.binary, a.env, a.pps = built, []string{every}, "8000" }
				trial{workers: workers, config: deepConfig, prepare: slow}.undisturbed(t, func(a *appliance) {
					time.Sleep(5 * time.Second)
					kills += strings.Count(a.log.String(), "goes on where it was")
				})
				if t.Failed() || kills == before {
					t.Fatalf("%d kills with %s", kills-before, every)
				}
			}
		})
	}
}

func TestRootKeyGroupsMoveUnderLoad(t *testing.T) {
	trial{workers: 3, config: deepConfig}.undisturbed(t, func(a *appliance) {
		for i := range 5 { // each time 200 groups, wherever they are
			out := a.asks("rebalance", "--groups", fmt.Sprintf("%d-%d", 200*i, 200*i+199), "--to", fmt.Sprint((i+1)%3))
			if !strings.Contains(out, "key groups have another worker") {
				t.Errorf("said %q", out)
			}
			a.asks("rebalance", "--groups", "0-1023", "--to", fmt.Sprint(i%3))
			time.Sleep(100 * time.Millisecond)
		}
	})
}
