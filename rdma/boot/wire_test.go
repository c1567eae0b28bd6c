package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma/collective"
)

func TestWhatIsEncodedDecodes(t *testing.T) {
	h := hello{wire: 1, version: 9, config: [32]byte{1}, proof: [32]byte{2}, id: "a", build: "v1"}
	if got, err := decodeHello(h.encode()); err != nil || got != h {
		t.Errorf("hello: %+v, %v", got, err)
	}
	b := beat{regular: true, hears: collective.Of(0, 2), sent: 1, echo: -2, echoed: 3, status: []byte("s")}
	if got, err := decodeBeat(b.encode(), 3); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("beat: %+v, %v", got, err)
	}
	if _, err := decodeBeat(b.encode(), 2); err == nil {
		t.Error("a beat that hears a peer 2 of 2 is taken")
	}
	j := join{wire: 1, token: "t", id: "b", address: "h:1", proof: [32]byte{3}}
	if got, err := decodeJoin(j.encode()); err != nil || got != j {
		t.Errorf("join: %+v, %v", got, err)
	}
	sum := sha256.Sum256(nil)
	peers := []Peer{{ID: "a", Address: "h:1", Pins: []string{pinPrefix + base64.StdEncoding.EncodeToString(sum[:])}}, {ID: "b", Address: "h:2"}}
	if got, err := decodePeers(encodePeers(peers)); err != nil || !reflect.DeepEqual(got, peers) {
		t.Errorf("peers: %+v, %v", got, err)
	}
	if r, text, err := decodeRefusal(encodeRefusal(Version, "why")); err != nil || r != Version || text != "why" {
		t.Errorf("refusal: %s, %s, %v", r, text, err)
	}
}

func TestAFrameTakesNoMoreMemoryThanHasCome(t *testing.T) {
	head := []byte{0, 0, 0, 1, byte(kindMessage)} // 16 MiB, says it
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := readFrame(bytes.NewReader(head), frameMax); err == nil {
		t.Error("a frame without a body is taken")
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("took %d bytes", got)
	}
}

// FuzzDecode checks that decoders read nothing beyond their input, and that what they
// take encodes to the bytes it was read from.
func FuzzDecode(f *testing.F) {
	h := hello{id: "a", build: "b"}
	b := beat{regular: true, hears: 1, status: []byte("x")}
	j := join{token: "t", id: "a", address: "h:1"}
	f.Add(appendFrame(nil, kindHello, h.encode()))
	f.Add(appendFrame(nil, kindBeat, b.encode()))
	f.Add(appendFrame(nil, kindJoin, j.encode()))
	f.Add(appendFrame(nil, kindRefuse, encodeRefusal(Token, "no")))
	f.Add(appendFrame(nil, kindWelcome, encodePeers([]Peer{{ID: "a", Address: "h:1"}})))
	f.Add([]byte{0, 0, 0, 1, 5})
	f.Fuzz(func(t *testing.T, in []byte) {
		k, body, err := readFrame(bytes.NewReader(in), frameMax)
		if err != nil {
			return
		}
		if frame := appendFrame(nil, k, body); !bytes.HasPrefix(in, frame) {
			t.Errorf("frame %x of %x", frame, in)
		}
		same := func(again []byte, err error) {
			if err == nil && !bytes.Equal(again, body) {
				t.Errorf("kind %d: %x of %x", k, again, body)
			}
		}
		hello, err := decodeHello(body)
		same(hello.encode(), err)
		beat, err := decodeBeat(body, 16)
		same(beat.encode(), err)
		join, err := decodeJoin(body)
		same(join.encode(), err)
		peers, err := decodePeers(body)
		if err == nil {
			same(encodePeers(peers), nil)
		}
		_, _, _ = decodeRefusal(body)
	})
}

func TestAClockFindsTheOffsetOfTheShortestRoundTrip(t *testing.T) {
	const ahead = int64(5 * time.Second)
	var c clock
	if _, _, _, ok := c.now(); ok {
		t.Error("a clock knows before it was told")
	}
	now := int64(1e18)
	for i, way := range []struct{ there, back int64 }{{300, 100}, {100, 100}, {900, 100}, {100, 2000}} {
		t1 := now + int64(i)*1e9
		t2 := t1 + way.there*1e3 + ahead
		t3 := t2 + 1e8
		c.take(t1, t2, t3, t3+way.back*1e3-ahead)
	}
	c.take(now, now, now, now-1)   // the clock was set back
	c.take(now+1e9, now, now-5, 0) // nonsense
	last, best, offset, ok := c.now()
	if !ok || last != 2100*time.Microsecond || best != 200*time.Microsecond || offset != time.Duration(ahead) {
		t.Errorf("now = %v, %v, %v, %v", last, best, offset, ok)
	}
}
