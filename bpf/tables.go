package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
)

// Names and sizes that the C side has too; tests compare them.
const (
	bssName = ".bss"

	tablesVersion = 1 // HR_TABLES_VERSION
	feedRows      = event.FeedsMax + 1
)

// sharedMaps are those that every instance uses; the rest are an interface's own.
var sharedMaps = []string{steerMapRules, steerMapCounters, steerMapBarrier, bssName}

// Config says how tables begin.
type Config struct {
	// Workers share the key groups evenly at first, see [steer.OwnerTable].
	// Zero means one.
	Workers int
}

// Tables are the maps that the instances on all interfaces share. SetFeeds,
// SetOwner, Owners, Barrier and Counters may be called from any goroutine; all else
// here and of the instances from one at a time.
type Tables struct {
	spec *ebpf.CollectionSpec
	maps map[string]*ebpf.Map // sharedMaps by name
	mem  *ebpf.Memory         // .bss

	edit      sync.Mutex // one edit of rules at a time
	instances []*Instance
}

// Load creates the tables, without rules. It needs CAP_BPF, CAP_NET_ADMIN and
// CAP_PERFMON; without them the error wraps EPERM.
func Load(c Config) (*Tables, error) {
	if c.Workers == 0 {
		c.Workers = 1
	}
	if c.Workers < 0 || c.Workers > event.WorkersMax {
		return nil, fmt.Errorf("bpf: %d workers: give 1 to %d", c.Workers, event.WorkersMax)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("bpf: lift the limit of locked memory: %w", err)
	}
	t, err := newTables()
	if err != nil {
		return nil, err
	}
	spec := t.spec.Copy()
	spec.Programs = nil
	for name := range spec.Maps {
		if !isShared(name) {
			delete(spec.Maps, name)
		}
	}
	spec.Variables = nil
	loaded, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("bpf: create maps: %w", permission(err))
	}
	t.maps = loaded.Maps
	if err := t.mapMemory(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	for group, worker := range steer.OwnerTable(c.Workers) {
		if err := t.SetOwner(group, int(worker)); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	return t, nil
}

func newTables() (*Tables, error) {
	spec, err := loadSteer()
	if err != nil {
		return nil, fmt.Errorf("bpf: read the program: %w", err)
	}
	return &Tables{spec: spec}, nil
}

func (t *Tables) mapMemory() error {
	mem, err := t.maps[bssName].Memory()
	if err != nil {
		return fmt.Errorf("bpf: map the owner table: %w", err)
	}
	t.mem = mem
	return nil
}

func isShared(name string) bool {
	for _, s := range sharedMaps {
		if s == name {
			return true
		}
	}
	return false
}

// permission adds what to do to an error of a process without privileges.
func permission(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)", err)
	case errors.Is(err, unix.EACCES): // the verifier's: it trusts pointer arithmetic to few
		return fmt.Errorf("%w (the verifier refuses the program where CAP_PERFMON is missing)", err)
	}
	return err
}

// Close closes the instances and then the tables. Programs that another process
// has a descriptor of go on running.
func (t *Tables) Close() error {
	var errs []error
	for len(t.instances) > 0 {
		errs = append(errs, t.instances[0].Close())
	}
	for _, m := range t.maps {
		errs = append(errs, m.Close())
	}
	t.maps = nil
	return errors.Join(errs...)
}

// SetOwner gives key group group to worker, for every packet from now on. Programs
// that run may still use the owner before; [Tables.Barrier] waits for them.
func (t *Tables) SetOwner(group, worker int) error {
	if group < 0 || group >= event.GroupCount || worker < 0 || worker >= event.WorkersMax {
		return fmt.Errorf("bpf: owner of key group %d is worker %d: groups are 0 to %d, workers 0 to %d", group, worker, event.GroupCount-1, event.WorkersMax-1)
	}
	// Two bytes at an even address: the program sees the old or the new owner.
	return t.write(steerVarSlots, group*2, binary.LittleEndian.AppendUint16(nil, uint16(worker)))
}

// Owners returns the worker of each key group.
func (t *Tables) Owners() ([event.GroupCount]uint16, error) {
	var owners [event.GroupCount]uint16
	b := make([]byte, 2*event.GroupCount)
	if _, err := t.mem.ReadAt(b, int64(t.spec.Variables[steerVarSlots].Offset)); err != nil {
		return owners, fmt.Errorf("bpf: read the owner table: %w", err)
	}
	for g := range owners {
		owners[g] = binary.LittleEndian.Uint16(b[2*g:])
	}
	return owners, nil
}

// Barrier returns when every run of a program that had begun before has ended.
// It takes some milliseconds.
func (t *Tables) Barrier() error {
	inner, err := ebpf.NewMap(t.spec.Maps[steerMapBarrier].InnerMap)
	if err != nil {
		return fmt.Errorf("bpf: wait for running programs: %w", err)
	}
	// The kernel itself waits before this returns.
	return errors.Join(t.maps[steerMapBarrier].Put(uint32(0), inner), inner.Close())
}

// SetFeeds puts the rules and placements of feeds in the place of those before,
// in one step: each packet sees all old or all new ones. Feed i is feed i in
// metadata and counters. When it returns, no program uses the old ones any more.
// On error the old ones stay.
func (t *Tables) SetFeeds(feeds []plan.Feed) error {
	set, err := steer.Compile(feeds)
	if err != nil {
		return fmt.Errorf("bpf: %w", err)
	}
	t.edit.Lock()
	defer t.edit.Unlock()
	bank, err := t.bank()
	if err != nil {
		return err
	}
	bank ^= 1 // the one that is not in use
	if err := t.clear(bank); err != nil {
		return err
	}
	if err := t.fill(bank, set, feeds); err != nil {
		return err
	}
	// Not before all of it can be seen may the bank change.
	if err := t.Barrier(); err != nil {
		return err
	}
	if err := t.write(steerVarBank, 0, binary.LittleEndian.AppendUint32(nil, bank)); err != nil {
		return err
	}
	return t.Barrier()
}

func (t *Tables) bank() (uint32, error) {
	var b [4]byte
	if _, err := t.mem.ReadAt(b[:], int64(t.spec.Variables[steerVarBank].Offset)); err != nil {
		return 0, fmt.Errorf("bpf: read the bank of rules: %w", err)
	}
	return binary.LittleEndian.Uint32(b[:]) & 1, nil
}

// clear removes the rules of a bank that is not in use.
func (t *Tables) clear(bank uint32) error {
	var key steerHrKey
	var rule steerHrRule
	var old []steerHrKey
	it := t.maps[steerMapRules].Iterate()
	for it.Next(&key, &rule) {
		if uint32(key.Bank) == bank {
			old = append(old, key)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("bpf: read rules: %w", err)
	}
	for i := range old {
		if err := t.maps[steerMapRules].Delete(&old[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("bpf: remove a rule: %w", err)
		}
	}
	return nil
}

// fill writes a rule set into a bank that is not in use.
func (t *Tables) fill(bank uint32, set *steer.RuleSet, feeds []plan.Feed) error {
	for i := range set.Keys {
		k, target := &set.Keys[i], set.Targets[i]
		key := steerHrKey{
			Destination: k.Destination, Port: k.Port, Vlan: k.VLAN,
			Bank: uint8(bank), Class: k.Class, Prefix: k.Prefix, Given: k.Given,
		}
		if err := t.maps[steerMapRules].Put(&key, ruleOf(target, &feeds[target.Feed].Place)); err != nil {
			return fmt.Errorf("bpf: write a rule of feed %s: %w", feeds[target.Feed].Name, err)
		}
	}
	for class := range set.Shapes {
		var list steerHrShapes
		list.Count = uint32(len(set.Shapes[class]))
		for i, s := range set.Shapes[class] {
			list.Shape[i].Mask, list.Shape[i].Prefix, list.Shape[i].Given = s.Mask, s.Prefix, s.Given
		}
		b, err := binary.Append(nil, binary.LittleEndian, &list)
		if err != nil {
			return fmt.Errorf("bpf: write the shapes of rules: %w", err)
		}
		if err := t.write(steerVarShapes, (int(bank)*steer.ClassCount+class)*len(b), b); err != nil {
			return err
		}
	}
	return nil
}

func ruleOf(target steer.Target, p *plan.Placement) *steerHrRule {
	r := &steerHrRule{
		Feed: target.Feed, Line: target.Line, Place: uint8(p.Kind), Offset: p.Offset,
		Length: p.Length, Delimiter: p.Delimiter, Fields: p.Fields,
	}
	if p.Kind == plan.PlaceUntil {
		r.Length = steer.PlaceMax
	}
	if p.Trim {
		r.Trim = 1
	}
	if p.Symmetric {
		r.Symmetric = 1
	}
	return r
}

func (t *Tables) write(variable string, offset int, b []byte) error {
	if _, err := t.mem.WriteAt(b, int64(t.spec.Variables[variable].Offset)+int64(offset)); err != nil {
		return fmt.Errorf("bpf: write %s: %w", variable, err)
	}
	return nil
}

// FeedCounters are what became of one feed's frames, on all interfaces. They only
// grow, and belong to the feed's index: a feed that takes an index over goes on
// from what it finds.
type FeedCounters struct {
	Frames       steer.Counts
	SteeredBytes uint64 // of whole frames
}

// Received returns how many frames there were.
func (c *FeedCounters) Received() uint64 {
	n := uint64(0)
	for _, v := range c.Frames {
		n += v
	}
	return n
}

// Counters fills feeds with the counters of feeds 0, 1, … and returns those of
// frames that are no feed's.
func (t *Tables) Counters(feeds []FeedCounters) (other FeedCounters, err error) {
	if len(feeds) > event.FeedsMax {
		return other, fmt.Errorf("bpf: counters of %d feeds: there are at most %d", len(feeds), event.FeedsMax)
	}
	for i := range feeds {
		if err := t.row(uint32(i), &feeds[i]); err != nil {
			return other, err
		}
	}
	return other, t.row(feedRows-1, &other)
}

func (t *Tables) row(row uint32, sum *FeedCounters) error {
	var cpus []steerHrCounts
	if err := t.maps[steerMapCounters].Lookup(row, &cpus); err != nil {
		return fmt.Errorf("bpf: read counters: %w", err)
	}
	*sum = FeedCounters{}
	for i := range cpus {
		for v, n := range cpus[i].Frames {
			sum.Frames[v] += n
		}
		sum.SteeredBytes += cpus[i].SteeredBytes
	}
	return nil
}
