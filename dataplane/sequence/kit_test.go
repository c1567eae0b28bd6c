package sequence

import (
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// feed returns a feed with room for everything that these tests hold.
func feed(p plan.Sequence) *plan.Feed {
	return &plan.Feed{Name: "test", Sequence: p, Channels: 4, HoldPackets: 64, HoldBytes: 1 << 16, HoldFor: time.Second}
}

func newSequencer(t interface {
	Fatal(...any)
	Cleanup(func())
}, f *plan.Feed,
) *Sequencer {
	r, err := arena.New("test", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	s, err := New(f, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// iex builds an IEX-TP packet; no messages make it a heartbeat.
func iex(channel, session uint32, seq uint64, sent event.Nanos, messages ...string) []byte {
	b := make([]byte, iexHeader)
	b[0] = iexVersion
	binary.LittleEndian.PutUint16(b[2:], protocolDEEP10)
	binary.LittleEndian.PutUint32(b[4:], channel)
	binary.LittleEndian.PutUint32(b[8:], session)
	binary.LittleEndian.PutUint16(b[14:], uint16(len(messages)))
	binary.LittleEndian.PutUint64(b[24:], seq)
	binary.LittleEndian.PutUint64(b[32:], uint64(sent))
	for _, m := range messages {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	binary.LittleEndian.PutUint16(b[12:], uint16(len(b)-iexHeader))
	return b
}

// mold builds a MoldUDP64 packet; no messages make it a heartbeat.
func mold(session string, seq uint64, messages ...string) []byte {
	b := make([]byte, moldHeader)
	copy(b, (session + strings.Repeat(" ", 10))[:10])
	binary.BigEndian.PutUint64(b[10:], seq)
	binary.BigEndian.PutUint16(b[18:], uint16(len(messages)))
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// moldStop builds an end of session whose next number would be seq.
func moldStop(session string, seq uint64) []byte {
	b := mold(session, seq)
	binary.BigEndian.PutUint16(b[18:], moldEnd)
	return b
}

// message returns message number k of a body.
func message(p plan.Sequence, body []byte, k int) string {
	var order binary.ByteOrder = binary.LittleEndian
	if p == plan.MoldUDP64 {
		order = binary.BigEndian
	}
	for ; k > 0; k-- {
		body = body[2+order.Uint16(body):]
	}
	return string(body[2 : 2+order.Uint16(body)])
}

// A ledger adds releases up and checks that each balances.
type ledger struct {
	frames, messages, cut                                       uint64
	fresh, unheld, duplicate, ancient, missing, droppedMessages uint64
	framesHeld, framesUnheld                                    int
	heartbeats, epochs, newEpochs, channels, retired            int
	drops, fates                                                event.Drops
}

// add takes a release in; packet says that it is of a packet, not of Rest's first
// part, Expire or Finish.
func (l *ledger) add(t interface{ Fatalf(string, ...any) }, r *Release) {
	l.messages += r.Messages
	l.cut += r.Cut
	l.duplicate += r.Duplicate
	l.ancient += r.Ancient
	l.missing += r.Missing
	l.framesUnheld += r.Unheld
	var fresh, unheld, missing uint64
	for _, it := range r.Items {
		if it.Gap.Count > 0 {
			missing += it.Gap.Count
			continue
		}
		switch {
		case it.Span.Count <= 0 || it.Span.Skip < 0:
			t.Fatalf("a span of %d messages from %d", it.Span.Count, it.Span.Skip)
		case it.Span.Held:
			unheld += uint64(it.Span.Count)
		default:
			fresh += uint64(it.Span.Count)
		}
		if it.Span.NewEpoch {
			l.newEpochs++
		}
	}
	l.fresh += fresh
	l.unheld += unheld
	if fresh != r.Fresh || missing != r.Missing {
		t.Fatalf("spans hold %d fresh messages and gaps %d, the release says %d and %d", fresh, missing, r.Fresh, r.Missing)
	}
	if r.Drop != event.Kept {
		l.droppedMessages += r.Messages
		if r.Fresh+r.Duplicate+r.Held+r.Ancient+uint64(len(r.Items)) != 0 {
			t.Fatalf("a dropped packet has an account: %+v", r)
		}
	} else if r.Messages != r.Fresh+r.Duplicate+r.Held+r.Ancient {
		t.Fatalf("messages %d, want fresh %d + duplicate %d + held %d + ancient %d", r.Messages, r.Fresh, r.Duplicate, r.Held, r.Ancient)
	}
	if r.Held > 0 {
		if r.Fresh > 0 {
			t.Fatalf("a packet is both held and let through")
		}
		l.framesHeld++
	}
	if r.Began {
		l.epochs++
	}
	if r.New {
		l.channels++
	}
	if r.Retired >= 0 {
		l.retired++
		if r.Retired != r.Channel {
			t.Fatalf("retired is %d in a release of channel %d", r.Retired, r.Channel)
		}
	}
	if r.Heartbeat {
		l.heartbeats++
	}
	l.drops[r.Drop]++
}

// balance checks the ledger against what is held.
func (l *ledger) balance(t interface{ Fatalf(string, ...any) }, s *Sequencer) {
	if got := l.fresh + l.unheld + l.duplicate + l.ancient + l.droppedMessages + s.HeldMessages(); got != l.messages {
		t.Fatalf("messages %d, want fresh %d + unheld %d + duplicate %d + ancient %d + dropped %d + in flight %d",
			l.messages, l.fresh, l.unheld, l.duplicate, l.ancient, l.droppedMessages, s.HeldMessages())
	}
	if l.framesHeld != l.framesUnheld+s.HeldPackets() {
		t.Fatalf("%d packets went into the hold, %d left it, %d are in it", l.framesHeld, l.framesUnheld, s.HeldPackets())
	}
}

// push gives s a packet and returns its releases' account.
func (l *ledger) push(t interface{ Fatalf(string, ...any) }, s *Sequencer, payload []byte, line uint8, at event.Nanos, truncated bool, see func(*Release)) {
	l.frames++
	for r := s.Push(payload, line, at, truncated); r != nil; r = s.Rest() {
		l.add(t, r)
		if !r.More {
			l.fates[r.Fate()]++
		}
		if see != nil {
			see(r)
		}
	}
}

func (l *ledger) finish(t interface{ Fatalf(string, ...any) }, s *Sequencer, see func(*Release)) {
	for r := s.Finish(); r != nil; r = s.Finish() {
		l.add(t, r)
		if see != nil {
			see(r)
		}
	}
	if s.HeldMessages() != 0 || s.HeldPackets() != 0 {
		t.Fatalf("%d packets with %d messages are held after the end", s.HeldPackets(), s.HeldMessages())
	}
	l.balance(t, s)
}

// A record is a UDP payload of a capture.
type record struct {
	payload   []byte
	at        event.Nanos
	truncated bool
}

// capture reads the UDP payloads of a little-endian pcap file: Ethernet, VLAN
// tags, IPv4.
func capture(tb testing.TB, path string) []record {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var src io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if src, err = gzip.NewReader(f); err != nil {
			tb.Fatal(err)
		}
	}
	b, err := io.ReadAll(src)
	if err != nil {
		tb.Fatal(err)
	}
	u16, u32 := binary.BigEndian.Uint16, binary.LittleEndian.Uint32
	unit, known := map[uint32]event.Nanos{0xA1B2C3D4: 1e3, 0xA1B23C4D: 1}[u32(b)]
	if !known {
		tb.Fatalf("%s begins with %x: not a little-endian pcap", path, b[:4])
	}
	var records []record
	for b = b[24:]; len(b) >= 16; {
		at := event.Nanos(u32(b))*1e9 + event.Nanos(u32(b[4:]))*unit
		n := min(int(u32(b[8:])), len(b)-16)
		p := b[16 : 16+n]
		b = b[16+n:]
		eth := 14
		for eth+20 <= len(p) && u16(p[eth-2:]) == 0x8100 {
			eth += 4
		}
		if eth+20 > len(p) || u16(p[eth-2:]) != 0x0800 || p[eth+9] != 17 {
			continue
		}
		udp := eth + int(p[eth]&15)*4
		length := int(u16(p[udp+4:])) - 8
		payload := p[udp+8:]
		cut := length > len(payload)
		if !cut {
			payload = payload[:length]
		}
		records = append(records, record{payload, at, cut})
	}
	return records
}
