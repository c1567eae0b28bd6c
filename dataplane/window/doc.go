// Package window keeps the state of queries: panes of keyed aggregate states,
// watermarks, gaps, and the closing of windows.
//
// A worker folds the events that it owns ([State.Apply] for what it decoded
// itself, [State.Fold] and [State.Mark] for what came through lanes). An event's
// pane is found by its time, its entry by its key's hash in the pane's table, and
// the aggregates of its query are updated a column at a time. When the watermark of
// a query passes a window's end the pane begins to close, with what is known missing
// in it at that moment, and [State.Close] puts its partials into the outbox.
//
//	state.go      what a worker keeps, and its memory
//	table.go      pane tables: key groups as contiguous runs of slots
//	fold.go       events into panes
//	watermark.go  sources, gaps, watermarks: the effect of marks
//	close.go      panes into the outbox
//	settle.go     the key limit where several workers share it (replay)
//
// The state is what DESIGN calls order-independent: within a pane the order of
// folding changes nothing. What depends on order is decided by marks alone: which
// events are late, which windows close with which gaps.
//
// window knows events, aggregates and the outbox; no packets, formats or lanes.
package window
