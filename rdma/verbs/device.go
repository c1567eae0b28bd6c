//go:build linux && cgo && rdma

package verbs

// #include "link.h"
import "C"

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A gid is an entry of a port's table of addresses.
type gid struct {
	addr  netip.Addr
	index int
}

// A device is one port, opened.
type device struct {
	ctx  *C.struct_ibv_context
	pd   *C.struct_ibv_pd
	name string
	port int
	node int
	gid  gid
	mtu  int // as libibverbs has it: 128 << mtu bytes
}

// openDevice opens the port that c asks for.
func openDevice(c Config) (*device, error) {
	var n C.int
	list, err := C.ibv_get_device_list(&n)
	if list == nil {
		return nil, fmt.Errorf("ibv_get_device_list: %w", err)
	}
	defer C.ibv_free_device_list(list)
	if n == 0 {
		return nil, errors.New("no RDMA device")
	}
	var reasons []string
	for _, d := range unsafe.Slice(list, int(n)) {
		name := C.GoString(C.ibv_get_device_name(d))
		if c.Device != "" && c.Device != name {
			reasons = append(reasons, name+": not the one")
			continue
		}
		dev, err := open(d, name, c)
		if err == nil {
			return dev, nil
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", name, err))
	}
	what := "no device with an active RoCEv2 port"
	if c.Device != "" {
		what = "no device " + c.Device
	}
	return nil, fmt.Errorf("%s (%s)", what, strings.Join(reasons, "; "))
}

func open(d *C.struct_ibv_device, name string, c Config) (*device, error) {
	ctx, err := C.ibv_open_device(d)
	if ctx == nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	dev := &device{ctx: ctx, name: name, node: nodeOf(name)}
	if err := dev.choose(c); err != nil {
		dev.close()
		return nil, err
	}
	if dev.pd, err = C.ibv_alloc_pd(ctx); dev.pd == nil {
		dev.close()
		return nil, fmt.Errorf("protection domain: %w", err)
	}
	if err := unix.SetNonblock(int(ctx.async_fd), true); err != nil {
		dev.close()
		return nil, err
	}
	return dev, nil
}

// choose finds the port and the GID to use; both may change while we run.
func (d *device) choose(c Config) error {
	var a C.struct_ibv_device_attr
	if e := C.ibv_query_device(d.ctx, &a); e != 0 {
		return fmt.Errorf("ibv_query_device: %w", unix.Errno(e))
	}
	var reasons []string
	for port := 1; port <= int(a.phys_port_cnt); port++ {
		if c.Port != 0 && c.Port != port {
			continue
		}
		err := d.choosePort(port, c.GIDIndex)
		if err == nil {
			return nil
		}
		reasons = append(reasons, fmt.Sprintf("port %d: %v", port, err))
	}
	if reasons == nil {
		return fmt.Errorf("no port %d", c.Port)
	}
	return errors.New(strings.Join(reasons, ", "))
}

func (d *device) choosePort(port, index int) error {
	var a C.struct_ibv_port_attr
	if e := C.hr_query_port(d.ctx, C.int(port), &a); e != 0 {
		return fmt.Errorf("ibv_query_port: %w", unix.Errno(e))
	}
	switch {
	case a.link_layer != C.IBV_LINK_LAYER_ETHERNET:
		return errors.New("not Ethernet")
	case a.state != C.IBV_PORT_ACTIVE:
		return errors.New("not active")
	}
	table := make([]C.struct_ibv_gid_entry, 1024) // in use; the kernel takes less than 64 KiB
	n := C.hr_gids(d.ctx, &table[0], C.size_t(len(table)))
	if n < 0 {
		return fmt.Errorf("ibv_query_gid_table: %w", unix.Errno(-n))
	}
	var usable []gid
	for _, e := range table[:n] {
		if int(e.port_num) == port && e.gid_type == C.IBV_GID_TYPE_ROCE_V2 {
			usable = append(usable, gid{netip.AddrFrom16(e.gid), int(e.gid_index)})
		}
	}
	g, err := chooseGID(usable, index)
	if err != nil {
		return err
	}
	d.port, d.gid, d.mtu = port, g, int(a.active_mtu)
	return nil
}

// chooseGID takes the entry with that index or, if it is -1, the best.
func chooseGID(usable []gid, index int) (best gid, err error) {
	rank := 0
	for _, g := range usable {
		r := 1
		switch {
		case index >= 0 && g.index != index:
			r = 0
		case g.addr.Is4In6():
			r = 3
		case !g.addr.IsLinkLocalUnicast():
			r = 2
		}
		if r > rank {
			best, rank = g, r
		}
	}
	if rank > 0 {
		return best, nil
	}
	if index >= 0 {
		return best, fmt.Errorf("GID %d is not of RoCEv2", index)
	}
	return best, errors.New("no GID of RoCEv2: has the interface an address?")
}

func (d *device) asyncFD() int { return int(d.ctx.async_fd) }

// counters reads what the driver counts at a port.
func counters(device string, port int) map[string]uint64 {
	files, _ := filepath.Glob(fmt.Sprintf("/sys/class/infiniband/%s/ports/%d/hw_counters/*", device, port))
	m := make(map[string]uint64, len(files))
	for _, f := range files {
		if v, ok := readNumber(f); ok && v >= 0 {
			m[filepath.Base(f)] = uint64(v)
		}
	}
	return m
}

func (d *device) close() {
	if d.pd != nil {
		C.ibv_dealloc_pd(d.pd)
	}
	if d.ctx != nil {
		C.ibv_close_device(d.ctx)
	}
	d.pd, d.ctx = nil, nil
}

// nodeOf returns the device's memory node, -1 if it has none.
func nodeOf(name string) int {
	if n, ok := readNumber("/sys/class/infiniband/" + name + "/device/numa_node"); ok {
		return int(n)
	}
	return -1
}

func readNumber(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}
