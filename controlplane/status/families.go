package status

import (
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/segment"
)

// The families of metrics. A name, a type and a help text change only together
// with testdata/metrics.golden.

type sinkView = export.Stats

func of[T any](n func(*T) uint64) func(*T) float64 {
	return func(o *T) float64 { return float64(n(o)) }
}

func workerMetrics() []metric[workerView] {
	m := func(name, help string, n func(*workerView) uint64) metric[workerView] {
		return metric[workerView]{name: "headrace_dataplane_" + name, help: help, kind: counter, labels: byWorker, one: of(n)}
	}
	return []metric[workerView]{
		m("cycles_total", "Cycles of the worker's loop.", func(w *workerView) uint64 { return w.Cycles }),
		m("busy_cycles_total", "Cycles that found work.", func(w *workerView) uint64 { return w.BusyCycles }),
		m("batches_total", "Batches of events.", func(w *workerView) uint64 { return w.Batches }),
		m("frames_received_total", "Frames taken from the RX rings or the capture.", func(w *workerView) uint64 { return w.Frames }),
		{
			name: "headrace_dataplane_frames_dropped_total", help: "Frames dropped, by reason.", kind: counter, labels: byWorkerReason,
			many: func(w *workerView, emit func(float64, string)) {
				var d event.Drops
				for i := range w.counters.Feeds {
					add(&d, &w.counters.Feeds[i].FrameDrops)
				}
				d[event.DropUnknownFeed] += w.UnknownFeed
				reasons(&d, event.DropShort, event.DropAncient, emit)
			},
		},
		m("outbox_full_total", "Times that a window waited because the outbox was full.", func(w *workerView) uint64 { return w.OutboxFull }),
		m("lane_full_total", "Times that frames waited because a lane was full.", func(w *workerView) uint64 { return w.LaneFull }),
		m("refill_parked_total", "Batches of frames parked because another worker was refilling.", func(w *workerView) uint64 { return w.RefillParked }),
		{name: "headrace_dataplane_outbox_used_bytes", help: "Bytes of the outbox that are not written to every sink.", kind: gauge, labels: byWorker, one: of(func(w *workerView) uint64 { return w.OutboxUsed })},
		{name: "headrace_dataplane_worker_ended", help: "1 if the worker is done or has failed.", kind: gauge, labels: byWorker, one: func(w *workerView) float64 {
			if w.State == segment.Done.String() || w.State == segment.Failed.String() {
				return 1
			}
			return 0
		}},
	}
}

func feedMetrics() []metric[feedView] {
	m := func(name, help string, n func(*feedView) uint64) metric[feedView] {
		return metric[feedView]{name: "headrace_feed_" + name, help: help, kind: counter, labels: byFeed, one: of(n)}
	}
	g := func(name, help string, n func(*feedView) uint64) metric[feedView] {
		return metric[feedView]{name: "headrace_feed_" + name, help: help, kind: gauge, labels: byFeed, one: of(n)}
	}
	return []metric[feedView]{
		m("frames_received_total", "Frames of the feed.", func(f *feedView) uint64 { return f.Frames }),
		m("received_bytes_total", "Payload bytes of the feed.", func(f *feedView) uint64 { return f.Bytes }),
		m("frames_applied_total", "Frames of which something was new.", func(f *feedView) uint64 { return f.Applied }),
		m("frames_duplicate_total", "Frames that had been seen before.", func(f *feedView) uint64 { return f.Duplicate }),
		m("frames_heartbeat_total", "Frames without messages.", func(f *feedView) uint64 { return f.Heartbeat }),
		g("frames_held", "Frames held for order now.", func(f *feedView) uint64 { return f.Held }),
		{
			name: "headrace_feed_frames_dropped_total", help: "Frames dropped, by reason.", kind: counter, labels: byFeedReason,
			many: func(f *feedView, emit func(float64, string)) {
				reasons(&f.frames, event.DropShort, event.DropAncient, emit)
			},
		},
		m("frames_truncated_total", "Frames that the capture cut short.", func(f *feedView) uint64 { return f.Truncated }),
		m("messages_received_total", "Messages of the feed.", func(f *feedView) uint64 { return f.Messages }),
		m("messages_applied_total", "Messages decoded.", func(f *feedView) uint64 { return f.MApplied }),
		m("messages_duplicate_total", "Messages that had been seen before.", func(f *feedView) uint64 { return f.MDuplicate }),
		g("messages_held", "Messages held for order now.", func(f *feedView) uint64 { return f.MHeld }),
		{
			name: "headrace_feed_messages_dropped_total", help: "Messages dropped, by reason.", kind: counter, labels: byFeedReason,
			many: func(f *feedView, emit func(float64, string)) {
				reasons(&f.messages, event.DropSkippedType, event.DropOrderLimit, emit)
			},
		},
		m("messages_missing_total", "Messages that were declared missing.", func(f *feedView) uint64 { return f.Missing }),
		m("events_total", "Events that messages became.", func(f *feedView) uint64 { return f.Events }),
		g("channels", "Channels seen.", func(f *feedView) uint64 { return f.Channels }),
		m("epochs_total", "Epochs begun.", func(f *feedView) uint64 { return f.Epochs }),
		m("gaps_total", "Gaps declared.", func(f *feedView) uint64 { return f.Gaps }),
		{
			name: "headrace_feed_line_frames_total", help: "Frames by line.", kind: counter, labels: byFeedLine,
			many: func(f *feedView, emit func(float64, string)) { lines(f.LineFrames, emit) },
		},
		{
			name: "headrace_feed_line_messages_first_total", help: "Messages that came first on this line.", kind: counter, labels: byFeedLine,
			many: func(f *feedView, emit func(float64, string)) { lines(f.LineFirst, emit) },
		},
	}
}

func queryMetrics() []metric[queryView] {
	m := func(name, help string, n func(*queryView) uint64) metric[queryView] {
		return metric[queryView]{name: "headrace_query_" + name, help: help, kind: counter, labels: byQuery, one: of(n)}
	}
	return []metric[queryView]{
		m("events_received_total", "Events of the query's feed.", func(q *queryView) uint64 { return q.Received }),
		m("events_applied_total", "Events folded into a window.", func(q *queryView) uint64 { return q.Applied }),
		m("events_sent_total", "Events sent to another owner.", func(q *queryView) uint64 { return q.Sent }),
		m("events_arrived_total", "Events that came from another worker.", func(q *queryView) uint64 { return q.Arrived }),
		{
			name: "headrace_query_events_dropped_total", help: "Events dropped, by reason.", kind: counter, labels: byQueryReason,
			many: func(q *queryView, emit func(float64, string)) {
				reasons(&q.drops, event.DropNoTime, event.DropPaneMemory, emit)
			},
		},
		m("partials_total", "Partials put into outboxes.", func(q *queryView) uint64 { return q.Partials }),
		m("windows_closed_total", "Windows closed, counted once by each worker.", func(q *queryView) uint64 { return q.WindowsClosed }),
		m("rows_total", "Rows made by this control process.", func(q *queryView) uint64 { return q.Rows }),
		{
			name: "headrace_query_watermark_timestamp_seconds", help: "The least watermark over the workers, in event time.", kind: gauge, labels: byQuery,
			one: func(q *queryView) float64 { return float64(q.Watermark) / 1e9 },
		},
	}
}

func sinkMetrics() []metric[sinkView] {
	m := func(name, help string, n func(*sinkView) uint64) metric[sinkView] {
		return metric[sinkView]{name: "headrace_sink_" + name, help: help, kind: counter, labels: bySink, one: of(n)}
	}
	return []metric[sinkView]{
		m("rows_total", "Rows written and committed.", func(s *sinkView) uint64 { return s.Rows }),
		m("written_bytes_total", "Bytes written and committed.", func(s *sinkView) uint64 { return s.Bytes }),
		m("writes_total", "System calls that wrote rows.", func(s *sinkView) uint64 { return s.Writes }),
		m("retries_total", "Writes that failed and were tried again.", func(s *sinkView) uint64 { return s.Retries }),
		m("reopened_total", "Times that another file was found under the path.", func(s *sinkView) uint64 { return s.Reopened }),
		m("cut_total", "Times that the file was found shorter than it had been written.", func(s *sinkView) uint64 { return s.Cut }),
		m("reconnects_total", "Connections to the other box after the first.", func(s *sinkView) uint64 { return s.Reconnects }),
		m("fallbacks_total", "Connections whose transport is not the one that was wanted.", func(s *sinkView) uint64 { return s.Fallbacks }),
	}
}

func xdpMetrics() []metric[InterfaceXDP] {
	return []metric[InterfaceXDP]{
		{
			name: "headrace_xdp_frames_total", help: "Frames that the XDP program saw, by verdict.", kind: counter, labels: byIfaceVerdict,
			many: func(x *InterfaceXDP, emit func(float64, string)) {
				for _, v := range x.Verdicts {
					emit(float64(v.Count), v.Name)
				}
			},
		},
		{
			name: "headrace_xdp_socket_dropped_total", help: "Frames steered that no worker received, by reason.", kind: counter, labels: byIfaceReason,
			many: func(x *InterfaceXDP, emit func(float64, string)) {
				emit(float64(x.RxDropped), "rx_dropped")
				emit(float64(x.RxRingFull), "rx_ring_full")
			},
		},
		{
			name: "headrace_xdp_fill_ring_empty_total", help: "Times that a queue found its fill ring empty; contained in no other count.", kind: counter,
			labels: byInterface, one: of(func(x *InterfaceXDP) uint64 { return x.FillRingEmpty }),
		},
		{
			name: "headrace_xdp_invalid_descriptors_total", help: "Descriptors that the kernel refused, by ring.", kind: counter, labels: byIfaceReason,
			many: func(x *InterfaceXDP, emit func(float64, string)) {
				emit(float64(x.RxInvalid), "rx")
				emit(float64(x.TxInvalid), "tx")
			},
		},
		{
			name: "headrace_xdp_ring_frames", help: "Frames that wait in RX rings now.", kind: gauge, labels: byInterface,
			one: of(func(x *InterfaceXDP) uint64 { return x.InRing }),
		},
	}
}
