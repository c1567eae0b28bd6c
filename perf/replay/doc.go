// Package replay measures the replay of a real capture, packets to rows, on one
// worker, beside a C++ loop (bars.cpp) that makes the same rows from the same bytes.
//
// headrace runs what `headrace replay --preload --workers 1` runs, with the example
// config iex-bars.yaml: [replay.Run] of the control plane, rows written to a file. The
// C++ side is what one would write for this capture and this query alone: one loop,
// the format and the query compiled in, no columns, no windows that close, no
// accounting; it keeps the epochs apart and counts what is missing. It is a bound, not
// a rival: it says what reading these bytes costs.
//
// Each round goes through the capture many times, each time from nothing to rows, the
// two in turns; the rows are compared value by value. Two rates are given: by the
// clock on the wall, and by processor time, which a busy neighbor does not change as
// much; headrace's processor time includes the making of rows, which runs beside the
// worker, and the set-up of its memory.
//
// Stages come from a CPU profile of the same run, taken apart by the innermost
// function on the stack that belongs to a stage.
package replay
