package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
)

var keptCmp = cmp.AllowUnexported(kept{})

func TestEveryFormatGivesTheSameRecords(t *testing.T) {
	want := some(20)
	files := map[string][]byte{
		"pcap, microseconds, little-endian": classic(binary.LittleEndian, 1000, want...),
		"pcap, microseconds, big-endian":    classic(binary.BigEndian, 1000, want...),
		"pcap, nanoseconds, little-endian":  classic(binary.LittleEndian, 1, want...),
		"pcap, nanoseconds, big-endian":     classic(binary.BigEndian, 1, want...),
		"pcapng, little-endian":             pcapngOf(binary.LittleEndian, want...),
		"pcapng, big-endian":                pcapngOf(binary.BigEndian, want...),
	}
	for name, plain := range files {
		half := len(plain) / 2
		for pack, b := range map[string][]byte{
			"plain":              plain,
			"gzip":               gz(t, plain),
			"gzip, two members":  append(gz(t, plain[:half]), gz(t, plain[half:])...),
			"zstd":               zst(t, plain),
			"zstd, two frames":   append(zst(t, plain[:half]), zst(t, plain[half:])...),
			"zstd, skippable":    append([]byte{0x5a, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 99}, zst(t, plain)...),
			"gzip, empty member": append(gz(t, nil), gz(t, plain)...),
		} {
			t.Run(name+", "+pack, func(t *testing.T) {
				got, err := readBytes(b)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got, keptCmp); d != "" {
					t.Error(d)
				}
			})
		}
	}
}

func TestInterfacesKeepTheirOwnClocks(t *testing.T) {
	n := ng{o: binary.BigEndian}
	n.section()
	n.block(0x0bad, 1, 2, 3)                                                        // unknown: skipped
	n.face(linkEthernet, 4)                                                         // 0: microseconds
	n.face(linkEthernet, 0, n.option(n.option(nil, 2, []byte("eth0")...), 9, 9)...) // 1: nanoseconds
	n.face(linkEthernet, 0, n.option(nil, 9, 0x80|10)...)                           // 2: 1/1024 s
	n.face(linkEthernet, 0, n.option(n.option(nil, 9, 3), 14, n.be64(-3600)...)...) // 3: milliseconds, an hour back
	n.face(linkEthernet, 0, n.option(nil, 9, 12)...)                                // 4: picoseconds
	n.face(113, 0)                                                                  // 5: not Ethernet, and without packets
	n.packet(0, 1_000_001, 9, "aaaaa")
	n.packet(1, 5_000_000_007, 3, "bbb", n.option(nil, 1, []byte("a comment")...)...)
	n.simple(8, "cccc")
	n.packet(2, 3*1024+512, 1, "d")
	n.packet(3, 7_200_250, 2, "ee")
	n.packet(4, 1_999, 2, "ff")
	n.block(5, make([]byte, 12)...) // interface statistics: skipped
	n.o = binary.LittleEndian
	n.section() // interfaces are void, the byte order is another
	n.face(linkEthernet, 0)
	n.packet(0, 2, 2, "gg")

	got, err := readBytes(n.b)
	if err != nil {
		t.Fatal(err)
	}
	want := []kept{
		{"aaaaa", 9, 1_000_001_000, false},
		{"bbb", 3, 5_000_000_007, false},
		{"cccc", 8, 5_000_000_007, false},
		{"d", 1, 3_500_000_000, false},
		{"ee", 2, 3_600_250_000_000, false},
		{"ff", 2, 1, false},
		{"gg", 2, 2000, false},
	}
	if d := cmp.Diff(want, got, keptCmp); d != "" {
		t.Error(d)
	}
}

func (n *ng) be64(v int64) []byte { return n.o.AppendUint64(nil, uint64(v)) }

func TestTheOldPacketBlockIsRead(t *testing.T) {
	n := ng{o: binary.LittleEndian}
	n.section()
	n.face(linkEthernet, 0)
	h := n.o.AppendUint16(nil, 0)
	h = n.o.AppendUint16(h, 77) // drops: not an interface number
	h = n.o.AppendUint32(h, 0)
	h = n.o.AppendUint32(h, 12)
	h = n.o.AppendUint32(h, 3)
	h = n.o.AppendUint32(h, 3)
	n.block(ngOldPacket, append(h, "abc"...)...)
	got, err := readBytes(n.b)
	if want := []kept{{"abc", 3, 12000, false}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// A file may end anywhere. Whole records before the end are as they were, and if
// anything is missing the last one says so.
func TestAFileCutAtAnyByteGivesWhatThereIs(t *testing.T) {
	want := some(5)
	for name, b := range map[string][]byte{
		"pcap":   classic(binary.LittleEndian, 1, want...),
		"pcapng": pcapngOf(binary.BigEndian, want...),
	} {
		t.Run(name, func(t *testing.T) {
			whole, ends := 0, recordEnds(name, b)
			for cut := range b {
				for whole < len(ends) && ends[whole] <= cut {
					whole++
				}
				got, err := readBytes(b[:cut])
				if cut < ends[0]-headOf(name)-len(want[0].data) {
					continue // inside the headers: an error or no record, checked below
				}
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				checkCut(t, cut, got, want, whole, b)
			}
		})
	}
	if _, err := readBytes(classic(binary.LittleEndian, 1)[:23]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a file header cut short: %v, want %v", err, ErrCorrupt)
	}
}

func headOf(name string) int {
	if name == "pcap" {
		return pcapRecordHeader
	}
	return ngEnhancedHeader
}

// recordEnds returns the offsets behind each packet's last byte.
func recordEnds(name string, b []byte) []int {
	var ends []int
	if name == "pcap" {
		for at := pcapFileHeader; at < len(b); {
			at += pcapRecordHeader + int(binary.LittleEndian.Uint32(b[at+8:]))
			ends = append(ends, at)
		}
		return ends
	}
	for at := 0; at < len(b); at += int(binary.BigEndian.Uint32(b[at+4:])) {
		if binary.BigEndian.Uint32(b[at:]) == ngEnhanced {
			ends = append(ends, at+ngEnhancedHeader+int(binary.BigEndian.Uint32(b[at+20:])))
		}
	}
	return ends
}

func checkCut(t *testing.T, cut int, got, want []kept, whole int, b []byte) {
	t.Helper()
	if len(got) < whole || !slices.Equal(got[:whole], want[:whole]) {
		t.Fatalf("cut at %d: got %d records, want the first %d as they were", cut, len(got), whole)
	}
	switch rest := got[whole:]; {
	case len(rest) > 1:
		t.Fatalf("cut at %d: %d records behind the last whole one", cut, len(rest))
	case len(rest) == 1:
		r := rest[0]
		if !r.cut || !strings.HasPrefix(want[whole].data, r.data) || !bytes.HasSuffix(b[:cut], []byte(r.data)) {
			t.Fatalf("cut at %d: got %+v, want the beginning of record %d, marked", cut, r, whole)
		}
	case len(rest) == 0 && cut != len(b):
		// Nothing of a packet is missing: the end lies between two records, or
		// behind a packet's bytes in its block.
		if n := cut; whole < len(want) && n > recordEndsAligned(b, n) {
			t.Fatalf("cut at %d: nothing says that record %d is missing", cut, whole)
		}
	}
}

// recordEndsAligned returns n if a file cut at n ends between two records or
// behind the bytes of one, else less.
func recordEndsAligned(b []byte, n int) int {
	name := "pcapng"
	if binary.LittleEndian.Uint32(b) == pcapNanos {
		name = "pcap"
	}
	for _, e := range append([]int{pcapFileHeader}, recordEnds(name, b)...) {
		if name == "pcap" && n == e || name == "pcapng" && n >= e && n <= (e+3)&^3+ngTrailer {
			return n
		}
	}
	if name == "pcapng" && n == 28+28 { // behind section and interface
		return n
	}
	return n - 1
}

func TestACutGzipFileEndsInACutRecord(t *testing.T) {
	want := some(400)
	b := gz(t, classic(binary.LittleEndian, 1, want...))
	for _, cut := range []int{len(b) / 2, len(b) - 1, len(b) - 9} {
		got, err := readBytes(b[:cut])
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		last := got[len(got)-1]
		if !last.cut || !slices.Equal(got[:len(got)-1], want[:len(got)-1]) {
			t.Errorf("cut at %d of %d: %d records, the last %+v; want it marked as cut", cut, len(b), len(got), last)
		}
	}
}

func TestDamageIsAnErrorThatSaysWhere(t *testing.T) {
	two := classic(binary.LittleEndian, 1, some(2)...)
	second := recordEnds("pcap", two)[0]
	wild := slices.Clone(two)
	binary.LittleEndian.PutUint32(wild[second+8:], 1<<30)
	old := slices.Clone(two)
	old[4] = 1
	cooked := slices.Clone(two)
	cooked[20] = 113
	sum := gz(t, two)
	sum[len(sum)-6] ^= 1

	build := func(f func(n *ng)) []byte {
		n := ng{o: binary.LittleEndian}
		n.section()
		f(&n)
		return n.b
	}
	trailer := build(func(n *ng) { n.face(1, 0); n.packet(0, 1, 1, "a"); n.packet(0, 1, 1, "b") })
	trailer[28+20+32+4] ^= 0 // the first packet's block ends here
	trailer[28+20+32] ^= 4

	for name, c := range map[string]struct {
		b      []byte
		want   error
		text   string
		packet uint64
		offset int64
		before int // records handed out before the error
	}{
		"an empty file":                {nil, ErrEmpty, "the file is empty", 0, 0, 0},
		"an empty gzip file":           {gz(t, nil), ErrEmpty, "the file is empty", 0, 0, 0},
		"text":                         {[]byte(`{"id": 1}`), ErrNotCapture, `text: "{\"id\": 1}"`, 0, 0, 0},
		"one byte":                     {[]byte{7}, ErrNotCapture, "it begins with 07", 0, 0, 0},
		"xz":                           {[]byte("\xfd7zXZ\x00\x00\x04"), ErrNotCapture, "xz: decompress it first", 0, 0, 0},
		"gzip in gzip":                 {gz(t, gz(t, two)), ErrNotCapture, "gzip within compressed data", 0, 0, 0},
		"a gzip header and no more":    {[]byte{0x1f, 0x8b, 8, 0}, nil, "ends inside its header", 0, 0, 0},
		"a wrong gzip checksum":        {sum, nil, "checksum", 3, int64(len(two)), 2},
		"bytes behind the gzip":        {append(gz(t, two), "a tail that is no gzip"...), nil, "invalid header", 3, int64(len(two)), 2},
		"an old version":               {old, nil, "version 1.4", 0, 0, 0},
		"another link type":            {cooked, ErrLinkType, "113 (Linux cooked, SLL)", 0, 0, 0},
		"a record of a gigabyte":       {wild, ErrCorrupt, "1073741824 bytes", 2, int64(second), 1},
		"a section without byte order": {append([]byte{0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0}, make([]byte, 20)...), ErrCorrupt, "byte-order", 1, 0, 0},
		"a packet of no interface":     {build(func(n *ng) { n.packet(0, 1, 1, "a") }), ErrCorrupt, "interface 0", 1, 28, 0},
		"a packet of a cooked interface": {
			build(func(n *ng) { n.face(1, 0); n.face(276, 0); n.packet(0, 1, 1, "a"); n.packet(1, 1, 1, "a") }),
			ErrLinkType, "SLL2", 2, 28 + 20 + 20 + 36, 1,
		},
		"a packet longer than its block": {
			build(func(n *ng) { n.face(1, 0); n.packet(0, 1, 1, "a"); n.b[28+20+20] = 9 }), ErrCorrupt, "9 bytes in a block of 36", 1, 48, 0,
		},
		"a block of 3 bytes": {
			build(func(n *ng) { n.b = append(n.b, 6, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0) }), ErrCorrupt, "type 0x6 and 3 bytes", 1, 28, 0,
		},
		"lengths that differ": {trailer, ErrCorrupt, "at its end", 2, 28 + 20 + 32, 1},
		"a resolution of 10^-30 s": {
			build(func(n *ng) { n.face(1, 0, n.option(nil, 9, 30)...) }), ErrCorrupt, "10^-30", 1, 28, 0,
		},
		"a stamp beyond the end of time": {
			build(func(n *ng) { n.face(1, 0, n.option(nil, 9, 0)...); n.packet(0, 1<<60, 1, "a") }), ErrCorrupt, "time stamp", 1, 28 + 28, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := OpenReader(bytes.NewReader(c.b), "some.pcap")
			var got []kept
			if err == nil {
				got, err = all(r)
				var again Record
				if e := r.Next(&again); !errors.Is(e, err) {
					t.Errorf("the next call gives %v, want the same error", e)
				}
			}
			var at *FormatError
			if !errors.As(err, &at) {
				t.Fatalf("got %v, want a FormatError", err)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if at.Packet != c.packet || at.Offset != c.offset || len(got) != c.before {
				t.Errorf("packet %d, byte %d, after %d records; want %d, %d, %d: %v", at.Packet, at.Offset, len(got), c.packet, c.offset, c.before, err)
			}
			if s := err.Error(); !strings.Contains(s, c.text) || !strings.HasPrefix(s, "capture: some.pcap: ") {
				t.Errorf("text %q lacks %q", s, c.text)
			}
		})
	}
}

func write(tb testing.TB, name string, b []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestFilesMergeByStampAndTiesByArgument(t *testing.T) {
	k := func(data string, stamp event.Nanos) kept { return kept{data, len(data), stamp, false} }
	a := write(t, "a", classic(binary.LittleEndian, 1, k("a1", 1), k("a5", 5), k("a3", 3), k("a9", 9)))
	b := pcapngOf(binary.BigEndian, k("b1", 1), k("b4", 4), k("b9", 9))
	r, err := Open([]string{a, "-"}, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := all(r)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range got {
		names = append(names, g.data)
	}
	// a3 comes behind a5, where its file has it.
	if want := "a1 b1 b4 a5 a3 a9 b9"; strings.Join(names, " ") != want {
		t.Errorf("got %v, want %s", names, want)
	}
	if _, total := r.Progress(); total != -1 {
		t.Errorf("total is %d, want -1 with standard input", total)
	}
}

func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	for name, paths := range map[string][]string{
		"no file":              {},
		"a file that is not":   {filepath.Join(t.TempDir(), "absent")},
		"a folder":             {t.TempDir()},
		"standard input twice": {"-", "-"},
	} {
		if r, err := Open(paths, bytes.NewReader(classic(binary.LittleEndian, 1))); err == nil {
			t.Errorf("%s: opened", name)
			r.Close()
		}
	}
	if _, err := Open([]string{filepath.Join(t.TempDir(), "absent")}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

func TestProgressEndsAtTheSizeOfTheFiles(t *testing.T) {
	b := gz(t, classic(binary.LittleEndian, 1, some(300)...))
	r, err := Open([]string{write(t, "a", b), write(t, "b", b)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := all(r); err != nil {
		t.Fatal(err)
	}
	if read, total := r.Progress(); read != total || total != int64(2*len(b)) {
		t.Errorf("Progress() = %d, %d, want %d twice", read, total, 2*len(b))
	}
}

// The merge is compared with the obvious one over lists.
func TestMergeEqualsItsSlowTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var readers []*file
		var lists [][]kept
		r := &Reader{total: -1}
		for i := range rapid.IntRange(1, 5).Draw(t, "files") {
			var list []kept
			for j := range rapid.IntRange(0, 12).Draw(t, "records") {
				data := fmt.Sprintf("%d.%d", i, j)
				list = append(list, kept{data, len(data), event.Nanos(rapid.Int64Range(0, 9).Draw(t, "stamp")), false})
			}
			lists = append(lists, list)
			if err := r.start(bytes.NewReader(classic(binary.BigEndian, 1, list...)), nil, "x"); err != nil {
				t.Fatal(err)
			}
		}
		readers = r.files
		got, err := all(r)
		if err != nil || len(readers) != len(lists) {
			t.Fatal(err)
		}
		var want []kept
		for {
			best := -1
			for i, l := range lists {
				if len(l) > 0 && (best < 0 || l[0].stamp < lists[best][0].stamp) {
					best = i
				}
			}
			if best < 0 {
				break
			}
			want = append(want, lists[best][0])
			lists[best] = lists[best][1:]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestMemoryGivesTheReadersRecordsAgainAndAgain(t *testing.T) {
	want := some(50)
	b := classic(binary.LittleEndian, 1, want...)
	b = b[:len(b)-3] // the last one is cut
	m, err := Preload([]string{"-"}, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	last := &want[49]
	last.cut, last.data = true, last.data[:len(last.data)-3]
	for round := range 3 {
		got, err := all(m)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("round %d: %v", round, cmp.Diff(want, got, keptCmp))
		}
		m.Rewind()
	}
	if m.Len() != 50 {
		t.Errorf("Len() = %d, want 50", m.Len())
	}
	if _, err := Preload([]string{"-"}, strings.NewReader("no")); !errors.Is(err, ErrNotCapture) {
		t.Errorf("got %v, want %v", err, ErrNotCapture)
	}
}

func TestALargeRecordCrossesTheBuffer(t *testing.T) {
	big := strings.Repeat("x", 250<<10)
	want := []kept{{"a", 1, 1, false}, {big, len(big), 2, false}, {big[:1000], 1000, 3, false}, {big, len(big), 4, false}}
	for _, b := range [][]byte{classic(binary.LittleEndian, 1, want...), pcapngOf(binary.LittleEndian, want...)} {
		r, err := OpenReader(iotest.HalfReader(bytes.NewReader(b)), "x")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := all(r); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %d records, %v", len(got), err)
		}
	}
}

func TestAReaderThatFailsIsReportedBehindItsRecords(t *testing.T) {
	b := classic(binary.LittleEndian, 1, some(3)...)
	broken := errors.New("the disk is on fire")
	r, err := OpenReader(io.MultiReader(bytes.NewReader(b[:len(b)-5]), iotest.ErrReader(broken)), "x")
	if err != nil {
		t.Fatal(err)
	}
	got, err := all(r)
	if len(got) != 2 || !errors.Is(err, broken) {
		t.Errorf("%d records, %v; want 2 and the disk's error", len(got), err)
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	for name, b := range map[string][]byte{
		"pcap":   classic(binary.LittleEndian, 1, some(3000)...),
		"pcapng": pcapngOf(binary.BigEndian, some(3000)...),
	} {
		r, err := OpenReader(bytes.NewReader(b), name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Preload([]string{"-"}, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var rec Record
		for _, in := range []Records{r, m} {
			if n := testing.AllocsPerRun(2000, func() {
				if err := in.Next(&rec); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s, %T: %v allocations a record, want 0", name, in, n)
			}
		}
	}
}

func TestTheWriterRefusesWhatTheFormatCannotHold(t *testing.T) {
	w, err := NewWriter(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Record{{Stamp: -1}, {Stamp: 1 << 62}, {Data: make([]byte, recordBytesMax+1)}} {
		if err := w.Write(&r); err == nil {
			t.Errorf("wrote a record of %d bytes at %d", len(r.Data), r.Stamp)
		}
	}
}
