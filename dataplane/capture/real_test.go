package capture

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/internal/testdata"
)

type packets interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// sameAs compares r with what another reader makes of the same file, and returns
// the number of records that both have and the record that only r has, a cut one.
func sameAs(t *testing.T, r Records, want packets) (n int, cut *Record) {
	t.Helper()
	var rec Record
	for {
		err := r.Next(&rec)
		data, ci, wantErr := want.ReadPacketData()
		switch {
		case errors.Is(err, io.EOF) && wantErr != nil:
			return n, nil
		case err != nil:
			t.Fatalf("record %d: %v, the other reader %v", n+1, err, wantErr)
		case rec.Cut && wantErr != nil:
			return n, &rec
		case wantErr != nil:
			t.Fatalf("record %d: the other reader: %v", n+1, wantErr)
		}
		if !bytes.Equal(rec.Data, data) || rec.WireLength != ci.Length || rec.Stamp != event.Nanos(ci.Timestamp.UnixNano()) {
			t.Fatalf("record %d: %d bytes of %d at %d; the other reader has %d of %d at %d", n+1,
				len(rec.Data), rec.WireLength, rec.Stamp, len(data), ci.Length, ci.Timestamp.UnixNano())
		}
		n++
	}
}

func open(t *testing.T, path string) *Reader {
	t.Helper()
	r, err := Open([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func other(t *testing.T, path string) packets {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDEEP10IsReadToItsLastByte(t *testing.T) {
	path := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	n, cut := sameAs(t, open(t, path), other(t, path))
	if n != 121_314 || cut == nil {
		t.Fatalf("%d whole records, cut one: %v; want 121314 and a cut one", n, cut)
	}
	if len(cut.Data) != 460 || cut.WireLength != 1490 {
		t.Errorf("the cut record has %d of %d bytes, want 460 of 1490", len(cut.Data), cut.WireLength)
	}
}

func TestVenueCapturesEqualTheOtherReaders(t *testing.T) {
	files := 0
	err := filepath.WalkDir(testdata.Path(t, "venues"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".pcap") {
			return err
		}
		files++
		if n, cut := sameAs(t, open(t, path), other(t, path)); n == 0 || cut != nil {
			t.Errorf("%s: %d records, cut: %v", path, n, cut)
		}
		return nil
	})
	if err != nil || files < 30 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestPcapngOfAnotherWriterIsRead(t *testing.T) {
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(pcapgo.NgInterface{Name: "eth1", LinkType: layers.LinkTypeEthernet, TimestampResolution: 3}); err != nil {
		t.Fatal(err)
	}
	for i, k := range some(40) {
		ci := gopacket.CaptureInfo{Timestamp: k.time(), CaptureLength: len(k.data), Length: k.wire, InterfaceIndex: i % 2}
		if err := w.WritePacket(ci, []byte(k.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	want, err := pcapgo.NewNgReader(bytes.NewReader(b.Bytes()), pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(bytes.NewReader(b.Bytes()), "ng")
	if err != nil {
		t.Fatal(err)
	}
	if n, cut := sameAs(t, r, want); n != 40 || cut != nil {
		t.Errorf("%d records, cut %v; want 40", n, cut)
	}
}

func TestTheWritersFilesAreReadByOthers(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := some(30)
	for _, k := range want {
		k.stamp += 789 // below a microsecond
		if err := w.Write(&Record{Data: []byte(k.data), WireLength: k.wire, Stamp: k.stamp}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	theirs, err := pcapgo.NewReader(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := OpenReader(bytes.NewReader(b.Bytes()), "own")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := sameAs(t, ours, theirs); n != len(want) {
		t.Errorf("%d records, want %d", n, len(want))
	}

	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("missing program: tcpdump, to read what was written")
	}
	path := filepath.Join(t.TempDir(), "own.pcap")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tcpdump, "--nano", "-tt", "-nn", "-q", "-r", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var stamps []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 && strings.Contains(f[0], ".") && !strings.HasPrefix(line, "\t") {
			stamps = append(stamps, strings.Replace(f[0], ".", "", 1))
		}
	}
	for i, k := range want {
		if i >= len(stamps) || stamps[i] != strconv.FormatInt(int64(k.stamp)+789, 10) {
			t.Fatalf("tcpdump's stamps %v lack %d", stamps, k.stamp+789)
		}
	}
}
