// Package xsk receives frames from AF_XDP sockets: a mesh of Q queues × W workers
// for each interface (DESIGN: Sockets). It owns sockets, rings, UMEM and refill.
//
// The kernel lets a socket take frames of one (interface, queue) only. So each queue
// has an owner socket, which brings the UMEM and its fill, completion, RX and TX
// rings, and one RX-only member for every other worker. A [Layout] says which sockets
// exist. Owners are of one of two kinds:
//
//   - by asavie/xdp, whose UMEM is private memory: the process that needs the frames
//     opens them ([OpenOwners]), and what is in its rings ends with it;
//   - raw, over a memory file (Layout.Raw): the process with the privileges opens them
//     ([OpenRawOwners]) and keeps them, while processes without any adopt them
//     ([AdoptOwners]), one after the other. The kernel receives meanwhile.
//
// The process with the privileges opens the members on the owners' descriptors
// ([OpenMembers]), and a worker reads its ring of every queue through one [Port].
// [OpenMesh] does it all in one process.
//
// [Port.Receive] takes descriptors and copies each frame's [steer.Meta];
// [Port.Release] gives the frames back. Nothing becomes visible to the kernel before
// Release: what was received and not released is still in the ring. Giving back goes
// through the queue's one fill ring, under a lock that nobody waits for: who does not
// get it parks the addresses where the next holder finds them.
//
// A process that has adopted raw owners may be killed between any two instructions. What
// is where is told by the rings' own positions and by a little memory beside them
// (queue.go), so that the next process finds every frame, each in one place. With the
// positions that a worker commits ([Port.Positions], [NewPort]) every frame that was
// committed is given back once and every other one is received again.
// [Owner.Account] counts.
//
// Receive, Release and everything below them neither allocate nor block. Everything
// that opens, closes or counts is for other threads.
package xsk
