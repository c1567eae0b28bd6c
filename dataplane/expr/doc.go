// Package expr evaluates a [plan.Program] on a whole batch at a time.
//
// A program is checked once, when it is compiled: it comes from another process,
// so its stack, its types and its columns are not taken on trust. What is left is
// a list of steps, each of which is one loop over vectors that were allocated by
// [Compile]:
//
//	Compile         program -> Kernel, or an error that names the operation
//	Kernel.Eval     batch, selection -> Vector (an aggregate's argument)
//	Kernel.Filter   batch -> selection (a query's where)
//
// What a value is:
//
//   - Integers and decimals are exact. A column holds 64 bits; whatever is computed
//     has 128. A result that needs more is neither a number nor null but an
//     overflow ([Vector.Over]) and stays one through further arithmetic.
//   - Floats follow IEEE 754, one rounding an operation, except that −0 as a
//     divisor is 0. Products are never fused with a sum, so every architecture
//     computes the same bits.
//   - Null in gives null out, also where the other operand is an overflow. And and
//     or are three-valued: false and null is false, true or null is true. A
//     comparison with NaN, an infinity or an overflow is not known, so where does
//     not select the event.
//
// expr knows event and plan. It does not know what an aggregate or a window is.
package expr
