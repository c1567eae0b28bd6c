package run

import (
	"context"
	"crypto/sha256"
	be "encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/cluster"
	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/group"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/tcp"
	"github.com/headrace/headrace/rdma/verbs"
)

const (
	// peersVersion is that of what clusters and groups say to each other.
	peersVersion = 1
	// partFor bounds, besides max_wait and three periods, how long a stop waits for the
	// others to have what is ours.
	partFor = 10 * time.Second
	// sealLabel names the keys of sealed frames (RFC 8446 §7.5; RFC 5705 asks for the prefix).
	sealLabel = "EXPORTER-headrace-frames"
)

// peers is this box's part in its group. It outlives data planes.
type peers struct {
	config  *config.Group
	names   []string
	me      int
	log     *slog.Logger
	boot    *boot.Mesh
	tcp     *tcp.Transport
	verbs   *verbs.Transport // nil: there are none
	without bool             // RDMA was asked for by name, and there are none
	group   *rdma.Group
	cluster *cluster.Cluster
	pump    atomic.Pointer[export.Pump] // of the present data plane

	alone  time.Time // since when there is no epoch; zero: there is one
	warned bool
	cancel context.CancelFunc
	ran    chan error    // one value
	left   chan struct{} // closed when no more rounds are run here
	failed chan error    // one value, if the cluster has ended by itself
}

// joinGroup takes up the box's part in the group of c and p.
func joinGroup(c *config.Group, p *plan.Plan, log *slog.Logger) (_ *peers, err error) {
	x := &peers{
		config: c, names: p.Group.Peers, me: slices.Index(p.Group.Peers, p.Group.Me), log: log,
		ran: make(chan error, 1), left: make(chan struct{}), failed: make(chan error, 1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("group: %w", err), x.closeAll())
		}
	}()
	if err := x.connect(p); err != nil {
		return nil, err
	}
	transports, err := x.transports()
	if err != nil {
		return nil, err
	}
	if x.group, err = rdma.NewGroup(x.groupConfig(transports)); err != nil {
		return nil, err
	}
	sets, err := replay.Sets(p)
	if err != nil {
		return nil, err
	}
	x.cluster, err = cluster.New(cluster.Config{
		Plan: p, Values: replay.ValuesOf(sets), Sets: sets, Group: x.group, Names: x.names, Me: x.me, MaxWait: time.Duration(c.MaxWait),
		CorrectFor: time.Duration(c.CorrectFor), Period: time.Duration(c.Period), Keep: int(c.Keep), Emit: x.emit, Enough: x.quorum().Has, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if c.AllowSolo {
		log.Warn("allow_solo: boxes that are cut off from each other go on alone, and write rows with equal ids that differ")
	}
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	go func() {
		if c.Busy { // it polls: a thread of its own
			runtime.LockOSThread()
		}
		err := x.cluster.Run(ctx)
		if errors.Is(err, rdma.ErrClosed) {
			err = nil // drain closed it, and said why
		}
		if err == nil && ctx.Err() == nil {
			x.lastFrames()
		}
		// Nobody here begins the rounds that others wait for, and the sinks may take long
		// to end.
		x.group.Leave()
		err = errors.Join(err, x.boot.Close())
		close(x.left)
		if err != nil {
			x.failed <- err
		}
		x.ran <- err
	}()
	return x, nil
}

// lastFramesFor is how long the others may need to see that the last round is complete.
const lastFramesFor = 250 * time.Millisecond

// lastFrames sends what is still to be sent. Who left at once would leave the others in
// doubt about the last round, and without a majority if all stop.
func (x *peers) lastFrames() {
	for end := time.Now().Add(lastFramesFor); ; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		x.group.Wait(left)
	}
}

// connect opens the control connections.
func (x *peers) connect(p *plan.Plan) error {
	dir, err := group.Open(x.config.Dir)
	if err != nil {
		return err
	}
	dir.Log = x.log
	list := make([]boot.Peer, len(x.config.Peers))
	for i, b := range x.config.Peers {
		list[i] = boot.Peer{ID: b.ID, Address: b.Address, Pins: b.Pin}
	}
	made, err := build()
	if err != nil {
		return err
	}
	x.boot, err = boot.New(boot.Config{
		Me: x.config.Me, Peers: list, Certificate: dir.Certificate, Pins: dir.Pins(list), Join: dir.Admit,
		Identity: boot.Identity{Version: peersVersion, ConfigHash: compile.GroupHash(p), Build: made},
		Silence:  time.Duration(x.config.Period), Log: x.log,
	})
	return err
}

// build names what the program was made of: another one may give other bytes for the
// same row. Sources that no version names are told apart by what was made of them.
func build() (string, error) {
	name, known := runtime.Version()+" "+runtime.GOARCH, false
	if b, ok := debug.ReadBuildInfo(); ok {
		name = b.Main.Version + " " + name
		known = b.Main.Version != "(devel)" && b.Main.Version != "" && !strings.Contains(b.Main.Version, "dirty")
	}
	if known {
		return name, nil
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was read only
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %x", name, sum.Sum(nil)[:8]), nil
}

// transports opens those that the config asks for, the preferred one first.
func (x *peers) transports() ([]rdma.Transport, error) {
	var list []rdma.Transport
	if x.config.Transport != "tcp" {
		v, err := verbs.New(verbs.Config{
			Me: x.me, Device: x.config.Device, GIDIndex: -1, Busy: x.config.Busy,
			RetryCount: verbsRetries, Timeout: verbsTimeout(time.Duration(x.config.Period)),
		})
		switch {
		case err == nil:
			x.verbs = v
			list = append(list, v)
		case x.config.Transport == "verbs":
			x.without = true
			x.log.Warn("no RDMA: the group exchanges over TCP", "reason", err)
		default:
			x.log.Info("the group exchanges over TCP", "reason", err)
		}
	}
	host, err := net.ResolveTCPAddr("tcp", x.address())
	if err != nil {
		return nil, err
	}
	x.tcp, err = tcp.New(tcp.Config{Listen: host.AddrPort().Addr().Unmap(), Busy: x.config.Busy, Log: x.log})
	if err != nil {
		return nil, err
	}
	return append(list, x.tcp), nil
}

// verbsRetries is the most that all devices count. Packets that overtake each other use
// them up too.
const verbsRetries = 6

// verbsTimeout is the exponent with which frames are given up when a peer that is silent
// is: after a period. Sooner would end epochs for a few lost packets.
func verbsTimeout(period time.Duration) int {
	exponent := 8
	for exponent < 20 && (verbs.Config{RetryCount: verbsRetries, Timeout: exponent + 1}).Silence() <= period {
		exponent++
	}
	return exponent
}

// address is where the config says that peers reach this box.
func (x *peers) address() string {
	for i := range x.config.Peers {
		if x.config.Peers[i].ID == x.config.Me {
			return x.config.Peers[i].Address
		}
	}
	return ""
}

func (x *peers) groupConfig(transports []rdma.Transport) rdma.GroupConfig {
	c := rdma.GroupConfig{
		Names: x.names, Me: x.me, Control: x.boot, Transports: transports, Period: time.Duration(x.config.Period), Log: x.log,
		Quorum: x.quorum(),
	}
	if x.config.Busy {
		c.Spin = -1
	}
	if x.config.Seal {
		c.Seal = x.keys
	}
	return c
}

func (x *peers) quorum() collective.Quorum {
	return collective.Quorum{Peers: len(x.names), TieBreaker: slices.Index(x.names, x.config.TieBreaker), AllowSolo: x.config.AllowSolo}
}

// keys returns the keys of the frames that go to a peer and come from it in an epoch.
func (x *peers) keys(peer int, epoch uint64) (send, receive [32]byte, err error) {
	context := func(from, to int) []byte {
		return append(be.BigEndian.AppendUint64(nil, epoch), byte(from), byte(to))
	}
	send, err = x.boot.Key(peer, sealLabel, context(x.me, peer))
	if err == nil {
		receive, err = x.boot.Key(peer, sealLabel, context(peer, x.me))
	}
	return send, receive, err
}

// beat says, once each time, that there has been no epoch for a while.
func (x *peers) beat(now time.Time) {
	if x.group.State().Epoch.Number != 0 {
		x.alone, x.warned = time.Time{}, false
		return
	}
	if x.alone.IsZero() {
		x.alone = now
	}
	if x.warned || now.Sub(x.alone) < 5*time.Duration(x.config.Period) {
		return
	}
	x.warned = true
	var heard []string
	for _, p := range x.boot.Peers() {
		if p.Heard && !p.Me {
			heard = append(heard, p.ID)
		}
	}
	x.log.Warn("too few peers for an epoch: there are no global rows; `headrace status --peers` says why", "heard", heard, "peers", len(x.names))
}

// emit gives rows to the present data plane's sinks.
func (x *peers) emit(out []export.InjectedRow, written func()) bool {
	p := x.pump.Load()
	return p != nil && p.Inject(out, written)
}

// drain contributes what is left and waits until the others have it, within bounds.
// Nothing that is not there then holds up the end.
func (x *peers) drain() {
	x.cluster.Finish()
	most := partFor + time.Duration(x.config.MaxWait) + 3*time.Duration(x.config.Period)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), most)
		defer cancel()
		if err := x.cluster.Drain(ctx); err != nil {
			x.log.Error("the group is left all the same", "waited", most, "error", err)
			x.cancel()
			select {
			case <-x.left:
			case <-time.After(time.Duration(x.config.Period)):
				// A round waits for a member that is there and says nothing.
				_ = x.group.Close()
			}
		}
	}()
}

// close leaves the group. The last pump has ended.
func (x *peers) close() error {
	x.cancel()
	err := <-x.ran
	return errors.Join(err, x.closeAll())
}

func (x *peers) closeAll() error {
	var errs []error
	if x.cancel != nil {
		x.cancel()
	}
	if x.group != nil {
		errs = append(errs, x.group.Close())
	}
	if x.verbs != nil {
		errs = append(errs, x.verbs.Close())
	}
	if x.tcp != nil {
		errs = append(errs, x.tcp.Close())
	}
	if x.boot != nil {
		errs = append(errs, x.boot.Close())
	}
	return errors.Join(errs...)
}
