package audit

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/pinning"
	"github.com/headrace/headrace/pinning/gaps"
	"github.com/headrace/headrace/pinning/topology"
)

// Facts are what was seen of a host.
type Facts struct {
	// Root is the tree that the small files are read from.
	Root    fs.FS
	Machine *topology.Machine
	// Place is where workers run, or would, and Workers their CPUs.
	Place   pinning.Placement
	Workers topology.CPUSet
	// Isolated are the CPUs that the scheduler gives to nobody unasked, by the kernel's
	// command line or by a partition.
	Isolated topology.CPUSet
	NICs     []NIC
	IRQs     []topology.IRQ
	Clock    Clock
	// Before and After are the counters at both ends of a stretch of time.
	Before, After Sample
	// Config is what is to be run, nil if no config was given.
	Config *Config
	// Noise is a measurement of the workers' cores, else NoiseUnknown says why there is
	// none.
	Noise        *gaps.Report
	NoiseUnknown string
	// IRQsErr says why IRQs are not known; nil: they are.
	IRQsErr error

	partitions []partition
}

// A Sample is counters at one time.
type Sample struct {
	At         time.Time
	Interrupts *topology.Interrupts
	CPUs       map[int]topology.CPUTime
	// NICs are the counters of each interface, by their names in sysfs.
	NICs map[string]map[string]uint64
}

// A NIC is an interface, as its files and its driver describe it.
type NIC struct {
	topology.NIC
	Ethernet Ethernet
	// EthernetUnknown says why Ethernet is empty.
	EthernetUnknown error
	XDP             XDP
	// State is operstate: "up", "down", "unknown" where there is no carrier to tell.
	State string
	// Elsewhere reports that sysfs shows another network namespace, so that node,
	// interrupts and losses are not known.
	Elsewhere bool
	// Master is what it belongs to, as a bond or a bridge; "" if nothing.
	Master string
}

// A Config is what is to be run on the host, as far as the host matters.
type Config struct {
	File string
	// MemoryBytes is taken at start, UMEMBytes for packets beside it.
	MemoryBytes, UMEMBytes int64
	Interfaces             []ConfigInterface
	// Groups are the multicast groups of each feed; Wide those feeds' prefixes that are
	// too many groups to join.
	Groups map[string][]netip.Addr
	Wide   map[string][]netip.Prefix
	// VLANs are the feeds with a rule that names a VLAN.
	VLANs []string
	// Rate is the packets a second that are expected, 0 if nobody said.
	Rate int
}

// A ConfigInterface is an interface as the config asks for it.
type ConfigInterface struct {
	Name   string
	Queues int // 0 is all
	RxRing int
	Spin   bool
	Native bool // and nothing else will do
}

// Options say what to look at.
type Options struct {
	// Interfaces are the names of NICs.
	Interfaces []string
	// Workers are the CPUs that workers run on. If empty, they are chosen: of what is
	// isolated, else as [pinning.Place] does.
	Workers topology.CPUSet
	// WorkerCount is how many workers there are. Zero: one for each of Workers, else of
	// the isolated CPUs, else of all cores but one.
	WorkerCount int
	// Span is the time between the two samples. Zero means half a second.
	Span   time.Duration
	Config *Config
}

// Gather looks at a host. It changes nothing. What cannot be seen is noted in the
// facts; the error is of what nothing could be said without.
func Gather(ctx context.Context, root fs.FS, p Probes, o Options) (*Facts, error) {
	f := &Facts{Root: root, Config: o.Config, partitions: partitions(root)}
	var err error
	if f.Machine, err = topology.Read(root); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	f.Isolated = isolated(f)
	for _, name := range o.Interfaces {
		n, err := gatherNIC(root, p, name)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		f.NICs = append(f.NICs, n)
	}
	if f.Place, err = place(f, o); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	f.Workers = f.Place.WorkerCPUs()
	f.IRQs, f.IRQsErr = topology.ReadIRQs(root)
	phc := -1
	for i := range f.NICs {
		phc = max(phc, f.NICs[i].Ethernet.PHC)
	}
	f.Clock = p.Clock(phc)
	span := o.Span
	if span == 0 {
		span = 500 * time.Millisecond
	}
	f.Before = f.sample()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("audit: %w", context.Cause(ctx))
	case <-time.After(span):
	}
	f.After = f.sample()
	return f, nil
}

// place decides where the workers run, as [pinning.Place] does for everybody.
func place(f *Facts, o Options) (pinning.Placement, error) {
	w := pinning.Wish{Workers: o.WorkerCount, CPUs: o.Workers}
	for i := range f.NICs {
		w.NICs = append(w.NICs, f.NICs[i].NIC)
	}
	switch free := f.Isolated.Intersect(f.Machine.Online); {
	case !o.Workers.Empty() && o.WorkerCount == 0:
		w.Workers = o.Workers.Len()
	case o.Workers.Empty() && !free.Empty() && free.Len() >= o.WorkerCount && !f.Machine.Online.Minus(free).Empty():
		w.CPUs, w.Workers = free, max(o.WorkerCount, 1)
		if o.WorkerCount == 0 {
			w.Workers = free.Len()
		}
	case o.WorkerCount == 0:
		w.Workers = max(len(f.Machine.Cores)-1, 1)
	}
	return pinning.Place(f.Machine, w)
}

// isolated reads who is isolated: by the command line, or by a partition of either
// version of control groups.
func isolated(f *Facts) topology.CPUSet {
	set := f.Machine.Isolated
	for _, p := range f.partitions {
		if p.isolated {
			set = set.Union(p.cpus)
		}
	}
	return set
}

func gatherNIC(root fs.FS, p Probes, name string) (NIC, error) {
	var n NIC
	var err error
	n.Ethernet, n.EthernetUnknown = p.Ethernet(name)
	dir := "sys/class/net/" + name
	index, _ := integer(root, dir+"/ifindex")
	if n.NIC, err = topology.ReadNIC(root, name); n.Ethernet.Index > 0 && (err != nil || int(index) != n.Ethernet.Index) {
		// sysfs is that of another network namespace: what it has of this name is another
		// interface, or none.
		n.Elsewhere = true
		n.NIC = topology.NIC{Name: name, Node: -1, MTU: n.Ethernet.MTU}
		n.State = "down"
		if n.Ethernet.Up {
			n.State = "up"
		}
	} else if err != nil {
		return n, err
	} else {
		n.State, _ = text(root, dir+"/operstate")
		if target, err := fs.ReadLink(root, dir+"/master"); err == nil {
			n.Master = target[strings.LastIndexByte(target, '/')+1:]
		}
	}
	if n.Driver == "" {
		n.Driver = n.Ethernet.Driver
	}
	n.XDP = p.XDP(n.NIC, defaultRoute(root, name))
	return n, nil
}

// defaultRoute reports whether packets for elsewhere leave through an interface.
func defaultRoute(root fs.FS, name string) bool {
	v4, _ := text(root, "proc/net/route")
	for line := range strings.Lines(v4) {
		if c := strings.Fields(line); len(c) > 7 && c[0] == name && c[1] == "00000000" && c[7] == "00000000" {
			return true
		}
	}
	v6, _ := text(root, "proc/net/ipv6_route")
	for line := range strings.Lines(v6) {
		c := strings.Fields(line)
		if len(c) > 9 && c[9] == name && strings.Trim(c[0], "0") == "" && c[1] == "00" && strings.Trim(c[4], "0") != "" {
			return true
		}
	}
	return false
}

func (f *Facts) sample() Sample {
	s := Sample{At: time.Now(), CPUs: topology.ReadCPUTimes(f.Root), NICs: map[string]map[string]uint64{}}
	s.Interrupts, _ = topology.ReadInterrupts(f.Root) // nil, which the checks know
	for i := range f.NICs {
		name, counts := f.NICs[i].Name, map[string]uint64{}
		if f.NICs[i].Elsewhere {
			continue
		}
		for _, c := range []string{"rx_packets", "rx_dropped", "rx_missed_errors", "rx_fifo_errors"} {
			if digits, ok := text(f.Root, "sys/class/net/"+name+"/statistics/"+c); ok {
				counts[c], _ = strconv.ParseUint(digits, 10, 64) // 0 if it is no number
			}
		}
		s.NICs[name] = counts
	}
	return s
}

// Busy returns the share of the time between the samples that a CPU worked, and false
// if it is not known. Time stolen by a hypervisor counts as work.
func (f *Facts) Busy(cpu int) (float64, bool) {
	a, okA := f.Before.CPUs[cpu]
	b, okB := f.After.CPUs[cpu]
	busy, idle := b.Busy-a.Busy+b.Steal-a.Steal, b.Idle-a.Idle
	if !okA || !okB || busy+idle == 0 {
		return 0, false
	}
	return float64(busy) / float64(busy+idle), true
}

// text reads a small file without the space around it.
func text(root fs.FS, name string) (string, bool) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return "", false
	}
	return strings.TrimSpace(string(b)), true
}

// integer reads a file that holds one number.
func integer(root fs.FS, name string) (int64, bool) {
	digits, ok := text(root, name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil
}

// chosen returns the alternative in brackets: "always [madvise] never".
func chosen(line string) string {
	if _, rest, ok := strings.Cut(line, "["); ok {
		word, _, _ := strings.Cut(rest, "]")
		return word
	}
	return line
}
