package status

import "github.com/prometheus/client_golang/prometheus"

var (
	byPeer        = []string{"peer"}
	byPeerDir     = []string{"peer", "direction"}
	byQueryPeer   = []string{"query", "peer"}
	byOpPhase     = []string{"op", "phase"}
	byResult      = []string{"result"}
	byStatus      = []string{"status"}
	byCounter     = []string{"counter"}
	transportTags = []string{"transport", "device", "gid"}
)

// groupMetrics are the families of a box in a group. Peers are a closed set: those of
// the config.
type groupMetrics struct {
	transport, round, change *prometheus.Desc
	group                    []metric[Group]
	counts                   []groupCounts
	peers                    []metric[GroupPeer]
	queries                  []metric[GlobalQuery]
	held                     *prometheus.Desc
}

// groupCounts is a family with a value for each name of a closed set.
type groupCounts struct {
	desc *prometheus.Desc
	of   func(*Group) []Count
}

func newGroupMetrics() *groupMetrics {
	counts := func(name, help string, label []string, of func(*Group) []Count) groupCounts {
		return groupCounts{prometheus.NewDesc(name, help, label, nil), of}
	}
	return &groupMetrics{
		transport: prometheus.NewDesc("headrace_rdma_transport_info", "The transport of the epoch: always 1.", transportTags, nil),
		round:     prometheus.NewDesc("headrace_rdma_round_seconds", "Durations of rounds by operation: whole, and its phases post, wait and reduce.", byOpPhase, nil),
		change:    prometheus.NewDesc("headrace_rdma_epoch_change_seconds", "From the end of an epoch to the next one.", nil, nil),
		held:      prometheus.NewDesc("headrace_global_watermark_held_seconds", "How far the peer that holds the query's watermark is behind the first one.", byQueryPeer, nil),
		group:     describeAll(groupFamilies()), peers: describeAll(groupPeerFamilies()), queries: describeAll(globalQueryFamilies()),
		counts: []groupCounts{
			counts("headrace_rdma_epoch_changes_total", "Epochs that ended, by reason.", byReason, func(g *Group) []Count { return g.EpochChanges }),
			counts("headrace_rdma_rounds_total", "Rounds by result: complete, rerun (did not count), taken (another member had the result), handed.", byResult, func(g *Group) []Count { return g.Rounds }),
			counts("headrace_rdma_bad_frames_total", "Frames that were refused, by reason.", byReason, func(g *Group) []Count { return g.BadFrames }),
			counts("headrace_rdma_completions_total", "Verbs completions by status.", byStatus, func(g *Group) []Count { return g.Completions }),
			counts("headrace_rdma_device_events_total", "Counters of the RDMA device.", byCounter, func(g *Group) []Count { return g.DeviceCounters }),
			counts("headrace_group_connections_refused_total", "Connections of peers that were refused, by reason.", byReason, func(g *Group) []Count { return g.Refused }),
			counts("headrace_global_bad_contributions_total", "Contributions, or records in them, that were refused, by reason.", byReason, func(g *Group) []Count { return g.Bad }),
		},
	}
}

func groupFamilies() []metric[Group] {
	m := func(name, help string, kind prometheus.ValueType, one func(*Group) float64) metric[Group] {
		return metric[Group]{name: "headrace_" + name, help: help, kind: kind, one: one}
	}
	flag := func(on func(*Group) bool) func(*Group) float64 {
		return func(g *Group) float64 {
			if on(g) {
				return 1
			}
			return 0
		}
	}
	return []metric[Group]{
		m("rdma_epoch", "Number of the epoch; 0: none, and no global rows.", gauge, of(func(g *Group) uint64 { return g.Epoch })),
		m("rdma_members", "Members of the epoch.", gauge, func(g *Group) float64 { return float64(len(g.Members)) }),
		m("rdma_fallback_active", "1 if the epoch does not use the preferred transport.", gauge, flag(func(g *Group) bool { return g.Fallback })),
		m("rdma_stale_frames_total", "Frames of another epoch, dropped.", counter, of(func(g *Group) uint64 { return g.StaleFrames })),
		m("rdma_bad_messages_total", "Control messages that were refused.", counter, of(func(g *Group) uint64 { return g.BadMessages })),
		m("rdma_credits_least", "The least send credits seen since the epoch began; verbs only.", gauge, func(g *Group) float64 { return float64(g.CreditsLeast) }),
		m("global_kept_bytes", "Partials kept until their rows are durable.", gauge, of(func(g *Group) uint64 { return g.KeptBytes })),
		m("global_kept_limit_bytes", "Room for kept partials: group.keep.", gauge, of(func(g *Group) uint64 { return g.KeptLimit })),
		m("global_kept_dropped_total", "Windows of which kept partials were dropped for want of room.", counter, of(func(g *Group) uint64 { return g.KeptLost })),
	}
}

func groupPeerFamilies() []metric[GroupPeer] {
	m := func(name, help string, kind prometheus.ValueType, one func(*GroupPeer) float64) metric[GroupPeer] {
		return metric[GroupPeer]{name: "headrace_group_peer_" + name, help: help, kind: kind, labels: byPeer, one: one}
	}
	flag := func(on func(*GroupPeer) bool) func(*GroupPeer) float64 {
		return func(p *GroupPeer) float64 {
			if on(p) {
				return 1
			}
			return 0
		}
	}
	return []metric[GroupPeer]{
		m("heard", "1 if the peer is heard.", gauge, flag(func(p *GroupPeer) bool { return p.Heard })),
		m("member", "1 if the peer is a member of the epoch.", gauge, flag(func(p *GroupPeer) bool { return p.Member })),
		m("rtt_seconds", "The least round trip to the peer over the control connection.", gauge, func(p *GroupPeer) float64 { return p.RTT.Seconds() }),
		m("clock_offset_seconds", "How far the peer's clock is ahead of ours.", gauge, func(p *GroupPeer) float64 { return p.ClockOffset.Seconds() }),
		m("waited_seconds_total", "How long rounds waited for this peer alone: the straggler.", counter, func(p *GroupPeer) float64 { return p.Waited.Seconds() }),
		m("waited_rounds_total", "Rounds that waited for this peer alone.", counter, of(func(p *GroupPeer) uint64 { return p.WaitedRounds })),
		m("stalls_total", "Times that the peer was heard and left out, because it began no rounds.", counter, of(func(p *GroupPeer) uint64 { return p.Stalls })),
		m("path_failures_total", "Times that frames to or from the peer did not get through.", counter, of(func(p *GroupPeer) uint64 { return p.PathFailures })),
		{
			name: "headrace_rdma_exchanged_bytes_total", help: "Payload exchanged with the peer.", kind: counter, labels: byPeerDir,
			many: func(p *GroupPeer, emit func(float64, string)) {
				emit(float64(p.Sent), "sent")
				emit(float64(p.Received), "received")
			},
		},
	}
}

func globalQueryFamilies() []metric[GlobalQuery] {
	m := func(name, help string, kind prometheus.ValueType, n func(*GlobalQuery) uint64) metric[GlobalQuery] {
		return metric[GlobalQuery]{name: "headrace_global_" + name, help: help, kind: kind, labels: byQuery, one: of(n)}
	}
	return []metric[GlobalQuery]{
		m("rows_total", "Global rows that this box has made.", counter, func(q *GlobalQuery) uint64 { return q.Rows }),
		m("windows_fired_total", "Global windows that have fired, in the whole group.", counter, func(q *GlobalQuery) uint64 { return q.Windows }),
		m("corrections_total", "Global windows that have fired again with what came later.", counter, func(q *GlobalQuery) uint64 { return q.Corrections }),
		m("forced_total", "Global windows that have fired without a peer that lives and is behind.", counter, func(q *GlobalQuery) uint64 { return q.Forced }),
		m("unknown_total", "Windows of which nobody left can say whether their rows are out.", counter, func(q *GlobalQuery) uint64 { return q.Unknown }),
		m("rows_dropped_total", "Global rows that this box's sinks did not write before the room for what waits was full.", counter, func(q *GlobalQuery) uint64 { return q.Dropped }),
		m("open_windows", "Global windows that have not fired.", gauge, func(q *GlobalQuery) uint64 { return q.Open }),
		{
			name: "headrace_global_watermark_timestamp_seconds", help: "The least watermark over the members, in event time; 0: none.", kind: gauge, labels: byQuery,
			one: func(q *GlobalQuery) float64 {
				if q.Watermark.IsZero() {
					return 0
				}
				return float64(q.Watermark.UnixNano()) / 1e9
			},
		},
	}
}

func (m *groupMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.transport, m.round, m.change, m.held} {
		ch <- d
	}
	describe(ch, m.group)
	describe(ch, m.peers)
	describe(ch, m.queries)
	for i := range m.counts {
		ch <- m.counts[i].desc
	}
}

func (m *groupMetrics) collect(ch chan<- prometheus.Metric, g *Group) {
	if g.Epoch != 0 {
		ch <- prometheus.MustNewConstMetric(m.transport, gauge, 1, g.Transport, g.Device, g.GID)
	}
	collect(ch, m.group, g)
	for i := range m.counts {
		for _, c := range m.counts[i].of(g) {
			ch <- prometheus.MustNewConstMetric(m.counts[i].desc, counter, float64(c.Count), c.Name)
		}
	}
	for i := range g.RoundDurations {
		d := &g.RoundDurations[i]
		n, below := d.count()
		ch <- prometheus.MustNewConstHistogram(m.round, n, d.Sum.Seconds(), below, d.Op, d.Phase)
	}
	n, below := g.EpochChange.count()
	ch <- prometheus.MustNewConstHistogram(m.change, n, g.EpochChange.Sum.Seconds(), below)
	for i := range g.Peers {
		if p := &g.Peers[i]; !p.Me {
			collect(ch, m.peers, p, p.ID)
		}
	}
	for i := range g.Queries {
		q := &g.Queries[i]
		collect(ch, m.queries, q, q.Name)
		if q.HeldBy != "" {
			ch <- prometheus.MustNewConstMetric(m.held, gauge, q.Lag.Seconds(), q.Name, q.HeldBy)
		}
	}
}
