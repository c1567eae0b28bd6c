// Package audit says whether a host is fit to run workers: what is wrong, what it
// costs, and the command that puts it right.
//
// [Gather] looks and [Audit] judges. What was seen is [Facts]: files of a tree rooted
// at "/", and the answers of a few system calls, which come through [Probes]; so a
// test is a tree with a fault in it. A check is a function of the facts and changes
// nothing.
//
//	Facts    facts.go      what is looked at, and how often
//	Probes   probes.go     what no file says; kernel.go asks the kernel
//	Finding  finding.go    severity, value, cost, fix
//	Class    class.go      the latency class, and what holds it back
//	checks   cores.go irqs.go memory.go clocks.go system.go nic.go config.go
//
// What this process may not see is of severity unknown, never a failure and never ok.
// The package mends nothing: that is package stage.
package audit
