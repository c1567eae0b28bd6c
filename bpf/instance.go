package bpf

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// QueuesMax bounds the RX queues of an interface.
const QueuesMax = 64

// Interface says for what an instance is loaded.
type Interface struct {
	// Name of the interface, in the network namespace of the calling thread.
	Name string
	// Aligned lets the queue choose the worker instead of the key group: NIC flow
	// rules have brought each packet to its worker's queue.
	Aligned bool
}

// An Instance is the program on one interface.
type Instance struct {
	tables  *Tables
	config  Interface
	index   int
	mode    plan.Mode // "": not attached
	program *ebpf.Program
	xsks    *ebpf.Map
	queues  *ebpf.Map
	link    link.Link
}

// Program loads the program for an interface. It does not attach it.
func (t *Tables) Program(c Interface) (*Instance, error) {
	nic, err := net.InterfaceByName(c.Name)
	if err != nil {
		return nil, fmt.Errorf("bpf: interface %s: %w", c.Name, err)
	}
	i := &Instance{tables: t, config: c, index: nic.Index}
	if err := i.load(); err != nil {
		return nil, err
	}
	t.instances = append(t.instances, i)
	return i, nil
}

// load loads i's program over the tables and over the maps that i already has.
func (i *Instance) load() error {
	spec := i.tables.spec.Copy()
	if i.config.Aligned {
		if err := spec.Variables[steerVarAligned].Set(uint32(1)); err != nil {
			return fmt.Errorf("bpf: interface %s: %w", i.config.Name, err)
		}
	}
	for name, v := range spec.Variables {
		if v.SectionName == bssName {
			delete(spec.Variables, name) // else each instance would map it again
		}
	}
	replacements := make(map[string]*ebpf.Map, len(i.tables.maps)+2)
	for name, m := range i.tables.maps {
		replacements[name] = m
	}
	if i.xsks != nil {
		replacements[steerMapXsks], replacements[steerMapQueues] = i.xsks, i.queues
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return fmt.Errorf("bpf: interface %s: load the program: %w", i.config.Name, permission(err))
	}
	defer loaded.Close()
	i.program = loaded.DetachProgram(steerProgSteer)
	if i.xsks == nil {
		i.xsks, i.queues = loaded.DetachMap(steerMapXsks), loaded.DetachMap(steerMapQueues)
	}
	return nil
}

// Attach attaches the program. It returns the mode that was got and, where that is
// not what a user would wish for, a warning. [plan.Auto] tries the driver's native
// mode first and the generic one if the driver has none; [plan.Native] and
// [plan.Generic] try only that. An interface that already has a program is an
// error, wrapping EBUSY; that program stays.
func (i *Instance) Attach(mode plan.Mode) (got plan.Mode, warning string, err error) {
	if i.link != nil {
		return "", "", fmt.Errorf("bpf: interface %s: already attached", i.config.Name)
	}
	switch mode {
	case plan.Generic:
		err = i.attach(plan.Generic, link.XDPGenericMode)
	case plan.Native, plan.Auto:
		err = i.attach(plan.Native, link.XDPDriverMode)
		if mode == plan.Native || err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) {
			break
		}
		warning = fmt.Sprintf("interface %s: the driver refuses native XDP (%v), so generic mode is used: "+
			"every packet gets a socket buffer and is copied, at a fraction of the native rate; "+
			"use a driver with native XDP, or a smaller MTU if that is what it refuses", i.config.Name, errors.Unwrap(err))
		err = i.attach(plan.Generic, link.XDPGenericMode)
	default:
		return "", "", fmt.Errorf("bpf: interface %s: mode %q: use auto, native or generic", i.config.Name, mode)
	}
	if err != nil {
		return "", "", fmt.Errorf("bpf: %w", err)
	}
	return i.mode, warning, nil
}

func (i *Instance) attach(mode plan.Mode, flags link.XDPAttachFlags) error {
	l, err := link.AttachXDP(link.XDPOptions{Program: i.program, Interface: i.index, Flags: flags})
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("interface %s: attach: another XDP program is there, remove it first (see `bpftool net`): %w", i.config.Name, err)
	case err != nil:
		return fmt.Errorf("interface %s: attach in %s mode: %w", i.config.Name, mode, permission(err))
	}
	i.link, i.mode = l, mode
	return nil
}

// Interface returns for what i was loaded.
func (i *Instance) Interface() Interface { return i.config }

// Mode returns the mode in which i is attached, "" if it is not.
func (i *Instance) Mode() plan.Mode { return i.mode }

// Attached asks the kernel whether the program is still on its interface: an
// interface that is deleted takes its program off.
func (i *Instance) Attached() (bool, error) {
	if i.link == nil {
		return false, nil
	}
	about, err := i.link.Info()
	if err != nil {
		return false, fmt.Errorf("bpf: interface %s: %w", i.config.Name, err)
	}
	return about.XDP() != nil && int(about.XDP().Ifindex) == i.index, nil
}

// SetSocket makes fd, an AF_XDP socket that is bound to the interface and queue,
// the one to which packets of queue go that belong to worker. In aligned mode
// worker becomes the queue's. The caller keeps fd. The kernel takes the entry out
// when the last descriptor of the socket is closed.
func (i *Instance) SetSocket(queue, worker, fd int) error {
	if err := i.check(queue, worker); err != nil {
		return err
	}
	if err := i.xsks.Put(uint32(queue*event.WorkersMax+worker), uint32(fd)); err != nil {
		return fmt.Errorf("bpf: interface %s: socket of queue %d, worker %d: %w", i.config.Name, queue, worker, err)
	}
	if err := i.queues.Put(uint32(queue), uint32(worker)); err != nil {
		return fmt.Errorf("bpf: interface %s: worker of queue %d: %w", i.config.Name, queue, err)
	}
	return nil
}

// ClearSocket takes a socket out; packets that were its are passed.
func (i *Instance) ClearSocket(queue, worker int) error {
	if err := i.check(queue, worker); err != nil {
		return err
	}
	if err := i.xsks.Delete(uint32(queue*event.WorkersMax + worker)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("bpf: interface %s: socket of queue %d, worker %d: %w", i.config.Name, queue, worker, err)
	}
	return nil
}

func (i *Instance) check(queue, worker int) error {
	if queue < 0 || queue >= QueuesMax || worker < 0 || worker >= event.WorkersMax {
		return fmt.Errorf("bpf: interface %s: queue %d, worker %d: there are at most %d queues and %d workers", i.config.Name, queue, worker, QueuesMax, event.WorkersMax)
	}
	return nil
}

// ClearSockets takes all sockets out, so that every packet is passed.
func (i *Instance) ClearSockets() error {
	for queue := range QueuesMax {
		for worker := range event.WorkersMax {
			if err := i.ClearSocket(queue, worker); err != nil {
				return err
			}
		}
	}
	return nil
}

// Update loads this binary's program anew, over the same maps, and puts it in the
// place of the one that runs; not one packet is missed in between.
func (i *Instance) Update() error {
	old := i.program
	if err := i.load(); err != nil {
		return err
	}
	if i.link != nil {
		if err := i.link.Update(i.program); err != nil {
			_ = i.program.Close()
			i.program = old
			return fmt.Errorf("bpf: interface %s: update the program: %w", i.config.Name, err)
		}
	}
	return old.Close()
}

// Detach takes the program off the interface, even if other processes have a
// descriptor of the link.
func (i *Instance) Detach() error {
	if i.link == nil {
		return nil
	}
	err := i.link.Detach()
	if err != nil && !errors.Is(err, unix.ENOLINK) && !errors.Is(err, unix.EINVAL) { // its interface is gone
		return fmt.Errorf("bpf: interface %s: detach: %w", i.config.Name, err)
	}
	err = i.link.Close()
	i.link, i.mode = nil, ""
	return err
}

// Close closes what i holds. The program leaves the interface unless another
// process has a descriptor of the link.
func (i *Instance) Close() error {
	var errs []error
	if i.link != nil {
		errs = append(errs, i.link.Close())
		i.link, i.mode = nil, ""
	}
	errs = append(errs, i.program.Close(), i.xsks.Close(), i.queues.Close())
	i.tables.instances = slices.DeleteFunc(i.tables.instances, func(o *Instance) bool { return o == i })
	return errors.Join(errs...)
}
