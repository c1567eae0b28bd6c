package run

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/testdata"
)

// framesIn returns the frames of a capture.
func framesIn(t *testing.T, path string) (frames [][]byte) {
	t.Helper()
	r, err := capture.Open([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		var x capture.Record
		err := r.Next(&x)
		if errors.Is(err, io.EOF) || x.Cut {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, bytes.Clone(x.Data))
	}
}

// Frames that come are copied in their order, none is left out, and reception does not
// notice.
func TestRootFramesThatComeAreCopied(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	sent := cars(t, 10000, 2000)
	a := newAppliance(t, p.B, carsConfig, patient, "--workers", "1")
	a.start()
	out := filepath.Join(t.TempDir(), "out.pcapng")
	done := make(chan struct{})
	go func() {
		defer close(done)
		headrace(t, p.B, "capture", "--name", a.name, "--feed", "cars", "--count", "3000", "--output", out)
	}()
	time.Sleep(500 * time.Millisecond)
	s := sendCapture(t, p.A, "--pps", "5000", sent)
	<-done
	got, all := framesIn(t, out), framesIn(t, sent)
	if len(got) != 3000 {
		t.Fatalf("%d frames, want 3000", len(got))
	}
	from := 0
	for from < len(all) && !bytes.Equal(all[from], got[0]) {
		from++
	}
	for i := range got {
		if from+i >= len(all) || !bytes.Equal(got[i], all[from+i]) {
			t.Fatalf("frame %d is not number %d of those sent", i, from+i)
		}
	}
	if l := xdpLine(t, a.settle(s.Sent)); l.Applied != s.Sent || l.Difference != 0 {
		t.Errorf("sent %d, ledger %+v", s.Sent, l)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

// The recorder has what came before a gap, also when other frames have come since.
func TestRootFramesBeforeAGapAreKept(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	all := framesIn(t, testdata.Path(t, "iex", "DEEP10.pcap.gz"))[:6000]
	const lost = 4000
	path := filepath.Join(t.TempDir(), "gap.pcap")
	w, err := capture.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range all {
		if i == lost {
			continue
		}
		if err := w.Write(&capture.Record{Data: f, Stamp: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a := newAppliance(t, p.B, deepConfig+"recorder: {frames: 8192, snap: 256}\n", patient, "--workers", "1")
	a.start()
	s := sendCapture(t, p.A, "--pps", "10000", path)
	a.settle(s.Sent)
	time.Sleep(2 * time.Second) // it is a gap when nothing comes any more that could fill it
	out := filepath.Join(t.TempDir(), "out.pcapng")
	headrace(t, p.B, "capture", "--name", a.name, "--feed", "deep", "--before-gap", "1000", "--output", out)
	got := framesIn(t, out)
	if len(got) != 1000 {
		t.Fatalf("%d frames, want 1000", len(got))
	}
	last := got[len(got)-1]
	at := 0
	for at < len(all) && !bytes.Equal(all[at][:min(256, len(all[at]))], last) {
		at++
	}
	t.Logf("the last frame before the gap is %d, %d was not sent", at, lost)
	if at < lost-1 || at > lost+1500 {
		t.Errorf("the last frame before the gap is %d, %d was not sent", at, lost)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	a.balanced()
}
