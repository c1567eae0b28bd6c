// Package dataplane turns frames into partial results, on workers: threads that
// share nothing but rings.
//
// A frame goes through these stages, in this order, a batch at a time:
//
//	receive   xsk       ring  -> frames
//	sequence  sequence  frame -> the messages that may go on, in order
//	decode    wire      messages -> events, in columns
//	exchange  exchange  event of another owner -> its lane
//	fold      window    event -> the state of its key and window
//	close     outbox    windows behind the watermark -> the control plane
//
// [Worker.cycle] in worker.go is those stages; read it first. feed.go is what
// happens to one feed's frames up to the event, run.go the thread around cycle,
// gate.go what several workers agree on in replay.
//
// A cycle is a transaction: commit.go says what of a worker outlives its process and how
// the next one goes on with it, bag.go what a cycle could not bring to its end, poison.go
// what is known of a frame of which a process died. hold.go brings all workers to rest,
// and move.go then gives key groups from one to another.
//
// When all workers are at rest, workers of another plan, of another number, or with other
// key groups can take everything over ([Transfer]), in this order:
//
//  1. the old regions are opened to be read ([OpenHeld]), and looked at: nothing may be
//     under way in them;
//  2. new workers are built over new regions, each with a word that says that state is to
//     come, and at the old positions of the rings that go on;
//  3. channels come, with what they hold and what decoders know; watermarks and gaps, their
//     sources under new numbers; key groups, with their open windows; counters;
//  4. all new workers commit, one after the other; only then does one of them show
//     anything, or run.
//
// A kill before the end of step 4 leaves a new region without a commit, which no worker
// starts over, and the old ones as they were.
//
// The package knows no control plane, no metrics library, no network and no clock:
// time comes as an argument, memory and sockets are passed in. Do not use it to
// receive packets for anything but windows; use an AF_XDP library for that.
package dataplane
