package netns

import (
	"testing"

	"github.com/headrace/headrace/internal/veth"
)

// Options say how a veth pair is made. The zero value is one queue, the kernel's
// MTU and no IPv6.
type Options = veth.Options

// An End is one end of a veth pair, in its namespace.
type End struct {
	*Namespace
	*veth.End
}

// A Pair is two namespaces' interfaces joined by a cable. A frame sent on transmit
// queue q of one end arrives on receive queue q of the other.
type Pair struct {
	A, B  *End
	inner *veth.Pair
}

// NewPair makes two namespaces and joins them.
func NewPair(tb testing.TB, o Options) *Pair {
	tb.Helper()
	return Join(tb, New(tb), New(tb), o)
}

// Join makes a veth pair with one end in a and the other in b: up, with addresses
// (10.x.y.1 in a and 10.x.y.2 in b) and with each other as permanent neighbors, so
// that no ARP is needed.
func Join(tb testing.TB, a, b *Namespace, o Options) *Pair {
	tb.Helper()
	inner, err := veth.Join(a.inner, b.inner, o)
	if err != nil {
		tb.Fatal(err)
	}
	return &Pair{A: &End{a, inner.A}, B: &End{b, inner.B}, inner: inner}
}

// SetUp brings e's interface up or down. Going down loses the IPv6 address and the
// neighbors; coming up puts the other end back as neighbor.
func (p *Pair) SetUp(tb testing.TB, e *End, up bool) {
	tb.Helper()
	if err := p.inner.SetUp(e.End, up); err != nil {
		tb.Fatal(err)
	}
}

// Delete removes the pair while its namespaces stay.
func (p *Pair) Delete(tb testing.TB) {
	tb.Helper()
	if err := p.inner.Delete(); err != nil {
		tb.Fatal(err)
	}
}
