package topology

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// NIC is a network interface, as far as its place matters.
type NIC struct {
	Name string `json:"name"`
	// Driver is "" of an interface without hardware, as veth.
	Driver string `json:"driver,omitempty"`
	// Device is the directory of its device, without the leading slash; "" if it has none.
	Device string `json:"device,omitempty"`
	// Node is the memory node that its bus is attached to, -1 if there is none.
	Node int `json:"node"`
	// LocalCPUs are the CPUs near to it as its bus says; empty if it does not.
	LocalCPUs CPUSet `json:"local_cpus"`
	// RXQueues and TXQueues count queues in use.
	RXQueues int `json:"rx_queues"`
	TXQueues int `json:"tx_queues"`
	// IRQs are the interrupts of its device, by number.
	IRQs []IRQ `json:"irqs,omitempty"`
	MTU  int   `json:"mtu"`
}

// ReadNIC reads an interface of a tree rooted at "/".
func ReadNIC(fsys fs.FS, name string) (NIC, error) {
	n := NIC{Name: name, Node: -1}
	dir := path.Join("sys/class/net", name)
	if name == "" || strings.ContainsRune(name, '/') || !fs.ValidPath(dir) {
		return n, fmt.Errorf("topology: interface %q: no such name can be", name)
	}
	at, err := resolve(fsys, dir)
	if err != nil {
		return n, fmt.Errorf("topology: interface %s: %w; `ip link` lists those that are", name, err)
	}
	r := &reader{fsys: fsys}
	n.MTU = r.number(dir+"/mtu", 0)
	n.RXQueues, n.TXQueues = r.numbered(dir+"/queues", "rx-").Len(), r.numbered(dir+"/queues", "tx-").Len()
	n.Node = r.number(dir+"/device/numa_node", -1)
	device, err := resolve(fsys, at+"/device")
	if err != nil {
		return n, r.err // no hardware
	}
	n.Device = device
	if driver, err := resolve(fsys, device+"/driver"); err == nil {
		n.Driver = path.Base(driver)
	}
	vectors := n.climb(r)
	irqs, err := ReadIRQs(fsys)
	if err != nil {
		return n, err
	}
	for _, q := range irqs {
		if slices.Contains(vectors, q.Number) || len(vectors) == 0 && n.named(q) {
			n.IRQs = append(n.IRQs, q)
		}
	}
	if r.err != nil {
		return n, fmt.Errorf("topology: interface %s: %w", name, r.err)
	}
	return n, nil
}

// climb goes from the device to the bus that it is on (a virtio device hangs below a PCI
// one, which has the vectors and knows its node) and returns the bus's vectors.
func (n *NIC) climb(r *reader) []int {
	for at := n.Device; at != "." && at != "sys/devices"; at = path.Dir(at) {
		if n.Node < 0 {
			n.Node = r.number(at+"/numa_node", -1)
		}
		if n.LocalCPUs.Empty() {
			n.LocalCPUs, _ = r.set(at + "/local_cpulist")
		}
		entries, err := fs.ReadDir(r.fsys, at+"/msi_irqs")
		if err != nil {
			continue
		}
		var vectors []int
		for _, e := range entries {
			if v, err := strconv.Atoi(e.Name()); err == nil {
				vectors = append(vectors, v)
			}
		}
		return vectors
	}
	return nil
}

// named reports an interrupt that is called after the interface or its device.
func (n *NIC) named(q IRQ) bool {
	names := []string{n.Name, path.Base(n.Device)}
	for _, field := range append(strings.Fields(q.What), q.Actions...) {
		for _, name := range names {
			if rest, ok := strings.CutPrefix(field, name); ok && (rest == "" || strings.ContainsRune("-.@:", rune(rest[0]))) {
				return true
			}
		}
	}
	return false
}
