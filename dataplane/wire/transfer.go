package wire

import "errors"

// ErrFit reports state of a channel for which another decoder has no room.
var ErrFit = errors.New("channel does not fit")

// A Mover is a decoder whose channels' state can go on in another decoder of the same
// format, of another worker or another plan. A decoder that is no Mover has no such
// state.
//
// What changes in dst is saved as by Decode; the Mover itself is only read. Then both
// have the state: that of one of them is voided by Forget. So is a move that was broken
// off, by a crash or an error.
type Mover interface {
	// Fits says why dst cannot take over channel slot from as its slot to, naming the
	// limit, in an error that wraps [ErrFit]; nil if it can. It changes nothing.
	Fits(dst Decoder, from, to int) error
	// Move copies state of channel slot from to slot to of dst, some of it and no more
	// than dst's undo log has room for, and returns where the next call goes on, after
	// another batch has begun; 0 when all is done. The first call has at 0. A log with too little
	// room for anything is an error that wraps [arena.ErrFull].
	Move(dst Decoder, from, to, at int) (next int, err error)
}
