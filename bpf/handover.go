package bpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/plan"
)

// ErrVersion reports tables of another version of this package.
var ErrVersion = errors.New("tables of another version")

// handover is what goes with the descriptors.
type handover struct {
	Version   int
	Instances []handedInstance
}

// handedInstance has three descriptors: program, xsks and queues; a fourth, the
// link, if Mode is not empty.
type handedInstance struct {
	Interface Interface
	Index     int
	Mode      plan.Mode
}

// Handover returns what another process needs to go on with t and its instances: a
// description and the descriptors, whose order matters. Both go over a unix socket;
// the descriptors stay t's. They are good for [Adopt] until an instance is loaded,
// attached, updated or closed.
func (t *Tables) Handover() (description []byte, fds []int, err error) {
	h := handover{Version: tablesVersion}
	for _, name := range sharedMaps {
		fds = append(fds, t.maps[name].FD())
	}
	for _, i := range t.instances {
		h.Instances = append(h.Instances, handedInstance{i.config, i.index, i.mode})
		fds = append(fds, i.program.FD(), i.xsks.FD(), i.queues.FD())
		if i.link != nil {
			l, ok := i.link.(interface{ FD() int })
			if !ok {
				return nil, nil, fmt.Errorf("bpf: interface %s: its link has no descriptor", i.config.Name)
			}
			fds = append(fds, l.FD())
		}
	}
	description, err = json.Marshal(&h)
	if err != nil {
		return nil, nil, fmt.Errorf("bpf: describe the tables: %w", err)
	}
	return description, fds, nil
}

// Adopt makes tables and instances of what [Tables.Handover] gave in another
// process. The descriptors become the tables' and are closed on error. Programs
// that are attached run on. It returns an error wrapping [ErrVersion] for tables
// that this binary does not understand.
func Adopt(description []byte, fds []int) (*Tables, []*Instance, error) {
	a := adoption{fds: slices.Clone(fds)}
	t, err := a.adopt(description)
	if err != nil {
		for _, fd := range a.fds {
			_ = unix.Close(fd)
		}
		return nil, nil, fmt.Errorf("bpf: adopt: %w", err)
	}
	return t, slices.Clone(t.instances), nil
}

// adoption holds the descriptors that are nobody's yet.
type adoption struct{ fds []int }

func (a *adoption) adopt(description []byte) (t *Tables, err error) {
	var h handover
	if err := json.Unmarshal(description, &h); err != nil {
		return nil, fmt.Errorf("read the description: %w", err)
	}
	if h.Version != tablesVersion {
		return nil, fmt.Errorf("version %d, this is %d: %w", h.Version, tablesVersion, ErrVersion)
	}
	want := len(sharedMaps)
	for _, i := range h.Instances {
		want += 3
		if i.Mode != "" {
			want++
		}
	}
	if len(a.fds) != want {
		return nil, fmt.Errorf("%d descriptors, want %d", len(a.fds), want)
	}
	t, err = newTables()
	if err != nil {
		return nil, err
	}
	if err := a.fill(t, h.Instances); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (a *adoption) fill(t *Tables, instances []handedInstance) (err error) {
	t.maps = map[string]*ebpf.Map{}
	for _, name := range sharedMaps {
		if t.maps[name], err = a.takeMap(t.spec.Maps[name]); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	if err := t.mapMemory(); err != nil {
		return err
	}
	for _, i := range instances {
		if err := a.instance(t, i); err != nil {
			return fmt.Errorf("interface %s: %w", i.Interface.Name, err)
		}
	}
	return t.Barrier() // an edit that was cut short may still be seen
}

func (a *adoption) instance(t *Tables, h handedInstance) (err error) {
	i := &Instance{tables: t, config: h.Interface, index: h.Index, mode: h.Mode}
	t.instances = append(t.instances, i) // from here on t.Close closes what i has
	if i.program, err = ebpf.NewProgramFromFD(a.take()); err != nil {
		return fmt.Errorf("program: %w", err)
	}
	if i.xsks, err = a.takeMap(t.spec.Maps[steerMapXsks]); err != nil {
		return fmt.Errorf("map %s: %w", steerMapXsks, err)
	}
	if i.queues, err = a.takeMap(t.spec.Maps[steerMapQueues]); err != nil {
		return fmt.Errorf("map %s: %w", steerMapQueues, err)
	}
	if h.Mode == "" {
		return nil
	}
	if i.link, err = link.NewFromFD(a.take()); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	return nil
}

// take returns the next descriptor, which is the caller's from now on.
func (a *adoption) take() int {
	fd := a.fds[0]
	a.fds = a.fds[1:]
	return fd
}

// takeMap makes a map of the next descriptor and checks that it is like spec.
func (a *adoption) takeMap(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMapFromFD(a.take())
	if err != nil {
		return nil, err
	}
	about, err := m.Info()
	if err == nil && (about.Type != spec.Type || about.KeySize != spec.KeySize || about.ValueSize != spec.ValueSize || about.MaxEntries != spec.MaxEntries) {
		err = fmt.Errorf("it is a %s with keys of %d and values of %d bytes: %w", about.Type, about.KeySize, about.ValueSize, ErrVersion)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}
