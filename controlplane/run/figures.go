package run

import (
	"context"
	"sync"

	"github.com/headrace/headrace/bpf"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/steer"
)

// figures serves what the run does.
type figures struct {
	source   *status.Source
	reporter *status.Reporter // rates
	stop     context.CancelFunc
	wait     sync.WaitGroup

	stopMetrics context.CancelFunc
	metrics     sync.WaitGroup
}

// close returns when nobody asks any more.
func (f *figures) close() {
	if f.stop != nil {
		f.stop()
		f.wait.Wait()
		f.endMetrics()
	}
}

// show makes g the data plane whose figures are served.
func (r *control) show(g *generation, former status.Former) {
	if r.figures.source == nil {
		r.figures.source = &status.Source{Plan: r.Plan, Continuity: r.shown.Load, Placement: r.placement.Load}
		if r.peers != nil {
			r.figures.source.Group = r.peers.show
		}
	}
	r.figures.source.Replace(r.Plan, g.segment, g.pump, r.xdp(g), former)
	r.showContinuity(g)
}

// xdp returns a reader of what happens to frames before a worker has them.
func (r *control) xdp(g *generation) func() status.XDPSnapshot {
	n := r.network
	feeds := make([]bpf.FeedCounters, len(r.Plan.Feeds))
	names := make([]string, len(n.instances))
	modes := make([]string, len(n.instances))
	for i, x := range n.instances {
		names[i], modes[i] = x.Interface().Name, string(x.Mode())
	}
	zeroCopy := len(g.zeroCopy) > 0
	for _, z := range g.zeroCopy {
		zeroCopy = zeroCopy && z
	}
	return func() status.XDPSnapshot {
		var s status.XDPSnapshot
		for i := range names {
			s.Interfaces = append(s.Interfaces, status.InterfaceXDP{
				Name: names[i], Mode: modes[i], ZeroCopy: zeroCopy, Sockets: status.SumSockets(g.segment, i),
			})
		}
		other, err := n.tables.Counters(feeds)
		if err != nil {
			return s // the other figures are still worth having
		}
		verdicts := other.Frames
		for i := range feeds {
			s.Steered = append(s.Steered, feeds[i].Frames[steer.Steered])
			for v, count := range feeds[i].Frames {
				verdicts[v] += count
			}
		}
		// The program counts all interfaces together.
		at := 0
		if len(names) > 1 {
			at = len(names)
			s.Interfaces = append(s.Interfaces, status.InterfaceXDP{Name: "all"})
		}
		for v := range steer.Verdict(steer.VerdictCount) {
			s.Interfaces[at].Verdicts = append(s.Interfaces[at].Verdicts, status.Count{Name: v.String(), Count: verdicts[v]})
		}
		return s
	}
}
