// Package verbs is the transport over RDMA: frames are written by the sender's network
// card straight into the receiver's memory. It is built with cgo and the tag rdma
// against libibverbs; otherwise [New] says so and nothing is linked.
//
//	device      one RoCEv2 port: its context, protection domain, GID     device.go
//	arena       memory that the device may reach, apart from Go's        arena.go
//	link        the queue pairs of one epoch and the C that drives them  link.go
//	flow        which slots are free, in both directions                 flow.go
//	mesh        frames over a link                                       mesh.go
//	Transport   makes a mesh for each epoch                              transport.go
//
// # How a frame travels
//
// Each peer has, for each other member, a ring of slots that only that one may write
// to. A frame is encoded in a slot of registered memory and sent with one RDMA write
// with immediate; the immediate's completion says that all of it is there, which
// looking at the memory would not. Slots are used in turn. A receiver gives them back
// in the immediates of what it sends anyway, or in an empty write once half of its ring
// is due, so a sender cannot overrun a slow receiver, and as many receives are posted
// as can be consumed, so the device never says "receiver not ready".
//
// # What an epoch has of its own
//
// Queue pairs, memory keys and random first packet numbers: what a former epoch's
// member still sends lands nowhere. Peers may only write, each into its own ring.
//
// # Failure
//
// The first completion that is not a success fails the peer; the queue pair is then
// dead. A peer that falls silent is noticed by what is sent to it, after
// [Config.Silence]; if there is nothing to send, an empty write is sent every quarter
// of a second. That is answered by the peer's device: a stopped peer does not fail.
//
// Registered memory is locked: a limit (ulimit -l) that is too low for it makes
// Prepare fail, unless the program may do so without (CAP_IPC_LOCK).
package verbs
