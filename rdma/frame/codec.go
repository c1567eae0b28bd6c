package frame

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sync/atomic"
)

// What is wrong with a frame. A [Codec] counts each.
var (
	ErrShort   = errors.New("shorter than its header says")
	ErrMagic   = errors.New("not a frame")
	ErrVersion = errors.New("another version")
	ErrKind    = errors.New("an unknown kind")
	ErrEpoch   = errors.New("another epoch")
	ErrSource  = errors.New("not from the peer that sent it, or not for us")
	ErrLength  = errors.New("a length beyond the limit")
	ErrSum     = errors.New("a wrong checksum")
	ErrSeal    = errors.New("a broken seal")
	ErrReplay  = errors.New("a frame that came before")
	ErrGap     = errors.New("a frame before it is missing")
)

// Reasons are the errors of this package, in the order in which they are shown.
var Reasons = []error{
	ErrShort, ErrMagic, ErrVersion, ErrKind, ErrEpoch, ErrSource,
	ErrLength, ErrSum, ErrSeal, ErrReplay, ErrGap,
}

const reasonCount = 11

var reasonNames = [reasonCount]string{
	"short", "magic", "version", "kind", "epoch", "source",
	"length", "sum", "seal", "replay", "gap",
}

// ReasonName returns the name of one of Reasons in metrics, or "" for another error.
func ReasonName(reason error) string {
	if i := reasonIndex(reason); i >= 0 {
		return reasonNames[i]
	}
	return ""
}

func reasonIndex(reason error) int {
	for i, r := range Reasons {
		if errors.Is(reason, r) {
			return i
		}
	}
	return -1
}

// PayloadMax bounds the payload of every frame, whatever a codec is told.
const PayloadMax = 64 << 10

// SealBytes is what a seal adds after the payload: the tag of AES-GCM.
const SealBytes = 16

// PeersMax bounds the peers that a codec knows.
const PeersMax = 32

// Config makes a [Codec].
type Config struct {
	// Me is our number.
	Me int
	// Epoch is the only one whose frames are believed.
	Epoch uint64
	// Max is the greatest payload, at most PayloadMax. Zero: PayloadMax.
	Max int
	// Lane tells apart the codecs of one epoch, such as those of a transport and of the
	// one that it fell back to; both ends have the same. Sequences begin with it.
	Lane uint16
	// Keys gives the AES-256 keys of a peer, one a direction. No two codecs may have the
	// same keys, epoch and lane: a seal's nonce is made of the epoch and the sequence,
	// and must never be used twice. Nil: frames are not sealed.
	Keys func(peer int) (send, receive [32]byte, err error)
}

// A Codec encodes and checks the frames of one epoch between us and its members. One
// goroutine uses it, but for Count. Nothing but NewCodec allocates.
//
// Every frame that was encoded for a peer has the next sequence of that peer and must
// be sent: what is missing is found out at the receiver (ErrGap).
type Codec struct {
	me      int
	epoch   uint64
	max     int
	members uint32
	sealed  bool
	nonce   [12]byte
	pairs   [PeersMax]pair
	bad     [reasonCount]atomic.Uint64
}

// pair is what we share with one peer.
type pair struct {
	sent, got     uint64 // sequences
	send, receive cipher.AEAD
}

// NewCodec returns a codec for an epoch whose members are the bits of members. It
// fails if a key cannot be had.
func NewCodec(c Config, members uint32) (*Codec, error) {
	if c.Max == 0 {
		c.Max = PayloadMax
	}
	if c.Max < 0 || c.Max > PayloadMax {
		return nil, fmt.Errorf("frame: payload limit %d: not in 1 … %d", c.Max, PayloadMax)
	}
	if c.Me < 0 || c.Me >= PeersMax {
		return nil, fmt.Errorf("frame: peer %d: not in 0 … %d", c.Me, PeersMax-1)
	}
	k := &Codec{me: c.Me, epoch: c.Epoch, max: c.Max, members: members &^ (1 << c.Me), sealed: c.Keys != nil}
	for p := range k.pairs {
		k.pairs[p].sent, k.pairs[p].got = uint64(c.Lane)<<48, uint64(c.Lane)<<48
	}
	if !k.sealed {
		return k, nil
	}
	for rest := k.members; rest != 0; rest &= rest - 1 {
		peer := bits.TrailingZeros32(rest)
		send, receive, err := c.Keys(peer)
		if err != nil {
			return nil, fmt.Errorf("frame: keys of peer %d: %w", peer, err)
		}
		if k.pairs[peer].send, err = newSeal(send); err != nil {
			return nil, fmt.Errorf("frame: seal to peer %d: %w", peer, err)
		}
		if k.pairs[peer].receive, err = newSeal(receive); err != nil {
			return nil, fmt.Errorf("frame: seal from peer %d: %w", peer, err)
		}
	}
	return k, nil
}

func newSeal(key [32]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Epoch returns the epoch whose frames are believed.
func (c *Codec) Epoch() uint64 { return c.epoch }

// Sealed reports that frames are sealed: made by Seal, not by Header.
func (c *Codec) Sealed() bool { return c.sealed }

// Overhead returns how many bytes follow the payload.
func (c *Codec) Overhead() int {
	if c.sealed {
		return SealBytes
	}
	return 0
}

// FrameBytes returns the length of a frame with a payload of n bytes.
func (c *Codec) FrameBytes(n int) int { return HeaderBytes + n + c.Overhead() }

// Count returns how many frames were refused for a reason, one of Reasons. Any
// goroutine may call it.
func (c *Codec) Count(reason error) uint64 {
	if i := reasonIndex(reason); i >= 0 {
		return c.bad[i].Load()
	}
	return 0
}

func (c *Codec) refuse(reason error) error {
	for i, r := range Reasons { // they are plain here: no need to unwrap
		if r == reason { //nolint:errorlint // see above
			c.bad[i].Add(1)
			break
		}
	}
	return reason
}

// Sum returns the checksum of a payload, for HeaderSum: a payload that goes to several
// peers is summed once.
func Sum(payload []byte) uint32 { return crc32.Update(0, castagnoli, payload) }

// Header encodes in dst the header of a frame for peer to, not sealed; the payload is to
// follow it as it is. It sets h's Source, Epoch and Length, and Dest unless that is
// AnyDest.
func (c *Codec) Header(dst *[HeaderBytes]byte, to int, h *Header, payload []byte) {
	c.HeaderSum(dst, to, h, len(payload), Sum(payload))
}

// HeaderSum is Header for a payload of n bytes whose Sum is known.
func (c *Codec) HeaderSum(dst *[HeaderBytes]byte, to int, h *Header, n int, sum uint32) {
	if c.sealed {
		panic("frame: Header of a sealed codec")
	}
	c.complete(h, to, n)
	put(dst, h, 0, c.pairs[to].sent)
	le.PutUint32(dst[atSum:], crc32.Update(sum, castagnoli, dst[:]))
}

// Seal appends the whole frame for peer to: header, payload and, if the codec seals,
// tag; the payload in the frame is then encrypted. It sets fields of h as Header does.
// It does not allocate if dst has room for FrameBytes.
func (c *Codec) Seal(dst []byte, to int, h *Header, payload []byte) []byte {
	at := len(dst)
	dst = append(dst, zeros[:]...)
	header := (*[HeaderBytes]byte)(dst[at:])
	if !c.sealed {
		c.Header(header, to, h, payload)
		return append(dst, payload...)
	}
	c.complete(h, to, len(payload))
	p := &c.pairs[to]
	put(header, h, flagSealed, p.sent)
	return p.send.Seal(dst, c.nonceOf(p.sent), payload, header[:])
}

// complete fills in h and takes the next sequence of peer to.
func (c *Codec) complete(h *Header, to, n int) {
	if c.members>>to&1 == 0 || n > c.max {
		panic(fmt.Sprintf("frame: %d bytes for peer %d, limit %d, members %b", n, to, c.max, c.members))
	}
	h.Source, h.Epoch, h.Length = uint8(c.me), c.epoch, uint32(n)
	if h.Dest != AnyDest || c.sealed {
		h.Dest = uint8(to)
	}
	c.pairs[to].sent++
}

func (c *Codec) nonceOf(sequence uint64) []byte {
	le.PutUint32(c.nonce[:], uint32(c.epoch))
	le.PutUint64(c.nonce[4:], sequence)
	return c.nonce[:]
}

// Peek returns the length of a whole frame from its first HeaderBytes, for transports
// that carry a stream. What it says has not been checked beyond the limits. An error
// is counted and means that the stream cannot be followed any further.
func (c *Codec) Peek(header []byte) (total int, err error) {
	total, err = Peek(header)
	if err == nil && total > HeaderBytes+c.max+SealBytes {
		err = ErrLength
	}
	if err != nil {
		return 0, c.refuse(err)
	}
	return total, nil
}

// Open checks a frame that came from peer from, and fills in h. The payload is a part
// of frame, decrypted in place if the codec seals. frame is exactly one frame.
//
// A frame of another epoch (ErrEpoch) is to be dropped: it is late. Any other error
// means that the peer, or who speaks for it, is broken. All are counted.
func (c *Codec) Open(from int, h *Header, frame []byte) (payload []byte, err error) {
	payload, err = c.open(from, h, frame)
	if err != nil {
		return nil, c.refuse(err)
	}
	return payload, nil
}

func (c *Codec) open(from int, h *Header, frame []byte) ([]byte, error) {
	total, err := Peek(frame)
	switch {
	case err != nil:
		return nil, err
	case total != len(frame):
		return nil, ErrShort
	case (frame[atFlags]&flagSealed != 0) != c.sealed:
		return nil, ErrSeal
	case total > c.FrameBytes(c.max):
		return nil, ErrLength
	case uint(from) >= PeersMax || c.members>>from&1 == 0:
		return nil, ErrSource
	}
	p := &c.pairs[from]
	header := frame[:HeaderBytes:HeaderBytes]
	payload := frame[HeaderBytes : total-c.Overhead()]
	sequence := get(header, h)
	switch {
	case c.sealed && h.Epoch != c.epoch: // we have no key of another epoch
		return nil, ErrEpoch
	case !c.sealed && !sumIsRight(header, payload):
		return nil, ErrSum
	case h.Epoch != c.epoch:
		return nil, ErrEpoch
	case int(h.Source) != from:
		return nil, ErrSource
	case int(h.Dest) != c.me && (h.Dest != AnyDest || c.sealed):
		return nil, ErrSource
	}
	if c.sealed {
		if _, err := p.receive.Open(payload[:0], c.nonceOf(sequence), frame[HeaderBytes:], header); err != nil {
			return nil, ErrSeal
		}
	}
	switch {
	case sequence <= p.got:
		return nil, ErrReplay
	case sequence != p.got+1:
		return nil, ErrGap
	case h.Kind == 0 || h.Kind >= kindCount:
		return nil, ErrKind
	}
	p.got = sequence
	return payload, nil
}
