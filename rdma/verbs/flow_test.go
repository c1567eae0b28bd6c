//go:build linux && cgo && rdma

package verbs

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

var (
	_ rdma.Transport = (*Transport)(nil)
	_ rdma.Mesh      = (*mesh)(nil)
)

func TestNoDevice(t *testing.T) {
	if list, _ := os.ReadDir("/sys/class/infiniband"); len(list) > 0 {
		t.Skip("there are RDMA devices here")
	}
	_, err := New(Config{GIDIndex: -1})
	if !errors.Is(err, ErrNoVerbs) {
		t.Fatalf("New = %v, want ErrNoVerbs", err)
	}
	if why := strings.TrimPrefix(err.Error(), "verbs: "+ErrNoVerbs.Error()+": "); why == err.Error() || why == "" {
		t.Errorf("New = %q: no reason", err)
	} else {
		t.Log(err)
	}
}

func TestWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.IntRange(wordFrame, wordWelcome).Draw(t, "kind")
		slot := rapid.Uint64Range(0, slotsMax-1).Draw(t, "slot")
		back := rapid.Uint64().Draw(t, "returned")
		w := makeWord(kind, slot, back)
		if w.kind() != kind || w.slot() != slot || w.returned() != uint16(back) {
			t.Fatalf("makeWord(%d, %d, %d) = %d, %d, %d", kind, slot, back, w.kind(), w.slot(), w.returned())
		}
	})
}

// TestFlow lets two peers exchange frames in any order of steps: none overruns the
// other, no more words are under way than receives are posted for, and once both read,
// both can send again.
func TestFlow(t *testing.T) {
	type end struct {
		flow
		wire     []word // under way to this end
		complete uint64
	}
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.Uint64Range(slotsMin, 9).Draw(t, "slots")
		start := rapid.SampledFrom([]uint64{0, 1<<16 - 3, 1<<32 - 2}).Draw(t, "start") / slots * slots
		var ends [2]*end
		for i := range ends {
			ends[i] = &end{flow: flow{
				slots: slots, sent: start, done: start, credited: start,
				arrived: start, read: start, released: start, returned: start,
			}}
		}
		poll := func(e, other *end, k int) {
			e.released = e.read
			for ; k > 0 && len(e.wire) > 0; k-- {
				if err := e.receive(e.wire[0]); err != nil {
					t.Fatal(err)
				}
				e.wire = e.wire[1:]
			}
			if e.due() {
				other.wire = append(other.wire, e.word(wordCredit, 0))
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "end")
			e, other := ends[i], ends[1-i]
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if e.room() > 0 {
					_, w := e.send()
					other.wire = append(other.wire, w)
				}
			case 1:
				poll(e, other, rapid.IntRange(0, 4).Draw(t, "take"))
			case 2:
				e.read = rapid.Uint64Range(e.read, e.arrived).Draw(t, "read")
			case 3:
				e.done = rapid.Uint64Range(e.done, e.sent).Draw(t, "done")
			}
			if n := uint64(len(other.wire)); n > slots+wordsMax-1 { // one is hello's
				t.Fatalf("%d words under way with %d slots", n, slots)
			}
			if r := e.room(); r < 0 || uint64(r) > slots {
				t.Fatalf("room for %d of %d", r, slots)
			}
		}
		for range 4 {
			for i, e := range ends {
				e.done = e.sent
				e.read = e.arrived
				poll(e, ends[1-i], 100)
			}
		}
		for i, e := range ends {
			if e.room() == 0 {
				t.Fatalf("end %d has no room although everything was read: %+v", i, e.flow)
			}
		}
	})
}

func TestFlowRefuses(t *testing.T) {
	fresh := func() flow { return flow{slots: 2, sent: 1} }
	for _, tt := range []struct {
		name  string
		words []word
		want  error
	}{
		{"credits for what was not sent", []word{makeWord(wordCredit, 0, 2)}, errCredit},
		{"credits taken back", []word{makeWord(wordCredit, 0, 1), makeWord(wordCredit, 0, 0)}, errCredit},
		{"a slot out of turn", []word{makeWord(wordFrame, 1, 0)}, errSlot},
		{"more frames than slots", []word{makeWord(wordFrame, 0, 0), makeWord(wordFrame, 1, 0), makeWord(wordFrame, 0, 0)}, errRing},
	} {
		f := fresh()
		var err error
		for _, w := range tt.words {
			if err = f.receive(w); err != nil {
				break
			}
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestRepetition has the same words come twice: empty, as the device may do, and with a
// frame, as a peer must not.
func TestRepetition(t *testing.T) {
	m := &mesh{me: 0, live: collective.Of(1)}
	p := &peer{flow: flow{slots: 4}, id: 1, lens: make([]uint32, 4), last: noWord}
	for i, step := range []struct {
		w      word
		length uint32
		come   uint64
		want   error
	}{
		{makeWord(wordCredit, 0, 0), 0, 0, nil},
		{makeWord(wordCredit, 0, 0), 0, 0, nil},
		{makeWord(wordFrame, 0, 0), 64, 1, nil},
		{makeWord(wordFrame, 0, 0), 0, 1, nil},
		{makeWord(wordFrame, 1, 0), 99, 2, nil},
		{makeWord(wordFrame, 1, 0), 99, 2, errSlot},
		{makeWord(wordHello, 0, 0), 0, 2, errOrder},
	} {
		if err := m.received(p, step.w, step.length); !errors.Is(err, step.want) || p.arrived != step.come {
			t.Errorf("step %d: %v with %d frames, want %v with %d", i, err, p.arrived, step.want, step.come)
		}
	}
	if p.lens[0] != 64 || p.lens[1] != 99 {
		t.Errorf("lengths %v, want 64 and 99", p.lens)
	}
}

func TestOffer(t *testing.T) {
	mine := offer{epoch: 7, from: 1, to: 2, slots: 16, slotBytes: slotBytes, mtu: 3}
	good := offer{
		epoch: 7, gid: [16]byte{10: 255, 11: 255, 12: 10}, qpn: 0x123456, psn: 0xfedcba, rkey: 77, addr: 1 << 40,
		mtu: 5, slots: 16, slotBytes: slotBytes, from: 2, to: 1,
	}
	var got offer
	if err := got.parse(good.bytes(), 2, &mine); err != nil || got != good {
		t.Fatalf("parse = %+v, %v, want %+v", got, err, good)
	}
	for name, spoil := range map[string]func(*offer){
		"another epoch":       func(o *offer) { o.epoch = 8 },
		"from another peer":   func(o *offer) { o.from = 3 },
		"for another peer":    func(o *offer) { o.to = 3 },
		"another ring":        func(o *offer) { o.slots = 8 },
		"another slot":        func(o *offer) { o.slotBytes = 64 },
		"an unknown MTU":      func(o *offer) { o.mtu = 6 },
		"a wide queue pair":   func(o *offer) { o.qpn = 1 << 24 },
		"a wide first packet": func(o *offer) { o.psn = 1 << 24 },
	} {
		bad := good
		spoil(&bad)
		if err := got.parse(bad.bytes(), 2, &mine); !errors.Is(err, errOffer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := good.bytes()
	for _, bad := range [][]byte{nil, b[:63], append(b, 0), append([]byte{9}, b[1:]...)} {
		if err := got.parse(bad, 2, &mine); !errors.Is(err, errOffer) {
			t.Errorf("%d bytes, version %v: %v", len(bad), bad[:min(1, len(bad))], err)
		}
	}
}

func TestChooseGID(t *testing.T) {
	local := gid{netip.MustParseAddr("fe80::1"), 0}
	six := gid{netip.MustParseAddr("2001:db8::1"), 2}
	four := gid{netip.MustParseAddr("::ffff:10.9.0.1"), 5}
	for _, tt := range []struct {
		table []gid
		index int
		want  int
	}{
		{[]gid{local, six, four}, -1, 5},
		{[]gid{local, six}, -1, 2},
		{[]gid{local}, -1, 0},
		{[]gid{local, six, four}, 2, 2},
		{[]gid{local, six, four}, 1, -1},
		{nil, -1, -1},
	} {
		got, err := chooseGID(tt.table, tt.index)
		if tt.want < 0 && err == nil || tt.want >= 0 && (err != nil || got.index != tt.want) {
			t.Errorf("chooseGID(%v, %d) = %v, %v, want entry %d", tt.table, tt.index, got, err, tt.want)
		}
	}
}

func TestArena(t *testing.T) {
	a, err := newArena(3<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if len(a.mem) != 4<<20 {
		t.Errorf("3 MiB are %d bytes", len(a.mem))
	}
	a.mem[len(a.mem)-1] = 1
}
