package rdma

// What the tests of groups share with the tests of ops.
var (
	Naive     = naive
	AffineOp  = affineOp
	Affine    = affine
	AllOps    = allOps
	CarryRich = randomBytes
)

// ElementBytes is the length of an element of op.
func ElementBytes(op Op) int {
	o, err := op.operation()
	if err != nil {
		panic(err)
	}
	return o.element
}

// StoreForTest stores pieces of a contribution of total bytes and returns what is kept
// and the room that was taken for it.
func StoreForTest(total uint64, pieces ...[]byte) (kept []byte, room int) {
	b := box{total: total, want: total, element: 1}
	for _, p := range pieces {
		b.store(p)
		b.got += uint64(len(p))
	}
	return b.buf, cap(b.buf)
}
