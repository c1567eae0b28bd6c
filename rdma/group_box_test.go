package rdma

import (
	"bytes"
	"testing"
)

// A member that says it will send much and does not has little room taken up.
func TestABoxGrowsWithWhatComes(t *testing.T) {
	b := &box{want: 1 << 30}
	piece := bytes.Repeat([]byte{7}, FrameMax)
	b.store(piece)
	if n := cap(b.buf); n > storeLeast {
		t.Errorf("%d bytes are taken up by %d", n, len(piece))
	}
	b = &box{want: 3<<20 + 5}
	var all []byte
	for i := 0; uint64(len(all)) < b.want; i++ {
		piece := bytes.Repeat([]byte{byte(i)}, int(min(b.want-uint64(len(all)), FrameMax)))
		b.store(piece)
		b.got += uint64(len(piece))
		all = append(all, piece...)
	}
	if !bytes.Equal(b.buf, all) || b.stored != b.want {
		t.Errorf("%d bytes of %d are not those that came", len(b.buf), b.want)
	}
	if n := testing.AllocsPerRun(10, func() {
		b.got, b.stored = 0, 0
		b.store(piece)
	}); n != 0 {
		t.Errorf("%v allocations with room to spare", n)
	}
}
