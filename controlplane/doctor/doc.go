// Package doctor is `headrace doctor`: it looks at a host through pinning/audit, tries
// XDP on its interfaces, measures its worker cores through pinning/gaps, and tells
// people or programs what is wrong and which latency class the host is granted.
//
//	Command   command.go  flags, the order of things, the exit code
//	prober    probe.go    a program attached, a socket bound, both taken off again
//	Report    report.go   what --json prints
//	write     screen.go   what people read
//	noise     noise.go    `headrace doctor noise`
//
// It judges nothing itself and changes nothing for longer than a probe takes.
package doctor
