package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/headrace/headrace/rdma/collective"
)

// Limits of what is on the wire.
const (
	frameMax  = 16 << 20 // the kind and the body of a frame
	helloMax  = 4 << 10  // of frames before a connection is established
	peersMax  = collective.PeersMax
	statusMax = 1 << 10 // what Say says
	textMax   = 256     // addresses, builds, reasons
	tokenMax  = 1 << 10
	pinsMax   = 4
)

// MessageMax is the greatest message that a Mesh carries.
const MessageMax = frameMax - 1

// wireVersion is that of everything in this file.
const wireVersion = 1

// A kind says what a frame's body is.
type kind uint8

const (
	kindHello kind = 1 + iota
	kindStart
	kindRefuse
	kindBeat
	kindMessage
	kindJoin
	kindWelcome
)

// errGarbage reports bytes that are not what they should be.
var errGarbage = errors.New("malformed")

// A frame is the length of what follows (u32, little-endian, as all numbers here), its
// kind and its body.
func appendFrame(dst []byte, k kind, body []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(1+len(body)))
	dst = append(dst, byte(k))
	return append(dst, body...)
}

// readFrame reads a frame of at most limit bytes. The body is the caller's. Memory is
// taken as bytes come, not as the length says.
func readFrame(r io.Reader, limit int) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[:4])
	if n == 0 || uint64(n) > uint64(limit) {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes, limit %d", errGarbage, n, limit)
	}
	k, left := kind(head[4]), int(n)-1
	const step = 1 << 20
	if left <= step {
		body := make([]byte, left)
		_, err := io.ReadFull(r, body)
		return k, body, whole(err)
	}
	var b bytes.Buffer
	b.Grow(step)
	_, err := io.CopyN(&b, r, int64(left))
	return k, b.Bytes(), whole(err)
}

// whole makes an end within a frame an error.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A hello is what both ends say first.
type hello struct {
	wire    uint16
	version uint32
	config  [32]byte
	proof   [32]byte
	id      string
	build   string
}

// helloMagic begins every hello: "hrc" and a zero.
const helloMagic = 0x00637268

func (h *hello) encode() []byte {
	dst := binary.LittleEndian.AppendUint32(nil, helloMagic)
	dst = binary.LittleEndian.AppendUint16(dst, h.wire)
	dst = binary.LittleEndian.AppendUint32(dst, h.version)
	dst = append(dst, h.config[:]...)
	dst = append(dst, h.proof[:]...)
	dst = appendText(dst, h.id)
	return appendText(dst, h.build)
}

func decodeHello(b []byte) (h hello, err error) {
	c := cursor{rest: b}
	if c.u32() != helloMagic {
		return h, fmt.Errorf("%w: no hello", errGarbage)
	}
	h.wire = c.u16()
	h.version = c.u32()
	copy(h.config[:], c.take(32))
	copy(h.proof[:], c.take(32))
	h.id = c.text(idMax)
	h.build = c.text(textMax)
	return h, c.end("hello")
}

// A refusal on the wire is a reason and a text.
func encodeRefusal(reason Reason, text string) []byte {
	dst := appendText(nil, string(reason))
	return appendText(dst, text[:min(len(text), textMax)])
}

func decodeRefusal(b []byte) (reason Reason, text string, err error) {
	c := cursor{rest: b}
	reason = Reason(c.text(textMax))
	text = strings.ToValidUTF8(c.text(textMax), "?")
	if !reason.known() {
		reason = Garbage
	}
	return reason, text, c.end("refusal")
}

// A beat says that its sender lives, whom it hears, and when it was sent.
type beat struct {
	regular bool // sent by the clock, not because the row changed
	hears   collective.Set
	sent    int64 // all in Unix nanoseconds; by the sender's clock
	echo    int64 // sent of the last beat that the sender received; 0: none
	echoed  int64 // when it received that, by its clock
	status  []byte
}

func (b *beat) encode() []byte {
	var regular byte
	if b.regular {
		regular = 1
	}
	dst := []byte{regular}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(b.hears))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.sent))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.echo))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.echoed))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(b.status)))
	return append(dst, b.status...)
}

// decodeBeat decodes a beat in a group of the given number of peers.
func decodeBeat(body []byte, peers int) (b beat, err error) {
	c := cursor{rest: body}
	regular := c.u8()
	b.regular = regular == 1
	b.hears = collective.Set(c.u32())
	b.sent = int64(c.u64())
	b.echo = int64(c.u64())
	b.echoed = int64(c.u64())
	n := int(c.u16())
	if n > statusMax || regular > 1 || b.hears&^collective.First(peers) != 0 {
		return beat{}, fmt.Errorf("%w: beat", errGarbage)
	}
	b.status = c.take(n)
	return b, c.end("beat")
}

// A join asks to become the peer id, or, to a member, who the peers are.
type join struct {
	wire    uint16
	token   string
	id      string
	address string
	proof   [32]byte
}

func (j *join) encode() []byte {
	dst := binary.LittleEndian.AppendUint16(nil, j.wire)
	dst = append(dst, j.proof[:]...)
	dst = appendText(dst, j.token)
	dst = appendText(dst, j.id)
	return appendText(dst, j.address)
}

func decodeJoin(b []byte) (j join, err error) {
	c := cursor{rest: b}
	j.wire = c.u16()
	copy(j.proof[:], c.take(32))
	j.token = c.text(tokenMax)
	j.id = c.text(idMax)
	j.address = c.text(textMax)
	return j, c.end("join")
}

func encodePeers(peers []Peer) []byte {
	dst := []byte{byte(len(peers))}
	for _, p := range peers {
		dst = appendText(dst, p.ID)
		dst = appendText(dst, p.Address)
		dst = append(dst, byte(len(p.Pins)))
		for _, pin := range p.Pins {
			dst = appendText(dst, pin)
		}
	}
	return dst
}

func decodePeers(b []byte) ([]Peer, error) {
	c := cursor{rest: b}
	n := int(c.u8())
	if n > peersMax {
		return nil, fmt.Errorf("%w: %d peers, limit %d", errGarbage, n, peersMax)
	}
	peers := make([]Peer, 0, n)
	for range n {
		p := Peer{ID: c.text(idMax), Address: c.text(textMax)}
		pins := int(c.u8())
		if pins > pinsMax {
			return nil, fmt.Errorf("%w: %d pins of a peer, limit %d", errGarbage, pins, pinsMax)
		}
		for range pins {
			p.Pins = append(p.Pins, c.text(textMax))
		}
		peers = append(peers, p)
	}
	if err := c.end("peers"); err != nil {
		return nil, err
	}
	for _, p := range peers {
		if err := p.check(); err != nil {
			return nil, err
		}
	}
	return peers, nil
}

func appendText(dst []byte, s string) []byte {
	if len(s) > math.MaxUint16 {
		panic("boot: a text is longer than its limit")
	}
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

// A cursor reads what may be too short: then everything is zero and end says so.
type cursor struct {
	rest  []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if len(c.rest) < n {
		c.rest, c.short = nil, true
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) number(n int) (v uint64) {
	for i, b := range c.take(n) {
		v |= uint64(b) << (8 * i)
	}
	return v
}

func (c *cursor) u8() uint8   { return uint8(c.number(1)) }
func (c *cursor) u16() uint16 { return uint16(c.number(2)) }
func (c *cursor) u32() uint32 { return uint32(c.number(4)) }
func (c *cursor) u64() uint64 { return c.number(8) }

func (c *cursor) text(limit int) string {
	n := int(c.u16())
	if n > limit {
		c.rest, c.short = nil, true
		return ""
	}
	return string(c.take(n))
}

func (c *cursor) end(what string) error {
	if c.short || len(c.rest) > 0 {
		return fmt.Errorf("%w: %s", errGarbage, what)
	}
	return nil
}
