package cluster

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// States that are too many for a round do not stop the group: as many as fit are moved,
// and the shares of the others are known to be lost.
func TestStatesThatAreTooManyToMove(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 1 << 40, CorrectFor: 1 << 40, Period: 40})
	w.enter(collective.First(3))
	w.commit()
	w.commit()
	w.closeAll(0, 30)
	w.commit()
	w.enter(collective.Of(0, 1))
	w.commit()
	w.commit()
	w.commit()
	w.enter(collective.First(3)) // c comes back, and is told
	w.commit()
	const most = 20 << 10
	refused := 0
	for _, b := range w.boxes[:2] {
		var got []byte
		var parts [][]byte
		b.link.exchange = func(head []byte, bodies [][]byte) (*rdma.Gathered, error) {
			for _, body := range bodies {
				if len(head)+len(body) > most {
					refused++
					return nil, fmt.Errorf("a body of %d bytes: %w", len(body), rdma.ErrTooLarge)
				}
			}
			got, parts = slices.Clone(head), bodies
			return nil, rdma.ErrAgain
		}
		for n := 0; got == nil; n++ {
			if n > 40 {
				t.Fatalf("box %s is refused for ever", w.names[b.me])
			}
			if err := b.turn(); err != nil && !errors.Is(err, rdma.ErrTooLarge) {
				t.Fatal(err)
			}
		}
		h, fault := decodeHeader(b.engine.s, got, carrying)
		if fault != FaultNone {
			t.Fatal(fault)
		}
		moved := 0
		for _, v := range h.moves {
			if !v.damaged {
				moved++
			}
		}
		t.Logf("box %s moves %d of %d states, %d bytes", w.names[b.me], moved, len(h.moves), len(parts[2]))
		if len(h.moves) > 0 && (moved == 0 || moved == len(h.moves)) {
			t.Errorf("box %s moves %d of %d states", w.names[b.me], moved, len(h.moves))
		}
	}
	if refused == 0 {
		t.Fatal("nothing was too large")
	}
	w.commit()
	if m := w.boxes[0].engine.member.moveMax; m != moveMax {
		t.Errorf("the next time %d bytes are moved, want %d", m, moveMax)
	}
	w.closeAll(30, 40)
	w.commit()
	w.writeAll()
	w.checkRows()
	for _, b := range w.boxes {
		for _, counts := range b.engine.faults.counts {
			if counts != ([FaultCount]uint64{}) {
				t.Errorf("box %s found faults: %v", w.names[b.me], counts)
			}
		}
	}
	if len(w.parsed) < 40*len(sixKeys) {
		t.Errorf("%d rows, want %d", len(w.parsed), 40*len(sixKeys))
	}
}
