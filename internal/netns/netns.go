// Package netns gives a test its own network: namespaces with random names, joined
// by veth pairs with several queues, and a sender of raw frames. Everything that it
// makes is removed when the test ends. It needs root and skips the test otherwise,
// naming the capability that is missing.
//
// Only tests import it.
package netns

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needed are the capabilities without which no test network can be made.
var needed = []struct {
	bit  int
	name string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_BPF, "CAP_BPF"},
}

// Need skips t, naming the missing capability, unless this process can make
// namespaces and veth pairs, open raw sockets and load BPF programs.
func Need(tb testing.TB) {
	tb.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		tb.Skipf("cannot read this process's capabilities: %v", err)
	}
	for _, c := range needed {
		if sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			tb.Skipf("needs a network namespace of its own: %s is missing (run as root)", c.name)
		}
	}
}

// A Namespace is a network namespace that lives as long as its test.
type Namespace struct {
	Name   string
	handle vnetns.NsHandle
	link   *netlink.Handle
}

// New makes a namespace with a random name and its loopback interface up. IPv6 is
// off in it until [NewPair] is told otherwise, so that nothing is sent unasked.
func New(tb testing.TB) *Namespace {
	tb.Helper()
	Need(tb)
	n := &Namespace{Name: "hr-" + random(4)}
	made := make(chan error)
	go func() {
		// The thread is in the new namespace and is not unlocked: it ends here.
		runtime.LockOSThread()
		var err error
		n.handle, err = vnetns.NewNamed(n.Name)
		made <- err
	}()
	if err := <-made; err != nil {
		tb.Fatalf("netns: namespace %s: %v", n.Name, err)
	}
	tb.Cleanup(n.remove)
	var err error
	if n.link, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE); err != nil {
		tb.Fatalf("netns: namespace %s: netlink: %v", n.Name, err)
	}
	lo, err := n.link.LinkByName("lo")
	if err == nil {
		err = n.link.LinkSetUp(lo)
	}
	if err != nil {
		tb.Fatalf("netns: namespace %s: loopback: %v", n.Name, err)
	}
	n.setIPv6(tb, false)
	return n
}

func (n *Namespace) remove() {
	if n.link != nil {
		n.link.Close()
	}
	n.handle.Close() //nolint:errcheck // the name's removal is what counts
	_ = vnetns.DeleteNamed(n.Name)
}

// setIPv6 turns IPv6 on or off for all interfaces of n, later ones too. A kernel
// without IPv6 has it off already.
func (n *Namespace) setIPv6(tb testing.TB, on bool) {
	tb.Helper()
	value := []byte("1")
	if on {
		value = []byte("0")
	}
	n.Do(tb, func() {
		for _, of := range []string{"all", "default"} {
			path := "/proc/sys/net/ipv6/conf/" + of + "/disable_ipv6"
			if err := os.WriteFile(path, value, 0); err != nil && !os.IsNotExist(err) {
				tb.Fatalf("netns: namespace %s: IPv6: %v", n.Name, err)
			}
		}
	})
}

// Do calls fn with this goroutine's thread inside n, and brings the thread back.
// What fn opens stays in n. Goroutines that fn starts are not in n; see [Namespace.Go].
func (n *Namespace) Do(tb testing.TB, fn func()) {
	tb.Helper()
	runtime.LockOSThread()
	before, err := vnetns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		tb.Fatalf("netns: this thread's namespace: %v", err)
	}
	defer before.Close() //nolint:errcheck // a read-only descriptor
	if err := vnetns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		tb.Fatalf("netns: enter %s: %v", n.Name, err)
	}
	defer func() {
		if err := vnetns.Set(before); err != nil {
			panic("netns: the thread cannot leave " + n.Name + ": " + err.Error())
		}
		runtime.UnlockOSThread()
	}()
	fn()
}

// Go calls fn in a new goroutine on a thread of its own inside n, and returns a
// channel that is closed when fn has returned.
func (n *Namespace) Go(fn func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := vnetns.Set(n.handle); err != nil {
			panic("netns: enter " + n.Name + ": " + err.Error())
		}
		fn()
	}()
	return done
}

// Start starts cmd inside n.
func (n *Namespace) Start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	var err error
	n.Do(tb, func() { err = cmd.Start() })
	if err != nil {
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

func random(bytes int) string {
	b := make([]byte, bytes)
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprintf("netns: no randomness: %v", err))
	}
	return hex.EncodeToString(b)
}
