// Package compiletest has a small table of formats, so that tests of configs do
// not depend on the decoders. Only tests import it.
package compiletest

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

func text(name string, width int, doc string) wire.Field {
	return wire.Field{Name: name, Type: event.Text, Width: width, Doc: doc}
}

func integer(name, doc string) wire.Field {
	return wire.Field{Name: name, Type: event.Int64, Doc: doc}
}

func price(name, doc string) wire.Field {
	return wire.Field{Name: name, Type: event.Decimal, Scale: 4, Doc: doc}
}

var (
	channel = plan.Placement{Kind: plan.PlaceChannel, Offset: 4, Length: 4}
	session = plan.Placement{Kind: plan.PlaceChannel, Offset: 0, Length: 10}
	sender  = plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldSource | plan.FieldSourcePort}
	both    = plan.Placement{Kind: plan.PlaceTuple, Symmetric: true, Fields: plan.FieldSource | plan.FieldDestination | plan.FieldSourcePort | plan.FieldDestinationPort | plan.FieldProtocol}
)

var formats = []wire.Format{
	{
		Name: "iex-deep", Doc: "IEX DEEP 1.0 over IEX-TP", Sequence: plan.IEXTP, OwnTime: true, Place: channel,
		Fields: []wire.Field{text("message", 24, "the message's kind"), text("symbol", 8, "the security"), price("price", "price of the trade or level"), integer("size", "shares"), integer("trade_id", "identifier of the trade"), text("side", 4, "buy or sell")},
		Kinds:  []wire.Kind{{Name: "trade", Bit: 0}, {Name: "trade_break", Bit: 1}, {Name: "price_level", Bit: 2}, {Name: "system_event", Bit: 3}},
	},
	{
		Name: "iex-tops", Doc: "IEX TOPS over IEX-TP", Sequence: plan.IEXTP, OwnTime: true, Place: channel,
		Fields: []wire.Field{text("message", 24, "the message's kind"), text("symbol", 8, "the security"), price("price", "price of the trade"), integer("size", "shares"), price("bid_price", "best bid")},
		Kinds:  []wire.Kind{{Name: "trade", Bit: 0}, {Name: "quote", Bit: 1}},
	},
	{
		Name: "itch50", Doc: "NASDAQ TotalView-ITCH 5.0 over MoldUDP64", Sequence: plan.MoldUDP64, OwnTime: true, Place: session,
		Fields: []wire.Field{text("message", 24, "the message's kind"), text("symbol", 8, "the security"), price("price", "price"), integer("size", "shares")},
		Kinds:  []wire.Kind{{Name: "trade", Bit: 0}, {Name: "add_order", Bit: 1}, {Name: "cancel", Bit: 2}},
	},
	{Name: "json", Doc: "JSON objects, one or more a packet", Place: sender},
	{Name: "csv", Doc: "CSV records, one or more a packet", Place: sender},
	{Name: "raw", Doc: "fixed layouts", Place: sender},
	{
		Name: "flow", Doc: "the packet itself: addresses, ports, sizes, flags", OwnTime: true, Place: both,
		Fields: []wire.Field{text("source", 39, "source address"), text("destination", 39, "destination address"), integer("source_port", "source port"), integer("destination_port", "destination port"), text("protocol", 4, "udp or tcp"), integer("bytes", "bytes of the frame"), integer("tcp_flags", "TCP flags")},
	},
}

// Formats finds a format of the table; none of them has a decoder.
func Formats(name string) (wire.Format, bool) {
	for _, f := range formats {
		if f.Name == name {
			return f, true
		}
	}
	return wire.Format{}, false
}
