//nolint:thelper // forms runs tests: a failure is where it is
package frame

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

var errNoKey = errors.New("no key")

// keysOf gives every direction between two peers a key of its own.
func keysOf(me int) func(int) ([32]byte, [32]byte, error) {
	return func(peer int) (send, receive [32]byte, err error) {
		send[0], send[1], send[2] = 0x5a, byte(me), byte(peer)
		receive[0], receive[1], receive[2] = 0x5a, byte(peer), byte(me)
		return send, receive, nil
	}
}

func codec(tb testing.TB, me int, epoch uint64, sealed bool) *Codec {
	tb.Helper()
	c := Config{Me: me, Epoch: epoch}
	if sealed {
		c.Keys = keysOf(me)
	}
	k, err := NewCodec(c, 0b111)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func forms(t *testing.T, f func(t *testing.T, sealed bool)) {
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed=%v", sealed), func(t *testing.T) { f(t, sealed) })
	}
}

func TestWhatIsEncodedComesBack(t *testing.T) {
	forms(t, func(t *testing.T, sealed bool) {
		a, b := codec(t, 0, 9, sealed), codec(t, 2, 9, sealed)
		for _, n := range []int{0, 1, 8, 63, 64, 65, 1000, PayloadMax - 1, PayloadMax} {
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(rand.Uint32())
			}
			h := Header{Kind: Sparse, Op: 3, Round: 1 << 40, Total: 1 << 33, Offset: 1 << 32}
			frame := a.Seal([]byte("before"), 2, &h, payload)[len("before"):]
			if len(frame) != a.FrameBytes(n) {
				t.Fatalf("%d bytes: a frame of %d, FrameBytes says %d", n, len(frame), a.FrameBytes(n))
			}
			if sealed && n > 8 && bytes.Contains(frame, payload) {
				t.Fatalf("%d bytes: the payload is in clear", n)
			}
			if total, err := b.Peek(frame[:HeaderBytes]); total != len(frame) || err != nil {
				t.Fatalf("%d bytes: Peek = %d, %v", n, total, err)
			}
			var got Header
			back, err := b.Open(0, &got, frame)
			if err != nil || !bytes.Equal(back, payload) {
				t.Fatalf("%d bytes: Open: %v, payload equal %v", n, err, bytes.Equal(back, payload))
			}
			want := Header{
				Kind: Sparse, Op: 3, Source: 0, Dest: 2, Epoch: 9, Round: 1 << 40,
				Total: 1 << 33, Offset: 1 << 32, Length: uint32(n),
			}
			if got != want || h != want {
				t.Fatalf("%d bytes: header %+v, sent as %+v, want %+v", n, got, h, want)
			}
		}
	})
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	forms(t, func(t *testing.T, sealed bool) {
		frame := codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: Dense, Round: 1}, []byte("seventeen bytes !"))
		for bit := range 8 * len(frame) {
			flipped := bytes.Clone(frame)
			flipped[bit/8] ^= 1 << (bit % 8)
			b := codec(t, 1, 9, sealed)
			var h Header
			if _, err := b.Open(0, &h, flipped); err == nil {
				t.Errorf("byte %d, bit %d: accepted", bit/8, bit%8)
			} else if b.Count(err) != 1 {
				t.Errorf("byte %d, bit %d: %v is not counted", bit/8, bit%8, err)
			}
			if _, err := b.Open(0, &h, bytes.Clone(frame)); err != nil {
				t.Fatalf("byte %d, bit %d: the right frame after it: %v", bit/8, bit%8, err)
			}
		}
	})
}

func TestEveryLengthButTheRightOneIsRefused(t *testing.T) {
	forms(t, func(t *testing.T, sealed bool) {
		frame := codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: Dense, Round: 1}, make([]byte, 24))
		long := append(bytes.Clone(frame), make([]byte, 40)...)
		b := codec(t, 1, 9, sealed)
		for n := range len(long) {
			var h Header
			if _, err := b.Open(0, &h, long[:n:n]); n != len(frame) && !errors.Is(err, ErrShort) {
				t.Errorf("%d of %d bytes: %v, want %v", n, len(frame), err, ErrShort)
			}
		}
	})
}

func TestAFrameIsRefusedForItsReason(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
		make func(t *testing.T, sealed bool) (from int, frame []byte)
	}{
		{"of another epoch", ErrEpoch, func(t *testing.T, sealed bool) (int, []byte) {
			return 0, codec(t, 0, 8, sealed).Seal(nil, 1, &Header{Kind: Dense}, nil)
		}},
		{"sent by another peer", ErrSource, func(t *testing.T, sealed bool) (int, []byte) {
			return 2, codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: Dense}, nil)
		}},
		{"from no member", ErrSource, func(t *testing.T, sealed bool) (int, []byte) {
			return 7, codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: Dense}, nil)
		}},
		{"for another peer", ErrSource, func(t *testing.T, sealed bool) (int, []byte) {
			return 0, codec(t, 0, 9, sealed).Seal(nil, 2, &Header{Kind: Dense}, nil)
		}},
		{"of kind 0", ErrKind, func(t *testing.T, sealed bool) (int, []byte) {
			return 0, codec(t, 0, 9, sealed).Seal(nil, 1, &Header{}, nil)
		}},
		{"of a kind to come", ErrKind, func(t *testing.T, sealed bool) (int, []byte) {
			return 0, codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: kindCount}, nil)
		}},
		{"sealed, or not, as agreed", ErrSeal, func(t *testing.T, sealed bool) (int, []byte) {
			return 0, codec(t, 0, 9, !sealed).Seal(nil, 1, &Header{Kind: Dense}, nil)
		}},
		{"after one that is missing", ErrGap, func(t *testing.T, sealed bool) (int, []byte) {
			a := codec(t, 0, 9, sealed)
			a.Seal(nil, 1, &Header{Kind: Dense}, nil)
			return 0, a.Seal(nil, 1, &Header{Kind: Dense}, nil)
		}},
		{"garbage", ErrMagic, func(*testing.T, bool) (int, []byte) {
			return 0, bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 8)
		}},
		{"empty", ErrShort, func(*testing.T, bool) (int, []byte) { return 0, nil }},
		{"of another version", ErrVersion, func(t *testing.T, sealed bool) (int, []byte) {
			f := codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: Dense}, nil)
			f[atVersion]++
			return 0, f
		}},
		{"longer than any frame", ErrLength, func(t *testing.T, sealed bool) (int, []byte) {
			f := codec(t, 0, 9, sealed).Seal(nil, 1, &Header{Kind: Dense}, nil)
			le.PutUint32(f[atLength:], PayloadMax+1)
			return 0, f
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			forms(t, func(t *testing.T, sealed bool) {
				b := codec(t, 1, 9, sealed)
				from, frame := c.make(t, sealed)
				var h Header
				if _, err := b.Open(from, &h, frame); !errors.Is(err, c.want) || b.Count(c.want) != 1 {
					t.Errorf("Open = %v, counted %d; want %v, counted once", err, b.Count(c.want), c.want)
				}
			})
		})
	}
}

func TestAWrongKeyIsABrokenSeal(t *testing.T) {
	a, b := codec(t, 0, 9, true), codec(t, 1, 9, true)
	other, err := NewCodec(Config{Me: 0, Epoch: 9, Keys: func(int) (s, r [32]byte, err error) { return s, r, nil }}, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	var h Header
	if _, err := b.Open(0, &h, other.Seal(nil, 1, &Header{Kind: Dense}, nil)); !errors.Is(err, ErrSeal) {
		t.Errorf("another key: %v, want %v", err, ErrSeal)
	}
	// A frame that comes back to its sender is not taken for the peer's.
	if _, err := a.Open(1, &h, a.Seal(nil, 1, &Header{Kind: Dense}, nil)); err == nil {
		t.Error("our own frame, reflected, is accepted")
	}
}

func TestAReplayIsRefused(t *testing.T) {
	forms(t, func(t *testing.T, sealed bool) {
		a, b := codec(t, 0, 9, sealed), codec(t, 1, 9, sealed)
		first := a.Seal(nil, 1, &Header{Kind: Dense, Round: 1}, []byte("a"))
		second := a.Seal(nil, 1, &Header{Kind: Dense, Round: 2}, []byte("b"))
		var h Header
		for i, f := range [][]byte{first, second} {
			if _, err := b.Open(0, &h, bytes.Clone(f)); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
		}
		for i, f := range [][]byte{second, first} {
			if _, err := b.Open(0, &h, bytes.Clone(f)); !errors.Is(err, ErrReplay) {
				t.Errorf("replay %d: %v, want %v", i, err, ErrReplay)
			}
		}
		if b.Count(ErrReplay) != 2 {
			t.Errorf("%d replays counted, want 2", b.Count(ErrReplay))
		}
	})
}

// A codec that takes the place of another in the same epoch, with the same keys, neither
// accepts the frames of that nor seals any two alike.
func TestLanesDoNotMix(t *testing.T) {
	forms(t, func(t *testing.T, sealed bool) {
		lane := func(me int, lane uint16) *Codec {
			c := Config{Me: me, Epoch: 9, Lane: lane}
			if sealed {
				c.Keys = keysOf(me)
			}
			k, err := NewCodec(c, 0b11)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		payload, h := []byte("the same"), Header{Kind: Dense, Round: 1}
		first, second := lane(0, 0).Seal(nil, 1, &h, payload), lane(0, 1).Seal(nil, 1, &h, payload)
		if sealed && bytes.Equal(first[HeaderBytes:], second[HeaderBytes:]) {
			t.Error("two lanes seal alike: a nonce was used twice")
		}
		var got Header
		b := lane(1, 1)
		if _, err := b.Open(0, &got, first); !errors.Is(err, ErrReplay) {
			t.Errorf("a frame of the lane before: %v, want %v", err, ErrReplay)
		}
		if _, err := b.Open(0, &got, second); err != nil {
			t.Errorf("a frame of the lane: %v", err)
		}
	})
}

func TestOnePayloadForSeveralIsSummedOnce(t *testing.T) {
	a, payload := codec(t, 0, 9, false), []byte("the same for all")
	sum := Sum(payload)
	for to := 1; to <= 2; to++ {
		var header [HeaderBytes]byte
		a.HeaderSum(&header, to, &Header{Kind: Dense, Dest: AnyDest}, len(payload), sum)
		var h Header
		if _, err := codec(t, to, 9, false).Open(0, &h, append(header[:], payload...)); err != nil || h.Dest != AnyDest {
			t.Errorf("peer %d: %v, dest %d", to, err, h.Dest)
		}
	}
}

func TestACodecSaysWhatIsWrongWithItsConfig(t *testing.T) {
	for name, c := range map[string]Config{
		"limit":    {Max: PayloadMax + 1},
		"negative": {Max: -1},
		"me":       {Me: PeersMax},
		"no key":   {Keys: func(int) (s, r [32]byte, err error) { return s, r, errNoKey }},
	} {
		if _, err := NewCodec(c, 0b11); err == nil || (c.Keys != nil && !errors.Is(err, errNoKey)) {
			t.Errorf("%s: NewCodec = %v", name, err)
		}
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons {
		name := ReasonName(fmt.Errorf("peer 3: %w", r))
		if name == "" || seen[name] {
			t.Errorf("%v is called %q", r, name)
		}
		seen[name] = true
	}
	if len(Reasons) != reasonCount || ReasonName(errNoKey) != "" {
		t.Errorf("%d reasons, want %d; another error is called %q", len(Reasons), reasonCount, ReasonName(errNoKey))
	}
}

func TestNothingAllocates(t *testing.T) {
	forms(t, func(t *testing.T, sealed bool) {
		a, b := codec(t, 0, 9, sealed), codec(t, 1, 9, sealed)
		payload, frame, h, got := make([]byte, 1024), make([]byte, 0, 2048), Header{Kind: Dense}, Header{}
		if n := testing.AllocsPerRun(100, func() {
			f := a.Seal(frame, 1, &h, payload)
			if _, err := b.Open(0, &got, f); err != nil {
				panic(err)
			}
			if _, err := b.Open(0, &got, f[:40]); err == nil {
				panic("a short frame")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// FuzzOpen checks that Open never reads outside the frame and that what it accepts
// encodes back to the same bytes.
func FuzzOpen(f *testing.F) {
	a := codec(f, 0, 9, false)
	f.Add(a.Seal(nil, 1, &Header{Kind: Dense, Round: 1, Total: 5}, []byte("hello")), false)
	f.Add(codec(f, 0, 9, true).Seal(nil, 1, &Header{Kind: Have, Round: 3}, nil), true)
	f.Add(codec(f, 0, 8, false).Seal(nil, 1, &Header{Kind: Probe, Dest: AnyDest}, make([]byte, 300)), false)
	f.Add([]byte("hrx1"), false)
	f.Fuzz(func(t *testing.T, in []byte, sealed bool) {
		// A right sum is beyond the fuzzer: give what looks like a frame one.
		for range 2 {
			check(t, in, sealed)
			if sealed || len(in) < HeaderBytes {
				return
			}
			in = bytes.Clone(in)
			le.PutUint32(in[atSum:], 0)
			le.PutUint32(in[atSum:], crc32.Update(Sum(in[HeaderBytes:]), castagnoli, in[:HeaderBytes]))
		}
	})
}

func check(t *testing.T, in []byte, sealed bool) {
	t.Helper()
	b := codec(t, 1, 9, sealed)
	frame := bytes.Clone(in)
	frame = frame[:len(frame):len(frame)]
	var h Header
	payload, err := b.Open(0, &h, frame)
	if err != nil {
		if b.Count(err) != 1 {
			t.Fatalf("%v is not counted", err)
		}
		return
	}
	if int(h.Length) != len(payload) || h.Epoch != 9 || h.Source != 0 {
		t.Fatalf("accepted %+v with %d bytes", h, len(payload))
	}
	if back := codec(t, 0, 9, sealed).Seal(nil, 1, &h, payload); !bytes.Equal(back, in) {
		t.Fatalf("accepted % x, encodes as % x", in, back)
	}
}

func BenchmarkCodec(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		for _, n := range []int{8, 1024, PayloadMax} {
			b.Run(fmt.Sprintf("sealed=%v/bytes=%d", sealed, n), func(b *testing.B) {
				x, y := codec(b, 0, 9, sealed), codec(b, 1, 9, sealed)
				payload, frame, h, got := make([]byte, n), make([]byte, 0, n+128), Header{Kind: Dense}, Header{}
				b.ReportAllocs()
				b.SetBytes(int64(n))
				for b.Loop() {
					if _, err := y.Open(0, &got, x.Seal(frame, 1, &h, payload)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
