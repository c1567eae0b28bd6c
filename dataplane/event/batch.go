package event

// A Column holds one value of each event of a batch. Only the slices that its
// type needs are allocated. Entries at and beyond Batch.N are unspecified.
type Column struct {
	Type  Type
	Scale uint8

	// Num holds Int64 and Decimal values, and Float64 values as math.Float64bits.
	// Its length is BatchMax. Where the value is null the entry is 0.
	Num []int64

	// Off and Len place a Text value in the batch's heap:
	// Heap[Off[i] : Off[i]+uint32(Len[i])]. Null has length 0.
	Off []uint32
	Len []uint8

	// Valid has bit i set if event i's value is not null.
	Valid Bits
}

// Bits is one bit for each event of a batch.
type Bits [BatchMax / 64]uint64

// Set sets bit i.
func (b *Bits) Set(i int) { b[uint(i)/64] |= 1 << (uint(i) % 64) }

// Clear clears bit i.
func (b *Bits) Clear(i int) { b[uint(i)/64] &^= 1 << (uint(i) % 64) }

// Has reports bit i.
func (b *Bits) Has(i int) bool { return b[uint(i)/64]>>(uint(i)%64)&1 != 0 }

// Fill sets bits [0, n) and clears the others.
func (b *Bits) Fill(n int) {
	for w := range b {
		switch r := n - w*64; {
		case r >= 64:
			b[w] = ^uint64(0)
		case r > 0:
			b[w] = 1<<uint(r) - 1
		default:
			b[w] = 0
		}
	}
}

// MarkKind says what a [Mark] announces.
type MarkKind uint8

// The kinds of mark.
const (
	// MarkRelease ends a release of Source whose greatest event time is Time. Count is
	// 1 if that changes nothing.
	MarkRelease MarkKind = iota + 1
	// MarkGapOpen says that Count messages of Source are missing, Time being the
	// source's greatest event time before them (B). The gap's number is Gap. Until
	// MarkGapClose its interval is open at the end.
	MarkGapOpen
	// MarkGapClose gives the end of gap number Gap of Source: Time is A.
	MarkGapClose
	// MarkHit says that something of the feed was lost to a limit or a decode drop
	// while Source's greatest event time was Time. It counts no message missing.
	// It is closed as a gap is; that of an unsequenced feed by its next MarkRelease.
	MarkHit
	// MarkRetire says that Source ended and holds no watermark any more.
	MarkRetire
	// MarkIdle says that Source has been silent for Count nanoseconds (run only); its
	// next MarkRelease ends that.
	MarkIdle
)

// A Mark is an in-band announcement: it takes effect after the batch's events
// [0, At) and before those from At on. Marks are in order of At.
type Mark struct {
	Kind   MarkKind
	At     uint32 // events of the batch before the mark
	Source uint32 // the source, numbered by the worker that decodes it; see plan.SourceID
	Gap    uint32 // number of the gap, counted by the worker that decodes the source
	// Position is the number of the packet whose release the mark belongs to.
	Position uint64
	Time     Nanos
	Count    uint64
}

// A Batch is up to BatchMax events of one feed, in order of arrival, and the
// marks between them. One goroutine owns it. Reset empties it; rows are added by
// writing entry N of every column that is in use and then incrementing N.
type Batch struct {
	Feed int // index into the plan's feeds
	N    int
	// Limit is the number of events at which a decoder must stop; 1 to BatchMax.
	Limit int

	Time [BatchMax]Nanos

	// Identity of each event, filled only where the plan's Feed.Identity is set;
	// first and last order by (Time, Chan, Order, Seq, Index).
	Chan  [BatchMax]uint64 // first 8 bytes of the channel's session, big-endian
	Order [BatchMax]uint64 // next 2 bytes of the session << 48 | epoch
	Seq   [BatchMax]uint64
	Index [BatchMax]uint32 // index of the event in its message

	Cols [ColumnsMax]Column

	// Heap holds the batch's text values. Its length is what is used; its
	// capacity never grows.
	Heap []byte

	// Marks holds the marks; its capacity is MarksMax and never grows.
	Marks []Mark

	// Source is the source of each event and Rank its number in its release, written
	// by the worker after each decode.
	Source [BatchMax]uint32
	Rank   [BatchMax]uint32

	// Position is the number of the packet whose release is being added.
	Position uint64
}

// NewBatch returns an empty batch for the given columns (types and scales).
func NewBatch(columns []Column) *Batch {
	b := &Batch{Limit: BatchMax, Marks: make([]Mark, 0, MarksMax)}
	texts := 0
	for i, c := range columns {
		b.Cols[i].Type, b.Cols[i].Scale = c.Type, c.Scale
		if c.Type == Text {
			b.Cols[i].Off, b.Cols[i].Len = make([]uint32, BatchMax), make([]uint8, BatchMax)
			texts++
			continue
		}
		b.Cols[i].Num = make([]int64, BatchMax)
	}
	b.Heap = make([]byte, 0, texts*BatchMax*TextMax)
	return b
}

// Reset empties b.
func (b *Batch) Reset() {
	b.N = 0
	b.Heap = b.Heap[:0]
	b.Marks = b.Marks[:0]
	for i := range b.Cols {
		b.Cols[i].Valid = Bits{}
	}
}

// Full reports that no further event fits.
func (b *Batch) Full() bool { return b.N >= b.Limit }

// SetNum sets column c of the event being added (number N) to v.
func (b *Batch) SetNum(c int, v int64) {
	col := &b.Cols[c]
	col.Num[b.N] = v
	col.Valid.Set(b.N)
}

// SetText copies v, at most TextMax bytes, into the heap as column c of the
// event being added.
func (b *Batch) SetText(c int, v []byte) {
	col := &b.Cols[c]
	col.Off[b.N] = uint32(len(b.Heap))
	col.Len[b.N] = uint8(len(v))
	b.Heap = append(b.Heap, v...)
	col.Valid.Set(b.N)
}

// SetNull makes column c of the event being added null.
func (b *Batch) SetNull(c int) {
	col := &b.Cols[c]
	if col.Type == Text {
		col.Off[b.N], col.Len[b.N] = 0, 0
	} else {
		col.Num[b.N] = 0
	}
	col.Valid.Clear(b.N)
}

// TextAt returns event i's value of text column c. It is valid until Reset.
func (b *Batch) TextAt(c, i int) []byte {
	col := &b.Cols[c]
	return b.Heap[col.Off[i] : col.Off[i]+uint32(col.Len[i])]
}
