// Package sequence decides which messages of a packet go on, in order.
//
// It reads the packet header of a sequenced format ([Parse]), finds the channel,
// and keeps for each channel the epoch, the set of sequence numbers seen, the
// packets held until a hole is filled, and the gaps declared. What one packet lets
// through is a [Release]: its own new messages and those that were held behind the
// hole it filled or the gap it declared.
//
// The rules (DESIGN: Sequence): first copy wins over lines; what was seen is a
// bounded set of intervals, not a maximum; a packet that straddles contributes its
// new messages; an epoch advances only on the protocol's proof; a gap is declared
// when the hold is full or its deadline has passed, judged when the channel's next
// packet arrives; a channel's first epoch is joined where it is first seen, later
// ones begin at 1.
//
// All state is in an arena. No clock, no allocation after New; one worker's thread.
package sequence
