package rdma

import (
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// path is the part of a Group that carries frames in the present epoch.
type path struct {
	mesh      Mesh // nil: none, or we are alone
	codec     *frame.Codec
	transport int // the place of the mesh's in c.Transports
	events    [64]Event
	probe     probe
	epoch     Epoch  // that the caller may use; Number 0: none
	seen      uint64 // the number that the caller knows
	news      News
	crossover uint64
}

// The steps of a probe are in the Op of its frames. A member begins round 1 when it
// gets probeGo: frames of another that got it earlier find the crossover known here.
const (
	probeHello  = iota + 1 // to all
	probeOffer             // the lowest member to all: how long does this take?
	probeAnswer            // back, of the same length
	probeLength            // the lowest member to all: the crossover; answered too
	probeGo                // the lowest member to all: all know the crossover
)

// probe shows that frames get through between all members before a round relies on it,
// and finds out how long they take.
type probe struct {
	active   bool
	deadline time.Time
	hello    collective.Set // whose hello is here, ours included
	done     bool
	queue    []probeFrame
	trial    trial
}

type probeFrame struct {
	to      collective.Set
	header  frame.Header
	payload []byte
}

// trial is the lowest member's measurement.
type trial struct {
	seq      uint64
	size     int // index into trialSizes
	turn     int
	answers  collective.Set
	told     bool // the crossover
	since    time.Time
	began    time.Time
	shortest [trialCount]time.Duration
}

const (
	trialCount = 4
	trialTurns = 4 // the first warms up
	trialsMost = trialCount * trialTurns
	never      = math.MaxUint64
)

var trialSizes = [trialCount]int{64, 4 << 10, 16 << 10, FrameMax}

// leastPatience is for meshes of groups with a short period: a kernel that is slow may
// take some tenths of a second to acknowledge what it got.
const leastPatience = 500 * time.Millisecond

// open begins an epoch.
func (g *Group) open(e collective.Effect) {
	g.shut()
	g.steps, g.failAt = e.Step, time.Time{}
	g.resetRounds(e.Step)
	g.probe = probe{active: true, hello: collective.Of(g.c.Me)}
	if e.Step.Members.Len() == 1 {
		g.mesh, g.transport, g.probe.done = nil, -1, true
		g.probed()
		return
	}
	t, given := g.choose(e.Step, e.Offers)
	if t < 0 {
		g.c.Log.Warn("members offer no transport that all have", "members", g.names(e.Step.Members))
		g.fail(ChangeTransport)
		return
	}
	g.transport = t
	var err error
	config := frame.Config{Me: g.c.Me, Epoch: e.Step.Epoch, Max: FrameMax}
	if g.c.Seal != nil {
		config.Keys = func(peer int) (send, receive [32]byte, err error) { return g.c.Seal(peer, e.Step.Epoch) }
	}
	if g.codec, err = frame.NewCodec(config, uint32(e.Step.Members)); err != nil {
		g.c.Log.Warn("no keys for an epoch", "error", err)
		g.fail(ChangeTransport)
		return
	}
	g.tally.codec(g.codec)
	g.mesh, err = g.c.Transports[t].Open(MeshConfig{
		Epoch: e.Step.Epoch, Me: g.c.Me, Members: e.Step.Members, Offers: given,
		Patience: max(g.c.Period, leastPatience), Bell: g.bell, Codec: g.codec,
	})
	if err != nil {
		g.mesh = nil
		var lacks *MissingError
		var missing collective.Set
		if errors.As(err, &lacks) {
			missing = lacks.Peers & g.others()
		}
		g.unfitFor(missing, "it could not be opened", "error", err)
		return
	}
	g.probe.deadline = time.Now().Add(2 * g.c.Period)
	g.say(g.others(), probeHello, 0, nil)
}

func (g *Group) others() collective.Set { return g.steps.Members.Without(g.c.Me) }

// shut lets go of the mesh.
func (g *Group) shut() {
	if g.mesh != nil {
		_ = g.mesh.Close() // there is nothing to lose in an epoch that is over
		g.mesh = nil
	}
	g.hand.todo, g.hand.reduced, g.hand.haves = 0, 0, 0
	g.probe.active, g.probe.deadline = false, time.Time{}
	if g.epoch.Number != 0 {
		g.epoch = Epoch{Me: g.c.Me}
		g.news |= NewsEpoch
		g.tally.epoch(g.epoch, g.transport)
	}
}

// wedge ends the epoch for good.
func (g *Group) wedge() {
	if g.wedgedAt.IsZero() {
		g.wedgedAt = time.Now()
		g.tally.changed(g.reason)
		g.c.Log.Info("the epoch is over", "epoch", g.steps.Epoch, "reason", g.reason.String())
	}
	g.reason = ChangeHeard
	g.shut()
}

// say queues a frame of the probe.
func (g *Group) say(to collective.Set, step uint8, seq uint64, payload []byte) {
	h := frame.Header{Kind: frame.Probe, Op: step, Round: seq, Total: uint64(len(payload)), Dest: frame.AnyDest}
	g.probe.queue = append(g.probe.queue, probeFrame{to, h, payload})
	g.pushProbe()
}

func (g *Group) pushProbe() {
	q := g.probe.queue
	for len(q) > 0 && g.mesh != nil {
		h := q[0].header // Send fills in others' fields
		if q[0].to &^= g.mesh.Send(q[0].to, &h, q[0].payload); q[0].to != 0 {
			break
		}
		q = q[1:]
	}
	g.probe.queue = q
	if g.probe.active && g.probe.done && len(q) == 0 && g.probe.hello == g.steps.Members {
		g.probed()
	}
}

// heardProbe takes a frame of the probe.
func (g *Group) heardProbe(e *Event) {
	if !g.probe.active {
		g.refuse(e, collective.ErrRound)
		return
	}
	fromLowest, lowest := e.Peer == g.steps.Members.Lowest(), g.c.Me == g.steps.Members.Lowest()
	switch {
	case e.Header.Op == probeHello && !g.probe.hello.Has(e.Peer):
		g.probe.hello = g.probe.hello.With(e.Peer)
		if lowest && g.probe.hello == g.steps.Members {
			g.try()
		}
	case e.Header.Op == probeOffer && fromLowest && !g.probe.done && e.Header.Round == g.probe.trial.seq+1 && e.Header.Round <= trialsMost:
		g.probe.trial.seq++ // a few, and each once: what waits to go back has bounds
		g.say(collective.Of(e.Peer), probeAnswer, e.Header.Round, slices.Clone(e.Payload))
	case e.Header.Op == probeLength && fromLowest && !g.probe.done && len(e.Payload) == 8:
		g.crossover = binary.LittleEndian.Uint64(e.Payload)
		g.say(collective.Of(e.Peer), probeAnswer, e.Header.Round, nil)
	case e.Header.Op == probeAnswer && lowest && e.Header.Round == g.probe.trial.seq && !g.probe.trial.answers.Has(e.Peer):
		g.answered(e.Peer)
	case e.Header.Op == probeGo && fromLowest && !g.probe.done:
		g.probe.done = true
	default:
		g.refuse(e, collective.ErrRound)
		return
	}
	g.pushProbe()
}

// try begins the lowest member's measurement, if there is one to make.
func (g *Group) try() {
	if g.c.Crossover != 0 {
		g.conclude()
		return
	}
	g.probe.trial.began = time.Now()
	g.offerTrial()
}

func (g *Group) offerTrial() {
	t := &g.probe.trial
	t.seq++
	t.answers, t.since = collective.Of(g.c.Me), time.Now()
	g.say(g.others(), probeOffer, t.seq, make([]byte, trialSizes[t.size]))
}

func (g *Group) answered(peer int) {
	t := &g.probe.trial
	if t.answers = t.answers.With(peer); t.answers != g.steps.Members {
		return
	}
	if t.told {
		g.probe.done = true
		g.say(g.others(), probeGo, t.seq, nil)
		return
	}
	took := time.Since(t.since)
	if t.turn > 0 && (t.turn == 1 || took < t.shortest[t.size]) {
		t.shortest[t.size] = took
	}
	if t.turn++; t.turn == trialTurns {
		t.turn, t.size = 0, t.size+1
	}
	if t.size == trialCount || time.Since(t.began) > g.c.Period/4 {
		g.conclude()
		return
	}
	g.offerTrial()
}

// conclude tells all members what the lowest has found out.
func (g *Group) conclude() {
	switch {
	case g.c.Crossover < 0:
		g.crossover = never
	case g.c.Crossover > 0:
		g.crossover = uint64(g.c.Crossover)
	default:
		g.crossover = crossover(g.probe.trial.shortest[:], g.steps.Members.Len(), foldTime())
	}
	t := &g.probe.trial
	t.seq, t.told, t.answers = t.seq+1, true, collective.Of(g.c.Me)
	g.say(g.others(), probeLength, t.seq, binary.LittleEndian.AppendUint64(nil, g.crossover))
}

// foldTime returns how long a sum of FrameMax bytes takes here.
func foldTime() time.Duration {
	a, b := make([]byte, FrameMax), make([]byte, FrameMax)
	best := time.Duration(math.MaxInt64)
	for range 4 {
		t := time.Now()
		sum64(a, a, b)
		best = min(best, time.Since(t))
	}
	return best
}

// crossover returns the length from which two steps with slices are quicker than one
// with whole vectors. took are the times for a frame of each of trialSizes to get from
// one member to all others and back from all: twice the time of one step. A step of
// slices is as long as one of vectors of a member's share.
func crossover(took []time.Duration, members int, fold time.Duration) uint64 {
	if slices.Contains(took, 0) { // measurement was broken off
		return 64 << 10
	}
	step := func(n float64) float64 {
		i := 1
		for i < trialCount-1 && n > float64(trialSizes[i]) {
			i++
		}
		x0, x1 := float64(trialSizes[i-1]), float64(trialSizes[i])
		y0, y1 := float64(took[i-1])/2, float64(took[i])/2
		return max(y0/2, y0+(n-x0)*(y1-y0)/(x1-x0))
	}
	folded := float64(fold) / FrameMax * float64(members-1)
	for n := float64(4 << 10); n <= 64<<20; n *= 2 {
		share := n / float64(members)
		if 2*step(share)+folded*share < step(n)+folded*n {
			return uint64(n)
		}
	}
	return never
}

// probed makes the epoch one that the caller may use.
func (g *Group) probed() {
	g.probe.active, g.probe.deadline = false, time.Time{}
	g.epoch = Epoch{
		Number: g.steps.Epoch, Me: g.c.Me, Members: g.steps.Members,
		Carried: g.steps.Carried, Previous: g.steps.Prev,
	}
	if g.transport >= 0 {
		g.epoch.Transport = g.c.Transports[g.transport].Name()
	}
	g.news |= NewsEpoch
	for p := range g.epoch.Members.All {
		g.unheard[p] = 0
	}
	if !g.wedgedAt.IsZero() {
		g.tally.healed(time.Since(g.wedgedAt))
		g.wedgedAt = time.Time{}
	}
	g.tally.epoch(g.epoch, g.transport)
	g.tally.crossover(g.crossover)
	g.c.Log.Info("an epoch has begun", "epoch", g.epoch.Number, "members", g.names(g.epoch.Members),
		"carried", g.names(g.epoch.Carried), "transport", g.epoch.Transport)
	if g.transport > 0 {
		g.c.Log.Warn("the group has fallen back to another transport",
			"wanted", g.c.Transports[0].Name(), "transport", g.epoch.Transport)
	}
}

// turn looks once at everything that may have come and reports whether frames had.
func (g *Group) turn() bool {
	if g.bell.Rung() {
		g.listen()
		if g.hand.open && g.hand.settled {
			return true // what it gathered is where the next epoch's frames would go
		}
	}
	mesh := g.mesh
	if mesh == nil {
		return false
	}
	n := mesh.Poll(g.events[:])
	for i := 0; i < n && g.mesh == mesh; i++ {
		e := &g.events[i]
		switch {
		case e.Err != nil:
			g.distrust(e.Peer, e.Err)
		case e.Header.Kind == frame.Probe:
			g.heardProbe(e)
		default:
			g.arrived(e)
		}
	}
	if g.probe.active {
		g.pushProbe()
	}
	return n > 0
}

// refuse gives the epoch up because of what a member sent.
func (g *Group) refuse(e *Event, err error) {
	g.tally.badFrame()
	g.c.Log.Warn("a member sent what cannot be", "peer", g.name(e.Peer), "kind", e.Header.Kind,
		"round", e.Header.Round, "ours", g.round, "error", err)
	g.fail(ChangeFrame)
}

// A waiter waits for frames: it polls for a while, then sleeps in the kernel.
type waiter struct {
	empty int
	since time.Time
}

const (
	yieldAfter   = 1  // empty turns: to poll on is worth it only if nobody else wants the core
	clockEvery   = 32 // empty turns between looks at the clock
	goschedEvery = 1 << 10
	parkMax      = 250 * time.Millisecond
)

// wait is called after a turn that brought nothing. It returns after a while, early if
// something came, and at until (zero: never) at the latest.
func (g *Group) wait(w *waiter, until time.Time) {
	w.empty++
	if g.c.Spin != 0 && w.empty%clockEvery != 0 {
		if w.empty > yieldAfter {
			w.yield()
		}
		return
	}
	now := time.Now()
	until = earlier(until, g.tick(now))
	if w.since.IsZero() {
		w.since = now
	}
	if g.c.Spin < 0 || now.Sub(w.since) < g.c.Spin {
		return
	}
	d := parkMax
	if !until.IsZero() {
		d = min(d, until.Sub(now))
	}
	if d <= 0 || g.closed.Load() {
		return
	}
	if g.mesh != nil {
		g.mesh.Park(d)
	} else {
		g.park(d)
	}
}

// park waits for the bell alone.
func (g *Group) park(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	if g.bell.Rung() {
		return
	}
	select {
	case <-g.bell.C():
	case <-timer.C:
	}
}

// yield lets another thread have the processor. Another goroutine gets it now and
// then only: to leave a locked thread and come back costs more than a frame.
func (w *waiter) yield() {
	if w.empty%goschedEvery == 0 {
		runtime.Gosched()
		return
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
}
