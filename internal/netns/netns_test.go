package netns

import (
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	vnetns "github.com/vishvananda/netns"
)

func TestFramesOfASenderArriveInOrderAtTheOtherEnd(t *testing.T) {
	p := NewPair(t, Options{Queues: 2, IPv6: true})
	var listener net.PacketConn
	var err error
	p.B.Do(t, func() { listener, err = net.ListenPacket("udp", net.JoinHostPort(p.B.IPv4.String(), "9000")) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := NewSender(t, p.A, p.B)
	const count = 200
	sent, err := s.Send(Load{Count: count, Rate: 20000, Port: 9000, Size: 16, Fill: func(i int, b []byte) { binary.LittleEndian.PutUint64(b, uint64(i)) }})
	if err != nil || sent+s.Refused != count || sent < count/2 {
		t.Fatalf("Send = %d, %v, refused %d", sent, err, s.Refused)
	}
	listener.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 64)
	for last := -1; sent > 0; sent-- {
		n, _, err := listener.ReadFrom(buf)
		if err != nil || n != 16 {
			t.Fatalf("%d bytes, %v, with %d to come", n, err, sent)
		}
		if i := int(binary.LittleEndian.Uint64(buf)); i <= last {
			t.Fatalf("frame %d after %d", i, last)
		} else {
			last = i
		}
	}
}

func TestALoadWithoutBoundsIsRefused(t *testing.T) {
	p := NewPair(t, Options{})
	if _, err := NewSender(t, p.A, p.B).Send(Load{Port: 1, Size: 1}); err == nil {
		t.Error("a load without a count was sent")
	}
}

func TestBothEndsReachEachOther(t *testing.T) {
	p := NewPair(t, Options{IPv6: true, MTU: 9000})
	for _, ip := range []string{p.B.IPv4.String(), p.B.IPv6.String()} {
		var listener net.Listener
		var err error
		p.B.Do(t, func() { listener, err = net.Listen("tcp", net.JoinHostPort(ip, "80")) })
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		<-p.A.Go(func() {
			var c net.Conn
			// Not by hostname, and on this thread: the namespace is the thread's.
			if c, err = net.DialTimeout("tcp", net.JoinHostPort(ip, "80"), 5*time.Second); err == nil {
				c.Close()
			}
		})
		if err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	out, err := p.A.Output(t, "cat", "/proc/net/dev")
	if err != nil || !strings.Contains(out, p.A.Interface) || strings.Contains(out, p.B.Interface) {
		t.Errorf("interfaces of one end: %v\n%s", err, out)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	before, err := vnetns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	var names []string
	t.Run("inner", func(t *testing.T) {
		p := NewPair(t, Options{})
		p.A.Do(t, func() {
			if now, err := vnetns.Get(); err != nil || now.Equal(before) {
				t.Errorf("Do runs outside the namespace: %v", err)
			}
		})
		names = []string{p.A.Name, p.B.Name}
	})
	if len(names) == 0 {
		t.Skip("the inner test was skipped")
	}
	for _, name := range names {
		if _, err := os.Stat("/run/netns/" + name); !os.IsNotExist(err) {
			t.Errorf("namespace %s is still there: %v", name, err)
		}
	}
	after, err := vnetns.Get()
	if err != nil || !after.Equal(before) {
		t.Errorf("this thread is in another namespace than before: %v", err)
	}
	after.Close()
}

// Two namespaces on a switch reach each other, until a plug is pulled.
func TestNetnsASwitchCarriesUntilThePlugIsPulled(t *testing.T) {
	s, a, b := NewSwitch(t), New(t), New(t)
	p, q := s.Plug(t, a), s.Plug(t, b)
	var from, to net.PacketConn
	var err error
	b.Do(t, func() { to, err = net.ListenPacket("udp", q.Address.String()+":7000") })
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	a.Do(t, func() { from, err = net.ListenPacket("udp", p.Address.String()+":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	ping := func() error {
		if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
			return err
		}
		_ = to.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _, err := to.ReadFrom(make([]byte, 8))
		return err
	}
	if err := ping(); err != nil {
		t.Fatalf("%v does not reach %v: %v", p.Address, q.Address, err)
	}
	if err := q.SetUp(false); err != nil {
		t.Fatal(err)
	}
	if ping() == nil {
		t.Error("a plug that was pulled carries")
	}
	if err := q.SetUp(true); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if ping() == nil {
			return
		}
	}
	t.Error("a plug that was put back does not carry")
}
