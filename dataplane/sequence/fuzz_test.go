package sequence

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// FuzzParse checks that Parse stays inside its input and that what it keeps is what
// a walk over the blocks finds.
func FuzzParse(f *testing.F) {
	f.Add(true, false, iex(1, 7, 5, 99, "ab", "", "cde"))
	f.Add(true, true, iex(1, 7, 5, 99, "ab", "", "cde")[:50])
	f.Add(false, false, mold("s", 5, "ab", "", "cde"))
	f.Add(false, false, moldStop("s", 5))
	f.Fuzz(func(t *testing.T, isIEX, truncated bool, payload []byte) {
		p, parse := plan.MoldUDP64, Parse
		if isIEX {
			p = plan.IEXTP
		}
		if truncated {
			parse = ParseTruncated
		}
		// A reader behind the payload would see these bytes.
		padded := append(payload[:len(payload):len(payload)], 0xFF, 0xFF, 0xFF, 0xFF)
		h, drop := parse(p, padded[:len(payload):len(payload)])
		if drop != event.Kept {
			if drop != event.DropShort && drop != event.DropTruncated && drop != event.DropVersion && drop != event.DropLength {
				t.Fatalf("drop is %v", drop)
			}
			return
		}
		if h.Whole > h.Count || h.Whole < h.Count && !truncated || len(h.Body) > len(payload) || h.Seq+uint64(h.Count) < h.Seq {
			t.Fatalf("header %+v of %d bytes", h, len(payload))
		}
		if (h.Kind == Data) != (h.Count > 0) {
			t.Fatalf("kind %d with %d messages", h.Kind, h.Count)
		}
		n := 0
		for body := h.Body; len(body) > 0; n++ {
			size := int(binary.BigEndian.Uint16(body))
			if isIEX {
				size = int(binary.LittleEndian.Uint16(body))
			}
			body = body[2+size:]
		}
		if n != h.Whole {
			t.Fatalf("%d messages in the body, want %d", n, h.Whole)
		}
	})
}

// FuzzPush reads a stream of packets from its input, six bytes each (channel and
// session, first number, count and length, send time, time that passes, what else),
// and checks the account of every release, that no message is let through twice,
// and that epochs after the first are in order.
func FuzzPush(f *testing.F) {
	f.Add(true, []byte{0, 20, 2, 20, 1, 0, 0, 26, 2, 22, 1, 0, 0, 22, 4, 21, 1, 0, 0, 1, 3, 40, 9, 0})
	f.Add(false, []byte{0, 20, 2, 0, 1, 0, 0, 24, 0, 0, 1, 2, 0, 22, 2, 0, 1, 0, 0, 22, 2, 0, 1, 0})
	f.Fuzz(func(t *testing.T, isIEX bool, data []byte) {
		p := plan.MoldUDP64
		if isIEX {
			p = plan.IEXTP
		}
		fd := feed(p)
		fd.Channels, fd.HoldPackets, fd.HoldBytes, fd.HoldFor = 2, 3, 60, 20
		s, l := newSequencer(t, fd), &ledger{}
		seen := map[string]bool{}
		last := map[string]uint64{}
		run := 0 // a session that returns is another channel
		see := func(r *Release) {
			if r.New {
				run++
				last[fmt.Sprint(r.Channel)] = uint64(run)
			}
			for _, it := range r.Items {
				for k := range it.Span.Count {
					if it.Gap.Count > 0 {
						break
					}
					seq := it.Span.Seq + uint64(k)
					where := fmt.Sprintf("%d.%d.%d", r.Channel, last[fmt.Sprint(r.Channel)], it.Span.Epoch)
					if m := fmt.Sprint(where, ".", seq); seen[m] {
						t.Fatalf("message %s is let through twice", m)
					} else {
						seen[m] = true
					}
					if it.Span.Epoch > 1 && seq <= last[where] {
						t.Fatalf("message %s.%d after %d", where, seq, last[where])
					}
					last[where] = seq
				}
			}
		}
		now := event.Nanos(0)
		for ; len(data) >= 6; data = data[6:] {
			now += event.Nanos(data[4] % 32)
			seq := uint64(data[1])
			if data[5]&0x40 != 0 {
				seq <<= 55
			}
			ms := texts(int(data[2] & 7))
			for k := range ms {
				ms[k] = ms[k][:data[2]>>3&15]
			}
			b := mold(fmt.Sprint(data[0]%5), seq, ms...)
			if isIEX {
				b = iex(uint32(data[0]%3), uint32(data[0]>>4%2), seq, event.Nanos(data[3]), ms...)
			} else if data[5]&2 != 0 {
				b = moldStop(fmt.Sprint(data[0]%5), seq)
			}
			truncated := data[5]&4 != 0
			if truncated {
				b = b[:len(b)-min(len(b), int(data[5]>>3&7))]
			}
			l.push(t, s, b, data[5]&1, now, truncated, see)
			if data[5]&0x80 != 0 {
				for r := s.Expire(now); r != nil; r = s.Expire(now) {
					l.add(t, r)
					see(r)
				}
			}
			l.balance(t, s)
		}
		l.finish(t, s, see)
	})
}
