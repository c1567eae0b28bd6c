package event

// Drop says why a frame, a message or an event went no further. The zero Drop
// means that it did. Drops are counted, never logged, on the hot path.
type Drop uint8

// The reasons, by the layer that counts them.
const (
	Kept Drop = iota

	// Frames: the frame or its payload as a whole could not be used.

	DropShort        // the payload ends before the format's header does
	DropVersion      // a protocol version or protocol id that the format does not know
	DropLength       // lengths inside the payload contradict each other
	DropChannelLimit // more channels than the feed's limit
	DropNoChannel    // a packet of a session that has ended
	DropTruncated    // the capture holds less of the packet than was on the wire
	DropUnknownFeed  // metadata names a feed that the plan does not have
	DropHoldLimit    // held for order, then thrown away because the hold was full
	DropAncient      // belongs to an epoch before the channel's current one
	DropPoison       // the worker died of it before: left out when it came back

	// Messages.

	DropDuplicate    // seen before, on this or another line
	DropSkippedType  // a message type that the format does not know
	DropBadMessage   // a message shorter than its type, or not valid
	DropSyntax       // not valid JSON, or not a valid CSV record
	DropDepth        // JSON nested too deep
	DropTooLong      // a line, record or text value longer than the limit
	DropUnknownOrder // refers to an order that was never seen
	DropOrderLimit   // the order table is full

	// Events.

	DropNoTime      // no event time, or not readable as one
	DropBadValue    // a column's value cannot be read as its type
	DropNotFinite   // NaN or infinity
	DropNullKey     // a key column is null
	DropKeyLength   // the canonical key is longer than KeyMax
	DropFiltered    // the query's where is not true
	DropLate        // its window has closed
	DropTooFarAhead // its window lies beyond the panes that may be open
	DropKeyLimit    // the query's keys, or a key group's run, are used up
	DropPaneMemory  // no pane memory: closing is held back by a full outbox

	DropCount
)

var dropNames = [DropCount]string{
	"kept", "short", "version", "length", "channel_limit", "no_channel", "truncated", "unknown_feed", "hold_limit", "ancient", "poison",
	"duplicate", "skipped", "bad_message", "syntax", "depth", "too_long", "unknown_order", "order_limit",
	"no_time", "bad_value", "not_finite", "null_key", "key_length", "filtered", "late", "too_far_ahead", "key_limit", "pane_memory",
}

// String returns the reason's name in metrics and ledgers.
func (d Drop) String() string {
	if d < DropCount {
		return dropNames[d]
	}
	return "unknown"
}

// Drops counts by reason.
type Drops [DropCount]uint64
