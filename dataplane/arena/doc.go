// Package arena is memory outside the Go heap: one mapped region a worker, handed
// out once at start and never grown. What is handed out is zero and holds no
// pointers; it is named by offset ([Ref]), so that a range can be copied,
// checkpointed or mapped by the next process.
//
// A region reserves address space, not memory: pages cost something when they are
// first touched. So the sum that `headrace explain` prints is made by building the
// very same structures and reading [Region.Lines].
package arena
