package itch

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// The bits of the kinds in plan.Feed.Kinds.
const (
	kindTrade = iota
	kindExecution
	kindCross
	kindBrokenTrade
	kindAddOrder
	kindOrderCancel
	kindOrderDelete
	kindOrderReplace
	kindSystemEvent
	kindDirectory
	kindTradingAction
	kindShortSale
	kindParticipant
	kindMWCBLevels
	kindMWCBStatus
	kindIPOQuotation
	kindAuctionCollar
	kindOpHalt
	kindImbalance
	kindRetailInterest
	kindDirectListing
)

var kinds = []wire.Kind{
	{Name: "trade", Bit: kindTrade, Doc: "an execution that counts as volume: of an order (E, at the order's price; C, at its own, if printable) or of a hidden one (P)"},
	{Name: "execution", Bit: kindExecution, Doc: "an execution that is not printable (C): a cross reports its volume"},
	{Name: "cross", Bit: kindCross, Doc: "a cross trade (Q)"},
	{Name: "broken_trade", Bit: kindBrokenTrade, Doc: "the trade with that match number is void (B)"},
	{Name: "add_order", Bit: kindAddOrder, Doc: "a new order (A, F)"},
	{Name: "order_cancel", Bit: kindOrderCancel, Doc: "size shares of an order are canceled (X)"},
	{Name: "order_delete", Bit: kindOrderDelete, Doc: "the rest of an order, size shares, is canceled (D)"},
	{Name: "order_replace", Bit: kindOrderReplace, Doc: "an order gives way to new_order (U)"},
	{Name: "system_event", Bit: kindSystemEvent, Doc: "start or end of messages, of system hours or of the market (S)"},
	{Name: "directory", Bit: kindDirectory, Doc: "a security (R)"},
	{Name: "trading_action", Bit: kindTradingAction, Doc: "halted, paused, quoting or trading (H)"},
	{Name: "short_sale", Bit: kindShortSale, Doc: "Reg SHO short sale price restriction (Y)"},
	{Name: "participant", Bit: kindParticipant, Doc: "a market participant's position (L)"},
	{Name: "mwcb_levels", Bit: kindMWCBLevels, Doc: "levels of the market wide circuit breaker (V)"},
	{Name: "mwcb_status", Bit: kindMWCBStatus, Doc: "the market wide circuit breaker was breached (W)"},
	{Name: "ipo_quotation", Bit: kindIPOQuotation, Doc: "quotation period of an IPO (K)"},
	{Name: "auction_collar", Bit: kindAuctionCollar, Doc: "limit up, limit down auction collar (J)"},
	{Name: "op_halt", Bit: kindOpHalt, Doc: "operational halt (h)"},
	{Name: "imbalance", Bit: kindImbalance, Doc: "net order imbalance indicator (I)"},
	{Name: "retail_interest", Bit: kindRetailInterest, Doc: "retail price improvement indicator (N)"},
	{Name: "direct_listing", Bit: kindDirectListing, Doc: "direct listing with capital raise, price discovery (O)"},
}

// A layout is a message type. stock is where its symbol is, 0: it has none.
type layout struct {
	code  byte
	size  int
	kind  int
	stock int
	learn bool // its symbol belongs to its stock locate for the day
}

var layouts = []layout{
	{'S', 12, kindSystemEvent, 0, false},
	{'R', 39, kindDirectory, 11, true},
	{'H', 25, kindTradingAction, 11, false},
	{'Y', 20, kindShortSale, 11, false},
	{'L', 26, kindParticipant, 15, false},
	{'V', 35, kindMWCBLevels, 0, false},
	{'W', 12, kindMWCBStatus, 0, false},
	{'K', 28, kindIPOQuotation, 11, false},
	{'J', 35, kindAuctionCollar, 11, false},
	{'h', 21, kindOpHalt, 11, false},
	{'A', 36, kindAddOrder, 24, true},
	{'F', 40, kindAddOrder, 24, true},
	{'E', 31, kindTrade, 0, false},
	{'C', 36, kindTrade, 0, false},
	{'X', 23, kindOrderCancel, 0, false},
	{'D', 19, kindOrderDelete, 0, false},
	{'U', 35, kindOrderReplace, 0, false},
	{'P', 44, kindTrade, 24, true},
	{'Q', 40, kindCross, 19, false},
	{'B', 19, kindBrokenTrade, 0, false},
	{'I', 50, kindImbalance, 28, false},
	{'N', 20, kindRetailInterest, 11, false},
	{'O', 48, kindDirectListing, 11, false},
}

// How a field is read out of a message.
type opcode uint8

const (
	opNull   opcode = iota
	opUint32        // four bytes at op.at
	opUint16        // two bytes
	opCount         // eight bytes, a bad value if beyond int64
	opID            // eight bytes, whose bits are kept: an identifier
	opChar          // one byte of text
	opText2         // two bytes of text
	opText4         // four bytes of text
	opName          // the constant op.name
	opSymbol        // of the message or of its stock locate
	opSide          // one byte, B or S
	opOrderPrice
	opOrderSide
	opOrderShares
)

// A source says for some types where a field is.
type source struct {
	types string
	code  opcode
	at    int
}

type field struct {
	wire.Field
	from []source
}

func text(name string, width int, doc string, from ...source) field {
	return field{wire.Field{Name: name, Type: event.Text, Width: width, Doc: doc}, from}
}

func integer(name, doc string, from ...source) field {
	return field{wire.Field{Name: name, Type: event.Int64, Doc: doc}, from}
}

func decimal(name string, scale uint8, doc string, from ...source) field {
	return field{wire.Field{Name: name, Type: event.Decimal, Scale: scale, Doc: doc}, from}
}

const everyType = "SRHYLVWKJhAFECXDUPQBINO"

// fields are the built-in columns. A field is null in the types that it does not
// name. "message" has no source: it is the kind's name.
var fields = []field{
	text("message", 24, "the message's kind"),
	text("symbol", 8, "the security; null where it is not known", source{everyType, opSymbol, 0}),
	decimal("price", 4, "price of the trade or order; of an E, X or D that of the order", source{"AFPC", opUint32, 32}, source{"U", opUint32, 31}, source{"Q", opUint32, 27}, source{"K", opUint32, 24}, source{"EXD", opOrderPrice, 0}),
	integer("size", "shares: traded, ordered, canceled; of a D those that were left", source{"AFP", opUint32, 20}, source{"ECX", opUint32, 19}, source{"U", opUint32, 27}, source{"Q", opCount, 11}, source{"D", opOrderShares, 0}),
	text("side", 4, "buy or sell; of an E, C, X, D or U that of the order", source{"AFP", opSide, 19}, source{"ECXDU", opOrderSide, 0}),
	integer("order", "order reference number, its 64 bits", source{"AFECXDUP", opID, 11}),
	integer("new_order", "order reference number of the order that replaces", source{"U", opID, 19}),
	integer("match", "match number, its 64 bits", source{"E", opID, 23}, source{"C", opID, 23}, source{"P", opID, 36}, source{"Q", opID, 31}, source{"B", opID, 11}),
	integer("stock_locate", "the day's number of the security", source{everyType, opUint16, 1}),
	integer("tracking", "NASDAQ's tracking number", source{everyType, opUint16, 3}),
	text("printable", 1, "Y: an execution with its own price counts as volume; N: a cross reports it", source{"C", opChar, 31}),
	text("mpid", 4, "market participant", source{"F", opText4, 36}, source{"L", opText4, 11}),
	text("status", 1, "event, state, action, eligibility, flag, level, qualifier or cross type of the message",
		source{"SW", opChar, 11}, source{"HYNO", opChar, 19}, source{"h", opChar, 20}, source{"L", opChar, 25}, source{"K", opChar, 23}, source{"Q", opChar, 39}, source{"I", opChar, 48}),
	text("reason", 4, "why trading is in that state", source{"H", opText4, 21}),
	text("market", 1, "directory: market category; op_halt: market code", source{"Rh", opChar, 19}),
	text("financial_status", 1, "directory: financial status", source{"R", opChar, 20}),
	integer("round_lot", "directory: shares of a round lot", source{"R", opUint32, 21}),
	text("round_lots_only", 1, "directory: only round lots are accepted", source{"R", opChar, 25}),
	text("classification", 1, "directory: issue classification", source{"R", opChar, 26}),
	text("subtype", 2, "directory: issue subtype", source{"R", opText2, 27}),
	text("authenticity", 1, "directory: live or test", source{"R", opChar, 29}),
	text("short_sale_threshold", 1, "directory: under the short sale threshold rule", source{"R", opChar, 30}),
	text("ipo", 1, "directory: newly public", source{"R", opChar, 31}),
	text("luld_tier", 1, "directory: limit up, limit down tier", source{"R", opChar, 32}),
	text("etp", 1, "directory: exchange traded product", source{"R", opChar, 33}),
	integer("etp_leverage", "directory: leverage of the product", source{"R", opUint32, 34}),
	text("inverse", 1, "directory: inverse product", source{"R", opChar, 38}),
	text("primary", 1, "participant: primary market maker", source{"L", opChar, 23}),
	text("mode", 1, "participant: market maker mode", source{"L", opChar, 24}),
	decimal("level_1", 8, "circuit breaker: level 1", source{"V", opCount, 11}),
	decimal("level_2", 8, "circuit breaker: level 2", source{"V", opCount, 19}),
	decimal("level_3", 8, "circuit breaker: level 3", source{"V", opCount, 27}),
	integer("release_time", "ipo_quotation: seconds since midnight", source{"K", opUint32, 19}),
	decimal("reference_price", 4, "collar or imbalance: reference price", source{"J", opUint32, 19}, source{"I", opUint32, 44}),
	decimal("upper_price", 4, "upper collar", source{"J", opUint32, 23}, source{"O", opUint32, 44}),
	decimal("lower_price", 4, "lower collar", source{"J", opUint32, 27}, source{"O", opUint32, 40}),
	integer("extension", "auction_collar: number of extensions", source{"J", opUint32, 31}),
	integer("paired_shares", "imbalance: shares paired at the reference price", source{"I", opCount, 11}),
	integer("imbalance_shares", "imbalance: shares that are not paired", source{"I", opCount, 19}),
	text("imbalance_side", 1, "imbalance: B, S, N (none) or O (too few orders)", source{"I", opChar, 27}),
	decimal("far_price", 4, "imbalance: far price", source{"I", opUint32, 36}),
	decimal("near_price", 4, "imbalance: near price", source{"I", opUint32, 40}),
	text("variation", 1, "imbalance: price variation", source{"I", opChar, 49}),
	decimal("min_price", 4, "direct_listing: least allowable price", source{"O", opUint32, 20}),
	decimal("max_price", 4, "direct_listing: greatest allowable price", source{"O", opUint32, 24}),
	decimal("near_execution_price", 4, "direct_listing: near execution price", source{"O", opUint32, 28}),
	integer("near_execution_time", "direct_listing: near execution time, nanoseconds since midnight", source{"O", opCount, 32}),
}

// Format returns the format itch50.
func Format() wire.Format {
	f := wire.Format{
		Name: "itch50", Doc: "NASDAQ TotalView-ITCH 5.0 over MoldUDP64: orders and trades",
		Sequence: plan.MoldUDP64,
		Kinds:    kinds,
		OwnTime:  true,
		// The session in the MoldUDP64 header.
		Place: plan.Placement{Kind: plan.PlaceChannel, Offset: 0, Length: 10},
		New:   newDecoder,
	}
	for i := range fields {
		f.Fields = append(f.Fields, fields[i].Field)
	}
	return f
}
