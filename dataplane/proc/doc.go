// Package proc is the data-plane process: it opens the sockets' owners, builds the
// workers, drops every privilege, lets the workers run, and looks after what a worker
// has no time for.
//
// [Main] is the whole life. A control process starts it with one descriptor, a socket
// of package handover; what they say there is proc's only conversation. While it runs
// it has no listener, opens nothing, logs nothing and collects no garbage; its one
// other goroutine wakes now and then to read the kernel's counters of the sockets and
// to see that control and the interfaces are still there (keep.go). Without a control
// it waits for the next one (orphan.go), for as long as the plan says.
//
// It knows no config, no BPF and no sinks.
package proc
