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
//	close.go      panes into the outbox, and their memory cleared
//	undo.go       what a call may save of what it changes
//	shared.go     the key limit where several workers share it (run)
//	settle.go     the same in replay
//	transfer.go   state from one State to another, of another plan too
//
// The state is what DESIGN calls order-independent: within a pane the order of
// folding changes nothing. What depends on order is decided by marks alone: which
// events are late, which windows close with which gaps.
//
// # Restart
//
// Everything that outlives a batch is in the worker's region, and saved in an undo log
// before it is changed. A pane that was put out is only marked as spent, and cleared
// ([State.Sweep]) when that is committed. A State made over the region of a process
// that ended goes on where its last committed batch ended. Tests that end processes
// between any two changes are built with the tag faults; -histories makes them longer.
//
// window knows events, aggregates and the outbox; no packets, formats or lanes.
package window
