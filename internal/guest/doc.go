// Package guest boots a throw-away Linux under QEMU and runs one command in it, for
// tests of what the kernel of this machine may lack: soft RoCE (rdma_rxe), MACsec,
// netem, isolated CPUs, two NUMA nodes, native XDP on a card with several queues.
//
// The guest has no disk and, unless it is asked for, no network. Its kernel is
// Debian's, fetched once with apt and unpacked, never installed. Its root is an
// initramfs that is made here, for each run, of four things: busybox, the kernel
// modules asked for, the programs of this machine asked for with the shared
// libraries that they need, and one directory, which becomes /work. No KVM and no
// root are needed; a run takes five seconds more than its command where the machine
// is idle.
//
// In the order of reading:
//
//	Config, Run  guest.go    what is asked for, and the order of the steps
//	sets         sets.go     ready-made lists of modules and programs
//	kernel       kernel.go   the package, the ELF kernel in it, its modules
//	root         root.go     what the guest finds in its file system; elf.go, cpio.go
//	init.sh                  the first process of the guest
//	boot         boot.go     QEMU: its arguments, its two ports, its end
//	card         card.go     the card with several queues and its far end
//	Debian       debian.go   a disk with systemd in place of the command alone; debian.sh
//	Test, Need   test.go     for the tests of other packages
//
// [WireScript] joins N soft RoCE devices by a bridge; in the guest it is the command
// `wire`. The command line is `go run ./internal/guest/vm`.
//
// What runs in the guest is emulated, 9 to 15 times slower than on the machine:
// assert results, states and their order, never a latency.
package guest
