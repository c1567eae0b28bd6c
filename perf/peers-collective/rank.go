package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/tcp"
)

// An order tells a process that is one rank what to do. It comes on standard input.
type order struct {
	Rank    int
	Peers   []boot.Peer
	Key     []byte // PKCS 8
	Cert    []byte
	Busy    bool
	Pin     bool // to the processor of that number
	Sealed  bool
	Calls   int
	Records int
	Profile string
}

// orders makes a key for every rank and what each is to know.
func orders(ranks int, o order) ([]order, error) {
	all := make([]order, ranks)
	for r := range all {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		parsed, err := x509.ParseCertificate(cert)
		if err != nil {
			return nil, err
		}
		all[r] = o
		all[r].Rank, all[r].Key, all[r].Cert = r, pkcs8, cert
		o.Peers = append(o.Peers, boot.Peer{
			ID: fmt.Sprintf("rank%02d", r), Address: fmt.Sprintf("127.0.0.%d:%d", r+1, 20000+os.Getpid()%20000),
			Pins: []string{boot.Pin(parsed)},
		})
	}
	for r := range all {
		all[r].Peers = o.Peers
	}
	return all, nil
}

// beRank is the body of a process that is one rank.
func beRank(in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	runtime.LockOSThread()
	if o.Pin {
		var set unix.CPUSet
		set.Set(o.Rank % runtime.NumCPU())
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return os.NewSyscallError("sched_setaffinity", err)
		}
	}
	g, leave, err := o.join()
	if err != nil {
		return err
	}
	defer leave()
	if o.Profile != "" && o.Rank == 0 {
		f, err := os.Create(o.Profile)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // a profile is for one who looks on
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for _, size := range []int{8, 1 << 10, 64 << 10} {
		calls := o.Calls
		if size > 1<<14 {
			calls /= 4
		}
		if err := o.allReduce(g, out, size, calls); err != nil {
			return err
		}
	}
	if err := o.exchange(g, out, 5); err != nil {
		return err
	}
	// Others may lack a last frame that is still here.
	for until := time.Now().Add(500 * time.Millisecond); time.Now().Before(until); {
		g.Wait(100 * time.Millisecond)
	}
	return nil
}

// join starts the rank's group and waits for the others.
func (o *order) join() (g *rdma.Group, leave func(), err error) {
	key, err := x509.ParsePKCS8PrivateKey(o.Key)
	if err != nil {
		return nil, nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{o.Cert}, PrivateKey: key}
	control, err := boot.New(boot.Config{
		Me: o.Peers[o.Rank].ID, Peers: o.Peers, Certificate: func() (*tls.Certificate, error) { return cert, nil },
	})
	if err != nil {
		return nil, nil, err
	}
	c := rdma.GroupConfig{
		Me: o.Rank, Control: control, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})), // ranks leave one after the other
		Quorum: collective.Quorum{Peers: len(o.Peers), TieBreaker: 0},
		Period: time.Second,
	}
	if o.Busy {
		c.Spin = -1
	}
	if o.Sealed {
		c.Seal = func(peer int, epoch uint64) (send, receive [32]byte, err error) {
			of := func(from, to int) ([32]byte, error) {
				return control.Key(peer, fmt.Sprintf("EXPERIMENTAL-seal %d %d", from, to), binary.LittleEndian.AppendUint64(nil, epoch))
			}
			if send, err = of(o.Rank, peer); err == nil {
				receive, err = of(peer, o.Rank)
			}
			return send, receive, err
		}
	}
	for _, p := range o.Peers {
		c.Names = append(c.Names, p.ID)
	}
	transport, err := tcp.New(tcp.Config{Listen: netip.AddrFrom4([4]byte{127, 0, 0, byte(o.Rank + 1)}), Busy: o.Busy})
	if err != nil {
		return nil, nil, err
	}
	c.Transports = []rdma.Transport{transport}
	if g, err = rdma.NewGroup(c); err != nil {
		return nil, nil, err
	}
	leave = func() { _ = errors.Join(g.Close(), transport.Close(), control.Close()) }
	for until := time.Now().Add(20 * time.Second); g.Epoch().Members != collective.First(len(o.Peers)); g.Wait(time.Second) {
		if time.Now().After(until) {
			leave()
			return nil, nil, fmt.Errorf("rank %d: the others did not come: %+v", o.Rank, g.State())
		}
	}
	return g, leave, nil
}

// report prints the median and the 99th percentile of took, at rank 0.
func (o *order) report(out io.Writer, what string, size int, took []time.Duration) {
	slices.Sort(took)
	if o.Rank == 0 {
		us := func(d time.Duration) float64 { return float64(d) / 1e3 }
		fmt.Fprintf(out, "%s %d %.3f %.3f %d\n", what, size, us(took[len(took)/2]), us(took[len(took)*99/100]), len(took))
	}
}

func (o *order) allReduce(g *rdma.Group, out io.Writer, size, calls int) error {
	v, barrier := make([]byte, size), make([]byte, 8)
	n := int64(len(o.Peers))
	took := make([]time.Duration, 0, calls)
	for call := -200; call < calls; call++ { // the first 200 warm up
		for i := 0; i < size; i += 8 {
			binary.LittleEndian.PutUint64(v[i:], uint64(o.Rank+i/8))
		}
		if _, err := g.AllReduce(rdma.SumInt64, barrier); err != nil {
			return err
		}
		began := time.Now()
		if _, err := g.AllReduce(rdma.SumInt64, v); err != nil {
			return err
		}
		if call >= 0 {
			took = append(took, time.Since(began))
		}
		for i := 0; i < size; i += 8 {
			if got, want := int64(binary.LittleEndian.Uint64(v[i:])), n*int64(i/8)+n*(n-1)/2; got != want {
				return fmt.Errorf("wrong sum: %d, want %d", got, want)
			}
		}
	}
	o.report(out, "allreduce", size, took)
	return nil
}

// recordBytes is about what a keyed partial has.
const recordBytes = 104

func (o *order) exchange(g *rdma.Group, out io.Writer, calls int) error {
	ranks := len(o.Peers)
	parts := make([][]byte, ranks)
	for to := range parts {
		parts[to] = make([]byte, o.Records/ranks/ranks*recordBytes)
		for i := range parts[to] {
			parts[to][i] = byte(1 + o.Rank*ranks + to)
		}
	}
	barrier := make([]byte, 8)
	took := make([]time.Duration, 0, calls)
	for call := -1; call < calls; call++ {
		if _, err := g.AllReduce(rdma.SumInt64, barrier); err != nil {
			return err
		}
		began := time.Now()
		all, err := g.Exchange(nil, parts)
		if err != nil {
			return err
		}
		if call >= 0 {
			took = append(took, time.Since(began))
		}
		for _, from := range all.From {
			if len(from.Body) != len(parts[0]) {
				return fmt.Errorf("%d bytes from rank %d, want %d", len(from.Body), from.Peer, len(parts[0]))
			}
			for i := 0; i < len(from.Body); i += recordBytes {
				if from.Body[i] != byte(1+from.Peer*ranks+o.Rank) {
					return fmt.Errorf("a wrong record from rank %d", from.Peer)
				}
			}
		}
	}
	o.report(out, "exchange", o.Records, took)
	return nil
}
