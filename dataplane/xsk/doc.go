// Package xsk receives frames from AF_XDP sockets: a mesh of Q queues × W workers
// for each interface (DESIGN: Sockets). It owns sockets, rings, UMEM and refill.
//
// The kernel lets a socket take frames of one (interface, queue) only. So each queue
// has an owner socket, which brings the UMEM and its fill, completion, RX and TX
// rings, and one RX-only member for every other worker. A [Layout] says which sockets
// exist. The process that needs the frames opens the owners ([OpenOwners]), the one
// with the privileges opens the members on the owners' descriptors ([OpenMembers]),
// and a worker reads its ring of every queue through one [Port]. [OpenMesh] does it
// all in one process.
//
// [Port.Receive] takes descriptors and copies each frame's [steer.Meta];
// [Port.Release] gives the frames back. Nothing becomes visible to the kernel before
// Release: what was received and not released is still in the ring. Giving back goes
// through the queue's one fill ring, under a lock that nobody waits for: who does not
// get it parks the addresses where the next holder finds them.
//
// Receive, Release and everything below them neither allocate nor block. Everything
// that opens, closes or counts is for other threads.
package xsk
