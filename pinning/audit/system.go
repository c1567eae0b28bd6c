package audit

import (
	"cmp"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func checkKernel(f *Facts) []Finding {
	release, ok := text(f.Root, "proc/sys/kernel/osrelease")
	if !ok {
		return []Finding{{ID: "kernel.version", Severity: Unknown, What: "the kernel's version cannot be read", Measured: "no /proc/sys/kernel/osrelease"}}
	}
	out := Finding{
		ID: "kernel.version", What: "the kernel has what AF_XDP needs here", Measured: release,
		Why: "before 6.4 the rings of a bound socket cannot be mapped, so no packet can be received (docs/OPERATIONS.md, What it needs)",
		Fix: "a kernel of 6.4 or newer; Debian 12 has one in its backports",
	}
	major, minor := versionOf(release)
	if major < 6 || major == 6 && minor < 4 {
		out.Severity, out.Best, out.What = Fail, ClassD, "the kernel is too old to receive"
	}
	return []Finding{quiet(out)}
}

// versionOf reads "6.12.5+deb13-amd64".
func versionOf(release string) (major, minor int) {
	first, rest, _ := strings.Cut(release, ".")
	major, _ = strconv.Atoi(first) // 0: no version that is known
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	minor, _ = strconv.Atoi(rest) // as above
	return major, minor
}

func checkJIT(f *Facts) []Finding {
	on, ok := integer(f.Root, "proc/sys/net/core/bpf_jit_enable")
	out := Finding{
		ID: "kernel.bpf_jit", What: "BPF programs are compiled", Measured: fmt.Sprintf("bpf_jit_enable=%d", on),
		Why: "the interpreter takes 5 to 10 times as long for each packet (Documentation/admin-guide/sysctl/net.rst, bpf_jit_enable)",
		Fix: tune(f, "sysctl") + ", or: sysctl net.core.bpf_jit_enable=1",
	}
	switch {
	case !ok:
		// Some kernels show it only to root; the setting is then what the kernel was
		// built with, which is on wherever the architecture has a compiler.
		out.Severity, out.Measured, out.What = Unknown, "not shown", "whether BPF programs are compiled is not shown to this user"
	case on == 0:
		out.Severity, out.Best, out.What = Warn, ClassC, "BPF programs are interpreted"
	}
	return []Finding{quiet(out)}
}

func checkRTThrottle(f *Facts) []Finding {
	runtime, ok := integer(f.Root, "proc/sys/kernel/sched_rt_runtime_us")
	if !ok {
		return nil
	}
	out := Finding{
		ID: "kernel.rt_throttle", What: "real-time threads are throttled, and workers are none", Measured: fmt.Sprintf("sched_rt_runtime_us=%d", runtime),
	}
	if runtime < 0 {
		out.Severity = Note
		out.What = "real-time threads are not throttled"
		out.Why = "a real-time thread that spins can hang its core, and who would stop it too; workers do not need that priority"
		out.Fix = "sysctl kernel.sched_rt_runtime_us=950000"
	}
	return []Finding{out}
}

func checkWatchdog(f *Facts) []Finding {
	on, ok := integer(f.Root, "proc/sys/kernel/nmi_watchdog")
	if !ok {
		return nil
	}
	out := Finding{
		ID: "kernel.watchdog", What: "no watchdog interrupts the cores", Measured: fmt.Sprintf("nmi_watchdog=%d", on),
		Why: "an NMI of 2 to 10 µs on each core every few seconds, and one hardware counter less (Documentation/admin-guide/lockup-watchdogs.rst)",
		Fix: tune(f, "sysctl") + ", or: sysctl kernel.nmi_watchdog=0",
	}
	if on != 0 {
		out.Severity, out.Best, out.What = Warn, ClassB, "the NMI watchdog interrupts every core"
	}
	return []Finding{quiet(out)}
}

func checkStatInterval(f *Facts) []Finding {
	seconds, ok := integer(f.Root, "proc/sys/vm/stat_interval")
	if !ok {
		return nil
	}
	out := Finding{
		ID: "kernel.stat_interval", What: "statistics of memory are seldom gathered", Measured: fmt.Sprintf("vm.stat_interval=%d", seconds),
		Why: "a kernel worker runs on each core that changed a counter: 2 to 10 µs every interval (Documentation/admin-guide/sysctl/vm.rst)",
		Fix: tune(f, "sysctl") + ", or: sysctl vm.stat_interval=10",
	}
	if seconds < 10 {
		out.Severity, out.What = Note, "statistics of memory are gathered each second"
	}
	return []Finding{quiet(out)}
}

// checkVirtual looks for a hypervisor. One that leaves its guest alone cannot be told
// from one that has not yet taken a core away.
func checkVirtual(f *Facts) []Finding {
	kind := hypervisor(f.Root)
	if kind == "" {
		return []Finding{{ID: "host.virtual", What: "the host is no virtual machine", Measured: "no hypervisor shows itself"}}
	}
	// Of these cores now, and of the whole machine since boot.
	stolen, ever := uint64(0), uint64(0)
	for cpu, after := range f.After.CPUs {
		ever += after.Steal
		if f.Workers.Has(cpu) {
			stolen += after.Steal - f.Before.CPUs[cpu].Steal
		}
	}
	out := Finding{
		ID: "host.virtual", Severity: Note, Best: ClassB, What: "the host is a virtual machine",
		Measured: fmt.Sprintf("%s; stolen %d ms of the worker cores now, %.0f s of all since boot", kind, 10*stolen, float64(ever)/100),
		Why:      "the hypervisor takes a core whenever it likes, 50 µs to some ms at a time, and nothing inside tells who had it",
		Fix:      "bare metal; or virtual CPUs pinned to cores of their own, with memory locked",
	}
	if ever > 0 {
		out.Severity, out.Best = Warn, ClassC
		out.What = "the host is a virtual machine, and time is stolen from it"
	}
	return []Finding{out}
}

// hypervisor names what the machine runs under, "" if nothing shows.
func hypervisor(root fs.FS) string {
	if kind, ok := text(root, "sys/hypervisor/type"); ok {
		return kind
	}
	vendor, _ := text(root, "sys/class/dmi/id/sys_vendor")
	product, _ := text(root, "sys/class/dmi/id/product_name")
	name := strings.TrimSpace(vendor + " " + product)
	cpus, _ := text(root, "proc/cpuinfo")
	for line := range strings.Lines(cpus) {
		if key, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			if strings.Contains(" "+strings.TrimSpace(flags)+" ", " hypervisor ") {
				return cmp.Or(name, "a hypervisor")
			}
			return "" // the CPU itself says so, whatever the firmware is called
		}
	}
	// Elsewhere than on x86 only the firmware's name tells.
	for _, mark := range []string{"QEMU", "KVM", "VMware", "Xen", "Amazon EC2", "Google Compute", "Virtual"} {
		if strings.Contains(name, mark) && !strings.Contains(name, "metal") {
			return name
		}
	}
	return ""
}

// needed are the capabilities of `run`; SYS_ADMIN stands in for the last two.
var needed = []struct {
	bit  int
	name string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_IPC_LOCK, "CAP_IPC_LOCK"},
	{unix.CAP_BPF, "CAP_BPF"},
	{unix.CAP_PERFMON, "CAP_PERFMON"},
}

func checkCapabilities(f *Facts) []Finding {
	caps, ok := capabilities(f)
	if !ok {
		return []Finding{{ID: "process.capabilities", Severity: Unknown, What: "this process's capabilities cannot be read", Measured: "no /proc/self/status"}}
	}
	var missing []string
	for _, c := range needed {
		admin := (c.bit == unix.CAP_BPF || c.bit == unix.CAP_PERFMON) && caps&(1<<unix.CAP_SYS_ADMIN) != 0
		if caps&(1<<c.bit) == 0 && !admin {
			missing = append(missing, c.name)
		}
	}
	out := Finding{
		ID: "process.capabilities", What: "this process may do what `run` has to", Measured: fmt.Sprintf("CapEff %x", caps),
		Why: "`run` gives them up again before a packet is taken; its unit has them, this process need not",
		Fix: "as root, or: setcap cap_net_admin,cap_net_raw,cap_ipc_lock,cap_bpf,cap_perfmon+ep headrace",
	}
	if len(missing) > 0 {
		out.Severity, out.What, out.Measured = Note, "this process could not `run`, and sees less", "missing: "+strings.Join(missing, ", ")
	}
	return []Finding{quiet(out)}
}

func capabilities(f *Facts) (uint64, bool) {
	status, _ := text(f.Root, "proc/self/status")
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
			return caps, err == nil
		}
	}
	return 0, false
}

// KernelRelease returns the kernel's version as it writes it, "" if it does not.
func KernelRelease(root fs.FS) string {
	release, _ := text(root, "proc/sys/kernel/osrelease")
	return release
}
