// Package xdptest is a small XDP program for tests of AF_XDP sockets that must not
// depend on the real one: UDP over plain IPv4 to one port is steered by the first
// eight bytes of its payload, with [steer.Meta] before the frame, to
// XSKMAP[queue*64 + worker]; everything else is passed.
//
// Only tests import it.
package xdptest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/steer"
)

// Port is the UDP port whose packets are steered.
const Port = 9000

// Feed is the feed number in the metadata.
const Feed = 7

// stride is the distance of two queues' slots in the XSKMAP, slots its size.
const (
	stride = 64
	slots  = stride * 64
)

// WorkerOf returns the worker of a packet whose payload begins with the eight bytes
// of key, little-endian.
func WorkerOf(key uint64, workers int) int { return int(key>>54) % workers }

// A Program is one instance with its own XSKMAP and counters, for one interface.
type Program struct {
	program *ebpf.Program
	sockets *ebpf.Map
	steered *ebpf.Map
	link    link.Link
}

// Load loads the program for a number of workers. It is closed with the test.
func Load(tb testing.TB, workers int) *Program {
	tb.Helper()
	_ = rlimit.RemoveMemlock() // kernels since 5.11 need no such thing
	p := &Program{}
	tb.Cleanup(p.Close)
	if err := p.load(workers); err != nil {
		tb.Fatalf("xdptest: %v", err)
	}
	return p
}

func (p *Program) load(workers int) (err error) {
	p.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: slots})
	if err != nil {
		return fmt.Errorf("map of sockets: %w", err)
	}
	p.steered, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: slots})
	if err != nil {
		return fmt.Errorf("map of counters: %w", err)
	}
	p.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "hr_test", Type: ebpf.XDP, License: "GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: instructions(int32(workers), p.sockets.FD(), p.steered.FD()),
	})
	if err != nil {
		return fmt.Errorf("program: %+w", err)
	}
	return nil
}

// instructions returns the program. R6 is the context, R7 the packet, R8 its end and
// R9 the key. Field offsets are those of struct xdp_md and of steer.Meta.
func instructions(workers int32, sockets, steered int) asm.Instructions {
	const ethernet, ip, udp, payload = 0, 14, 34, 42
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R8, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, payload+8),
		asm.JGT.Reg(asm.R1, asm.R8, "pass"),
		asm.LoadMem(asm.R1, asm.R7, ethernet+12, asm.Half),
		asm.JNE.Imm(asm.R1, 0x0008, "pass"), // ETH_P_IP in network order
		asm.LoadMem(asm.R1, asm.R7, ip, asm.Byte),
		asm.JNE.Imm(asm.R1, 0x45, "pass"),
		asm.LoadMem(asm.R1, asm.R7, ip+9, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "pass"),
		asm.LoadMem(asm.R1, asm.R7, udp+2, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, Port, "pass"),
		asm.LoadMem(asm.R9, asm.R7, payload, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, udp+4, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.Sub.Imm(asm.R1, 8),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord), // payload length
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord), // receive time
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, -steer.MetaSize),
		asm.FnXdpAdjustMeta.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.Word), // data_meta
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, steer.MetaSize),
		asm.JGT.Reg(asm.R3, asm.R2, "pass"),
		asm.StoreMem(asm.R1, 0, asm.R9, asm.DWord),
		asm.LoadMem(asm.R3, asm.RFP, -16, asm.DWord),
		asm.StoreMem(asm.R1, 8, asm.R3, asm.DWord),
		asm.StoreImm(asm.R1, 16, payload, asm.Half),
		asm.LoadMem(asm.R3, asm.RFP, -8, asm.DWord),
		asm.StoreMem(asm.R1, 18, asm.R3, asm.Half),
		asm.StoreImm(asm.R1, 20, Feed, asm.Half),
		asm.RSh.Imm(asm.R9, 54), // from here on R9 is the key group
		asm.StoreMem(asm.R1, 22, asm.R9, asm.Half),
		asm.StoreImm(asm.R1, 24, 0, asm.Half), // line, flags
		asm.StoreImm(asm.R1, 26, steer.MetaVersion, asm.Half),
		asm.StoreImm(asm.R1, 28, 0, asm.Word),
		asm.Mod.Imm(asm.R9, workers),
		asm.LoadMem(asm.R2, asm.R6, 16, asm.Word), // rx_queue_index
		asm.LSh.Imm(asm.R2, 6),
		asm.Add.Reg(asm.R2, asm.R9),
		asm.StoreMem(asm.RFP, -4, asm.R2, asm.Word),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Imm(asm.R3, xdpPass),
		asm.FnRedirectMap.Call(),
		asm.JNE.Imm(asm.R0, xdpRedirect, "exit"), // no socket there: passed
		asm.LoadMapPtr(asm.R1, steered),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "redirect"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, xdpRedirect).WithSymbol("redirect"),
		asm.Return().WithSymbol("exit"),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	}
}

// Verdicts: enum xdp_action of linux/bpf.h.
const (
	xdpPass     = 2
	xdpRedirect = 4
)

// Attach attaches the program to an interface of the thread's namespace, in driver
// mode or in skb mode.
func (p *Program) Attach(tb testing.TB, ifindex int, driver bool) {
	tb.Helper()
	flags := link.XDPGenericMode
	if driver {
		flags = link.XDPDriverMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p.program, Interface: ifindex, Flags: flags})
	if err != nil {
		tb.Fatalf("xdptest: attach to interface %d, driver mode %v: %v", ifindex, driver, err)
	}
	p.link = l
}

// Register puts a socket into a slot of the XSKMAP.
func (p *Program) Register(slot uint32, fd int) error { return p.sockets.Put(slot, uint32(fd)) }

// Unregister empties a slot. An empty slot is not an error.
func (p *Program) Unregister(slot uint32) error {
	if err := p.sockets.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// Steered returns how many frames were redirected to a slot's socket.
func (p *Program) Steered(tb testing.TB, slot uint32) uint64 {
	tb.Helper()
	var perCPU []uint64
	if err := p.steered.Lookup(slot, &perCPU); err != nil {
		tb.Fatalf("xdptest: counter of slot %d: %v", slot, err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// Close detaches the program and frees it. A second call does nothing.
func (p *Program) Close() {
	if p.link != nil {
		p.link.Close() //nolint:errcheck // the descriptor is gone either way
		p.link = nil
	}
	p.program.Close() //nolint:errcheck // as above
	p.sockets.Close() //nolint:errcheck // as above
	p.steered.Close() //nolint:errcheck // as above
}
