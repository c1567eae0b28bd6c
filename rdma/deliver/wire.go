package deliver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// protocol is the connection's ALPN name.
const protocol = "headrace-deliver"

// wireVersion is that of the messages and of the frames of rows.
const wireVersion = 1

const (
	messageMax = 16 << 10
	textMax    = 256
	// batchBytesMax bounds a batch in any ring, and so what a consumer keeps of one.
	batchBytesMax = 4 << 20
)

// Kinds of messages, in their order.
const (
	kindHello   = "hello"   // producer: version, stream, name, transports, seal
	kindWelcome = "welcome" // consumer: epoch, transport, why, batch, batch_max, offer
	kindOffer   = "offer"   // producer: offer
	kindRefuse  = "refuse"  // either, instead or later: reason, text
)

// A message is a u32 length, big-endian, and a JSON object.
type message struct {
	Kind       string   `json:"kind"`
	Version    int      `json:"version,omitempty"`
	Stream     uint64   `json:"stream,omitempty"`
	Name       string   `json:"name,omitempty"`
	Transports []string `json:"transports,omitempty"` // wanted, the best first
	Seal       bool     `json:"seal,omitempty"`
	Epoch      uint64   `json:"epoch,omitempty"`
	Transport  string   `json:"transport,omitempty"` // chosen
	Why        string   `json:"why,omitempty"`       // not a better one
	Batch      uint64   `json:"batch,omitempty"`     // last of the stream
	BatchMax   uint64   `json:"batch_max,omitempty"` // see Footprint
	Offer      []byte   `json:"offer,omitempty"`
	Reason     Reason   `json:"reason,omitempty"`
	Text       string   `json:"text,omitempty"`
}

// A Reason is why a connection was refused.
type Reason string

// The reasons.
const (
	BadKey      Reason = "key"       // a key that is not pinned
	BadVersion  Reason = "version"   // another version of the wire
	Garbage     Reason = "garbage"   // bytes that are no handshake, or none in time
	NoTransport Reason = "transport" // no transport that both ends have
	Unsealed    Reason = "seal"      // the consumer wants frames sealed
	Busy        Reason = "busy"      // too many producers
	BadRows     Reason = "rows"      // frames that are no batch, or one that cannot be placed
	Replaced    Reason = "replaced"  // the same stream came again
	Stopping    Reason = "stopping"
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{BadKey, BadVersion, Garbage, NoTransport, Unsealed, Busy, BadRows, Replaced, Stopping}
}

// A RefusedError is why one end does not want a connection.
type RefusedError struct {
	Reason Reason
	Text   string
	Theirs bool // the other end's word
}

func (e *RefusedError) Error() string {
	if e.Theirs {
		return fmt.Sprintf("the other end refuses: %s: %s", e.Reason, e.Text)
	}
	return fmt.Sprintf("refused: %s: %s", e.Reason, e.Text)
}

func refuse(reason Reason, format string, args ...any) *RefusedError {
	return &RefusedError{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// clip makes what is said to the other end, or by it, fit for it and for a log.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "?")
	return strings.ToValidUTF8(text[:min(len(text), textMax)], "")
}

func writeMessage(w io.Writer, m *message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(body) > messageMax {
		return fmt.Errorf("a message of %d bytes, limit %d", len(body), messageMax)
	}
	b := make([]byte, 4, 4+len(body))
	b[0], b[1], b[2], b[3] = byte(len(body)>>24), byte(len(body)>>16), byte(len(body)>>8), byte(len(body))
	_, err = w.Write(append(b, body...))
	return err
}

// readMessage reads the next message, which must be of the kind, unless that is empty.
// One that refuses is a [*RefusedError].
func readMessage(r io.Reader, kind string) (*message, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	n := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if n > messageMax {
		return nil, refuse(Garbage, "a message of %d bytes, limit %d", n, messageMax)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, refuse(Garbage, "a message that is none: %v", err)
	}
	m.Name, m.Why, m.Text = clip(m.Name), clip(m.Why), clip(m.Text)
	if m.Kind == kindRefuse {
		known := Garbage
		for _, r := range Reasons() {
			if r == m.Reason {
				known = r
			}
		}
		return nil, &RefusedError{Reason: known, Text: m.Text, Theirs: true}
	}
	if kind != "" && m.Kind != kind {
		return nil, refuse(Garbage, "a message %q instead of %q", clip(m.Kind), kind)
	}
	return m, nil
}
