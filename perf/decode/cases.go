package decode

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/generate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// packetsMax bounds the packets of a case: few enough to stay in the cache, as they
// do behind a NIC that writes to it.
const packetsMax = 2048

// a definition is a case before it has packets: a feed and a query that reads it.
type definition struct {
	name  string
	feed  string // YAML of the feed
	query string // YAML of where and select
	// captures under the data folder, or the kind to generate.
	captures []string
	generate string
}

const (
	tape    = "    key: [symbol]\n    select: {open: first(price), volume: sum(size)}\n"
	reports = "    key: [event_type]\n    select: {fares: sum(fare), drivers: max(driver_id), speed: mean(speed)}\n"
	deep    = "{match: {protocol: udp, destination: 224.2.3.10, port: 16648}, format: iex-deep}"
)

var definitions = []definition{
	{
		name: "iex-deep/kinds=trade", captures: []string{"iex/DEEP10.pcap.gz"},
		feed: deep, query: "    where: message == \"trade\"\n" + tape,
	},
	{
		name: "iex-deep/kinds=all", captures: []string{"iex/DEEP10.pcap.gz"},
		feed: deep, query: tape,
	},
	{
		name: "iex-tops/kinds=all", feed: "{match: {protocol: udp}, format: iex-tops}", query: tape,
		captures: []string{"venues/Iex/Tops.IexTp.v1.5/QuoteUpdateMessage.pcap", "venues/Iex/Tops.IexTp.v1.5/TradeReportMessage.pcap"},
	},
	{
		name: "itch50/kinds=trade", generate: generate.ITCH,
		feed: "{match: {protocol: udp}, format: itch50, day: 2026-03-02}", query: "    where: message == \"trade\"\n" + tape,
	},
	{
		name: "itch50/kinds=all", generate: generate.ITCH,
		feed: "{match: {protocol: udp}, format: itch50, day: 2026-03-02}", query: tape,
	},
	{
		name: "json", generate: generate.JSON, query: reports,
		feed: `{match: {protocol: udp}, format: json, time: {column: timestamp, unit: rfc3339},
      columns: {event_type: text, driver_id: int64, fare: decimal(2), speed: {type: float64, path: telemetry.speed}}}`,
	},
	{
		name: "csv", generate: generate.CSV, query: reports,
		feed: `{match: {protocol: udp}, format: csv, time: {column: at, unit: rfc3339},
      columns: {event_type: {type: text, index: 0}, driver_id: {type: int64, index: 1}, fare: {type: decimal(2), index: 2},
        at: {type: text, index: 3}, speed: {type: float64, index: 4}}}`,
	},
	{
		name: "raw", generate: generate.Raw, query: reports,
		feed: `{match: {protocol: udp}, format: {raw: {order: little}}, time: {column: at, unit: ns},
      columns: {driver_id: {type: int64, offset: 0, width: 8}, fare: {type: int64, offset: 8, width: 8},
        at: {type: int64, offset: 16, width: 8}, speed: {type: float64, offset: 24, width: 8}, event_type: {type: text, offset: 32, width: 8}}}`,
	},
	{
		name: "flow", captures: []string{"iex/DEEP10.pcap.gz"},
		feed:  "{match: {protocol: udp}, format: flow, place: {tuple: [source, destination]}}",
		query: "    key: [source, destination]\n    select: {packets: count(), bytes: sum(bytes)}\n",
	},
}

// Names returns the names of the cases.
func Names() (names []string) {
	for i := range definitions {
		names = append(names, definitions[i].name)
	}
	return names
}

// A run is a decoder with its packets.
type run struct {
	name    string
	packets []wire.Packet
	bytes   int // of payload
	decoder wire.Decoder
	batch   *event.Batch
	region  *arena.Region
	packet  wire.Packet
	events  uint64
}

// open makes the run of d; data is the folder of captures.
func (d *definition) open(data string) (*run, error) {
	text := "feeds:\n  feed: " + d.feed + "\nqueries:\n  query:\n    from: feed\n" + d.query +
		"    window: {tumbling: 1m}\n    watermark: {delay: 121s}\n    sinks: [rows]\nsinks:\n  rows: {jsonl: {path: rows.jsonl}}\n"
	p, err := compile.Compile(config.Read(d.name, []byte(text)), compile.Options{Formats: formats.Lookup, Workers: 1, Replay: true})
	if err != nil {
		return nil, fmt.Errorf("decode: %s: %w", d.name, err)
	}
	feed := &p.Feeds[0]
	r := &run{name: d.name}
	if r.region, err = arena.New("decode", 1<<34); err != nil {
		return nil, fmt.Errorf("decode: %s: %w", d.name, err)
	}
	format, _ := formats.Lookup(feed.Format)
	if r.decoder, err = format.New(feed, r.region, nil); err != nil {
		return nil, fmt.Errorf("decode: %s: %w", d.name, err)
	}
	r.batch = plan.NewBatch(feed.Columns)
	steerer, err := steer.New(p.Feeds)
	if err != nil {
		return nil, fmt.Errorf("decode: %s: %w", d.name, err)
	}
	err = d.frames(data, func(frame []byte, at event.Nanos) bool {
		r.add(feed, steerer, frame, at)
		return len(r.packets) < packetsMax
	})
	if err == nil && len(r.packets) == 0 {
		err = errors.New("no packet has a message")
	}
	if err != nil {
		return nil, fmt.Errorf("decode: %s: %w", d.name, err)
	}
	for own := r.packets; len(r.packets) < packetsMax; { // few: again and again
		r.packets = append(r.packets, own...)
	}
	for i := range r.packets {
		r.bytes += len(r.packets[i].Payload)
	}
	return r, nil
}

// add takes a frame's messages.
func (r *run) add(feed *plan.Feed, s *steer.Steerer, frame []byte, at event.Nanos) {
	var m steer.Meta
	if s.Steer(frame, len(frame), false, uint64(at), &m) != steer.Steered {
		return
	}
	frame = append([]byte(nil), frame...)
	payload := frame[m.PayloadOffset:][:m.PayloadLength]
	p := wire.Packet{Payload: payload, Receive: at, Frame: frame, PayloadOffset: int(m.PayloadOffset)}
	if feed.Sequence != plan.Unsequenced {
		h, drop := sequence.Parse(feed.Sequence, payload)
		if drop != event.Kept || h.Count == 0 {
			return
		}
		p.Payload, p.Count, p.Seq = h.Body, h.Count, h.Seq
	}
	r.packets = append(r.packets, p)
}

// frames calls yield with the frames of d until that returns false.
func (d *definition) frames(data string, yield func([]byte, event.Nanos) bool) error {
	if d.generate != "" {
		s, err := generate.New(generate.Config{Kind: d.generate})
		if err != nil {
			return err
		}
		for frame, at, ok := s.Next(); ok && yield(frame, at); frame, at, ok = s.Next() {
		}
		return nil
	}
	for _, path := range d.captures {
		in, err := capture.Open([]string{filepath.Join(data, path)}, nil)
		if err != nil {
			return err
		}
		var rec capture.Record
		for err = in.Next(&rec); err == nil && yield(rec.Data, rec.Stamp); err = in.Next(&rec) {
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err = errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return nil
}

// once decodes all packets and returns the messages, those of them that were dropped,
// and the time.
func (r *run) once() (messages, dropped uint64, took time.Duration) {
	p, b := &r.packet, r.batch
	r.decoder.Forget(0) // the same orders come again
	begin := cpu()
	for i := range r.packets {
		from := &r.packets[i]
		p.Reset()
		p.Payload, p.Receive, p.Frame, p.PayloadOffset = from.Payload, from.Receive, from.Frame, from.PayloadOffset
		p.Count, p.Seq = from.Count, from.Seq
		for r.decoder.Decode(p, b) {
			b.Reset()
		}
		if b.N > event.BatchMax/2 {
			b.Reset()
		}
		messages += p.Messages
		r.events += p.Events
		dropped += p.Messages - p.Events - p.Filtered
	}
	b.Reset()
	return messages, dropped, cpu() - begin
}
