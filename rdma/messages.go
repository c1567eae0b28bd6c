package rdma

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/headrace/headrace/rdma/collective"
)

// errMessage reports a control message that is not one.
var errMessage = errors.New("not a control message")

const (
	messageVersion = 1
	messageHead    = 2 + 4*8 + 1 + 4 + 4 + 3 // all that has a fixed place

	// stepsMax bounds the steps of a message: a receiver lacks few.
	stepsMax  = 255
	stepBytes = 3*8 + 3*4
	// offerMax bounds what a peer offers to another, all transports together.
	offerMax = 64 << 10
)

// encodeMessage encodes m:
//
//	version, kind                                 u8 each
//	ballot, promised, epoch, round                u64 each
//	round kind                                    u8
//	members, contributors                         u32 each
//	steps, offers, has a body                     u8 each
//	a step: epoch, prev, trim u64; members, holders, carried u32
//	an offer: length u32, bytes
//	the body: the rest
func encodeMessage(m *collective.Message) (dst []byte) {
	le := binary.LittleEndian
	dst = append(dst, messageVersion, byte(m.Kind))
	dst = le.AppendUint64(dst, m.Ballot)
	dst = le.AppendUint64(dst, m.Promised)
	dst = le.AppendUint64(dst, m.Epoch)
	dst = le.AppendUint64(dst, m.Round)
	dst = append(dst, byte(m.RoundKind))
	dst = le.AppendUint32(dst, uint32(m.Members))
	dst = le.AppendUint32(dst, uint32(m.Contributors))
	hasBody := byte(0)
	if len(m.Body) > 0 {
		hasBody = 1
	}
	steps := m.Steps[max(0, len(m.Steps)-stepsMax):]
	dst = append(dst, byte(len(steps)), byte(len(m.Offers)), hasBody)
	for i := range steps {
		s := &steps[i]
		dst = le.AppendUint64(dst, s.Epoch)
		dst = le.AppendUint64(dst, s.Prev)
		dst = le.AppendUint64(dst, s.Trim)
		dst = le.AppendUint32(dst, uint32(s.Members))
		dst = le.AppendUint32(dst, uint32(s.Holders))
		dst = le.AppendUint32(dst, uint32(s.Carried))
	}
	for _, o := range m.Offers {
		dst = le.AppendUint32(dst, uint32(len(o)))
		dst = append(dst, o...)
	}
	return append(dst, m.Body...)
}

// decodeMessage reads what encodeMessage wrote for a group of the given number of
// peers. The message's Offers and Body are parts of b. Errors wrap errMessage.
func decodeMessage(b []byte, peers int) (m collective.Message, err error) {
	if len(b) < messageHead {
		return m, fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	if b[0] != messageVersion {
		return m, fmt.Errorf("%w: version %d, want %d", errMessage, b[0], messageVersion)
	}
	r := reader{b: b[1:]}
	m.Kind = collective.MessageKind(r.u8())
	m.Ballot, m.Promised, m.Epoch, m.Round = r.u64(), r.u64(), r.u64(), r.u64()
	m.RoundKind = collective.Kind(r.u8())
	m.Members, m.Contributors = r.set(peers), r.set(peers)
	steps, offers, hasBody := int(r.u8()), int(r.u8()), r.u8()
	if m.Kind < collective.Prepare || m.Kind > collective.Leave {
		return m, fmt.Errorf("%w: kind %d", errMessage, m.Kind)
	}
	if m.RoundKind > collective.Sparse || offers > peers || hasBody > 1 {
		return m, fmt.Errorf("%w: a round of kind %d, %d offers, body %d", errMessage, m.RoundKind, offers, hasBody)
	}
	if steps*stepBytes > len(r.b) {
		return m, fmt.Errorf("%w: %d steps in %d bytes", errMessage, steps, len(r.b))
	}
	for range steps {
		m.Steps = append(m.Steps, collective.Step{
			Epoch: r.u64(), Prev: r.u64(), Trim: r.u64(),
			Members: r.set(peers), Holders: r.set(peers), Carried: r.set(peers),
		})
	}
	for range offers {
		m.Offers = append(m.Offers, r.bytes(int(r.u32()), offerMax))
	}
	if hasBody == 1 {
		m.Body, r.b = r.b, nil
		r.bad = r.bad || len(m.Body) == 0
	}
	if r.bad || len(r.b) != 0 {
		return m, fmt.Errorf("%w: kind %d: its parts do not fit its %d bytes", errMessage, m.Kind, len(b))
	}
	return m, nil
}

// A reader takes numbers off the front of b. What is not there reads as zero and sets
// bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n, limit int) []byte {
	if n < 0 || n > limit || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	if n == 0 {
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() byte {
	if p := r.bytes(1, 1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.bytes(4, 4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.bytes(8, 8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *reader) set(peers int) collective.Set {
	s := collective.Set(r.u32())
	if s&^collective.First(peers) != 0 {
		r.bad = true
	}
	return s
}

// An offer is what one transport offers to one peer.
type offer struct {
	transport string
	bytes     []byte
}

// appendOffers encodes what a peer is offered by all transports, in our order of
// preference: for each its name's length u8, name, length u32, bytes.
func appendOffers(dst []byte, offers []offer) []byte {
	for _, o := range offers {
		dst = append(dst, byte(len(o.transport)))
		dst = append(dst, o.transport...)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(o.bytes)))
		dst = append(dst, o.bytes...)
	}
	return dst
}

// decodeOffers reads what appendOffers wrote.
func decodeOffers(b []byte) (offers []offer, err error) {
	r := reader{b: b}
	for len(r.b) > 0 && len(offers) < transportsMax {
		name := r.bytes(int(r.u8()), nameMax)
		offers = append(offers, offer{string(name), r.bytes(int(r.u32()), offerMax)})
		if len(name) == 0 {
			r.bad = true
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, fmt.Errorf("%w: an offer of %d bytes whose parts do not fit", errMessage, len(b))
	}
	return offers, nil
}

const (
	transportsMax = 8
	nameMax       = 32
)
