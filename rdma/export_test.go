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
