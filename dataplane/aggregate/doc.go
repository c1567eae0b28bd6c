// Package aggregate folds events into states of 64-bit words, merges states and
// reads values from them.
//
// A [Set] is the select of one query. The states of all its aggregates lie side
// by side in a table's entry, [Set.Words] words that begin as zeros:
//
//	Set.Fold    a batch of events -> the states of their keys    (worker, hot)
//	Set.Merge   a state into another                             (worker, peers)
//	Set.Value   a state -> a number, or null and the reason      (control plane)
//
// # Parts
//
// An aggregate keeps its state in parts: a count, a sum, a sum of squares, an
// extreme. Equal parts of several aggregates are one, so that sum(price * size)
// and vwap(price, size) add up their products once. A part takes its values
// through a view: the events in which the arguments have values. The first words
// of a state hold two bits for each view: seen (there was a value) and over (there
// was one that overflowed). Small parts come next, so that the cache line that the
// table's probe has touched holds as much as possible.
//
// # The order of events does not matter
//
// Every part is a commutative monoid whose words depend on nothing but the set of
// values: counts and sums are integers wide enough never to overflow (whether the
// result fits is asked once, in Value), extremes are maxima of unsigned keys,
// first and last are extremes by (time, channel, order, sequence, index, value),
// and sums of floats are integers too, in bins (bins.go). Zero words are the
// identity. So any order, any partition and any tree of merges give the same
// words, and no floating-point operation happens before Value rounds once.
//
// # Values
//
//	count            int64 (0 if there was nothing)
//	sum              the argument's type; integers and decimals up to 128 bits, else null "overflow"
//	min, max         the argument's type; a computed argument beyond 64 bits is an overflow
//	first, last      as min and max
//	mean             decimal(8), half-even, of integers and decimals; float64 of floats
//	variance         float64, of the population, rounded once
//	vwap             decimal(8), half-even, of integers and decimals; float64 if an argument is one
//
// Null arguments are skipped. The reasons of a null result are the Reason
// constants. In [Value.AppendJSON] exact numbers have all their digits and exactly
// their scale's decimals, never an exponent; floats are the shortest text that
// reads back as the same float64, with an exponent below 1e-6 and from 1e21 on, as
// in ECMAScript; −0 is 0.
//
// # A new aggregate
//
// One new file with a function like those in mean.go, which asks for the parts
// that exist or brings its own, and one line in the table kinds in set.go. (Its
// name in a config and in a plan is a line in package plan.)
//
// aggregate knows event, plan and expr (and fault, where tests end it). It does not know windows, keys or rows.
package aggregate
