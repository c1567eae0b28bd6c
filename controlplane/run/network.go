package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/bpf"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/xsk"
)

// network is everything between the wire and the data plane's sockets. It outlives
// data planes, and control processes.
type network struct {
	plan      *plan.Plan
	log       *slog.Logger
	tables    *bpf.Tables
	instances []*bpf.Instance // in the order of the plan's interfaces
	joins     []*join
	copies    bool // no queue was granted zero-copy: it need not be tried again
	down      []bool
}

// description says what the descriptors of a handover are.
type description struct {
	BPF    json.RawMessage
	BPFs   int // descriptors that are BPF's; the joins' follow
	Joins  []*join
	Former status.Former
	// The setup in force. Its plan's numbers may be others than those that its text alone
	// would give.
	Plan         *plan.Plan
	Text, Source string
	Paused       []string
}

// layout looks at the interfaces and says which sockets there will be.
func layout(p *plan.Plan) (xsk.Layout, error) {
	l := xsk.Layout{Workers: p.Workers, Raw: p.Crash == plan.Rollback}
	for i := range p.Interfaces {
		x := &p.Interfaces[i]
		nic, err := interfaceNamed(x.Name)
		if err != nil {
			return l, err
		}
		queues, err := queueCount(nic)
		if err != nil {
			return l, fmt.Errorf("interface %s: %w", x.Name, err)
		}
		if x.Queues > queues {
			return l, fmt.Errorf("interface %s: %d queues are asked for and it has %d", x.Name, x.Queues, queues)
		}
		if x.Queues > 0 {
			queues = x.Queues
		}
		l.Interfaces = append(l.Interfaces, xsk.Interface{Name: nic.Name, Index: nic.Index, Queues: queues, Memory: frameMemory(os.DirFS("/"), x)})
		s, err := xsk.Fit(xsk.Wish{Workers: max(p.WorkersMax, p.Workers), RxRing: x.RxRing, TxRing: x.TxRing, FillReserve: x.FillRing})
		if err != nil {
			return l, fmt.Errorf("interface %s: %w", x.Name, err)
		}
		// All queues have the sizes of the interface that asks for most.
		l.Sizes.FrameSize = s.FrameSize
		l.Sizes.Frames = max(l.Sizes.Frames, s.Frames, x.Frames)
		l.Sizes.RxRing, l.Sizes.TxRing = max(l.Sizes.RxRing, s.RxRing), max(l.Sizes.TxRing, s.TxRing)
		l.Bind.Copy = l.Bind.Copy || x.Mode == plan.Generic
	}
	l.Sizes.FillRing = l.Sizes.Frames
	return l, l.Check()
}

// queueCount returns the number of receive queues in use.
func queueCount(nic *net.Interface) (int, error) {
	dir := filepath.Join("/sys/class/net", nic.Name)
	// sysfs shows the network namespace that it was mounted in, which need not be ours.
	if index, err := os.ReadFile(filepath.Join(dir, "ifindex")); err == nil && strings.TrimSpace(string(index)) == strconv.Itoa(nic.Index) {
		queues, err := filepath.Glob(filepath.Join(dir, "queues", "rx-*"))
		if err == nil && len(queues) > 0 {
			return len(queues), nil
		}
	}
	link, err := netlink.LinkByIndex(nic.Index)
	if err != nil {
		return 0, err
	}
	return max(link.Attrs().NumRxQueues, 1), nil
}

// openNetwork loads the programs, without attaching them.
func openNetwork(p *plan.Plan, log *slog.Logger) (*network, error) {
	n := &network{plan: p, log: log}
	var err error
	if n.tables, err = bpf.Load(bpf.Config{Workers: p.Workers}); err != nil {
		return nil, err
	}
	if err := n.load(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *network) load() error {
	if err := n.tables.SetFeeds(n.plan.Feeds); err != nil {
		return err
	}
	for i := range n.plan.Interfaces {
		instance, err := n.tables.Program(bpf.Interface{Name: n.plan.Interfaces[i].Name})
		if err != nil {
			return err
		}
		n.instances = append(n.instances, instance)
	}
	return nil
}

// setSockets puts a data plane's sockets in the programs' maps, in the place of those
// of the one before. owners and members are in the order of l's.
func (n *network) setSockets(l xsk.Layout, owners, members []int) error {
	sockets, err := l.Assign(owners, members)
	if err != nil {
		return err
	}
	for _, s := range sockets {
		if err := n.instances[s.Interface].SetSocket(s.Queue, s.Worker, s.FD); err != nil {
			return err
		}
	}
	return nil
}

// setOwners makes the programs place key groups by table. Where they do already, as after
// most starts, nothing has to be waited for.
func (n *network) setOwners(table *owners) error {
	now, err := n.tables.Owners()
	if err != nil || now == *table {
		return err
	}
	var errs []error
	for group, w := range table {
		errs = append(errs, n.tables.SetOwner(group, int(w)))
	}
	return errors.Join(append(errs, n.tables.Barrier())...)
}

// clearWorkers takes the sockets of workers [from, to) out of the programs' maps.
func (n *network) clearWorkers(from, to int) error {
	var errs []error
	for _, i := range n.instances {
		for w := from; w < to; w++ {
			for q := range xsk.QueuesMax {
				errs = append(errs, i.ClearSocket(q, w))
			}
		}
	}
	return errors.Join(errs...)
}

// clearSockets makes the programs pass every packet, and returns when no run of them
// still does otherwise.
func (n *network) clearSockets() error {
	var errs []error
	for _, i := range n.instances {
		errs = append(errs, i.ClearSockets())
	}
	return errors.Join(append(errs, n.tables.Barrier())...)
}

// attach attaches programs that are not and joins groups that are not joined.
func (n *network) attach() error {
	list, wide := groups(n.plan)
	for _, p := range wide {
		n.log.Warn("the groups of a prefix are not joined: packets come only if something else joins them", "destination", p)
	}
	for at, i := range n.instances {
		if i.Mode() != "" {
			continue
		}
		x := &n.plan.Interfaces[at]
		mode, warning, err := i.Attach(x.Mode)
		if err != nil {
			return err
		}
		if warning != "" {
			n.log.Warn(warning)
		}
		n.log.Info("attached", "interface", x.Name, "xdp_mode", mode, "groups", len(list))
	}
	return n.join(n.plan)
}

// join joins the groups of p's feeds that are not joined, on interfaces that are attached.
func (n *network) join(p *plan.Plan) error {
	list, _ := groups(p)
	for at, i := range n.instances {
		if i.Mode() == "" {
			continue
		}
		name := n.plan.Interfaces[at].Name
		nic, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		for _, g := range list {
			if slices.ContainsFunc(n.joins, func(j *join) bool { return j.Group == g && j.Index == nic.Index }) {
				continue
			}
			j, err := openJoin(name, nic.Index, g)
			if err != nil {
				return err
			}
			n.joins = append(n.joins, j)
		}
	}
	return nil
}

// leave leaves the groups that no feed of p has any more, and takes p for the plan.
func (n *network) leave(p *plan.Plan) error {
	list, _ := groups(p)
	var errs []error
	n.joins = slices.DeleteFunc(n.joins, func(j *join) bool {
		if slices.Contains(list, j.Group) {
			return false
		}
		errs = append(errs, j.leave())
		return true
	})
	n.plan = p
	return errors.Join(errs...)
}

// watchLinks tells of interfaces that went down, and of those that came back.
func (n *network) watchLinks() {
	if n.down == nil {
		n.down = make([]bool, len(n.plan.Interfaces))
	}
	for i := range n.plan.Interfaces {
		nic, err := net.InterfaceByName(n.plan.Interfaces[i].Name)
		if err != nil {
			continue // the data plane sees that too, and it ends the run
		}
		down := nic.Flags&net.FlagUp == 0 || nic.Flags&net.FlagRunning == 0
		if down && !n.down[i] {
			n.log.Warn("the link is down: nothing comes until it is up again", "interface", nic.Name)
		} else if !down && n.down[i] {
			n.log.Info("the link is up again", "interface", nic.Name)
		}
		n.down[i] = down
	}
}

// detach gives the packets back to the network stack. It returns when no packet is on
// its way to a socket any more.
func (n *network) detach() error {
	var errs []error
	for _, i := range n.instances {
		errs = append(errs, i.Detach())
	}
	for _, j := range n.joins {
		errs = append(errs, j.leave())
	}
	n.joins = nil
	return errors.Join(append(errs, n.tables.Barrier())...)
}

// close closes what this process holds. Programs stay attached if the data plane
// holds them too.
func (n *network) close() error {
	var errs []error
	for _, j := range n.joins {
		errs = append(errs, os.NewSyscallError("close", unix.Close(j.fd)))
	}
	n.joins, n.instances = nil, nil
	return errors.Join(append(errs, n.tables.Close())...)
}

// describe returns what the next control needs to go on with n.
func (n *network) describe(former status.Former, f *Setup, paused []string) (text []byte, fds []int, err error) {
	d := description{Joins: n.joins, Former: former, Plan: f.Plan, Text: string(f.Text), Source: f.Source, Paused: paused}
	if d.BPF, fds, err = n.tables.Handover(); err != nil {
		return nil, nil, err
	}
	d.BPFs = len(fds)
	for _, j := range n.joins {
		fds = append(fds, j.fd)
	}
	if text, err = json.Marshal(&d); err != nil {
		return nil, nil, fmt.Errorf("describe what is handed over: %w", err)
	}
	return text, fds, nil
}

// adoptNetwork makes a network of what a data plane kept. It takes the descriptors
// over, also on error.
func adoptNetwork(p *plan.Plan, log *slog.Logger, d *description, fds []int) (*network, status.Former, error) {
	if d.BPFs < 0 || len(fds) != d.BPFs+len(d.Joins) || slices.Contains(d.Joins, nil) {
		closeAll(fds)
		return nil, d.Former, fmt.Errorf("what was handed over: %w", handover.ErrPeer)
	}
	n := &network{plan: p, log: log}
	var err error
	if n.tables, n.instances, err = bpf.Adopt(d.BPF, fds[:d.BPFs]); err != nil {
		closeAll(fds[d.BPFs:])
		return nil, d.Former, err
	}
	for i, j := range d.Joins {
		j.fd = fds[d.BPFs+i]
		n.joins = append(n.joins, j)
	}
	if len(n.instances) != len(p.Interfaces) {
		return nil, d.Former, errors.Join(fmt.Errorf("%d programs for %d interfaces: %w", len(n.instances), len(p.Interfaces), handover.ErrPeer), n.close())
	}
	return n, d.Former, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
