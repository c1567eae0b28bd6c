// Package outbox carries partials from one worker to the control plane: a
// single-producer single-consumer ring of records in the segment.
//
// A record is a partial in a versioned, little-endian layout that is also the
// peers' wire form. The worker puts a pane's partials in table order, then a mark
// that the window is done. Records become visible when the worker publishes, once a
// batch; room comes back when the control plane has written the rows to every sink.
package outbox
