package capture

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/headrace/headrace/dataplane/event"
)

// Classic pcap: draft-ietf-opsawg-pcap.
const (
	pcapMicros = 0xa1b2c3d4
	pcapNanos  = 0xa1b23c4d

	pcapFileHeader   = 24
	pcapRecordHeader = 16

	// recordBytesMax is the longest record that is believed, as in libpcap: a
	// longer one is damage, unless the file itself declares a longer snap length.
	recordBytesMax = 256 << 10
	// snapBytesMax bounds what a file may declare.
	snapBytesMax = 16 << 20
)

// recordLimit returns the longest record that a declared snap length lets us believe.
func recordLimit(snap uint32) int {
	if snap > recordBytesMax && snap <= snapBytesMax {
		return int(snap)
	}
	return recordBytesMax
}

// pcap reads the records of a classic capture.
type pcap struct {
	s     *stream
	order binary.ByteOrder
	unit  uint64 // nanoseconds in a unit of the stamp's lower half
	limit int
	last  event.Nanos
	ended bool // a cut record was returned: nothing follows
}

// newPcap reads the file header; order and unit were told by the magic number.
func newPcap(s *stream, order binary.ByteOrder, unit uint64) (*pcap, error) {
	h := s.peek(pcapFileHeader)
	if len(h) < pcapFileHeader {
		if err := s.failure(); err != nil {
			return nil, err
		}
		return nil, corrupt("the file ends inside its header, at %d of %d bytes", len(h), pcapFileHeader)
	}
	major, minor := order.Uint16(h[4:]), order.Uint16(h[6:])
	if major != 2 || minor < 4 {
		return nil, fmt.Errorf("pcap version %d.%d is not known; 2.4 is", major, minor)
	}
	// The upper bits tell the length of a frame check sequence; it is left in place.
	if link := order.Uint32(h[20:]) & 0x03ffffff; link != linkEthernet {
		return nil, linkError(link)
	}
	limit := recordLimit(order.Uint32(h[16:]))
	s.skip(pcapFileHeader)
	return &pcap{s: s, order: order, unit: unit, limit: limit}, nil
}

func (p *pcap) next(r *Record) error {
	if p.ended {
		return io.EOF
	}
	h := p.s.peek(pcapRecordHeader)
	if len(h) < pcapRecordHeader {
		if err := p.s.short(len(h)); err != nil {
			return err
		}
		p.ended = true
		*r = Record{Data: h[:0], Stamp: p.last, Cut: true}
		return nil
	}
	r.Stamp = event.Nanos(p.order.Uint32(h))*1e9 + event.Nanos(uint64(p.order.Uint32(h[4:]))*p.unit)
	held, wire := p.order.Uint32(h[8:]), p.order.Uint32(h[12:])
	if held > uint32(p.limit) {
		return corrupt("a record of %d bytes; at most %d are believed", held, p.limit)
	}
	n := int(held)
	d := p.s.peek(pcapRecordHeader + n)[pcapRecordHeader:]
	r.WireLength, r.Cut, r.Data = max(int(wire), n), false, d
	p.last = r.Stamp
	if len(d) < n {
		if err := p.s.failure(); err != nil {
			return err
		}
		r.Cut, p.ended = true, true
	}
	p.s.skip(pcapRecordHeader + len(d))
	return nil
}
