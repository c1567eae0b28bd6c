package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/group"
)

const (
	handshakeTime = 5 * time.Second
	// handshakesMost bounds strangers who are in a handshake at a time, remoteMost the
	// clients who are connected.
	handshakesMost, remoteMost = 32, 64
)

// credential returns where a file of the config is: a relative one among systemd's
// credentials, if it is there.
func credential(path string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" || filepath.IsAbs(path) {
		return path
	}
	if in := filepath.Join(dir, path); exists(in) {
		return in
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// errStranger ends the handshake of somebody who is not known. It is not sent.
var errStranger = errors.New("api: the certificate is not one of a known client")

// A keeper reads the server's certificate anew when its files change, and stays with
// the last good one.
type keeper struct {
	certificate, key string // empty: those of the group
	log              *slog.Logger

	mu    sync.Mutex
	last  *tls.Certificate
	stamp [2]time.Time
}

// newKeeper reads the certificate for the first time.
func newKeeper(c *config.Remote, log *slog.Logger) (*keeper, error) {
	k := &keeper{certificate: credential(c.Certificate), key: credential(c.Key), log: log}
	if c.Certificate == "" {
		k.certificate, k.key = "", ""
	}
	last, err := k.read()
	if err != nil {
		return nil, fmt.Errorf("api: certificate of the remote listener: %w", err)
	}
	k.last, k.stamp = last, k.stamps()
	return k, nil
}

func (k *keeper) read() (*tls.Certificate, error) {
	if k.certificate == "" {
		d, err := group.Open(group.DirDefault)
		if err != nil {
			return nil, fmt.Errorf("%w: name certificate and key, or make them with 'headrace group init'", err)
		}
		return d.Certificate()
	}
	if is, err := os.Stat(k.key); err == nil && is.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: everybody may read the key (mode %#o): chmod 600", k.key, is.Mode().Perm())
	}
	c, err := tls.LoadX509KeyPair(k.certificate, k.key)
	return &c, err
}

func (k *keeper) stamps() (at [2]time.Time) {
	for i, path := range []string{k.certificate, k.key} {
		if is, err := os.Stat(path); err == nil {
			at[i] = is.ModTime()
		}
	}
	return at
}

func (k *keeper) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.stamps(); k.certificate != "" && now != k.stamp {
		k.stamp = now
		c, err := k.read()
		if err != nil {
			k.log.Warn("the certificate of the remote API has changed and cannot be read; the one before is used", "error", err)
			return k.last, nil
		}
		k.last = c
	}
	return k.last, nil
}

// A tlsListener accepts connections of known clients only. Others are gone before the
// HTTP server could say a word: its answer to a request without TLS would tell
// strangers what is here.
type tlsListener struct {
	net.Listener
	config *tls.Config
	ready  chan net.Conn
	done   chan struct{}
	once   sync.Once
	wait   sync.WaitGroup
	stop   context.CancelFunc
	conns  atomic.Int64
}

// listenTLS begins to listen. known says whether a certificate is that of a client now.
func listenTLS(address string, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), known func(*caller) bool) (*tlsListener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("api: remote listener: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &tlsListener{
		Listener: l, ready: make(chan net.Conn), done: make(chan struct{}), stop: cancel,
		config: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: certificate,
			ClientAuth:     tls.RequireAnyClientCert, // VerifyConnection looks at it
			NextProtos:     []string{"http/1.1"},
			// A resumed session would be as good as the certificate was then.
			SessionTicketsDisabled: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if len(s.PeerCertificates) == 0 || !known(&caller{chain: s.PeerCertificates}) {
					return errStranger
				}
				return nil
			},
		},
	}
	t.wait.Go(func() { t.run(ctx) })
	return t, nil
}

// run shakes hands with whoever comes, a bounded number at a time.
func (t *tlsListener) run(ctx context.Context) {
	slots := make(chan struct{}, handshakesMost)
	for {
		conn, err := t.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors: they come back
			case <-t.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if t.conns.Add(1) > handshakesMost+remoteMost {
			t.conns.Add(-1)
			_ = conn.Close()
			continue
		}
		conn = &countedConn{Conn: conn, gone: func() { t.conns.Add(-1) }}
		select {
		case slots <- struct{}{}:
		case <-t.done:
			_ = conn.Close()
			return
		}
		t.wait.Go(func() {
			defer func() { <-slots }()
			t.shake(ctx, conn)
		})
	}
}

func (t *tlsListener) shake(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	secure := tls.Server(conn, t.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return
	}
	select {
	case t.ready <- secure:
	case <-t.done:
		_ = conn.Close()
	}
}

// Accept returns the next connection of a known client.
func (t *tlsListener) Accept() (net.Conn, error) {
	select {
	case c := <-t.ready:
		return c, nil
	case <-t.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener and returns when nobody is in a handshake any more.
func (t *tlsListener) Close() error {
	var err error
	t.once.Do(func() {
		close(t.done)
		t.stop()
		err = t.Listener.Close()
		t.wait.Wait()
	})
	return err
}
