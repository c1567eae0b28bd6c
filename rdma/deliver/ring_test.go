package deliver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// shm is a folder in memory, where rings belong.
func shm(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "headrace-test-") //nolint:usetesting // a folder on a disk is slow
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newRing(tb testing.TB, size uint64) (*Ring, string) {
	tb.Helper()
	path := filepath.Join(shm(tb), "rows")
	r, err := OpenRing(path, size)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	return r, path
}

func openReaderOf(tb testing.TB, path string) *Reader {
	tb.Helper()
	r, err := Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// A ring gives back what was placed, in order, whole batches, each once, whatever the
// rows' lengths, over its end, when it is full, and when either side is opened anew: as
// a slice of rows does.
func TestARingIsASliceOfRows(t *testing.T) {
	dir := shm(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		defer os.Remove(path)
		ring, err := OpenRing(path, SizeMin)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { ring.Close() }()
		reader, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { reader.Close() }()
		var (
			twin     [][]byte // placed, not released
			read     int      // of twin
			last     = map[uint64]uint64{}
			released uint64
		)
		batch := rapid.SliceOfN(rapid.IntRange(0, 3000), 1, 5)
		t.Repeat(map[string]func(*rapid.T){
			"place": func(t *rapid.T) {
				stream := rapid.Uint64Range(1, 3).Draw(t, "stream")
				number := max(1, last[stream]+rapid.Uint64Range(0, 2).Draw(t, "step"))
				var lines []byte
				var rows [][]byte
				for _, size := range batch.Draw(t, "sizes") {
					row := bytes.Repeat([]byte{byte('a' + len(twin)%26)}, size)
					rows = append(rows, row)
					lines = append(append(lines, row...), '\n')
				}
				used := uint64(0)
				for _, row := range twin {
					used += recordSize(len(row))
				}
				err := ring.Place(stream, number, lines)
				switch {
				case number <= last[stream]:
					if err != nil {
						t.Fatalf("a batch that is there: %v", err)
					}
				case errors.Is(err, ErrFull):
					// Pads take room too: at most one record's for each end.
					if used+2*Footprint(lines)+2*3016 < SizeMin {
						t.Fatalf("full with %d bytes used, %d wanted", used, Footprint(lines))
					}
				case err != nil:
					t.Fatal(err)
				default:
					last[stream] = number
					twin = append(twin, rows...)
				}
			},
			"next": func(t *rapid.T) {
				row, ok := reader.Next()
				if ok != (read < len(twin)) {
					t.Fatalf("Next = %v (%v), %d rows are left", ok, reader.Err(), len(twin)-read)
				}
				if !ok {
					return
				}
				if !bytes.Equal(row, twin[read]) {
					t.Fatalf("row %d has %d bytes, want %d", read, len(row), len(twin[read]))
				}
				read++
				if reader.Sequence() != released+uint64(read) {
					t.Fatalf("sequence %d, want %d", reader.Sequence(), released+uint64(read))
				}
			},
			"release": func(*rapid.T) {
				reader.Release()
				twin, released, read = twin[read:], released+uint64(read), 0
			},
			"another reader": func(t *rapid.T) {
				reader.Close()
				if reader, err = Open(path); err != nil {
					t.Fatal(err)
				}
				read = 0
			},
			"another receiver": func(t *rapid.T) {
				ring.Close()
				if ring, err = OpenRing(path, 0); err != nil {
					t.Fatal(err)
				}
				for stream, number := range last {
					if got := ring.Batch(stream); got != number {
						t.Fatalf("batch %d of stream %d, want %d", got, stream, number)
					}
				}
			},
		})
	})
}

// A receiver that is killed after any store of Place leaves the batch before, or the
// new one.
func TestAKillLeavesWholeBatches(t *testing.T) {
	ring, path := newRing(t, SizeMin)
	for i := range uint64(3) {
		if err := ring.Place(1, i+1, fmt.Appendf(nil, "row %d\nmore of %d\n", i, i)); err != nil {
			t.Fatal(err)
		}
	}
	before := bytes.Clone(ring.mem)
	if err := ring.Place(1, 4, []byte("row 3\nmore of 3\n")); err != nil {
		t.Fatal(err)
	}
	after := bytes.Clone(ring.mem)
	ring.Close()
	var changed []int // in the order of the stores: records and the note, then the head
	for i := 0; i < len(after); i += 8 {
		if i != atHead && !bytes.Equal(before[i:i+8], after[i:i+8]) {
			changed = append(changed, i)
		}
	}
	changed = append(changed, atHead)
	for killed := range len(changed) + 1 {
		image := bytes.Clone(before)
		for _, i := range changed[:killed] {
			copy(image[i:i+8], after[i:])
		}
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := OpenRing(path, 0)
		if err != nil {
			t.Fatalf("killed after %d stores: %v", killed, err)
		}
		want := uint64(3)
		if killed == len(changed) {
			want = 4
		}
		if got := r.Batch(1); got != want {
			t.Fatalf("killed after %d of %d stores: batch %d, want %d", killed, len(changed), got, want)
		}
		if err := r.Place(1, 4, []byte("row 3\nmore of 3\n")); err != nil {
			t.Fatal(err)
		}
		reader := openReaderOf(t, path)
		var rows []string
		for row, ok := reader.Next(); ok; row, ok = reader.Next() {
			rows = append(rows, string(row))
		}
		if len(rows) != 8 || rows[6] != "row 3" || reader.Err() != nil {
			t.Fatalf("killed after %d stores: %q, %v", killed, rows, reader.Err())
		}
		reader.Close()
		r.Close()
	}
}

func TestWhatIsNoRingIsRefusedWithTheReason(t *testing.T) {
	_, path := newRing(t, SizeMin)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := func(offset int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[offset:], b)
		return c
	}
	for _, c := range []struct {
		name, want string
		bytes      []byte
		is         error
	}{
		{"an empty file", "it has 0 bytes", nil, ErrNotRing},
		{"somebody's log", `it begins with "{\"query\"`, []byte(`{"query":"bars","key":{}}`), ErrNotRing},
		{"another version", "its version is 2", at(8, 2), ErrNotRing},
		{"another start", "its records start at 4096", at(12, 0, 16, 0, 0), ErrNotRing},
		{"a size that is no power of two", "no power of two", at(16, 1), ErrNotRing},
		{"a size beyond the file", "bytes, not", at(16, 0, 0, 2), ErrNotRing},
		{"a file that was cut", "the file has", good[:len(good)-1], ErrNotRing},
		{"a head that no note knows", "no note belongs to its head 8", at(atHead, 8), ErrDamaged},
		{"a tail before the head's round", "tail 8", at(atTail, 8), ErrDamaged},
	} {
		p := filepath.Join(t.TempDir(), "rows")
		if err := os.WriteFile(p, c.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := OpenRing(p, 0)
		if err == nil {
			r.Close()
		}
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: receiver: %v, want %q", c.name, err, c.want)
		}
		reader, err := Open(p)
		if err == nil {
			reader.Close()
		}
		if errors.Is(c.is, ErrNotRing) && (!errors.Is(err, ErrNotRing) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: reader: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := OpenRing(path, 2*SizeMin); !errors.Is(err, ErrInUse) {
		t.Errorf("a second receiver: %v, want ErrInUse", err)
	}
	a := openReaderOf(t, path)
	defer a.Close()
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second reader: %v, want ErrInUse", err)
	}
	if _, err := OpenRing(filepath.Join(t.TempDir(), "x"), 100_000); err == nil || !strings.Contains(err.Error(), "power of two") {
		t.Errorf("100000 bytes: %v", err)
	}
}

func TestARingOfAnotherSizeIsNotTouched(t *testing.T) {
	r, path := newRing(t, SizeMin)
	r.Close()
	if _, err := OpenRing(path, 2*SizeMin); err == nil || !strings.Contains(err.Error(), "with a size of 65536 bytes and not 131072") {
		t.Errorf("%v", err)
	}
}

func TestBatchesThatAreNoneAreRefused(t *testing.T) {
	r, _ := newRing(t, SizeMin)
	for lines, want := range map[string]error{
		"":                                   ErrNotLines,
		"no end":                             ErrNotLines,
		"a\nb":                               ErrNotLines,
		strings.Repeat("\n", SizeMin/4/16+1): ErrTooLarge,
		strings.Repeat("x", SizeMin) + "\n":  ErrTooLarge,
	} {
		if err := r.Place(1, 1, []byte(lines)); !errors.Is(err, want) {
			t.Errorf("%.20q: %v, want %v", lines, err, want)
		}
	}
	if s := r.Stats(); s.Rows != 0 || s.Used != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTheStreamThatWasSilentLongestIsForgotten(t *testing.T) {
	r, _ := newRing(t, SizeMin)
	for stream := range uint64(StreamsMax + 1) {
		if err := r.Place(stream+1, 7, []byte("x\n")); err != nil {
			t.Fatal(err)
		}
	}
	if a, b, c := r.Batch(1), r.Batch(2), r.Batch(StreamsMax+1); a != 0 || b != 7 || c != 7 {
		t.Errorf("batches %d, %d, %d; want 0, 7, 7", a, b, c)
	}
}

func TestNothingAllocates(t *testing.T) {
	r, path := newRing(t, 1<<20)
	reader := openReaderOf(t, path)
	defer reader.Close()
	lines := bytes.Repeat([]byte(`{"query":"bars","key":{"symbol":"ZVZZT"},"count":17}`+"\n"), 50)
	batch, rows := uint64(0), 0
	got := testing.AllocsPerRun(500, func() { // many times around
		batch++
		if err := r.Place(9, batch, lines); err != nil {
			t.Fatal(err)
		}
		if !reader.Wait(time.Time{}) {
			t.Fatal("nothing there")
		}
		for _, ok := reader.Next(); ok; _, ok = reader.Next() {
			rows++
		}
		reader.Release()
	})
	if got != 0 || rows != 50*int(batch) {
		t.Errorf("%v allocations a batch; %d rows of %d", got, rows, 50*batch)
	}
}

// FuzzReader reads rings in which anything may be written. It must end, and never read
// outside a record's place.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00"), uint64(64), uint64(0))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00"), uint64(SizeMin), uint64(0))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff"), uint64(16), uint64(8))
	path := filepath.Join(shm(f), "rows")
	ring, err := OpenRing(path, SizeMin)
	if err != nil {
		f.Fatal(err)
	}
	defer ring.Close()
	f.Fuzz(func(t *testing.T, records []byte, head, tail uint64) {
		clear(ring.mem[atRecords:])
		copy(ring.mem[atRecords:], records)
		ring.head.Store(head)
		ring.tail.Store(tail)
		r, err := Open(path)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		defer r.Close()
		total := 0
		for row, ok := r.Next(); ok; row, ok = r.Next() {
			total += len(row) + recordBytes
		}
		if total > SizeMin || r.Err() == nil && r.next != head {
			t.Fatalf("%d bytes, next %d, head %d, %v", total, r.next, head, r.Err())
		}
	})
}

func TestAReaderWakesUpWhenRowsCome(t *testing.T) {
	ring, path := newRing(t, SizeMin)
	reader := openReaderOf(t, path)
	defer reader.Close()
	if start := time.Now(); reader.Wait(start.Add(20*time.Millisecond)) || time.Since(start) < 15*time.Millisecond {
		t.Errorf("an empty ring woke its reader after %v", time.Since(start))
	}
	for i := range uint64(20) {
		go func() {
			time.Sleep(time.Duration(rand.N(2000)) * time.Microsecond)
			ring.Place(1, i+1, []byte("row\n"))
		}()
		start := time.Now()
		for !reader.Wait(start.Add(10 * time.Second)) {
			if time.Since(start) > 5*time.Second {
				t.Fatal("not woken")
			}
		}
		if row, ok := reader.Next(); !ok || string(row) != "row" {
			t.Fatalf("%q, %v", row, ok)
		}
		reader.Release()
		if time.Since(start) > 5*time.Second {
			t.Fatal("not woken but by the deadline")
		}
	}
}

// example compiles the reader in C, the way its comment says, with every warning an
// error.
func example(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("there is no gcc: apt-get install gcc")
	}
	bin := filepath.Join(t.TempDir(), "example")
	out, err := exec.Command(cc, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", bin, "c/example.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// The example in C prints what was placed, live, many times around the ring, sleeping
// whenever it is faster.
func TestTheReaderInCReadsALiveRing(t *testing.T) {
	bin := example(t)
	ring, path := newRing(t, SizeMin)
	const rows = 20_000
	c := exec.Command(bin, path, fmt.Sprint(rows))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = t.Output()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(time.Minute, func() { c.Process.Kill() })
	defer guard.Stop()
	row := func(i int) string { return fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, strings.Repeat("x", i*7%400)) }
	go func() {
		for i, batch := 0, uint64(1); i < rows; batch++ {
			var lines []byte
			for k := 0; k < 1+int(batch)%30 && i < rows; k++ {
				lines = append(append(lines, row(i)...), '\n')
				i++
			}
			for errors.Is(ring.Place(1, batch, lines), ErrFull) {
				time.Sleep(20 * time.Microsecond)
			}
			if batch%64 == 0 {
				time.Sleep(time.Millisecond) // let it sleep
			}
		}
	}()
	s := bufio.NewScanner(out)
	n := 0
	for ; s.Scan(); n++ {
		if s.Text() != row(n) {
			t.Fatalf("row %d: %s", n, s.Text())
		}
	}
	if err := c.Wait(); err != nil || n != rows {
		t.Fatalf("%v after %d rows of %d", err, n, rows)
	}
	if got := ring.Stats(); got.Used != 0 {
		t.Errorf("%d bytes are not released", got.Used)
	}
}

func TestTheReaderInCRefusesWhatIsNoRing(t *testing.T) {
	bin := example(t)
	ring, path := newRing(t, SizeMin)
	if err := ring.Place(1, 1, []byte("a\nb\n")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(other, bytes.Repeat([]byte(`{"query":1}`), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(bin, other).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not a ring of rows") {
		t.Errorf("%v: %s", err, out)
	}
	reader := openReaderOf(t, path)
	out, err = exec.Command(bin, path, "2").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another reader has the ring") {
		t.Errorf("%v: %s", err, out)
	}
	reader.Close()
	ring.mem[atRecords+recordBytes] ^= 1 // in the first row
	out, err = exec.Command(bin, path, "2").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "a row has a wrong checksum") {
		t.Errorf("%v: %s", err, out)
	}
	ring.mem[atRecords+recordBytes] ^= 1
	le.PutUint32(ring.mem[atRecords:], 1<<20)
	out, err = exec.Command(bin, path, "2").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "longer than its place") {
		t.Errorf("%v: %s", err, out)
	}
}

func BenchmarkRing(b *testing.B) {
	r, path := newRing(b, 1<<24)
	reader := openReaderOf(b, path)
	defer reader.Close()
	lines := bytes.Repeat(append(bytes.Repeat([]byte("x"), 399), '\n'), 640)
	b.SetBytes(int64(len(lines)))
	b.ReportAllocs()
	batch := uint64(0)
	for b.Loop() {
		batch++
		if err := r.Place(1, batch, lines); err != nil {
			b.Fatal(err)
		}
		for _, ok := reader.Next(); ok; _, ok = reader.Next() {
		}
		reader.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/640, "ns/row")
}
