// Package xsk receives frames from AF_XDP sockets: a mesh of Q queues × W workers
// for each interface (DESIGN: Sockets). It owns sockets, rings, UMEM and refill.
package xsk
