package run

import (
	"math/rand/v2"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
)

func TestGroupsAreDealtWithFewMoves(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		from, to := 1+rng.IntN(8), 1+rng.IntN(8)
		var table owners
		for g := range table {
			table[g] = uint16(rng.IntN(from))
		}
		count, left := make([]int, to), event.GroupCount
		for w := range to - 1 {
			count[w] = rng.IntN(left + 1)
			left -= count[w]
		}
		count[to-1] = left
		had, least := make([]int, to), 0 // moves: what each worker has too much, and all of those that go
		for _, w := range table {
			if int(w) < to {
				had[w]++
			} else {
				least++
			}
		}
		for w := range count {
			least += max(0, had[w]-count[w])
		}
		got := dealt(&table, append([]int(nil), count...))
		has, moved := make([]int, to), 0
		for g, w := range got {
			has[w]++
			if w != table[g] {
				moved++
			}
		}
		for w := range count {
			if has[w] != count[w] {
				t.Fatalf("worker %d has %d groups, want %d", w, has[w], count[w])
			}
		}
		if moved != least {
			t.Fatalf("%d groups moved, %d would do", moved, least)
		}
	}
}

func TestEveryGroupHasAWorkerWhateverTheLoad(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for range 500 {
		workers := 1 + rng.IntN(16)
		var table owners
		for g := range table {
			table[g] = uint16(rng.IntN(workers))
		}
		l := load{}
		for range workers {
			l.busy = append(l.busy, rng.Float64())
		}
		for g, w := range l.balance(&table, workers) {
			if int(w) >= workers {
				t.Fatalf("group %d is worker %d's, of %d", g, w, workers)
			}
		}
	}
}

func TestNoWorkerBothGivesAndGetsInARound(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	for range 200 {
		workers := 2 + rng.IntN(30)
		var old, want owners
		for g := range old {
			old[g], want[g] = uint16(rng.IntN(workers)), uint16(rng.IntN(workers))
		}
		now := old
		for _, part := range rounds(&old, &want) {
			gives, gets := map[uint16]bool{}, map[uint16]bool{}
			for _, g := range part {
				gives[old[g]], gets[want[g]] = true, true
				now[g] = want[g]
			}
			for w := range gives {
				if gets[w] {
					t.Fatalf("worker %d gives and gets", w)
				}
			}
		}
		if now != want {
			t.Fatal("after all rounds the groups are elsewhere")
		}
	}
}
