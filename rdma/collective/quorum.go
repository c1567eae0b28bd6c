package collective

// A Quorum says which sets of peers may be an epoch. Any two such sets have a peer in
// common, unless AllowSolo is set.
type Quorum struct {
	// Peers is the number of configured peers. Required.
	Peers int
	// TieBreaker is the peer whose side has the quorum when an even group splits in
	// halves; -1: none.
	TieBreaker int
	// AllowSolo lets a single peer be an epoch, and so any number of them. Two sides
	// may then both go on, and differ on what counts: when they meet again the side with
	// the lower epoch begins with nothing, and may contribute what the other has counted.
	AllowSolo bool
}

// Has reports that s may be an epoch: more than half of the configured peers, or half
// of them with the tie-breaker.
func (q Quorum) Has(s Set) bool {
	n := (s & First(q.Peers)).Len()
	switch {
	case n == 0:
		return false
	case q.AllowSolo, 2*n > q.Peers:
		return true
	}
	return 2*n == q.Peers && q.TieBreaker >= 0 && s.Has(q.TieBreaker)
}

// meets reports that s shares a peer with every epoch there may have been: what has
// been agreed without s cannot be.
func (q Quorum) meets(s Set) bool { return q.Has(s) || !q.Has(First(q.Peers)&^s) }

// Choose returns the members that peer me would have: the largest set of peers that
// all hear each other and has me in it; among equals the one with most of the present
// members, then the one with the lowest peers. hears[p] is whom peer p hears; that
// everybody hears himself goes without saying.
func Choose(me int, hears []Set, present Set) Set {
	return choose(me, hears, present, Quorum{})
}

// choose is Choose, but of two sets of one size it takes the one that is a quorum.
func choose(me int, hears []Set, present Set, q Quorum) Set {
	c := choice{present: present, quorum: q, best: Of(me)}
	for a := range hears {
		for b := range hears {
			if a != b && hears[a].Has(b) && hears[b].Has(a) {
				c.edges[a] = c.edges[a].With(b)
			}
		}
	}
	c.grow(Of(me), c.edges[me])
	return c.best
}

type choice struct {
	edges   [PeersMax]Set // who hears and is heard by whom
	present Set
	quorum  Quorum
	best    Set
}

// grow tries all cliques that hold s and otherwise only peers of more, each of which
// hears all of s.
func (c *choice) grow(s, more Set) {
	if (s | more).Len() < c.best.Len() {
		return
	}
	if more == 0 {
		if c.better(s) {
			c.best = s
		}
		return
	}
	p := more.Lowest()
	c.grow(s.With(p), more&c.edges[p])
	c.grow(s, more.Without(p))
}

func (c *choice) better(s Set) bool {
	if a, b := c.quorum.Has(s), c.quorum.Has(c.best); a != b {
		return a
	}
	if a, b := s.Len(), c.best.Len(); a != b {
		return a > b
	}
	if a, b := (s & c.present).Len(), (c.best & c.present).Len(); a != b {
		return a > b
	}
	differ := s ^ c.best
	return differ != 0 && s.Has(differ.Lowest())
}
