// Package netns gives a test its own network: namespaces with random names, joined
// by veth pairs with several queues, and a sender of raw frames. Everything that it
// makes is removed when the test ends. It needs root and skips the test otherwise,
// naming the capability that is missing.
//
// Only tests import it; package veth makes the network.
package netns

import (
	"os/exec"
	"testing"

	"github.com/headrace/headrace/internal/veth"
)

// Need skips t, naming the missing capability, unless this process can make
// namespaces and veth pairs, open raw sockets and load BPF programs.
func Need(tb testing.TB) {
	tb.Helper()
	missing, err := veth.Missing()
	if err != nil {
		tb.Skip(err)
	}
	if missing != "" {
		tb.Skipf("needs a network namespace of its own: %s is missing (run as root)", missing)
	}
}

// A Namespace is a network namespace that lives as long as its test.
type Namespace struct {
	Name  string
	inner *veth.Namespace
}

// New makes a namespace with a random name and its loopback interface up. IPv6 is
// off in it until [NewPair] is told otherwise, so that nothing is sent unasked.
func New(tb testing.TB) *Namespace {
	tb.Helper()
	Need(tb)
	inner, err := veth.NewNamespace()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = inner.Close() }) // the test may have removed it
	return &Namespace{Name: inner.Name, inner: inner}
}

// Do calls fn with this goroutine's thread inside n, and brings the thread back.
// What fn opens stays in n. Goroutines that fn starts are not in n; see [Namespace.Go].
func (n *Namespace) Do(tb testing.TB, fn func()) {
	tb.Helper()
	if err := n.inner.Do(fn); err != nil {
		tb.Fatal(err)
	}
}

// Go calls fn in a new goroutine on a thread of its own inside n, and returns a
// channel that is closed when fn has returned.
func (n *Namespace) Go(fn func()) <-chan struct{} { return n.inner.Go(fn) }

// Start starts cmd inside n.
func (n *Namespace) Start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	if err := n.inner.Start(cmd); err != nil {
		tb.Fatalf("netns: start %s in %s: %v", cmd.Path, n.Name, err)
	}
}

// Output runs a command inside n to its end and returns what it printed.
func (n *Namespace) Output(tb testing.TB, name string, args ...string) (string, error) {
	tb.Helper()
	var out []byte
	var err error
	n.Do(tb, func() { out, err = exec.CommandContext(tb.Context(), name, args...).CombinedOutput() })
	return string(out), err
}
