package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/headrace/headrace/pinning/topology"
)

// checkNICs looks at each interface.
func checkNICs(f *Facts) []Finding {
	var all []Finding
	for i := range f.NICs {
		n := &f.NICs[i]
		for _, c := range []func(*Facts, *NIC) Finding{
			checkDriver, checkLink, checkQueues, checkRings, checkCoalesce, checkOffloads, checkMTU, checkNative, checkZeroCopy, checkDrops,
		} {
			if found := c(f, n); found.ID != "" {
				found.Subject = n.Name
				all = append(all, quiet(found))
			}
		}
	}
	return all
}

// Drivers that are known to run XDP in the driver, and those that give their rings to
// AF_XDP too, in the newest kernels. It is only a hint where nothing may be tried.
var (
	nativeDrivers = strings.Fields("bnxt_en dpaa2-eth ena enetc fec fsl_dpa gve hv_netvsc i40e iavf ice idpf igb igc ixgbe ixgbevf mana mlx4_en mlx5_core mvneta mvpp2 netsec nfp nicvf qede r8152 sfc stmmac tsnep tun veth virtio_net vmxnet3")
	zeroDrivers   = strings.Fields("dpaa2-eth enetc gve i40e ice idpf igb igc ixgbe mlx5_core nfp stmmac tsnep virtio_net")
)

func checkDriver(_ *Facts, n *NIC) Finding {
	out := Finding{ID: "nic.driver", What: "the driver is known to have native XDP", Measured: strings.Join(strings.Fields(n.Driver+" "+n.Ethernet.Version+" "+n.Ethernet.Firmware), " ")}
	switch {
	case n.Driver == "":
		out.Severity, out.What = Unknown, "the interface has no driver that says its name"
		out.Measured = "none"
		if n.EthernetUnknown != nil {
			out.Measured = n.EthernetUnknown.Error()
		}
	case !slices.Contains(nativeDrivers, n.Driver):
		out.Severity, out.What = Note, "the driver is not known to have native XDP"
		out.Why = "without it every packet gets a socket buffer and a copy: a quarter to a tenth of the native rate"
		out.Fix = "headrace doctor --probe tries it"
	}
	if n.Master != "" {
		out.Severity, out.What = Warn, "the interface belongs to "+n.Master
		out.Why = "packets are taken from each member, before " + n.Master + " sees them; it then misses them"
		out.Fix = "name the members, all of them, and not " + n.Master
	}
	return out
}

func checkLink(_ *Facts, n *NIC) Finding {
	out := Finding{ID: "nic.link", What: "the link is up", Measured: cmp.Or(n.State, "unknown"), Why: "nothing comes", Fix: fmt.Sprintf("ip link set %s up; then the cable, the transceiver, the switch's port", n.Name)}
	switch n.State {
	case "up":
	case "unknown":
		out.What = "the interface does not tell whether its link is up"
	default:
		out.Severity, out.What = Fail, "the link is down"
	}
	return out
}

// queuesMax bounds the receive queues of an interface (docs/ARCHITECTURE.md).
const queuesMax = 64

func checkQueues(f *Facts, n *NIC) Finding {
	queues, most := n.RXQueues, n.RXQueues
	if c := n.Ethernet.Channels; c != nil && c.Receive() > 0 {
		queues, most = c.Receive(), max(c.CombinedMax, c.RxMax)
	}
	workers := len(f.Place.Workers)
	out := Finding{ID: "nic.queues", What: "queues and workers suit each other", Measured: fmt.Sprintf("%d of %d receive queues, %d workers", queues, most, workers)}
	used := 0
	if f.Config != nil {
		for _, i := range f.Config.Interfaces {
			if i.Name == n.Name {
				used = i.Queues
			}
		}
	}
	set := func(n *NIC, to int) string { return fmt.Sprintf("ethtool -L %s combined %d", n.Name, to) }
	switch {
	case queues == 0:
		out.Severity, out.What, out.Measured = Unknown, "how many queues there are is not shown", "nothing in sysfs, and the driver does not tell"
	case used > 0 && used < queues:
		out.Severity, out.What = Fail, fmt.Sprintf("the card spreads packets over %d queues and the config reads %d", queues, used)
		out.Why, out.Fix = "packets of the other queues go to the network stack: a share of the feed is missing", set(n, used)
	case used > queues:
		out.Severity, out.What = Fail, fmt.Sprintf("the config reads %d queues and the card has %d", used, queues)
		out.Why, out.Fix = "`run` refuses to start", set(n, used)
	case queues > queuesMax:
		out.Severity, out.What = Fail, fmt.Sprintf("the card has more than %d queues", queuesMax)
		out.Why, out.Fix = "there is no room for more in the program's map", set(n, queuesMax)
	case queues > 2*workers:
		out.Severity, out.What = Note, "there are many more queues than workers"
		out.Why = "each worker looks at a ring of each queue: 5 to 20 ns a ring and cycle, and memory for each"
		out.Fix = set(n, workers)
	case queues < workers && most > queues:
		out.Severity, out.What = Note, "there are fewer queues than workers"
		out.Why = "one core's interrupts carry a queue: about 1 to 3 million packets a second in native mode"
		out.Fix = set(n, min(workers, most))
	}
	return out
}

// ringWanted is a receive ring that rides out 1 ms at two million packets a second.
const ringWanted = 2048

func checkRings(f *Facts, n *NIC) Finding {
	r := n.Ethernet.Rings
	if r == nil || r.RxMax == 0 {
		return Finding{ID: "nic.rings", What: "the driver has no ring to set", Measured: "none"}
	}
	out := Finding{
		ID: "nic.rings", What: "the card's receive rings are long enough", Measured: fmt.Sprintf("%d of %d packets", r.Rx, r.RxMax),
		Why: fmt.Sprintf("what comes while the core that empties the ring is away is lost beyond it: %d packets are 0.%02d ms at 2 million a second", r.Rx, r.Rx/20),
		Fix: fmt.Sprintf("%s, or: ethtool -G %s rx %d", tune(f, "rings"), n.Name, min(r.RxMax, 2*ringWanted)),
	}
	if r.Rx >= 2000 {
		out.Why = ""
	}
	switch {
	case r.Rx < ringWanted && r.Rx < r.RxMax:
		out.Severity, out.What = Warn, "the card's receive rings are shorter than they could be"
	case r.Rx < ringWanted:
		out.Severity, out.What, out.Fix = Note, "the card's receive rings are short, and cannot be longer", "spread over more queues, or another card"
	}
	return out
}

func checkCoalesce(f *Facts, n *NIC) Finding {
	c := n.Ethernet.Coalesce
	if c == nil {
		return Finding{}
	}
	mode := ""
	if c.Adaptive {
		mode = ", adaptive"
	}
	out := Finding{
		ID: "nic.coalesce", What: "the card interrupts soon", Measured: fmt.Sprintf("rx-usecs %d, rx-frames %d%s", c.RxUsecs, c.RxFrames, mode),
		Why: "the card waits that long, or for so many packets, before it says that one has come; every packet may be late by it (ethtool(8), -C)",
		Fix: fmt.Sprintf("%s, or: ethtool -C %s adaptive-rx off rx-usecs 0", tune(f, "coalesce"), n.Name),
	}
	switch {
	case c.RxUsecs >= 50:
		out.Severity, out.Best, out.What = Warn, ClassC, "the card holds packets back"
	case c.RxUsecs >= 10:
		out.Severity, out.Best, out.What = Warn, ClassB, "the card holds packets back"
	case c.Adaptive:
		out.Severity, out.Best, out.What = Warn, ClassB, "the card decides by itself how long it holds packets back, up to some 100 µs"
	}
	return out
}

func checkOffloads(f *Facts, n *NIC) Finding {
	on := n.Ethernet.Features
	if on == nil {
		return Finding{ID: "nic.offloads", Severity: Unknown, What: "the card's offloads are not known", Measured: "the driver does not tell"}
	}
	var set []string
	for _, name := range watched {
		if on[name] {
			set = append(set, name)
		}
	}
	out := Finding{ID: "nic.offloads", What: "no offload changes packets before XDP sees them", Measured: "on: " + cmp.Or(strings.Join(set, " "), "none of those that matter")}
	switch {
	case on["rx-lro"]:
		out.Severity, out.What = Fail, "the card joins packets (LRO)"
		out.Why = "most drivers refuse native XDP then; with the others several datagrams arrive as one and their boundaries are gone"
		out.Fix = fmt.Sprintf("%s, or: ethtool -K %s lro off", tune(f, "offloads"), n.Name)
	case on["rx-gro-hw"]:
		out.Severity, out.What = Warn, "the card joins packets (hardware GRO)"
		out.Why = "some drivers refuse native XDP then, as virtio_net; joined packets do not fit into a chunk of 2 KiB"
		out.Fix = fmt.Sprintf("ethtool -K %s rx-gro-hw off", n.Name)
	case on["rx-vlan-hw-parse"] && f.Config != nil && len(f.Config.VLANs) > 0:
		out.Severity, out.What = Fail, fmt.Sprintf("the card takes VLAN tags out of packets, and feed %s matches by VLAN", strings.Join(f.Config.VLANs, ", "))
		out.Why = "XDP does not see the tag: no packet matches the rule"
		out.Fix = fmt.Sprintf("ethtool -K %s rx-vlan-offload off", n.Name)
	case on["rx-gro"] && !n.XDP.Native && n.XDP.Probed:
		out.Severity, out.What = Note, "the kernel joins packets (GRO), and XDP runs behind that here"
		out.Why = "in generic mode XDP may see joined packets"
		out.Fix = fmt.Sprintf("ethtool -K %s gro off", n.Name)
	}
	return out
}

// Room of a chunk: what XDP keeps in front of a packet is not the packet's.
const (
	chunkBytes, headroomBytes = 2048, 256
	// An Ethernet header and two VLAN tags.
	headerBytes = 14 + 8
	mtuMax      = chunkBytes - headroomBytes - headerBytes
)

func checkMTU(_ *Facts, n *NIC) Finding {
	out := Finding{
		ID: "nic.mtu", What: "a packet fits into a chunk", Measured: fmt.Sprintf("MTU %d, at most %d", n.MTU, mtuMax),
		Why: fmt.Sprintf("a chunk of %d bytes less %d that XDP keeps and %d of headers: longer packets are dropped and counted", chunkBytes, headroomBytes, headerBytes),
		Fix: fmt.Sprintf("ip link set %s mtu 1500", n.Name),
	}
	if n.MTU > mtuMax {
		out.Severity, out.What = Fail, "packets may be longer than a chunk"
	}
	return out
}

func checkNative(f *Facts, n *NIC) Finding {
	x := n.XDP
	out := Finding{
		ID: "nic.native", What: "XDP runs in the driver", Measured: "attached and detached again",
		Why: "in generic mode every packet gets a socket buffer and a copy: a quarter to a tenth of the native rate, 1 to 3 µs more",
		Fix: "a driver with native XDP; or a smaller MTU, LRO off, fewer queues, if the kernel names one of these",
	}
	switch {
	case x.Probed && x.Native:
	case x.Probed:
		out.Severity, out.Best, out.What, out.Measured = Warn, ClassC, "XDP does not run in the driver", x.NativeRefused
		if f.Config != nil && slices.ContainsFunc(f.Config.Interfaces, func(i ConfigInterface) bool { return i.Name == n.Name && i.Native }) {
			out.Severity = Fail
		}
	case x.Attached == "generic":
		out.Severity, out.Best, out.What = Warn, ClassC, "a program is on the interface, in generic mode"
		out.Measured = fmt.Sprintf("program %d", x.Program)
	case x.Attached != "":
		out.What = "a program is on the interface, in the driver"
		out.Measured = fmt.Sprintf("program %d, %s", x.Program, x.Attached)
	default:
		out.Severity, out.What, out.Measured = Unknown, "whether XDP runs in the driver was not tried", x.NotProbed
		out.Fix = "headrace doctor --interface " + n.Name + " --probe"
	}
	if x.Probed && !x.LeftAsItWas {
		out.Severity, out.What = Fail, "the trial could not be taken off the interface again"
		out.Fix = fmt.Sprintf("ip link set %s xdp off", n.Name)
	}
	return out
}

func checkZeroCopy(_ *Facts, n *NIC) Finding {
	x := n.XDP
	out := Finding{
		ID: "nic.zero_copy", What: "the card writes packets where workers read them", Measured: "granted by a real bind",
		Why: "the kernel copies each packet: 50 to 200 ns, and half of the rate of one core (Documentation/networking/af_xdp.rst, XDP_COPY and XDP_ZEROCOPY)",
		Fix: "a driver with zero-copy: " + strings.Join(zeroDrivers, ", "),
	}
	switch {
	case x.Probed && x.ZeroCopy:
	case x.Probed:
		out.Severity, out.What, out.Measured = Note, "the kernel copies packets", cmp.Or(x.ZeroCopyRefused, "not granted")
	default:
		out.Severity, out.What, out.Measured = Unknown, "whether the card can do zero-copy was not tried", x.NotProbed
		out.Fix = "headrace doctor --interface " + n.Name + " --probe"
	}
	return out
}

func checkDrops(f *Facts, n *NIC) Finding {
	if n.Elsewhere {
		return Finding{ID: "nic.drops", Severity: Unknown, What: "what the card loses is not known", Measured: "/sys shows another network namespace"}
	}
	before, after := f.Before.NICs[n.Name], f.After.NICs[n.Name]
	var now, ever []string
	for _, c := range []string{"rx_dropped", "rx_missed_errors", "rx_fifo_errors"} {
		if d := after[c] - before[c]; d > 0 {
			now = append(now, fmt.Sprintf("%s %d", c, d))
		}
		if after[c] > 0 {
			ever = append(ever, fmt.Sprintf("%s %d", c, after[c]))
		}
	}
	out := Finding{
		ID: "nic.drops", What: "the card loses nothing now", Measured: "since boot: " + cmp.Or(strings.Join(ever, ", "), "nothing lost"),
		Why: "rx_missed_errors and rx_fifo_errors: the ring was full; rx_dropped: also what nobody wanted (Documentation/networking/statistics.rst)",
		Fix: "longer rings, interrupts on a core of their own; `ethtool -S " + n.Name + "` says more",
	}
	if len(now) > 0 {
		out.Severity, out.What = Warn, "the card loses packets"
		out.Measured = fmt.Sprintf("in %v: %s", f.After.At.Sub(f.Before.At), strings.Join(now, ", "))
	}
	return out
}

// checkNUMA compares the nodes of cards and workers.
func checkNUMA(f *Facts) []Finding {
	if len(f.Machine.Nodes) < 2 {
		return []Finding{{ID: "numa.distance", What: "all memory is equally near", Measured: "1 node"}}
	}
	var all []Finding
	for i := range f.NICs {
		n := &f.NICs[i]
		out := Finding{
			ID: "numa.distance", Subject: n.Name, What: "the card and the workers are on one node",
			Measured: fmt.Sprintf("card on node %d, workers on %s", n.Node, f.Place.Nodes()),
			Why:      "each cache line of a packet crosses to the other node: 60 to 120 ns more a line (Documentation/admin-guide/mm/numaperf.rst)",
		}
		worst, far := 0, topology.CPUSet{}
		for _, w := range f.Place.Workers {
			if n.Node < 0 || w.Node < 0 || w.Node == n.Node {
				continue
			}
			far = far.Union(topology.CPUs(w.CPU))
			worst = max(worst, f.Machine.Distance(n.Node, w.Node))
		}
		switch node, _ := f.Machine.Node(n.Node); {
		case n.Node < 0:
			out.Severity, out.What = Note, "the card does not say on which node it is"
			out.Why, out.Fix = "workers may be on the far one", "the firmware's table of localities (ACPI SRAT, _PXM)"
		case !far.Empty():
			out.Severity, out.Best = Warn, ClassB
			out.What = fmt.Sprintf("workers on cores %s are on another node than the card", far)
			out.Measured += fmt.Sprintf(", distance %d", worst)
			out.Fix = fmt.Sprintf("--cores of node %d: %s", n.Node, cmp.Or(node.CPUs.String(), "none online; or move the card to another slot"))
		}
		all = append(all, quiet(out))
	}
	return all
}

// rate is the packets a second of all interfaces between the samples.
func (f *Facts) rate() float64 {
	packets := uint64(0)
	for name, after := range f.After.NICs {
		packets += after["rx_packets"] - f.Before.NICs[name]["rx_packets"]
	}
	return float64(packets) / cmp.Or(f.After.At.Sub(f.Before.At).Seconds(), 1)
}
