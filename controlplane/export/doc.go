// Package export takes partials out of the outboxes, has rows made of them, and
// brings the rows to the sinks: one file a kind of sink.
//
// A [Pump] reads every outbox in turn, makes each row once, and queues batches of
// rows for each [Sink]. A sink writes whole lines, then commits: the positions of
// all outboxes and where its file ends, in the segment, where the next control
// process finds them. The room that a worker gets back is what every sink has
// committed, so a row is lost only with the machine.
//
// [JSONL] is the sink that appends JSON Lines to a file. To a regular file every
// row goes exactly once, even if the control plane is killed at any instruction.
// To standard output, a pipe or a device it goes at least once: what was written
// after the last commit is written again.
//
// In a group of boxes a [Tap] takes the records of global queries, as a sink takes
// rows: what it has not acknowledged is kept in the outbox too. The rows that the
// group makes of them come back by [Pump.Inject] and go to the sinks of their query.
// They are of no outbox, so nothing can be read again for them: whoever injects them
// keeps them until they are said to be written, and gives them again after a death.
//
// [Deliver] is the sink that puts rows in a ring of shared memory on another box
// (package deliver), at least once: a batch that was acknowledged and not committed
// when the control plane was killed is sent again.
//
// export does not know what is in a row (package rows) or who asks for its
// counters (package status).
package export
