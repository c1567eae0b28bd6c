package capture

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"testing/iotest"
)

// FuzzRead checks that no bytes make the reader panic, hang or hand out more than
// they hold; that a cut record is the last; and that the result does not depend on
// how the bytes arrive.
func FuzzRead(f *testing.F) {
	f.Add(classic(binary.LittleEndian, 1000, some(3)...))
	f.Add(classic(binary.BigEndian, 1, some(2)...))
	f.Add(pcapngOf(binary.BigEndian, some(3)...))
	n := ng{o: binary.LittleEndian}
	n.section()
	n.face(linkEthernet, 4, n.option(nil, ngOptionOffset, make([]byte, 8)...)...)
	n.simple(9, "abcd")
	n.block(0x77, 1, 2, 3)
	f.Add(n.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if isGzip(b) || isZstd(b) {
			return // the decompressors have fuzz targets of their own
		}
		got, err := readBytes(b)
		total := 0
		for i, k := range got {
			total += len(k.data)
			if k.cut && (i != len(got)-1 || err != nil) {
				t.Fatalf("record %d of %d is cut, error %v", i+1, len(got), err)
			}
			if len(k.data) > k.wire {
				t.Fatalf("record %d holds %d bytes of %d", i+1, len(k.data), k.wire)
			}
		}
		if total > len(b) {
			t.Fatalf("%d bytes of records in a file of %d", total, len(b))
		}
		r, slowErr := OpenReader(iotest.OneByteReader(bytes.NewReader(b)), "test")
		var slow []kept
		if slowErr == nil {
			slow, slowErr = all(r)
		}
		if !slices.Equal(got, slow) || (err == nil) != (slowErr == nil) || err != nil && err.Error() != slowErr.Error() {
			t.Fatalf("byte by byte: %d records and %v; at once: %d and %v", len(slow), slowErr, len(got), err)
		}
	})
}
