package replay

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire/formats"
	"github.com/headrace/headrace/dataplane/xsk"
)

const causeConfig = `
feeds:
  f:
    match: {protocol: udp, port: 9000}
    format: {raw: {order: little}}
    columns: {k: {type: int64, offset: 0}, at: {type: int64, offset: 8}}
    time: {column: at, unit: ns}
    place: {bytes: [0, 8]}
queries:
  q:
    from: f
    key: [k]
    window: {tumbling: 1s}
    watermark: {delay: 0s}
    select: {n: count()}
    sinks: [rows]
sinks:
  rows: {jsonl: {path: "-"}}
`

// script is a receiver whose batches were written down before.
type script struct {
	batches [][]xsk.Frame
	packet  uint64
}

func (s *script) Receive(frames []xsk.Frame) int {
	if len(s.batches) == 0 {
		return 0
	}
	n := copy(frames, s.batches[0])
	for i := range frames[:n] {
		s.packet++
		frames[i].Packet = s.packet
	}
	s.batches = s.batches[1:]
	return n
}

func (s *script) Release()         {}
func (s *script) Ended() bool      { return len(s.batches) == 0 }
func (s *script) Now() event.Nanos { return 9_000 }

func at(millis, received uint64, flags uint8) xsk.Frame {
	data := make([]byte, 16)
	binary.LittleEndian.PutUint64(data[8:], millis*1e6)
	return xsk.Frame{Data: data, Meta: steer.Meta{ReceiveNanos: received, PayloadLength: 16, Flags: flags, Version: steer.MetaVersion}}
}

// causes runs the script and returns the cause of every partial, by window.
func causes(t *testing.T, replay bool) []uint64 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cause.yaml")
	if err := os.WriteFile(path, []byte(causeConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	_, p, err := compile.File(path, compile.Options{Formats: formats.Lookup, Workers: 1, Replay: replay})
	if err != nil {
		t.Fatal(err)
	}
	seg, err := segment.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer seg.Close()
	region, err := arena.New("cause", regionBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	owner := steer.OwnerTable(1)
	w, err := dataplane.NewWorker(dataplane.Config{
		Plan: p, Segment: seg.Worker(0), Region: region, Owner: &owner,
		Receiver: &script{batches: [][]xsk.Frame{
			{at(500, 1_000, 0)},
			{at(700, 2_000, 0), at(1_200, 1_900, 0), at(1_300, 2_100, 0)},
			{at(2_500, 7, steer.FlagNICTime)},
			nil,
			{at(3_500, 5_000, 0)},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Replay(new(atomic.Bool))
	values, err := Values(p)
	if err != nil {
		t.Fatal(err)
	}
	r := outbox.NewReader(seg.Worker(0).Ring(), segment.Limits(p, []int{values[0].Words()}))
	var got []uint64
	var part outbox.Partial
	for {
		ok, err := r.Next(&part)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return got
		}
		if part.Kind == outbox.KindPartial {
			got = append(got, part.Cause)
		}
	}
}

// A window is measured from the oldest frame of the batch that closed it, from the
// worker's clock where the stamp is of another clock, and not at all if a stop
// closed it. A replay measures nothing.
func TestAWindowsCauseIsTheReceiptOfWhatClosedIt(t *testing.T) {
	if got, want := causes(t, false), []uint64{1_900, 9_000, 5_000, 0}; !slices.Equal(got, want) {
		t.Errorf("live: causes %d, want %d", got, want)
	}
	if got, want := causes(t, true), []uint64{0, 0, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("replay: causes %d, want %d", got, want)
	}
}
