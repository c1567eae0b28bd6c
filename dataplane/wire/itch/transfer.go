package itch

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/wire"
)

var errFormat = errors.New("itch: the other decoder is of another format")

// orderWords is how many words of the undo log one order takes at most.
const orderWords = 32

// Fits implements [wire.Mover].
func (d *decoder) Fits(dst wire.Decoder, from, to int) error {
	e, ok := dst.(*decoder)
	if !ok {
		return errFormat
	}
	if d.book == nil || e.book == nil {
		return nil
	}
	mine, room := uint64(d.book.channels[from].live), e.book.limit-e.book.live[0]+uint64(e.book.channels[to].live)
	if mine > room {
		return fmt.Errorf("itch: it has %d orders, there is room for %d of %d: raise orders: %w", mine, room, e.book.limit, wire.ErrFit)
	}
	return nil
}

// Move implements [wire.Mover]. First come day and symbols, then, in further calls,
// orders: at-1 is the slot of the book where they go on. What one of the two does not keep, since its plan
// does not ask for it, is not copied.
func (d *decoder) Move(dst wire.Decoder, from, to, at int) (next int, err error) {
	e, ok := dst.(*decoder)
	if !ok {
		return 0, errFormat
	}
	if at == 0 {
		if err := d.Fits(dst, from, to); err != nil {
			return 0, err
		}
		if !e.undo.Room(2 * e.ForgetMax()) {
			return 0, fmt.Errorf("itch: a channel's symbols: the undo log has %d words: %w", e.undo.Cap(), arena.ErrFull)
		}
		e.Forget(to)
		fault.Point()
		d.moveDay(e, from, to)
		if d.book == nil || e.book == nil || d.book.channels[from].live == 0 {
			return 0, nil
		}
		return 1, nil
	}
	slots, generation := d.book.slots, d.book.generation(from)
	for i := at - 1; i < len(slots) && e.book.channels[to].live < d.book.channels[from].live; {
		var end int
		for i, end = arena.Touched(d.region, slots, i); i < end; i++ {
			o := &slots[i]
			if o.channel != uint16(from) || o.tag>>2 != generation {
				continue
			}
			if !e.undo.Room(orderWords) {
				if e.undo.Used() == 0 {
					return 0, fmt.Errorf("itch: an order: the undo log has %d words: %w", e.undo.Cap(), arena.ErrFull)
				}
				return i + 1, nil
			}
			if !e.book.put(to, o.ref, o.tag&3, o.price, o.shares) {
				// A slot near home is missing, though there is room: see reachMax.
				return 0, fmt.Errorf("itch: order %d finds no place: raise orders: %w", o.ref, wire.ErrFit)
			}
		}
	}
	return 0, nil
}

// moveDay copies what time stamps and stock locates mean.
func (d *decoder) moveDay(e *decoder, from, to int) {
	if d.days != nil && e.days != nil {
		arena.Save(e.undo, &e.days[to])
		e.days[to] = d.days[from]
		fault.Point()
	}
	if d.symbols == nil || e.symbols == nil || d.highest[from] == 0 {
		return
	}
	n := int(d.highest[from]) + 1
	arena.Save(e.undo, &e.highest[to])
	e.highest[to] = d.highest[from]
	fault.Point()
	symbols := e.symbols[to*locates:][:n]
	arena.SaveSlice(e.undo, symbols)
	copy(symbols, d.symbols[from*locates:])
	fault.Point()
}
