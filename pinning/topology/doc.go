// Package topology reads how a machine is built: packages, cores, threads of a core,
// caches, memory nodes, and where its network cards and their interrupts are.
//
// Everything is read from an fs.FS rooted at "/", so a machine is [os.DirFS]("/") and
// a test is a directory shaped as some other machine. Nothing is written and no
// privilege is needed. What a kernel does not tell is left empty, never guessed: a
// machine without NUMA is one node, one without cache files has no caches.
//
//	CPUSet      cpuset.go      sets of CPU numbers and the kernel's text forms of them
//	Machine     machine.go     CPUs, cores, caches
//	Node        node.go        memory nodes, distances, huge pages
//	NIC         nic.go         a card's node, driver, queues and interrupts
//	Interrupts  interrupts.go  /proc/interrupts and /proc/irq
//	CPUTime     times.go       /proc/stat
//
// It knows neither workers nor what should be where: that is package pinning.
package topology
