package pcapng_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/pcapng"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
)

// What is written is read by the reader of captures: every frame, whole or cut, with
// its time to the nanosecond.
func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		faces := []pcapng.Face{{Name: "eth1"}, {Name: rapid.StringN(0, 15, 15).Draw(t, "name"), Snap: 2048}}
		var file bytes.Buffer
		w, err := pcapng.NewWriter(&file, faces...)
		if err != nil {
			t.Fatal(err)
		}
		frames := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pcapng.Frame {
			f := pcapng.Frame{
				Face: rapid.IntRange(0, 1).Draw(t, "face"), At: event.Nanos(rapid.Int64Range(0, 1<<62).Draw(t, "at")),
				Bytes: rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "bytes"), Comment: rapid.String().Draw(t, "comment"),
			}
			f.Length = len(f.Bytes) + rapid.IntRange(0, 50).Draw(t, "cut")
			return f
		}), 0, 10).Draw(t, "frames")
		for i := range frames {
			if err := w.Write(&frames[i]); err != nil {
				t.Fatal(err)
			}
		}
		r, err := capture.OpenReader(&file, "f")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var rec capture.Record
		for i := range frames {
			f := &frames[i]
			if err := r.Next(&rec); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(rec.Data, f.Bytes) || rec.Stamp != f.At || rec.WireLength != f.Length {
				t.Fatalf("frame %d: %+v, want %+v", i, rec, f)
			}
		}
		if err := r.Next(&rec); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}

// blocks counts writes and checks that each is whole blocks.
type blocks struct{ writes int }

func (b *blocks) Write(p []byte) (int, error) {
	b.writes++
	for rest := p; len(rest) > 0; {
		n := int(rest[4]) | int(rest[5])<<8
		if n < 12 || n%4 != 0 || n > len(rest) || !bytes.Equal(rest[4:8], rest[n-4:n]) {
			return 0, errors.New("no whole block")
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func TestEachFrameIsOneWriteOfWholeBlocks(t *testing.T) {
	var b blocks
	w, err := pcapng.NewWriter(&b, pcapng.Face{Name: "eth1"})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 9 {
		if err := w.Write(&pcapng.Frame{Bytes: make([]byte, n), Comment: strings.Repeat("x", n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Write(&pcapng.Frame{Comment: strings.Repeat("x", 100_000)}); err != nil {
		t.Fatal(err)
	}
	if b.writes != 11 {
		t.Errorf("%d writes, want 11", b.writes)
	}
	if err := w.Write(&pcapng.Frame{Face: 1}); !errors.Is(err, pcapng.ErrNoFace) {
		t.Errorf("%v", err)
	}
}
