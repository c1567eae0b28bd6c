// Package sequence decides which messages of a packet go on, in order.
//
// It reads the packet header of a sequenced format ([Parse]), finds the channel,
// and keeps for each channel the epoch, the set of sequence numbers seen, the
// packets held until a hole is filled, and the gaps declared. What one packet lets
// through is a [Release]: its own new messages and those that were held behind the
// hole it filled or the gap it declared. Start at [Sequencer.Push].
//
// # What was seen
//
// Sequence numbers of a channel's epoch, from low to high:
//
//	   floor      edge                 next                          high
//	     |  [..]  [.) |  settled         | hole  [held)  hole  [held)  |
//	ancient  joined    seen or given up    missing until it comes, or given up
//	         earlier
//
// Everything in [edge, next) has been released or given up. Beyond next there are
// holes and the pieces of packets that wait behind them. Below edge, in a channel's
// first epoch only, are messages older than the first one seen: they are let
// through when they come and are never missed. All three lists are bounded: pieces
// by the hold, the lower list and the list of gaps given up by a constant.
//
// # The rules
//
// First copy wins, from any line. A packet that straddles contributes what is new
// in it; the rest is counted duplicate. A message that comes after its gap was
// given up counts as ancient, since it has been counted missing already (only the
// last [lapsedMax] gaps are remembered for that; before them it counts as duplicate).
//
// A gap is declared when a packet does not fit into the hold, or when its deadline
// has passed: [plan.Feed].HoldFor after the oldest evidence of it, which is the
// arrival of a packet beyond it or a heartbeat that announces more than came. While
// one announcement is waiting, later ones are joined, and wait from the last of
// them. Time is the greatest receive stamp of the channel's own packets, and a
// deadline is judged when its next packet arrives, before that packet is looked at
// ([Sequencer.Expire] judges by a clock, where there is one).
//
// IEX-TP restarts its numbering under one session id. A restart is proved by a
// number at or below the highest known one in a packet sent later than the packet
// that made it known; a copy carries its old send time. A heartbeat names the
// next number, so it proves a restart and makes numbers known like any packet. A
// packet sent before the one that proved the current epoch belongs to it only if
// its number is lower and it was sent after the highest of the epoch before; else
// it is of an earlier epoch: ancient. The old epoch's holes are given up, and its
// held packets released, in the release that begins the new one. A channel's
// first epoch is joined where it is first seen; later ones begin at 1.
//
// A MoldUDP64 session has one epoch. It retires when its end was announced and
// nothing before the end is outstanding. On IEX-TP one slot belongs to one channel
// id: a packet of another session id that was sent later than all of the current
// one retires that; sent earlier, it is of a session that has ended.
//
// # Bounds
//
// A packet's first-copy pieces are what is visible of it when earlier packets lie
// in front: n packets, being intervals, show at most 2n-1 pieces. So the list of
// pieces never outgrows 2·(HoldPackets+1), and the items of a release, which are
// pieces and at most one gap before each, do not outgrow what [New] sets aside.
//
// All state is in an arena. No clock, no allocation after New; one worker's thread.
//
// # A batch that is taken back
//
// What a call changes is saved in an undo log before (keep.go), so that after a crash
// a New over the same memory goes on from the last commit. If that fell into a release,
// [Sequencer.Carry] kept it, and [Sequencer.Resume] returns it.
//
// # A channel that moves
//
// [Sequencer.MoveChannel] copies a channel to another worker's sequencer, or to that of
// another plan, in one batch there; then [Sequencer.ForgetChannel] in one batch here. A
// crash in between leaves it at both: whoever does not own it forgets it.
package sequence
