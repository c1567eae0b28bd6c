package collective_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/rdma/collective"
)

func TestQuorum(t *testing.T) {
	of := collective.Of
	for _, c := range []struct {
		name string
		q    collective.Quorum
		s    collective.Set
		want bool
	}{
		{"nobody", collective.Quorum{Peers: 3}, 0, false},
		{"nobody, though one is enough", collective.Quorum{Peers: 2, AllowSolo: true}, 0, false},
		{"one of one", collective.Quorum{Peers: 1, TieBreaker: -1}, of(0), true},
		{"one of three", collective.Quorum{Peers: 3, TieBreaker: 0}, of(0), false},
		{"two of three", collective.Quorum{Peers: 3, TieBreaker: -1}, of(0, 2), true},
		{"half of four", collective.Quorum{Peers: 4, TieBreaker: -1}, of(0, 3), false},
		{"half of four with the tie-breaker", collective.Quorum{Peers: 4, TieBreaker: 3}, of(0, 3), true},
		{"the other half", collective.Quorum{Peers: 4, TieBreaker: 3}, of(1, 2), false},
		{"one of two", collective.Quorum{Peers: 2, TieBreaker: -1}, of(1), false},
		{"one of two, allowed", collective.Quorum{Peers: 2, TieBreaker: -1, AllowSolo: true}, of(1), true},
		{"peers that are not configured", collective.Quorum{Peers: 3, TieBreaker: -1}, of(0, 7, 8), false},
	} {
		if got := c.q.Has(c.s); got != c.want {
			t.Errorf("%s: %+v.Has(%b) = %v, want %v", c.name, c.q, c.s, got, c.want)
		}
	}
}

// Any two quorums have a peer in common, and a set that holds one is one.
func TestQuorumsMeet(t *testing.T) {
	for peers := 1; peers <= 6; peers++ {
		for tie := -1; tie < peers; tie++ {
			q := collective.Quorum{Peers: peers, TieBreaker: tie}
			for a := range collective.First(peers) + 1 {
				for b := range collective.First(peers) + 1 {
					if q.Has(a) && q.Has(b) && a&b == 0 || q.Has(a) && !q.Has(a|b) {
						t.Errorf("%+v: %b and %b", q, a, b)
					}
				}
			}
		}
	}
}

func TestChoose(t *testing.T) {
	of := collective.Of
	all := collective.First(3)
	for _, c := range []struct {
		name    string
		me      int
		hears   []collective.Set
		present collective.Set
		want    collective.Set
	}{
		{"everybody", 1, []collective.Set{all, all, all}, 0, all},
		{"who does not hear us is not chosen", 1, []collective.Set{of(0, 2), all, all}, all, of(1, 2)},
		{"one who hears only one of us", 1, []collective.Set{of(0, 1), all, of(1, 2)}, all, of(0, 1)},
		{"the present members are preferred", 1, []collective.Set{of(0, 1), all, of(1, 2)}, of(1, 2), of(1, 2)},
		{"alone", 2, []collective.Set{0, 0, of(2)}, all, of(2)},
		{"nobody, yet", 2, []collective.Set{0, 0, 0}, 0, of(2)},
	} {
		if got := collective.Choose(c.me, c.hears, c.present); got != c.want {
			t.Errorf("%s: Choose = %b, want %b", c.name, got, c.want)
		}
	}
}

// Choose finds what trying all sets finds.
func TestChooseTriesAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "peers")
		set := rapid.Uint32Range(0, uint32(collective.First(n)))
		hears := make([]collective.Set, n)
		for i := range hears {
			hears[i] = collective.Set(set.Draw(t, "hears") | set.Draw(t, "and")).With(i)
		}
		me := rapid.IntRange(0, n-1).Draw(t, "me")
		present := collective.Set(set.Draw(t, "present"))
		best := collective.Of(me)
		for s := range collective.First(n) + 1 {
			better := s.Len() > best.Len() || s.Len() == best.Len() &&
				((s&present).Len() > (best&present).Len() ||
					(s&present).Len() == (best&present).Len() && s != best && s.Has((s^best).Lowest()))
			if s.Has(me) && better && clique(hears, s) {
				best = s
			}
		}
		if got := collective.Choose(me, hears, present); got != best {
			t.Fatalf("Choose(%d, %b, %b) = %b, want %b", me, hears, present, got, best)
		}
	})
}

func clique(hears []collective.Set, s collective.Set) bool {
	for p := range s.All {
		if s&^hears[p] != 0 {
			return false
		}
	}
	return true
}

func BenchmarkChoose(b *testing.B) {
	hears := make([]collective.Set, collective.PeersMax)
	for i := range hears { // the most cliques that there can be: nobody hears his two neighbors
		hears[i] = collective.First(len(hears))
		for j := i / 3 * 3; j < i/3*3+3; j++ {
			hears[i] = hears[i].Without(j)
		}
		hears[i] = hears[i].With(i)
	}
	for b.Loop() {
		collective.Choose(0, hears, 0)
	}
}
