package confine

import "golang.org/x/sys/unix"

// Offsets in struct seccomp_data of linux/seccomp.h. The machine is little-endian, as
// headrace's machines are.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// x32 is the bit of the calls of amd64's second, 32-bit interface, which are others
// under numbers of their own.
const x32 = 0x4000_0000

const (
	load      = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpAbove = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	answer    = unix.BPF_RET | unix.BPF_K
)

// assemble makes the kernel's program of the rules: whatever none of them allows is
// answered with denial.
//
// Each rule is a block that falls through to the next one, so that no jump is longer
// than its block. Since Linux 5.11 the kernel runs none of it for a call that is allowed
// without conditions.
func assemble(rules []rule, denial uint32) []unix.SockFilter {
	program := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: jumpEqual, K: auditArch, Jt: 1},
		{Code: answer, K: denial},
		{Code: load, K: offsetCall},
		{Code: jumpAbove, K: x32, Jf: 1},
		{Code: answer, K: denial},
		// Its flags lie behind a pointer. The C library falls back to clone.
		{Code: jumpEqual, K: unix.SYS_CLONE3, Jf: 1},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
	for _, r := range rules {
		program = append(program, r.block()...)
	}
	return append(program, unix.SockFilter{Code: answer, K: denial})
}

// block begins and, unless it answers, ends with the call's number loaded.
func (r *rule) block() []unix.SockFilter {
	var tests []unix.SockFilter
	for _, c := range r.conditions {
		for half := range 2 {
			mask, value := uint32(c.mask>>(32*half)), uint32(c.value>>(32*half))
			if mask == 0 {
				continue
			}
			tests = append(
				tests,
				unix.SockFilter{Code: load, K: uint32(offsetArgs + 8*c.arg + 4*half)},
				unix.SockFilter{Code: and, K: mask},
				unix.SockFilter{Code: jumpEqual, K: value},
			)
		}
	}
	for i := range tests {
		if tests[i].Code == jumpEqual {
			tests[i].Jf = uint8(len(tests) - i) // over the rest and the answer
		}
	}
	body := append(tests, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW})
	if len(r.conditions) > 0 {
		body = append(body, unix.SockFilter{Code: load, K: offsetCall})
	}
	return append([]unix.SockFilter{{Code: jumpEqual, K: uint32(r.call), Jf: uint8(len(body))}}, body...)
}
