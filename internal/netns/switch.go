package netns

import (
	"testing"

	"github.com/headrace/headrace/internal/veth"
)

// A Switch joins any number of namespaces, which have each other's addresses.
type Switch struct{ inner *veth.Switch }

// A Port is a namespace's interface on a switch.
type Port = veth.Port

// NewSwitch makes a switch.
func NewSwitch(tb testing.TB) *Switch {
	tb.Helper()
	Need(tb)
	inner, err := veth.NewSwitch()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = inner.Close() })
	return &Switch{inner}
}

// Plug gives n an interface on s.
func (s *Switch) Plug(tb testing.TB, n *Namespace) *Port {
	tb.Helper()
	p, err := s.inner.Plug(n.inner)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}
