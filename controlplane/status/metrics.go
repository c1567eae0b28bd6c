package status

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/segment"
)

// MetricsAddress is where /metrics is served unless the config says otherwise:
// this machine only.
const MetricsAddress = "127.0.0.1:9464"

// Labels come from closed sets: workers, feeds, queries, sinks and interfaces of
// the plan, reasons, lines and verdicts. Never a key.
var (
	byWorker       = []string{"worker"}
	byWorkerReason = []string{"worker", "reason"}
	byFeed         = []string{"feed"}
	byFeedReason   = []string{"feed", "reason"}
	byFeedLine     = []string{"feed", "line"}
	byQuery        = []string{"query"}
	byQueryReason  = []string{"query", "reason"}
	bySink         = []string{"sink"}
	byReason       = []string{"reason"}
	byInterface    = []string{"interface"}
	byIfaceReason  = []string{"interface", "reason"}
	byIfaceVerdict = []string{"interface", "verdict"}
)

// metric is one family whose values are a function of one object's counts.
type metric[T any] struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	one        func(*T) float64                            // a value for each object
	many       func(o *T, emit func(v float64, l2 string)) // or several, each with a second label

	desc *prometheus.Desc
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// workerView is a worker with its consistent counters.
type workerView struct {
	Worker
	counters *segment.Counters
}

// feedView is a feed with its drops by reason.
type feedView struct {
	*Feed
	frames, messages event.Drops
}

type queryView struct {
	*Query
	drops event.Drops
}

// Metrics is a Prometheus collector over a source's snapshots.
type Metrics struct {
	source  *Source
	build   *prometheus.Desc
	faults  *prometheus.Desc
	steered *prometheus.Desc
	latency *prometheus.Desc
	workers []metric[workerView]
	feeds   []metric[feedView]
	queries []metric[queryView]
	sinks   []metric[sinkView]
	xdp     []metric[InterfaceXDP]
	group   *groupMetrics

	continuity []metric[Continuity]
	buildTags  []string
}

// NewMetrics returns a collector over source.
func NewMetrics(source *Source) *Metrics {
	m := &Metrics{
		source:  source,
		build:   prometheus.NewDesc("headrace_build_info", "The build: always 1.", []string{"version", "go_version"}, nil),
		faults:  prometheus.NewDesc("headrace_outbox_faults_total", "Outboxes that are not read any more, by what was wrong in them.", byReason, nil),
		steered: prometheus.NewDesc("headrace_xdp_frames_steered_total", "Frames that the XDP program sent to a worker's socket.", byFeed, nil),
		latency: prometheus.NewDesc("headrace_sink_row_latency_seconds",
			"From the receipt of the packet that closed a row's window to the row's commit.", bySink, nil),
		workers: describeAll(workerMetrics()), feeds: describeAll(feedMetrics()), queries: describeAll(queryMetrics()),
		sinks: describeAll(sinkMetrics()), xdp: describeAll(xdpMetrics()), group: newGroupMetrics(),
		continuity: describeAll(continuityMetrics()),
		buildTags:  []string{"unknown", runtime.Version()},
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		m.buildTags[0] = b.Main.Version
	}
	return m
}

func describeAll[T any](list []metric[T]) []metric[T] {
	for i := range list {
		list[i].desc = prometheus.NewDesc(list[i].name, list[i].help, list[i].labels, nil)
	}
	return list
}

// Describe lists the families.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.build
	ch <- m.faults
	ch <- m.steered
	ch <- m.latency
	describe(ch, m.workers)
	describe(ch, m.feeds)
	describe(ch, m.queries)
	describe(ch, m.sinks)
	describe(ch, m.xdp)
	m.group.describe(ch)
	describe(ch, m.continuity)
}

func describe[T any](ch chan<- *prometheus.Desc, list []metric[T]) {
	for i := range list {
		ch <- list[i].desc
	}
}

// Collect takes a snapshot and gives its figures.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.source.Snapshot()
	ch <- prometheus.MustNewConstMetric(m.build, gauge, 1, m.buildTags...)
	for _, f := range s.Faults {
		ch <- prometheus.MustNewConstMetric(m.faults, counter, float64(f.Count), f.Name)
	}
	for w := range s.workers {
		collect(ch, m.workers, &workerView{s.Workers[w], &s.workers[w]}, strconv.Itoa(w))
	}
	for i := range s.Feeds {
		v := feedView{Feed: &s.Feeds[i]}
		for w := range s.workers {
			add(&v.frames, &s.workers[w].Feeds[i].FrameDrops)
			add(&v.messages, &s.workers[w].Feeds[i].MessageDrops)
		}
		collect(ch, m.feeds, &v, v.Name)
	}
	for i := range s.Queries {
		v := queryView{Query: &s.Queries[i]}
		for w := range s.workers {
			add(&v.drops, &s.workers[w].Queries[i].Drops)
		}
		collect(ch, m.queries, &v, v.Name)
	}
	for i := range s.Sinks {
		collect(ch, m.sinks, &s.Sinks[i], s.Sinks[i].Name)
		ch <- m.rowLatency(&s.Sinks[i])
	}
	if s.Group != nil {
		m.group.collect(ch, s.Group)
	}
	if s.Continuity != nil {
		collect(ch, m.continuity, s.Continuity)
	}
	if s.XDP == nil {
		return
	}
	for i, n := range s.XDP.Steered {
		if i < len(s.Feeds) {
			ch <- prometheus.MustNewConstMetric(m.steered, counter, float64(n), s.Feeds[i].Name)
		}
	}
	for i := range s.XDP.Interfaces {
		collect(ch, m.xdp, &s.XDP.Interfaces[i], s.XDP.Interfaces[i].Name)
	}
}

// rowLatency is a sink's histogram, with a bound at every power of two.
func (m *Metrics) rowLatency(s *export.Stats) prometheus.Metric {
	l := &s.Latency
	buckets := make(map[float64]uint64, len(l.Below))
	for i, n := range l.Below {
		buckets[float64(uint64(1)<<(export.LatencyLeast+i))/1e9] = n
	}
	return prometheus.MustNewConstHistogram(m.latency, l.Rows, float64(l.Sum)/1e9, buckets, s.Name)
}

func collect[T any](ch chan<- prometheus.Metric, list []metric[T], o *T, labels ...string) {
	for i := range list {
		d := &list[i]
		if d.one != nil {
			ch <- prometheus.MustNewConstMetric(d.desc, d.kind, d.one(o), labels...)
			continue
		}
		d.many(o, func(v float64, l2 string) {
			ch <- prometheus.MustNewConstMetric(d.desc, d.kind, v, append(slices.Clone(labels), l2)...)
		})
	}
}

// reasons gives the drops from first to last, the layer's own, even if they are 0,
// and the others if they are not.
func reasons(d *event.Drops, first, last event.Drop, emit func(float64, string)) {
	for r := event.Kept + 1; r < event.DropCount; r++ {
		if d[r] > 0 || r >= first && r <= last {
			emit(float64(d[r]), r.String())
		}
	}
}

func lines(n []uint64, emit func(float64, string)) {
	for i, v := range n {
		emit(float64(v), string(rune('A'+i)))
	}
}

// Handler answers with the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// ListenMetrics opens the address of /metrics; "" is [MetricsAddress].
func ListenMetrics(address string) (net.Listener, error) {
	if address == "" {
		address = MetricsAddress
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("status: metrics: %w", err)
	}
	return l, nil
}

// Serve answers GET /metrics on l until ctx ends. It closes l.
func (m *Metrics) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	return serve(ctx, l, mux)
}
