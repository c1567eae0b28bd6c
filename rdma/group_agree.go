package rdma

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/headrace/headrace/rdma/collective"
)

// agreement is the part of a Group that talks with peers about epochs: it drives the
// machine of package collective.
type agreement struct {
	machine  *collective.Machine
	effects  []collective.Effect            // reused
	timeout  time.Time                      // when the machine wants to be called; zero: not
	hears    []collective.Set               // as the control tells it, then as we use it
	told     []collective.Set               // as the machine was told
	reason   Change                         // why the next change of epoch comes about
	wedgedAt time.Time                      // zero: not wedged
	failAt   time.Time                      // when to give up an epoch that cannot work; zero: not
	failedAt time.Time                      // when we last gave one up
	troubled [collective.PeersMax]time.Time // when frames last failed between a peer and us
	shunned  [collective.PeersMax]time.Time // until when a peer counts as not heard
	stalls   [collective.PeersMax]int       // times in a row that rounds waited for a peer in vain
	present  collective.Set                 // peers that the control hears
	missed   collective.Set                 // peers that it heard once and does not
	unheard  [collective.PeersMax]int       // meshes in a row that a peer did not get into
	garbled  [collective.PeersMax]time.Time // until when bad messages of a peer are not logged
	unfit    []time.Time                    // until when a transport is not offered
	prepared []bool                         // transports that are ready for the epoch to come
	steps    collective.Step                // of the epoch that was opened last
}

// Change says why an epoch ended.
type Change uint8

// The reasons.
const (
	ChangeHeard     Change = iota // who hears whom is different, or a peer asked for it
	ChangeMesh                    // frames do not get through to a peer
	ChangeFrame                   // a member sent what cannot be
	ChangeOp                      // members disagreed on the operation
	ChangeTransport               // the transport could not be opened, or its probe failed
	ChangeLeave                   // we leave
	ChangeStall                   // a member is heard and begins no rounds
	changeCount
)

var changeNames = [changeCount]string{"heard", "mesh", "frame", "op", "transport", "leave", "stall"}

// String names the reason as metrics do.
func (c Change) String() string { return changeNames[c] }

// listen takes in what the control has.
func (g *Group) listen() {
	g.bell.Clear()
	g.listenHears()
	for {
		peer, msg, ok := g.c.Control.Receive()
		if !ok {
			return
		}
		m, err := decodeMessage(msg, len(g.c.Names))
		if err != nil || peer < 0 || peer >= len(g.c.Names) || peer == g.c.Me {
			g.garbage(peer, err)
			continue
		}
		g.act(g.machine.Receive(peer, &m, g.effects[:0]))
	}
}

// garbage counts a message that is none. A peer can send them faster than anybody reads.
func (g *Group) garbage(peer int, err error) {
	g.tally.badMessage()
	until := &g.garbled[max(0, min(peer, collective.PeersMax-1))]
	if now := time.Now(); !now.Before(*until) {
		*until = now.Add(logEvery)
		g.c.Log.Warn("control messages are refused", "peer", g.name(peer), "error", err)
	}
}

// logEvery is how often the same trouble with the same peer is logged.
const logEvery = 10 * time.Second

// listenHears tells the machine what has changed in who hears whom.
func (g *Group) listenHears() {
	clear(g.hears)
	g.c.Control.Hears(g.hears)
	g.settleDown(g.hears[g.c.Me].Without(g.c.Me))
	var out collective.Set
	for p := range g.hears {
		if !g.shunned[p].IsZero() {
			out = out.With(p)
			g.hears[p] = 0
		}
	}
	g.hears[g.c.Me] = g.hears[g.c.Me].With(g.c.Me) &^ out
	changed := false
	for i := range g.hears {
		p := (g.c.Me + 1 + i) % len(g.hears) // ours last: then several come in together
		if s := g.hears[p]; s != g.told[p] {
			g.told[p], changed = s, true
			g.act(g.machine.Hear(p, s, g.effects[:0]))
		}
	}
	if changed {
		g.tally.hears(g.told, out)
	}
}

// settleDown is told whom the control hears. A peer that is heard again counts only
// after a period: whoever comes and goes would keep the others from having an epoch.
func (g *Group) settleDown(heard collective.Set) {
	g.missed |= g.present &^ heard
	g.present = heard
	for p := range (g.missed & heard).All {
		g.shunned[p] = time.Now().Add(g.c.Period)
	}
	g.missed &^= heard
}

// act carries out effects, and those that come of them.
func (g *Group) act(effects []collective.Effect) {
	g.effects = nil // an effect may end in another call of act
	for i := 0; i < len(effects); i++ {
		e := effects[i]
		switch e.Kind {
		case collective.Send:
			g.c.Control.Send(e.To, encodeMessage(&e.Message))
		case collective.Arm:
			g.timeout = time.Now().Add(g.c.Period)
		case collective.Disarm:
			g.timeout = time.Time{}
		case collective.Wedge:
			g.wedge()
		case collective.MakeOffers:
			effects = g.machine.Offer(e.Step.Epoch, g.offers(e.Step), effects)
		case collective.Hand:
			if body, contributors, ok := g.result(e.Epoch, e.Round); ok {
				g.tally.handed()
				effects = g.machine.Hand(e.To, e.Epoch, e.Round, body, contributors, effects)
			}
		case collective.Take:
			g.take(e)
		case collective.Settle:
			g.settle(e)
		case collective.Open:
			g.open(e)
		}
	}
	g.effects = effects[:0]
}

// fail gives up the present epoch. If we did so just before, or it never worked, it
// waits a little: peers must not agree in vain as fast as they can.
func (g *Group) fail(reason Change) {
	now := time.Now()
	g.shut()
	soonest := g.failedAt.Add(g.c.Period / 2)
	if reason == ChangeTransport && g.failAt.IsZero() {
		soonest = now.Add(g.c.Period)
	}
	if now.Before(soonest) {
		if g.failAt.IsZero() {
			g.failAt, g.reason = soonest, reason
		}
		return
	}
	g.failedAt, g.failAt, g.reason = now, time.Time{}, reason
	g.act(g.machine.Fail(g.effects[:0]))
}

// tick does what is due and returns when the next thing is; zero: nothing is.
func (g *Group) tick(now time.Time) (next time.Time) {
	if due(g.timeout, now) {
		g.timeout = time.Time{}
		g.act(g.machine.Timeout(g.effects[:0]))
	}
	if due(g.failAt, now) {
		g.failedAt, g.failAt = now, time.Time{}
		g.act(g.machine.Fail(g.effects[:0]))
	}
	if due(g.probe.deadline, now) {
		g.unfitFor(g.steps.Members&^g.probe.hello, "its probe did not come through")
	}
	next = g.stalled(now)
	expired := false
	for p := range g.shunned {
		if due(g.shunned[p], now) {
			g.shunned[p], expired = time.Time{}, true
		}
		next = earlier(next, g.shunned[p])
	}
	if expired {
		g.listenHears()
	}
	next = earlier(next, g.timeout)
	next = earlier(next, g.failAt)
	return earlier(next, g.probe.deadline)
}

// stallsMax bounds how often the time doubles for which a peer is left out.
const stallsMax = 6

// stalled gives up the members that are heard, and of whose contribution to the round in
// hand nothing has come for too long. It returns when to look again; zero: nobody waits.
func (g *Group) stalled(now time.Time) time.Time {
	h := &g.hand
	if !h.open || h.settled || h.complete || g.mesh == nil || g.epoch.Number == 0 || h.epoch.Number != g.epoch.Number {
		return time.Time{}
	}
	if at := h.began.Add(g.c.Stall); now.Before(at) {
		return at
	}
	var silent collective.Set
	for p := range g.others().All {
		if g.boxes[p][g.round&1].round != g.round {
			silent = silent.With(p)
		}
	}
	if silent == 0 || !g.c.Quorum.Has(g.steps.Members&^silent) {
		return now.Add(g.c.Period)
	}
	for p := range silent.All {
		g.shunned[p] = now.Add(g.c.Stall << g.stalls[p])
		g.stalls[p] = min(g.stalls[p]+1, stallsMax)
		g.tally.stalled(p)
		g.c.Log.Warn("a member begins no rounds and is left out for a while", "peer", g.name(p), "waited", now.Sub(h.began), "for", g.shunned[p].Sub(now))
	}
	g.fail(ChangeStall)
	g.listenHears()
	return time.Time{}
}

func due(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

func earlier(t, u time.Time) time.Time {
	if t.IsZero() || !u.IsZero() && u.Before(t) {
		return u
	}
	return t
}

// hopeless reports that there is no sense in waiting for an epoch: those whom we
// could be in one with are too few, and have been for a while.
func (g *Group) hopeless(now time.Time) bool {
	if g.wedgedAt.IsZero() || now.Sub(g.wedgedAt) < 2*g.c.Period {
		return false
	}
	return !g.c.Quorum.Has(g.machine.Chosen())
}

// distrust notes that frames failed between a peer and us. At the second time within
// two periods the peer counts as not heard for a period, so that the others go on.
func (g *Group) distrust(peer int, err error) {
	now := time.Now()
	again := !g.troubled[peer].IsZero() && now.Sub(g.troubled[peer]) < 2*g.c.Period
	g.troubled[peer] = now
	g.tally.meshFailed(peer)
	g.c.Log.Warn("frames do not get through", "peer", g.name(peer), "again", again, "error", err)
	g.fail(ChangeMesh)
	if again {
		g.shunned[peer], g.troubled[peer] = now.Add(g.c.Period), time.Time{}
		g.listenHears()
	}
}

func (g *Group) name(peer int) string {
	if peer < 0 || peer >= len(g.c.Names) {
		return "?"
	}
	return g.c.Names[peer]
}

// names is for logs.
func (g *Group) names(s collective.Set) (names []string) {
	for p := range s.All {
		names = append(names, g.name(p))
	}
	return names
}

// offers prepares every transport that is fit for the epoch of step and returns what
// each peer is to know.
func (g *Group) offers(step collective.Step) [][]byte {
	now := time.Now()
	lists := make([][]offer, len(g.c.Names))
	anyFit := false
	for i := range g.unfit {
		if due(g.unfit[i], now) {
			g.unfit[i] = time.Time{}
		}
		anyFit = anyFit || g.unfit[i].IsZero()
	}
	for i, t := range g.c.Transports {
		g.prepared[i] = false
		if !g.unfit[i].IsZero() && anyFit {
			continue
		}
		forPeers, err := t.Prepare(step.Epoch, step.Members)
		if err == nil {
			err = offersFit(forPeers)
		}
		if err != nil {
			g.tally.transportFailed()
			g.c.Log.Warn("a transport cannot be used now", "transport", t.Name(), "error", err)
			continue
		}
		g.prepared[i] = true
		for p := range step.Members.All {
			if p < len(forPeers) {
				lists[p] = append(lists[p], offer{t.Name(), forPeers[p]})
			} else {
				lists[p] = append(lists[p], offer{t.Name(), nil})
			}
		}
	}
	out := make([][]byte, len(g.c.Names))
	for p := range out {
		out[p] = appendOffers(nil, lists[p])
	}
	return out
}

// choose returns the first transport, in the order of the lowest member, that all
// members offer, and what they offer to us.
func (g *Group) choose(step collective.Step, offers [][]byte) (transport int, given [][]byte) {
	lists := make([][]offer, len(g.c.Names))
	for p := range step.Members.All {
		if p == g.c.Me {
			for i, t := range g.c.Transports {
				if g.prepared[i] {
					lists[p] = append(lists[p], offer{t.Name(), nil})
				}
			}
			continue
		}
		if p < len(offers) {
			var err error
			if lists[p], err = decodeOffers(offers[p]); err != nil {
				g.tally.badMessage()
				g.c.Log.Warn("an offer was refused", "peer", g.name(p), "error", err)
			}
		}
	}
	for _, first := range lists[step.Members.Lowest()] {
		i := slices.IndexFunc(g.c.Transports, func(t Transport) bool { return t.Name() == first.transport })
		if i < 0 || !g.prepared[i] {
			continue
		}
		given = make([][]byte, len(g.c.Names))
		all := true
		for p := range step.Members.All {
			at := slices.IndexFunc(lists[p], func(o offer) bool { return o.transport == first.transport })
			if at < 0 {
				all = false
				break
			}
			given[p] = lists[p][at].bytes
		}
		if all {
			return i, given
		}
	}
	return -1, nil
}

// unfitFor gives up the present epoch because of its transport, and leaves that out for
// ten periods, unless the failure has to do with a peer that has gone. If there is no
// other transport, the members that did not get through are left out instead.
func (g *Group) unfitFor(missing collective.Set, what string, attrs ...any) {
	g.listenHears()
	t := g.transport
	attrs = append([]any{slog.String("transport", g.c.Transports[t].Name()), slog.String("what", what)}, attrs...)
	switch {
	case g.steps.Members&^g.told[g.c.Me] != 0:
		g.c.Log.Warn("a transport failed at the start of an epoch: a member has gone", attrs...)
	case missing != 0 && g.lastResort(t):
		g.tally.transportFailed()
		g.unreached(missing, attrs)
		return
	default:
		g.unfit[t] = time.Now().Add(10 * g.c.Period)
		g.tally.transportFailed()
		g.c.Log.Warn("a transport failed at the start of an epoch and is left out for ten periods", attrs...)
	}
	g.fail(ChangeTransport)
}

// lastResort reports that no other transport than t can be used.
func (g *Group) lastResort(t int) bool {
	for i := range g.unfit {
		if i != t && g.unfit[i].IsZero() {
			return false
		}
	}
	return true
}

// unreachedMost bounds for how long peers are left out, as a power of two of periods.
const unreachedMost = 6

// unreached gives the epoch up because of members that are heard and whose frames do not
// get through. From the second time in a row they count as not heard, for longer each
// time: the others go on, and are not interrupted all the time for what does not work.
func (g *Group) unreached(missing collective.Set, attrs []any) {
	now := time.Now()
	var out collective.Set
	for p := range missing.All {
		if g.unheard[p]++; g.unheard[p] > 1 {
			g.shunned[p] = now.Add(g.c.Period << min(g.unheard[p]-1, unreachedMost))
			out = out.With(p)
		}
	}
	g.c.Log.Warn("peers are heard, and frames do not get through to them",
		append(attrs, "peers", g.names(missing), "left_out", g.names(out))...)
	g.fail(ChangeTransport)
	g.listenHears()
}

// offersFit checks that offers can be told to peers.
func offersFit(offers [][]byte) error {
	for p, o := range offers {
		if len(o) > offerMax/(2*transportsMax) {
			return fmt.Errorf("rdma: an offer to peer %d of %d bytes, limit %d: %w", p, len(o), offerMax/(2*transportsMax), ErrTooLarge)
		}
	}
	return nil
}
