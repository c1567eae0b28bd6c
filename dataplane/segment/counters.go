package segment

import (
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
)

// FeedCounters counts one feed on one worker. Frames and messages are two ledgers:
//
//	Frames   = FramesApplied + FramesDuplicate + FramesHeartbeat + FramesHeld + Σ FrameDrops
//	Messages = Applied + Duplicate + MessagesHeld + Σ MessageDrops
//
// FramesHeld and MessagesHeld are what is in flight: held for order now.
type FeedCounters struct {
	Frames, Bytes                                   uint64
	FramesApplied, FramesDuplicate, FramesHeartbeat uint64
	FramesHeld                                      uint64
	FrameDrops                                      event.Drops
	Messages, Applied, Duplicate, MessagesHeld      uint64
	MessageDrops                                    event.Drops
	Events                                          uint64 // events that messages became, wanted or not
	Truncated                                       uint64 // frames cut short by the capture, decoded as far as they went
	Channels, Epochs, Gaps, Missing                 uint64
	LineFrames, LineFirst                           [4]uint64 // frames, and messages that came first, by line
}

// QueryCounters counts one query's events on one worker:
//
//	Received = Applied + Sent - Arrived + Σ Drops, summed over the workers
//
// Received, Sent (to other owners) and drops before the exchange are counted where
// an event is decoded; Arrived, Applied and the later drops by its owner.
type QueryCounters struct {
	Received, Sent, Arrived, Applied uint64
	Drops                            event.Drops
	Partials                         uint64 // put into the outbox
	WindowsClosed                    uint64
}

// WorkerCounters counts what belongs to no feed and no query.
type WorkerCounters struct {
	Cycles, BusyCycles, Frames, Batches uint64
	UnknownFeed                         uint64
	OutboxFull, LaneFull, RefillParked  uint64
	HeartbeatNanos                      uint64 // the clock at the last publication
}

// Counters is one worker's own copy, written without synchronisation and published
// once a cycle.
type Counters struct {
	Worker  WorkerCounters
	Feeds   []FeedCounters
	Queries []QueryCounters

	// feeds and queries have a bit for each that changed since the last Publish.
	feeds, queries [event.FeedsMax / 64]uint64
	// undo saves counters before they change, nil: nothing does. The bits say which have
	// been saved in this batch.
	undo                     *arena.Undo
	feedsSaved, queriesSaved [event.FeedsMax / 64]uint64
}
