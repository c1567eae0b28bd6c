package receive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/generate"
	"github.com/headrace/headrace/controlplane/group"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/wire/formats"
	"github.com/headrace/headrace/rdma/deliver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is written by one goroutine and read by another.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// call runs a command of the binary.
func call(ctx context.Context, c *cobra.Command, out, errs *output, args ...string) error {
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(errs)
	return c.ExecuteContext(ctx)
}

func keys(t *testing.T, id string) (dir, pin string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), id)
	d, err := group.Init(dir, id, "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	if pin, err = d.Pin(); err != nil {
		t.Fatal(err)
	}
	return dir, pin
}

// started runs `headrace receive` until stop is called, which returns how it ended.
func started(t *testing.T, out, errs *output, args ...string) (address string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- call(ctx, Command(), out, errs, append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	}()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	for range 1000 {
		if _, rest, ok := strings.Cut(errs.String(), "msg=receiving listen="); ok {
			address, _, _ = strings.Cut(rest, " ")
			return address, stop
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("it does not listen: %v\n%s", stop(), errs)
	return "", nil
}

const text = `feeds:
  cars:
    match: {protocol: udp, destination: 239.1.1.1, port: 9000}
    format: {raw: {order: little}}
    columns:
      driver_id: {type: int64, offset: 0}
      fare: {type: decimal(2), offset: 8}
      at: {type: int64, offset: 16}
      event_type: {type: text, offset: 32, width: 8}
    time: {column: at, unit: ns}
queries:
  drivers:
    from: cars
    key: [driver_id]
    window: {tumbling: 1s}
    select: {reports: count(), fares: sum(fare), mean: mean(fare)}
    sinks: [far]
sinks:
  far: {rdma-write: {address: "%s", pin: "%s", dir: %s, transport: tcp, seal: %v}}
`

// The rows of a replay into a ring on another box are those of its file, and one who
// reads the ring afterwards, in another process's place, finds the rest.
func TestTheRowsOfAReplayArriveAsTheyAreInItsFile(t *testing.T) {
	work := t.TempDir()
	capture, rows := filepath.Join(work, "cars.pcap"), filepath.Join(work, "rows.jsonl")
	o := compile.Options{Formats: formats.Lookup}
	var out, errs output
	if err := call(t.Context(), generate.Command(), &out, &errs, "raw", "--out", capture, "--count", "20000", "--rate", "1000"); err != nil {
		t.Fatal(err)
	}
	consumer, consumerPin := keys(t, "reader")
	producer, producerPin := keys(t, "box")
	for _, seal := range []bool{false, true} {
		var printed, log output
		ring := filepath.Join(work, fmt.Sprint("ring", seal))
		address, stop := started(t, &printed, &log, "--dir", consumer, "--pin", producerPin, "--ring", ring, "--size", "64KiB", "--print", fmt.Sprintf("--seal=%v", seal))
		file := filepath.Join(work, "config.yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, text, address, consumerPin, producer, seal), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := call(t.Context(), replay.Command(o), &out, &errs, "-c", file, "--workers", "2", "--out", rows, capture); err != nil {
			t.Fatal(err, errs.String())
		}
		want, err := os.ReadFile(rows)
		if err != nil || len(want) < 128<<10 {
			t.Fatalf("%v: %d bytes of rows do not fill the ring", err, len(want))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := call(ctx, replay.Command(o), &out, &errs, "-c", file, "--workers", "2", "--sinks", capture); err != nil {
			t.Fatal(err, errs.String())
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := printed.String(); got != string(want) {
			t.Errorf("sealed %v: %d bytes, want %d", seal, len(got), len(want))
		}
		if !strings.Contains(log.String(), "unread_bytes=0") {
			t.Errorf("%s", &log)
		}
	}
}

func TestWhatReceiveCannotDoIsSaid(t *testing.T) {
	dir, pin := keys(t, "reader")
	work := t.TempDir()
	log := filepath.Join(work, "log")
	if err := os.WriteFile(log, []byte(strings.Repeat(`{"query":"bars"}`, 99)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  []string
		want  string
		usage bool
	}{
		{[]string{}, "no address", true},
		{[]string{"--listen", "9300"}, "is not HOST:PORT", true},
		{[]string{"--listen", ":9300", "--size", "100MiB"}, "a power of two", true},
		{[]string{"--listen", ":9300", "--size", "many"}, `"many" is not a size`, true},
		{[]string{"--listen", ":9300", "--transport", "roce"}, "auto, tcp or verbs", true},
		{[]string{"--listen", ":9300", "--pin", "sha256:abc"}, "--pin: ", true},
		{[]string{"--listen", ":9300", "--dir", work}, "headrace group init", false},
		{[]string{"--listen", ":9300", "--dir", dir}, "say with --pin who may send", false},
		{[]string{"--listen", ":0", "--dir", dir, "--pin", pin, "--ring", log}, `not a ring of rows: it begins with`, false},
	} {
		var out, errs output
		err := call(t.Context(), Command(), &out, &errs, c.args...)
		var u *usage.Error
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &u) != c.usage {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
	if b, _ := os.ReadFile(log); !strings.HasPrefix(string(b), `{"query"`) {
		t.Error("somebody else's file was written to")
	}
}

// A second receiver of the same ring, and a second reader, are refused.
func TestARingHasOneReceiverAndOneReader(t *testing.T) {
	dir, pin := keys(t, "reader")
	ring := filepath.Join(t.TempDir(), "ring")
	var out, errs output
	_, stop := started(t, &out, &errs, "--dir", dir, "--pin", pin, "--ring", ring, "--size", "64KiB")
	r, err := deliver.Open(ring)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var log output
	if err := call(t.Context(), Command(), &out, &log, "--listen", "127.0.0.1:0", "--dir", dir, "--pin", pin, "--ring", ring); !errors.Is(err, deliver.ErrInUse) {
		t.Errorf("a second receiver: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := call(t.Context(), Command(), &out, &log, "--listen", "127.0.0.1:0", "--dir", dir, "--pin", pin, "--ring", ring, "--print"); !errors.Is(err, deliver.ErrInUse) {
		t.Errorf("a second reader: %v", err)
	}
}
