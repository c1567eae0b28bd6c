// Package deliver brings rows from a box into the shared memory of another one, where
// a program reads them without a system call or a copy.
//
//	producer ── frames of rows ──▶ consumer ──▶ ring ──▶ reader
//	         ◀── RowsAck ─────────
//
//	Ring      the receiver's end of a ring in a file of shared memory   ring.go
//	Reader    the other end; Open, Next, Release. In C: c/headrace_ring.h   reader.go
//	memory    the file's layout, and how both ends sleep                memory.go
//	Consumer  listens for producers and places their batches            consumer.go
//	Producer  one connection to a consumer; Send                        producer.go
//	link      what both ends of a connection have                       link.go
//	wire      the messages of the bootstrap; all decoding is here, fuzzed   wire.go
//
// A program that reads rows needs [Open] and no more: `headrace receive` runs the
// consumer. A [Consumer] is for programs that want it inside.
//
// # A connection
//
// The producer dials a TLS 1.3 connection; each end knows the other by the pin of its
// key. It asks for a transport and names its stream; the consumer answers with the last
// batch that it has of that stream, and both open a [rdma.Mesh] of the two of them.
// Unlike peers of a group they need not be one build or have one configuration: what
// must agree is the version of this package's wire and of the ring.
//
// # What is promised
//
// A batch is acknowledged when it is in the ring, which outlives the consumer's
// process. Of a stream a batch is there whole and once, however often connections end
// and consumers are killed: a batch whose number is not above the last one is not
// placed again. A producer that was killed between the acknowledgment and its own note
// sends the rows again in other batches; a reader tells them by (row_id, revision).
//
// A full ring is no loss: the batch waits, is not acknowledged, and the producer's Send
// waits with it. Behind one batch under way nothing piles up but in the producer's own
// queue.
package deliver
