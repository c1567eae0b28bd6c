package event

// PackWords returns how many words [Batch.Pack] needs for a full batch like b.
func (b *Batch) PackWords() int {
	n := packHead + MarksMax*markWords + 6*BatchMax + cap(b.Heap)/8 + 1
	for i := range b.Cols {
		if b.Cols[i].Type != 0 {
			n += BatchMax + len(b.Cols[i].Valid)
		}
	}
	return n
}

const (
	packHead  = 4
	markWords = 5
)

// Pack writes what b holds into dst, which has [Batch.PackWords] words: plain data, from
// which [Batch.Unpack] makes it again in another process.
func (b *Batch) Pack(dst []uint64) {
	dst[0], dst[1], dst[2], dst[3] = uint64(b.N), uint64(len(b.Heap)), uint64(len(b.Marks)), b.Position
	dst = dst[packHead:]
	for i := range b.Marks {
		m := &b.Marks[i]
		dst[0], dst[1] = uint64(m.Kind)|uint64(m.At)<<32, uint64(m.Source)|uint64(m.Gap)<<32
		dst[2], dst[3], dst[4] = m.Position, uint64(m.Time), m.Count
		dst = dst[markWords:]
	}
	for i := range b.N {
		dst[0], dst[1], dst[2], dst[3] = uint64(b.Time[i]), b.Chan[i], b.Order[i], b.Seq[i]
		dst[4] = uint64(b.Index[i])
		dst[5] = uint64(b.Source[i]) | uint64(b.Rank[i])<<32
		dst = dst[6:]
	}
	for c := range b.Cols {
		col := &b.Cols[c]
		if col.Type == 0 {
			continue
		}
		dst = dst[copy(dst, col.Valid[:]):]
		for i := range b.N {
			if col.Type == Text {
				dst[i] = uint64(col.Off[i]) | uint64(col.Len[i])<<32
			} else {
				dst[i] = uint64(col.Num[i])
			}
		}
		dst = dst[b.N:]
	}
	for i := 0; i < len(b.Heap); i += 8 {
		dst[i/8] = loadPadded(b.Heap[i:])
	}
}

// Unpack makes b, empty and of the same columns, what it was when it was packed into src.
func (b *Batch) Unpack(src []uint64) {
	n, heap, marks := int(src[0]), int(src[1]), int(src[2])
	b.N, b.Position = n, src[3]
	src = src[packHead:]
	b.Marks = b.Marks[:marks]
	for i := range b.Marks {
		b.Marks[i] = Mark{
			Kind: MarkKind(src[0]), At: uint32(src[0] >> 32), Source: uint32(src[1]), Gap: uint32(src[1] >> 32),
			Position: src[2], Time: Nanos(src[3]), Count: src[4],
		}
		src = src[markWords:]
	}
	for i := range n {
		b.Time[i], b.Chan[i], b.Order[i], b.Seq[i] = Nanos(src[0]), src[1], src[2], src[3]
		b.Index[i] = uint32(src[4])
		b.Source[i], b.Rank[i] = uint32(src[5]), uint32(src[5]>>32)
		src = src[6:]
	}
	for c := range b.Cols {
		col := &b.Cols[c]
		if col.Type == 0 {
			continue
		}
		src = src[copy(col.Valid[:], src):]
		for i, v := range src[:n] {
			if col.Type == Text {
				col.Off[i], col.Len[i] = uint32(v), uint8(v>>32)
			} else {
				col.Num[i] = int64(v)
			}
		}
		src = src[n:]
	}
	b.Heap = b.Heap[:heap]
	for i := range b.Heap {
		b.Heap[i] = byte(src[i/8] >> (8 * uint(i%8)))
	}
}
