package run

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headrace/headrace/controlplane/cluster"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/verbs"
)

// show returns what `headrace status --peers` and the metrics show of the group.
func (x *peers) show() *status.Group {
	s := x.group.Stats()
	g := &status.Group{
		Me: x.names[x.me], Epoch: s.Epoch.Number, Members: x.some(s.Epoch.Members), Known: x.names,
		Transport: s.Epoch.Transport, Fallback: s.Fallback || x.without && s.Epoch.Number != 0, EpochChanges: counts(s.EpochChanges),
		EpochChange: durations(&s.EpochChange), BadFrames: counts(s.BadFrames), StaleFrames: s.StaleDrops, BadMessages: s.BadMessages,
		Refused: counts(x.boot.Refused()),
		Rounds: []status.Count{
			{Name: "complete", Count: s.RoundsComplete},
			{Name: "rerun", Count: s.RoundsRerun},
			{Name: "taken", Count: s.RoundsTaken},
			{Name: "handed", Count: s.RoundsHanded},
		},
	}
	for _, op := range slices.Sorted(maps.Keys(s.Ops)) {
		o := s.Ops[op]
		for _, p := range []struct {
			name string
			h    *rdma.Histogram
		}{{"whole", &o.Whole}, {"post", &o.Post}, {"wait", &o.Wait}, {"reduce", &o.Reduce}} {
			g.RoundDurations = append(g.RoundDurations, status.OpPhase{Op: op, Phase: p.name, Durations: durations(p.h)})
		}
	}
	x.showPeers(g, s)
	if x.verbs != nil {
		showVerbs(g, x.verbs.Stats())
	}
	x.showQueries(g)
	return g
}

func (x *peers) showPeers(g *status.Group, s *rdma.Stats) {
	for i, b := range x.boot.Peers() {
		p := status.GroupPeer{
			ID: b.ID, Address: b.Address, Me: b.Me, Member: s.Epoch.Members.Has(i), Connected: b.Connected, Heard: b.Heard,
			RTT: b.RTTMin, ClockOffset: b.Offset, ClockKnown: b.RTTMin > 0, LastError: b.Trouble,
		}
		if i < len(s.Peers) {
			q := &s.Peers[i]
			p.Sent, p.Received, p.Waited, p.WaitedRounds, p.PathFailures, p.Stalls = q.SentBytes, q.ReceivedBytes, q.Waited, q.WaitedRounds, q.MeshFailures, q.Stalls
		}
		g.Peers = append(g.Peers, p)
	}
}

func showVerbs(g *status.Group, v verbs.Stats) {
	g.CreditsLeast, g.DeviceCounters = v.CreditsMin, counts(v.Counters)
	for i, n := range v.Completions {
		if n > 0 {
			g.Completions = append(g.Completions, status.Count{Name: verbs.Status(i).String(), Count: n})
		}
	}
	if g.Transport == "verbs" {
		g.Device, g.GID, g.MTU = v.Device, v.GID.String(), v.MTU
	}
}

func (x *peers) showQueries(g *status.Group) {
	s := x.cluster.Stats()
	g.KeptBytes, g.KeptLimit = uint64(s.KeptBytes), uint64(x.config.Keep)
	for i := range s.Queries {
		q := &s.Queries[i]
		g.KeptLost += q.Overflow
		g.Queries = append(g.Queries, globalQuery(q, g.Members))
	}
	for _, b := range s.Bad {
		g.Bad = append(g.Bad, status.Count{Name: fmt.Sprintf("%s of %s", b.Reason, b.Peer), Count: b.Count})
	}
}

// globalQuery shows q. Who is no member holds nothing up, however far behind it was.
func globalQuery(q *cluster.QueryStats, members []string) status.GlobalQuery {
	out := status.GlobalQuery{
		Name: q.Name, HeldBy: q.Straggler, Lag: q.Lag, Open: uint64(q.Open), Rows: q.Rows,
		Windows: q.Fired, Corrections: q.Corrections, Forced: q.Forced, Unknown: q.Unknown, Dropped: q.Shed,
	}
	least, some := int64(1<<63-1), false
	for _, m := range q.Watermarks {
		if m.Nanos != nil && !m.Idle && !m.Final && slices.Contains(members, m.Peer) {
			least, some = min(least, *m.Nanos), true
		}
	}
	if some {
		out.Watermark = time.Unix(0, least).UTC()
	}
	return out
}

// some returns the names of the peers in s.
func (x *peers) some(s collective.Set) []string {
	names := []string{}
	for p := range s.All {
		names = append(names, x.names[p])
	}
	return names
}

func counts[N ~string](m map[N]uint64) []status.Count {
	out := []status.Count{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, status.Count{Name: string(name), Count: m[name]})
	}
	return out
}

func durations(h *rdma.Histogram) status.Durations {
	return status.Durations{Bounds: rdma.HistogramBounds[:], Counts: h.Counts[:], Sum: h.Sum}
}
