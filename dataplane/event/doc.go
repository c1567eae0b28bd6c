// Package event holds what flows through the data plane after decode: columnar
// batches of typed values, instants, decimals, keys and the reasons for which a
// frame, message or event was dropped.
//
// A [Batch] is a fixed number of preallocated columns. A decoder appends rows
// to it ([Batch.N] counts them), the worker hashes their keys and the window
// stage folds them. Nothing here allocates after [NewBatch].
//
// event is a leaf: it knows no format, no window and no memory but Go's own.
package event
