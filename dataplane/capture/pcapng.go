package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// pcapng: draft-ietf-opsawg-pcapng. A file is a list of blocks: type, length,
// body, length again.
const (
	ngSection   = 0x0a0d0d0a
	ngInterface = 1
	ngOldPacket = 2
	ngSimple    = 3
	ngEnhanced  = 6

	ngOrderMagic = 0x1a2b3c4d

	ngBlockMin       = 12
	ngSectionMin     = 28
	ngInterfaceMin   = 20
	ngEnhancedHeader = 28 // up to the packet's bytes, in the old packet block too
	ngSimpleHeader   = 12
	ngTrailer        = 4

	// ngDescriptionBytesMax bounds the blocks that are held whole, for their options.
	ngDescriptionBytesMax = 1 << 20

	ngOptionEnd        = 0
	ngOptionResolution = 9
	ngOptionOffset     = 14
)

// An ngFace is an interface of the current section.
type ngFace struct {
	link   uint32
	snap   uint32
	perSec uint64 // units of a stamp in a second
	offset int64  // seconds to add
}

// pcapng reads the packets of a pcapng capture.
type pcapng struct {
	s     *stream
	order binary.ByteOrder
	faces []ngFace
	last  event.Nanos
	ended bool

	// What is left of the block whose packet was handed out last: it is passed
	// over at the next call, so that the packet stays in place until then.
	left  int64
	total uint32
}

func (p *pcapng) next(r *Record) error {
	if p.ended {
		return io.EOF
	}
	if p.left > 0 {
		whole, err := p.finish(p.left, p.total)
		if err != nil {
			return err
		}
		p.left = 0
		if !whole { // the file ends behind the packet's bytes: nothing of it is missing
			p.ended = true
			return io.EOF
		}
	}
	for {
		h := p.s.peek(8)
		if len(h) < 8 {
			if err := p.s.short(len(h)); err != nil {
				return err
			}
			return p.cut(r)
		}
		packet, whole, err := p.block(r, p.order.Uint32(h), p.order.Uint32(h[4:]))
		switch {
		case err != nil:
			return err
		case packet:
			return nil
		case !whole:
			return p.cut(r)
		}
	}
}

// cut returns the record for an end of the file inside a block: without bytes, for
// nothing is known but that something was cut off.
func (p *pcapng) cut(r *Record) error {
	p.ended = true
	*r = Record{Stamp: p.last, Cut: true}
	return nil
}

// finish passes over the rest of a block, n bytes with its trailer, and checks the
// trailer. It returns false if the file ends before.
func (p *pcapng) finish(n int64, total uint32) (whole bool, err error) {
	if !p.s.discard(n - ngTrailer) {
		return false, p.s.failure()
	}
	t := p.s.peek(ngTrailer)
	if len(t) < ngTrailer {
		return false, p.s.failure()
	}
	if again := p.order.Uint32(t); again != total {
		return false, corrupt("a block of %d bytes says %d at its end", total, again)
	}
	p.s.skip(ngTrailer)
	return true, nil
}

// block reads the block that begins here. It returns whether it was a packet, and
// whether the block is whole.
func (p *pcapng) block(r *Record, kind, total uint32) (packet, whole bool, err error) {
	if kind == ngSection {
		whole, err = p.section()
		return false, whole, err
	}
	if total < ngBlockMin || total%4 != 0 {
		return false, false, corrupt("a block of type %#x and %d bytes", kind, total)
	}
	switch kind {
	case ngInterface:
		whole, err = p.face(total)
		return false, whole, err
	case ngEnhanced, ngOldPacket:
		return p.enhanced(r, kind, total)
	case ngSimple:
		return p.simple(r, total)
	}
	whole, err = p.finish(int64(total), total)
	return false, whole, err
}

// section begins a section: byte order and interfaces are void.
func (p *pcapng) section() (whole bool, err error) {
	h := p.s.peek(16)
	if len(h) < 16 {
		return false, p.s.failure()
	}
	switch {
	case binary.LittleEndian.Uint32(h[8:]) == ngOrderMagic:
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(h[8:]) == ngOrderMagic:
		p.order = binary.BigEndian
	default:
		return false, corrupt("a section with byte-order magic % x", h[8:12])
	}
	total, major, minor := p.order.Uint32(h[4:]), p.order.Uint16(h[12:]), p.order.Uint16(h[14:])
	if total < ngSectionMin || total%4 != 0 {
		return false, corrupt("a section header of %d bytes", total)
	}
	if major != 1 {
		return false, fmt.Errorf("pcapng version %d.%d is not known; 1.0 is", major, minor)
	}
	p.faces = p.faces[:0]
	return p.finish(int64(total), total)
}

// face adds the interface that the block describes.
func (p *pcapng) face(total uint32) (whole bool, err error) {
	if total < ngInterfaceMin || total > ngDescriptionBytesMax {
		return false, corrupt("an interface description of %d bytes", total)
	}
	b := p.s.peek(int(total))
	if len(b) < int(total) {
		return false, p.s.failure()
	}
	f := ngFace{link: uint32(p.order.Uint16(b[8:])), snap: p.order.Uint32(b[12:]), perSec: 1e6}
	for o := b[16 : total-ngTrailer]; len(o) >= 4; {
		code, n := p.order.Uint16(o), int(p.order.Uint16(o[2:]))
		if code == ngOptionEnd {
			break
		}
		padded := 4 + (n+3)&^3
		if padded > len(o) {
			return false, corrupt("option %d of an interface description is longer than the block", code)
		}
		v := o[4 : 4+n]
		switch {
		case code == ngOptionResolution && n >= 1:
			if f.perSec, err = resolution(v[0]); err != nil {
				return false, err
			}
		case code == ngOptionOffset && n >= 8:
			f.offset = int64(p.order.Uint64(v))
		}
		o = o[padded:]
	}
	p.faces = append(p.faces, f)
	return p.finish(int64(total), total)
}

// resolution returns the units in a second that if_tsresol b stands for.
func resolution(b byte) (uint64, error) {
	n := b & 0x7f
	if b&0x80 != 0 {
		if n > 63 {
			return 0, corrupt("a time resolution of 2^-%d s; at most 2^-63 is read", n)
		}
		return 1 << n, nil
	}
	if n > 19 {
		return 0, corrupt("a time resolution of 10^-%d s; at most 10^-19 is read", n)
	}
	per := uint64(1)
	for range n {
		per *= 10
	}
	return per, nil
}

// stamp returns the instant that units stands for on f.
func (f *ngFace) stamp(units uint64) (event.Nanos, error) {
	sec, part := units/f.perSec, units%f.perSec
	hi, lo := bits.Mul64(part, 1e9)
	nanos, _ := bits.Div64(hi, lo, f.perSec) // part < perSec, so this cannot overflow
	const secMax = int64(event.MaxNanos / 1e9)
	if sec > uint64(secMax) || f.offset < -secMax || f.offset > secMax {
		return 0, corrupt("a time stamp of %d s and an offset of %d s", sec, f.offset)
	}
	all := int64(sec) + f.offset
	if all < -secMax || all >= secMax {
		return 0, corrupt("a time stamp of %d s after 1970", all)
	}
	return event.Nanos(all*1e9 + int64(nanos)), nil
}

// enhanced reads an enhanced packet block, or the packet block that it replaced.
func (p *pcapng) enhanced(r *Record, kind, total uint32) (packet, whole bool, err error) {
	h := p.s.peek(ngEnhancedHeader)
	if len(h) < ngEnhancedHeader {
		return false, false, p.s.failure()
	}
	id := p.order.Uint32(h[8:])
	if kind == ngOldPacket {
		id = uint32(p.order.Uint16(h[8:]))
	}
	f, err := p.faceOf(id)
	if err != nil {
		return false, false, err
	}
	units := uint64(p.order.Uint32(h[12:]))<<32 | uint64(p.order.Uint32(h[16:]))
	if r.Stamp, err = f.stamp(units); err != nil {
		return false, false, err
	}
	p.last = r.Stamp
	held, wire := p.order.Uint32(h[20:]), p.order.Uint32(h[24:])
	if held > uint32(recordLimit(f.snap)) || uint64(held+3)&^3+ngEnhancedHeader+ngTrailer > uint64(total) {
		return false, false, corrupt("a packet of %d bytes in a block of %d", held, total)
	}
	return true, true, p.take(r, ngEnhancedHeader, int(held), wire, total)
}

// simple reads a simple packet block: first interface, no time stamp of its own.
func (p *pcapng) simple(r *Record, total uint32) (packet, whole bool, err error) {
	h := p.s.peek(ngSimpleHeader)
	if len(h) < ngSimpleHeader {
		return false, false, p.s.failure()
	}
	f, err := p.faceOf(0)
	if err != nil {
		return false, false, err
	}
	wire := p.order.Uint32(h[8:])
	held := wire
	if f.snap > 0 {
		held = min(held, f.snap)
	}
	if total < ngSimpleHeader+ngTrailer {
		return false, false, corrupt("a simple packet block of %d bytes", total)
	}
	held = min(held, total-ngSimpleHeader-ngTrailer)
	if held > uint32(recordLimit(f.snap)) {
		return false, false, corrupt("a packet of %d bytes in a block of %d", held, total)
	}
	r.Stamp = p.last
	return true, true, p.take(r, ngSimpleHeader, int(held), wire, total)
}

// take fills r with the n bytes behind the header and notes the rest of the block.
func (p *pcapng) take(r *Record, header, n int, wire, total uint32) error {
	d := p.s.peek(header + n)[header:]
	r.Data, r.WireLength, r.Cut = d, max(int(wire), n), false
	if len(d) < n {
		if err := p.s.failure(); err != nil {
			return err
		}
		r.Cut, p.ended = true, true
	}
	p.s.skip(header + len(d))
	p.left, p.total = int64(total)-int64(header+len(d)), total
	return nil
}

func (p *pcapng) faceOf(id uint32) (*ngFace, error) {
	if uint64(id) >= uint64(len(p.faces)) {
		return nil, corrupt("a packet of interface %d; the section describes %d", id, len(p.faces))
	}
	f := &p.faces[id]
	if f.link != linkEthernet {
		return nil, fmt.Errorf("interface %d: %w", id, linkError(f.link))
	}
	return f, nil
}
