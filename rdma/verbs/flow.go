//go:build linux && cgo && rdma

package verbs

import (
	"errors"
	"fmt"
)

// What a peer can do wrong with its immediates.
var (
	errCredit = errors.New("gave back slots that were not used")
	errRing   = errors.New("wrote more slots than it may")
	errSlot   = errors.New("wrote another slot than the next one")
	errOrder  = errors.New("said hello at the wrong time")
)

// wordsMax bounds the words without a frame that a peer may have to receive at once.
const wordsMax = 3

// A word is the immediate of a write: kind, slot, and how many slots the sender has
// given back in all, modulo 2^16.
type word uint32

const (
	wordFrame   = iota // a frame is in the slot
	wordCredit         // nothing but the credits
	wordHello          // the higher peer of a pair is there
	wordWelcome        // so is the lower one
)

// noWord is a word that nobody sends: that of a slot beyond the limit.
const noWord = ^word(0)

func makeWord(kind int, slot, returned uint64) word {
	return word(kind)<<30 | word(slot&0x3fff)<<16 | word(uint16(returned))
}

func (w word) kind() int        { return int(w >> 30) }
func (w word) slot() uint64     { return uint64(w>>16) & 0x3fff }
func (w word) returned() uint16 { return uint16(w) }

// A flow counts the slots between us and a peer, each from zero in the epoch. A slot's
// index is its count modulo slots.
type flow struct {
	slots uint64
	// Out: given to the device, completed by it, given back by the peer.
	sent, done, credited uint64
	// In: come, read by our owner, no longer in use, given back to the peer.
	arrived, read, released, returned uint64
}

// room is how many frames may be sent. A slot is free when the peer has given its own
// back and the device has let go of ours; either may be known first.
func (f *flow) room() int { return int(f.slots - (f.sent - min(f.done, f.credited))) }

// send takes a slot and returns its index and the word to go with it.
func (f *flow) send() (slot uint64, w word) {
	slot = f.sent % f.slots
	f.sent++
	return slot, f.word(wordFrame, slot)
}

// word makes an immediate, which gives back all that is released.
func (f *flow) word(kind int, slot uint64) word {
	f.returned = f.released
	return makeWord(kind, slot, f.returned)
}

// due reports that so much is to be given back that it does not wait for a frame to
// go with. Being half a ring each, no more than two such words can be on the way to a
// peer that does not poll; with the hello they are wordsMax.
func (f *flow) due() bool { return f.released-f.returned >= (f.slots+1)/2 }

// receive takes in the word of a frame or of credits.
func (f *flow) receive(w word) error {
	back := uint64(w.returned() - uint16(f.credited))
	if back > f.sent-f.credited {
		return fmt.Errorf("%w: %d, with %d under way", errCredit, back, f.sent-f.credited)
	}
	f.credited += back
	if w.kind() != wordFrame {
		return nil
	}
	if f.arrived-f.returned >= f.slots {
		return fmt.Errorf("%w: %d", errRing, f.slots)
	}
	if next := f.arrived % f.slots; w.slot() != next {
		return fmt.Errorf("%w: %d, not %d", errSlot, w.slot(), next)
	}
	f.arrived++
	return nil
}
