package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/group"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/rdma/deliver"
)

// far is a consumer and the two keys.
type far struct {
	consumer, producer *group.Dir
	ring               *deliver.Ring
	path, address      string
	stop               func()
}

func keys(t *testing.T, id string) *group.Dir {
	t.Helper()
	d, err := group.Init(filepath.Join(t.TempDir(), id), id, "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func pin(t *testing.T, d *group.Dir) string {
	t.Helper()
	p, err := d.Pin()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newFar(t *testing.T) *far {
	t.Helper()
	f := &far{consumer: keys(t, "consumer"), producer: keys(t, "producer"), path: filepath.Join(t.TempDir(), "rows"), address: "127.0.0.1:0"}
	f.start(t, deliver.SizeMin)
	t.Cleanup(func() { f.stop() })
	return f
}

// start runs a consumer over the same ring and address as the one before.
func (f *far) start(t *testing.T, size uint64) {
	t.Helper()
	var err error
	if f.ring, err = deliver.OpenRing(f.path, size); err != nil {
		t.Fatal(err)
	}
	allowed := pin(t, f.producer)
	c, err := deliver.NewConsumer(deliver.ConsumerConfig{
		Listen: f.address, Certificate: f.consumer.Certificate, Pins: func() []string { return []string{allowed} }, Ring: f.ring,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.address = c.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.ring.Close()
	})
}

func (f *far) open(t *testing.T, s *segment.Segment, log io.Writer) *Deliver {
	t.Helper()
	d, err := OpenDeliver(DeliverConfig{
		Name: "two", Address: f.address, Pins: []string{pin(t, f.consumer)}, Certificate: f.producer.Certificate,
		Workers: s.Layout.Workers, Commits: s.Sink("two"), Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// rows takes everything out of the ring, and what comes for as long as more does.
func (f *far) rows(t *testing.T, more func() bool) (all [][]byte) {
	t.Helper()
	return f.count(t, more, new(atomic.Int64))
}

// count is rows, and says how many there are so far.
func (f *far) count(t *testing.T, more func() bool, n *atomic.Int64) (all [][]byte) {
	t.Helper()
	r, err := deliver.Open(f.path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		last := !more()
		for row, ok := r.Next(); ok; row, ok = r.Next() {
			all = append(all, append(bytes.Clone(row), '\n'))
			n.Add(1)
		}
		r.Release()
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		if last {
			return all
		}
		r.Wait(time.Now().Add(time.Millisecond))
	}
}

// What a pump puts out arrives in the ring on the other box, though the consumer goes
// away and comes back, and control does: every row is there, each worker's in order,
// and what is there again is what was under way when control ended.
func TestRowsArriveInTheRingOfTheOtherBox(t *testing.T) {
	const workers, records = 2, 4000
	p := testPlan(workers)
	s := create(t, p)
	f := newFar(t)
	var got [][]byte
	var there atomic.Int64
	var wait sync.WaitGroup
	stopped := make(chan struct{})
	wait.Go(func() {
		got = f.count(t, func() bool {
			select {
			case <-stopped:
				return false
			default:
				return true
			}
		}, &there)
	})
	wait.Go(func() { produce(s, workers, records, nil) })
	begin := func(ctx context.Context) (*Deliver, error) {
		sink := f.open(t, s, io.Discard)
		pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Sinks: []Sink{sink}, BatchBytes: 4 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return sink, pump.Run(ctx)
	}
	until := func(n int64, f func()) { // calls f when n rows have come
		wait.Go(func() {
			for there.Load() < n {
				time.Sleep(50 * time.Microsecond)
			}
			f()
		})
	}
	for i := range int64(2) { // control goes away
		ctx, cancel := context.WithCancel(t.Context())
		until(1000*(i+1), cancel)
		if _, err := begin(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("the end was too soon to see anything: %v", err)
		}
	}
	until(3500, func() { // the consumer does
		f.stop()
		f.start(t, 0)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sink, err := begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	close(stopped)
	wait.Wait()

	seen := map[string]bool{}
	var once []byte
	repeated := 0
	for _, row := range got {
		if seen[string(row)] {
			repeated++
			continue
		}
		seen[string(row)] = true
		once = append(once, row...)
	}
	byWorker(t, p, "two", once, []uint64{records, records})
	if st := sink.Stats(); st.Rows != uint64(len(seen)) || st.Transport != "tcp" || st.Reconnects == 0 || st.Retries == 0 || st.Fallbacks < 2 {
		t.Errorf("%+v; %d rows", st, len(seen))
	}
	if limit := 2 * 200; repeated > limit { // two batches of 4 KiB
		t.Errorf("%d rows are there again", repeated)
	}
	t.Logf("%d rows, %d of them again", len(got), repeated)
}

// A batch that was acknowledged and not committed comes again, whole, and nothing else.
func TestOnlyTheBatchUnderWayComesAgain(t *testing.T) {
	s := create(t, testPlan(1))
	f := newFar(t)
	lines := func(n int) []byte { return fmt.Appendf(nil, "first of %d\nsecond of %d\n", n, n) }
	a := f.open(t, s, io.Discard)
	if a.Resume() != nil {
		t.Errorf("resume at %v", a.Resume())
	}
	for n := range 3 {
		if err := a.Write(t.Context(), lines(n), RowCount{Rows: 2}, []uint64{uint64(n + 1), 0}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.send(t.Context(), lines(3)); err != nil { // and it is killed
		t.Fatal(err)
	}
	a.Close()
	b := f.open(t, s, io.Discard)
	defer b.Close()
	if r := b.Resume(); len(r) != 2 || r[0] != 3 {
		t.Fatalf("resume at %v, want 3", r)
	}
	if err := b.Write(t.Context(), append(lines(3), lines(4)...), RowCount{Rows: 4}, []uint64{5, 0}); err != nil {
		t.Fatal(err)
	}
	want := bytes.Join([][]byte{lines(0), lines(1), lines(2), lines(3), lines(3), lines(4)}, nil)
	if got := bytes.Join(f.rows(t, func() bool { return false }), nil); !bytes.Equal(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if st := b.Stats(); st.Rows != 10 {
		t.Errorf("%+v", st)
	}
}

// The rows of a group are counted apart, and still are after a restart: the ledger of
// this box's rows leaves them out.
func TestRowsOfAGroupThatAreDeliveredAreCountedApart(t *testing.T) {
	s := create(t, testPlan(1))
	f := newFar(t)
	for i, want := range []uint64{2, 4} {
		d := f.open(t, s, io.Discard)
		if err := d.Write(t.Context(), []byte("a\nb\nc\n"), RowCount{Rows: 3, Global: 2}, []uint64{uint64(i + 1), 0}); err != nil {
			t.Fatal(err)
		}
		if st := d.Stats(); st.Global != want || st.Rows != want/2*3 {
			t.Errorf("%d of %d rows are a group's, want %d of %d", st.Global, st.Rows, want, want/2*3)
		}
		d.Close()
	}
}

// While the consumer is away Write waits, and a stop ends it; nothing is committed.
func TestWriteWaitsForAConsumer(t *testing.T) {
	s := create(t, testPlan(1))
	f := newFar(t)
	f.stop()
	var log bytes.Buffer
	d := f.open(t, s, &log)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := d.Write(ctx, []byte("a\n"), RowCount{Rows: 1}, []uint64{9, 0}); err == nil {
		t.Error("it was written to nobody")
	}
	var c segment.Commit
	if !s.Sink("two").Load(&c) || c.Positions[0] != 0 {
		t.Errorf("committed: %+v", c)
	}
	st := d.Stats()
	if st.Retries < 2 || !strings.Contains(st.LastError, "connection refused") {
		t.Errorf("%+v", st)
	}
	d.Close()
	if n := strings.Count(log.String(), "rows wait for the consumer"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
}

func TestAWrongPinIsSaid(t *testing.T) {
	s := create(t, testPlan(1))
	f := newFar(t)
	stranger := keys(t, "stranger")
	d, err := OpenDeliver(DeliverConfig{
		Name: "two", Address: f.address, Pins: []string{pin(t, f.consumer)}, Certificate: stranger.Certificate, Workers: s.Layout.Workers,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	d.Write(ctx, []byte("a\n"), RowCount{Rows: 1}, []uint64{9, 0})
	if st := d.Stats(); !strings.Contains(st.LastError, "our key "+pin(t, stranger)+" is not pinned there") {
		t.Errorf("%+v", st)
	}
	d.Close()
	if st := f.ring.Stats(); st.Rows != 0 {
		t.Errorf("%+v", st)
	}
}
