package iex

import (
	"strings"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// The bits of the kinds in plan.Feed.Kinds, the same in both formats.
const (
	kindTrade = iota
	kindTradeBreak
	kindQuote
	kindPriceLevel
	kindOfficialPrice
	kindAuction
	kindSecurityDirectory
	kindTradingStatus
	kindOpHalt
	kindShortSale
	kindSecurityEvent
	kindSystemEvent
	kindRetailLiquidity
)

// A layout is a message type.
type layout struct {
	code byte
	size int
	kind int
}

// The message types of both formats; deepTypes and topsTypes say which has which.
var layouts = []layout{
	{'T', 38, kindTrade},
	{'B', 38, kindTradeBreak},
	{'Q', 42, kindQuote},
	{'8', 30, kindPriceLevel},
	{'5', 30, kindPriceLevel},
	{'X', 26, kindOfficialPrice},
	{'A', 80, kindAuction},
	{'D', 31, kindSecurityDirectory},
	{'H', 22, kindTradingStatus},
	{'O', 18, kindOpHalt},
	{'P', 19, kindShortSale},
	{'E', 18, kindSecurityEvent},
	{'S', 10, kindSystemEvent},
	{'I', 18, kindRetailLiquidity},
}

const (
	deepTypes = "TB85XADHOPESI"
	topsTypes = "TBQXADHOPSI"
)

var kinds = []wire.Kind{
	{Name: "trade", Bit: kindTrade, Doc: "an execution on IEX (T)"},
	{Name: "trade_break", Bit: kindTradeBreak, Doc: "a trade of the same day is void (B)"},
	{Name: "quote", Bit: kindQuote, Doc: "best bid and ask of IEX (Q, TOPS)"},
	{Name: "price_level", Bit: kindPriceLevel, Doc: "the size at a price of one side changed; 0: the level is gone (8 and 5, DEEP)"},
	{Name: "official_price", Bit: kindOfficialPrice, Doc: "IEX official opening or closing price (X)"},
	{Name: "auction", Bit: kindAuction, Doc: "auction indication, once a second before an auction (A)"},
	{Name: "security_directory", Bit: kindSecurityDirectory, Doc: "a security and its round lot (D)"},
	{Name: "trading_status", Bit: kindTradingStatus, Doc: "halted, paused, accepting orders or trading (H)"},
	{Name: "op_halt", Bit: kindOpHalt, Doc: "operational halt on IEX (O)"},
	{Name: "short_sale", Bit: kindShortSale, Doc: "short sale price test (P)"},
	{Name: "security_event", Bit: kindSecurityEvent, Doc: "opening or closing of a security is complete (E, DEEP)"},
	{Name: "system_event", Bit: kindSystemEvent, Doc: "start or end of messages, of system hours or of the market (S)"},
	{Name: "retail_liquidity", Bit: kindRetailLiquidity, Doc: "retail liquidity indicator (I)"},
}

// How a field is read out of a message.
type opcode uint8

const (
	opNull   opcode = iota
	opInt64         // eight bytes at op.at
	opUint32        // four bytes
	opUint8         // one byte
	opWord          // eight bytes of text
	opText4         // four bytes of text
	opChar          // one byte of text
	opName          // the constant op.name
)

// A source says for some types where a field is.
type source struct {
	types string
	code  opcode
	at    int
	name  string // of opName
}

type field struct {
	wire.Field
	from []source
}

func text(name string, width int, doc string) wire.Field {
	return wire.Field{Name: name, Type: event.Text, Width: width, Doc: doc}
}

func integer(name, doc string) wire.Field {
	return wire.Field{Name: name, Type: event.Int64, Doc: doc}
}

func price(name, doc string) wire.Field {
	return wire.Field{Name: name, Type: event.Decimal, Scale: 4, Doc: doc}
}

// fields are the built-in columns of both formats. A field is null in the types that
// it does not name. "message" has no source: it is the kind's name.
var fields = []field{
	{text("message", 24, "the message's kind"), nil},
	{text("symbol", 8, "the security"), []source{{types: "TBQ85XADHOPEI", code: opWord, at: 10}}},
	{price("price", "price of the trade, level or official price"), []source{
		{types: "TB85", code: opInt64, at: 22},
		{types: "X", code: opInt64, at: 18},
	}},
	{integer("size", "shares of the trade or level"), []source{{types: "TB85", code: opUint32, at: 18}}},
	{integer("trade_id", "identifier of the trade, unique in a day; a break has that of its trade"), []source{{types: "TB", code: opInt64, at: 30}}},
	{integer("flags", "sale condition, quote, event or directory flags"), []source{{types: "TBQ85D", code: opUint8, at: 1}}},
	{text("side", 4, "buy or sell: the level's side"), []source{
		{types: "8", code: opName, name: "buy"},
		{types: "5", code: opName, name: "sell"},
	}},
	{price("bid_price", "best bid; 0: none"), []source{{types: "Q", code: opInt64, at: 22}}},
	{integer("bid_size", "shares at the best bid"), []source{{types: "Q", code: opUint32, at: 18}}},
	{price("ask_price", "best ask; 0: none"), []source{{types: "Q", code: opInt64, at: 30}}},
	{integer("ask_size", "shares at the best ask"), []source{{types: "Q", code: opUint32, at: 38}}},
	{text("status", 1, "trading, halt, price test, event, indicator, price or auction type: the type's second byte"), []source{{types: "HOPESIXA", code: opChar, at: 1}}},
	{text("reason", 4, "why trading is halted or paused"), []source{{types: "H", code: opText4, at: 18}}},
	{text("detail", 1, "detail of the price test"), []source{{types: "P", code: opChar, at: 18}}},
	{integer("paired_shares", "auction: shares paired at the reference price"), []source{{types: "A", code: opUint32, at: 18}}},
	{price("reference_price", "auction: reference price"), []source{{types: "A", code: opInt64, at: 22}}},
	{price("indicative_price", "auction: indicative clearing price"), []source{{types: "A", code: opInt64, at: 30}}},
	{integer("imbalance_shares", "auction: shares of the imbalance"), []source{{types: "A", code: opUint32, at: 38}}},
	{text("imbalance_side", 1, "auction: side of the imbalance, B, S or N"), []source{{types: "A", code: opChar, at: 42}}},
	{integer("extension", "auction: number of extensions"), []source{{types: "A", code: opUint8, at: 43}}},
	{integer("scheduled", "auction: scheduled time, seconds since the epoch"), []source{{types: "A", code: opUint32, at: 44}}},
	{price("book_price", "auction: clearing price of the auction book"), []source{{types: "A", code: opInt64, at: 48}}},
	{price("collar_price", "auction: collar reference price"), []source{{types: "A", code: opInt64, at: 56}}},
	{price("lower_collar", "auction: lower collar"), []source{{types: "A", code: opInt64, at: 64}}},
	{price("upper_collar", "auction: upper collar"), []source{{types: "A", code: opInt64, at: 72}}},
	{integer("round_lot", "directory: shares of a round lot"), []source{{types: "D", code: opUint32, at: 18}}},
	{price("adjusted_close", "directory: adjusted closing price of the day before"), []source{{types: "D", code: opInt64, at: 22}}},
	{integer("luld_tier", "directory: limit up, limit down tier"), []source{{types: "D", code: opUint8, at: 30}}},
}

// Deep returns the format iex-deep.
func Deep() wire.Format {
	return format("iex-deep", "IEX DEEP 1.0 over IEX-TP: price levels and trades", deepTypes)
}

// Tops returns the format iex-tops.
func Tops() wire.Format {
	return format("iex-tops", "IEX TOPS 1.5 and 1.6 over IEX-TP: best quotes and trades", topsTypes)
}

// format makes the format whose messages are of the given types: its kinds and
// fields are those that occur in them.
func format(name, doc, types string) wire.Format {
	f := wire.Format{
		Name: name, Doc: doc,
		Sequence: plan.IEXTP,
		OwnTime:  true,
		// The channel id in the IEX-TP header. Sessions of one channel must meet in one
		// worker, since a new one ends the one before.
		Place: plan.Placement{Kind: plan.PlaceChannel, Offset: 4, Length: 4},
	}
	has := uint64(0)
	for _, l := range layouts {
		if strings.IndexByte(types, l.code) >= 0 {
			has |= 1 << l.kind
		}
	}
	for _, k := range kinds {
		if has&(1<<k.Bit) != 0 {
			f.Kinds = append(f.Kinds, k)
		}
	}
	var used []field
	for _, x := range fields {
		if x.from == nil || x.occurs(types) {
			used = append(used, x)
			f.Fields = append(f.Fields, x.Field)
		}
	}
	f.New = maker(types, used)
	return f
}

// occurs says whether one of types has the field.
func (f *field) occurs(types string) bool {
	for _, s := range f.from {
		if strings.ContainsAny(s.types, types) {
			return true
		}
	}
	return false
}
