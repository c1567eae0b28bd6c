package boot

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/rdma/collective"
)

// inside has b open its sockets in the namespace of end, at its address.
func inside(tb testing.TB, bs []*box, ends []*netns.Namespace) {
	tb.Helper()
	for i, b := range bs {
		n := ends[i]
		b.listen = func(address string) (l net.Listener, err error) {
			<-n.Go(func() { l, err = net.Listen("tcp4", address) })
			return l, err
		}
		b.dial = func(ctx context.Context, address string) (c net.Conn, err error) {
			d := net.Dialer{Timeout: dialPatience}
			<-n.Go(func() { c, err = d.DialContext(ctx, "tcp4", address) })
			return c, err
		}
	}
}

// pair makes two boxes in two namespaces.
func pair(t *testing.T) (p *netns.Pair, bs []*box) {
	t.Helper()
	p = netns.NewPair(t, netns.Options{})
	bs = boxes(t, 2)
	ends := []*netns.End{p.A, p.B}
	for i, b := range bs {
		b.Beat, b.Silence = 100*time.Millisecond, 500*time.Millisecond
		for j := range b.Peers {
			b.Peers[j].Address = net.JoinHostPort(ends[j].IPv4.String(), "9200")
		}
		_ = i
	}
	inside(t, bs, []*netns.Namespace{p.A.Namespace, p.B.Namespace})
	return p, bs
}

func noticed(t *testing.T, b *box, took time.Duration) {
	t.Helper()
	t.Logf("noticed after %v", took)
	if limit := b.Silence + 2*b.Beat + 50*time.Millisecond; took > limit {
		t.Errorf("noticed after %v, more than silence and two beats", took)
	}
}

func apart(ms []*Mesh) func() bool {
	return func() bool {
		a, b := rows(ms[0]), rows(ms[1])
		return a[0] == 1 && a[1] == 0 && b[1] == 2 && b[0] == 0
	}
}

func TestNetnsALinkThatIsDownIsNoticedAndComesBack(t *testing.T) {
	p, bs := pair(t)
	ms := start(t, bs)
	within(t, 10*time.Second, "both hear", all(ms))
	p.SetUp(t, p.A, false)
	noticed(t, bs[0], within(t, 5*time.Second, "neither hears the other", apart(ms)))
	p.SetUp(t, p.A, true)
	t.Logf("back after %v", within(t, 10*time.Second, "both hear again", all(ms)))
}

// What comes from one end is dropped at the other. Acknowledgments are too, so TCP
// carries on in neither direction; the rows of both ends say so in time, and the end
// that can be reached learns it from a reset.
func TestNetnsALossInOneDirectionIsSeenByBoth(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft (package nftables)")
	}
	for deaf := range 2 {
		t.Run(fmt.Sprintf("%d is deaf", deaf), func(t *testing.T) {
			p, bs := pair(t)
			ends := []*netns.End{p.A, p.B}
			ms := start(t, bs)
			within(t, 10*time.Second, "both hear", all(ms))
			rule := func(args ...string) {
				t.Helper()
				if out, err := ends[deaf].Output(t, nft, args...); err != nil {
					t.Fatalf("nft %v: %v: %s", args, err, out)
				}
			}
			rule("add table ip loss")
			rule("add chain ip loss in { type filter hook input priority 0 ; }")
			rule("add rule ip loss in ip saddr " + ends[1-deaf].IPv4.String() + " drop")
			noticed(t, bs[0], within(t, 5*time.Second, "neither hears the other", apart(ms)))
			for range 50 { // and stays so
				time.Sleep(20 * time.Millisecond)
				if !apart(ms)() {
					t.Fatalf("rows are %b and %b", rows(ms[0]), rows(ms[1]))
				}
			}
			rule("delete table ip loss")
			t.Logf("back after %v", within(t, 10*time.Second, "both hear again", all(ms)))
		})
	}
}

// A third box sees in the rows which pair is broken.
func TestNetnsAThirdSeesWhoDoesNotHearWhom(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft (package nftables)")
	}
	ns := netns.New(t)
	bs := boxes(t, 3)
	for _, b := range bs {
		b.Beat, b.Silence = 100*time.Millisecond, 500*time.Millisecond
	}
	inside(t, bs, []*netns.Namespace{ns, ns, ns})
	for i, b := range bs { // a source address of its own, to tell who it is
		host, _, _ := net.SplitHostPort(bs[i].Peers[i].Address)
		b.dial = func(ctx context.Context, address string) (c net.Conn, err error) {
			d := net.Dialer{Timeout: dialPatience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
			<-ns.Go(func() { c, err = d.DialContext(ctx, "tcp4", address) })
			return c, err
		}
	}
	ms := start(t, bs)
	within(t, 10*time.Second, "everybody hears everybody", all(ms))
	host := func(i int) string { h, _, _ := net.SplitHostPort(bs[i].Peers[i].Address); return h }
	for _, args := range []string{
		"add table ip loss", "add chain ip loss in { type filter hook input priority 0 ; }",
		fmt.Sprintf("add rule ip loss in ip saddr %s ip daddr %s drop", host(1), host(0)),
	} {
		if out, err := ns.Output(t, nft, args); err != nil {
			t.Fatalf("nft %v: %v: %s", args, err, out)
		}
	}
	noticed(t, bs[0], within(t, 5*time.Second, "c sees that a and b do not hear each other", func() bool {
		r := rows(ms[2])
		return r[0] == collective.Of(0, 2) && r[1] == collective.Of(1, 2) && r[2] == collective.First(3)
	}))
}
