// Package segment is the shared memory between the data plane and the control
// plane: counters, outboxes, sink positions, mailbox. Neither side takes a lock or
// makes a system call to use it.
//
// There are two memory files, one per writer, each mapped read-only by the other
// side, sized once and sealed against growing and shrinking. Control does not trust
// what it reads: it copies, then checks.
package segment
