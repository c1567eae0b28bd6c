//go:build linux && cgo && rdma

package deliver

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// These tests need two devices, named in HEADRACE_RDMA_DEVICES. They assert results and
// orders; a guest without hardware help is slow.
func devices(t *testing.T) (consumer, producer string) {
	t.Helper()
	list := strings.Split(os.Getenv("HEADRACE_RDMA_DEVICES"), ",")
	if len(list) < 2 {
		t.Skip("HEADRACE_RDMA_DEVICES names no two RDMA devices")
	}
	return list[0], list[1]
}

// Rows get through over verbs, sealed or not, with a reader that lets the ring fill
// and a consumer that goes away and comes back: each is there, once, in order.
func TestDeviceRowsArriveByRDMA(t *testing.T) {
	at, from := devices(t)
	for _, seal := range []bool{false, true} {
		consumer, producer := newIdentity(t), newIdentity(t)
		ring, path := newRing(t, SizeMin)
		c := ConsumerConfig{
			Listen: "127.0.0.1:0", Certificate: consumer.get, Pins: func() []string { return []string{producer.pin} },
			Ring: ring, Transport: Verbs, Device: at,
		}
		run := func() (stop func()) {
			s, err := NewConsumer(c)
			if err != nil {
				t.Fatal(err)
			}
			c.Listen = s.Addr().String()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		stop := run()
		const last = 300
		sent := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		go func() {
			sent <- push(ctx, ProducerConfig{
				Address: c.Listen, Pins: []string{consumer.pin}, Certificate: producer.get,
				Stream: 7, Transport: Verbs, Device: from, Seal: seal,
			}, last)
		}()
		r := openReaderOf(t, path)
		expectRows(t, r, last, func(n uint64) {
			if n%100 == 50 {
				stop()
				stop = run()
			}
			if n%100 == 90 && n < 200 { // a slow reader
				full := ring.Stats().Full
				for end := time.Now().Add(time.Minute); ring.Stats().Full == full; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("after batch %d: the ring does not fill: %+v", n, ring.Stats())
					}
				}
			}
		})
		r.Close()
		if err := <-sent; err != nil {
			t.Error(err)
		}
		stop()
		t.Logf("sealed %v: %+v", seal, ring.Stats())
	}
}

// Whole batches of many pieces, and auto means verbs where both ends have it.
func TestDeviceAutoIsVerbs(t *testing.T) {
	at, from := devices(t)
	ring, path := newRing(t, 1<<20)
	_, c := pair(t, ConsumerConfig{Ring: ring, Device: at})
	c.Device = from
	p := dialed(t, c)
	if name, why := p.Transport(); name != Verbs {
		t.Fatalf("transport %s: %s", name, why)
	}
	big := bytes.Repeat([]byte(strings.Repeat("r", 999)+"\n"), 200)
	r := openReaderOf(t, path)
	defer r.Close()
	for n := range uint64(5) {
		if err := p.Send(t.Context(), n+1, big); err != nil {
			t.Fatal(err)
		}
		rows := 0
		for row, ok := r.Next(); ok; row, ok = r.Next() {
			if len(row) != 999 {
				t.Fatalf("a row of %d bytes", len(row))
			}
			rows++
		}
		if rows != 200 {
			t.Errorf("%d rows", rows)
		}
		r.Release()
	}
}

// Where one end has no device, auto is tcp, and both say why.
func TestDeviceWithoutOneAutoIsTCP(t *testing.T) {
	_, from := devices(t)
	ring, _ := newRing(t, SizeMin)
	_, c := pair(t, ConsumerConfig{Ring: ring, Device: "nosuch"})
	c.Device = from
	p := dialed(t, c)
	if name, why := p.Transport(); name != TCP || !strings.Contains(why, "no device nosuch") {
		t.Errorf("transport %s: %q", name, why)
	}
	if err := p.Send(t.Context(), 1, []byte("a row\n")); err != nil {
		t.Error(err)
	}
}
