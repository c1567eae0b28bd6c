//go:build linux && cgo && rdma

package verbs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	offerVersion = 1
	offerBytes   = 64
)

var errOffer = errors.New("bad offer")

// An offer is what a peer must know to write to us.
type offer struct {
	epoch     uint64
	gid       [16]byte
	qpn       uint32 // 24 bits
	psn       uint32 // 24 bits: of our first packet
	rkey      uint32
	addr      uint64 // of its ring
	mtu       int
	slots     int
	slotBytes int
	from, to  uint8
}

func (o *offer) bytes() []byte {
	b := append(make([]byte, 0, offerBytes), offerVersion, byte(o.mtu), o.from, o.to)
	b = binary.LittleEndian.AppendUint32(b, uint32(o.slotBytes))
	b = binary.LittleEndian.AppendUint64(b, o.epoch)
	b = append(b, o.gid[:]...)
	b = binary.LittleEndian.AppendUint64(b, o.addr)
	b = binary.LittleEndian.AppendUint32(b, o.qpn)
	b = binary.LittleEndian.AppendUint32(b, o.psn)
	b = binary.LittleEndian.AppendUint32(b, o.rkey)
	b = binary.LittleEndian.AppendUint32(b, uint32(o.slots))
	return append(b, make([]byte, 8)...)
}

// parse reads what peer offered to us for the epoch. mine is our offer to it.
func (o *offer) parse(b []byte, peer int, mine *offer) error {
	if len(b) != offerBytes {
		return fmt.Errorf("%w: %d bytes, not %d", errOffer, len(b), offerBytes)
	}
	if b[0] != offerVersion {
		return fmt.Errorf("%w: version %d, not %d", errOffer, b[0], offerVersion)
	}
	*o = offer{
		mtu: int(b[1]), from: b[2], to: b[3],
		slotBytes: int(binary.LittleEndian.Uint32(b[4:])),
		epoch:     binary.LittleEndian.Uint64(b[8:]),
		gid:       [16]byte(b[16:]),
		addr:      binary.LittleEndian.Uint64(b[32:]),
		qpn:       binary.LittleEndian.Uint32(b[40:]),
		psn:       binary.LittleEndian.Uint32(b[44:]),
		rkey:      binary.LittleEndian.Uint32(b[48:]),
		slots:     int(binary.LittleEndian.Uint32(b[52:])),
	}
	switch {
	case o.epoch != mine.epoch:
		return fmt.Errorf("%w: epoch %d, not %d", errOffer, o.epoch, mine.epoch)
	case int(o.from) != peer || o.to != mine.from:
		return fmt.Errorf("%w: from %d to %d", errOffer, o.from, o.to)
	case o.slots != mine.slots || o.slotBytes != mine.slotBytes:
		return fmt.Errorf("%w: %d slots of %d bytes, here %d of %d", errOffer, o.slots, o.slotBytes, mine.slots, mine.slotBytes)
	case o.mtu < 1 || o.mtu > 5 || o.qpn>>24 != 0 || o.psn>>24 != 0:
		return fmt.Errorf("%w: MTU code %d, queue pair %#x, packet number %#x", errOffer, o.mtu, o.qpn, o.psn)
	}
	return nil
}
