package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/config"
)

const (
	headerTime, bodyTime, idleTime = 5 * time.Second, 30 * time.Second, time.Minute
	headerMax                      = 16 << 10
	lastTime                       = time.Second // for answers when the server ends
	// onlookersMost bounds the connections of those who may only ask, so that they leave
	// room for those who may act; localMost all together.
	onlookersMost, localMost = 32, 256
)

// Config says what to serve.
type Config struct {
	// Parts are what the run offers. Required.
	Parts Parts
	// API is the config's section of that name.
	API config.API
	// Log is told of what goes wrong, Audit of every call that changes something or would
	// have: it should not depend on the log level. Nil: nobody is.
	Log, Audit *slog.Logger
}

// A Server answers requests.
type Server struct {
	parts    Parts
	routes   map[string]map[string]*route
	document []byte
	log      *slog.Logger
	audit    *slog.Logger
	access   atomic.Pointer[access]
	keeper   atomic.Pointer[keeper]
	alone    chan struct{} // who makes a change has put something in
	captures chan struct{}

	local  *http.Server
	remote *http.Server

	mu        sync.Mutex // of what follows
	socket    string
	listening string
	tls       *tlsListener
	closed    bool
	wait      sync.WaitGroup
}

// ErrNoReader reports parts without a Reader.
var ErrNoReader = errors.New("api: nobody says what the run is")

// New returns a server that does not listen yet. The error says what of the section api
// cannot be had, such as the file with the roots.
func New(c Config) (*Server, error) {
	if c.Parts.Reader == nil {
		return nil, ErrNoReader
	}
	s := &Server{
		parts: c.Parts, log: quiet(c.Log), audit: quiet(c.Audit), routes: map[string]map[string]*route{},
		alone: make(chan struct{}, 1), captures: make(chan struct{}, capturesMost),
	}
	list := routes(&s.parts)
	for i := range list {
		r := &list[i]
		if s.routes[r.path] == nil {
			s.routes[r.path] = map[string]*route{}
		}
		s.routes[r.path][r.method] = r
	}
	var err error
	if s.document, err = document(list); err != nil {
		return nil, err
	}
	s.local, s.remote = s.server(), s.server()
	s.access.Store(&access{}) // nobody is known yet
	return s, s.Configure(c.API)
}

// server returns an HTTP/1.1 server with bounds for everything. One HTTP server serves
// what it is given for as long as it lives; there is one for each kind of listener.
func (s *Server) server() *http.Server {
	h := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTime, ReadTimeout: bodyTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: headerMax, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), Protocols: new(http.Protocols),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if l, ok := conn.(*localConn); ok {
				return context.WithValue(ctx, callerKey{}, l.caller)
			}
			return ctx
		},
	}
	h.Protocols.SetHTTP1(true)
	return h
}

// Document returns the OpenAPI document.
func (s *Server) Document() []byte { return s.document }

// Configure puts another section api in force: who may ask, and where. It is atomic: on
// error everything is as before.
func (s *Server) Configure(c config.API) error {
	a, err := accessOf(&c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if err := s.listenRemote(c.Remote); err != nil {
		return err
	}
	s.access.Store(a)
	return s.openSocket()
}

// listenRemote makes the TLS port what the config says. s.mu is held.
func (s *Server) listenRemote(c *config.Remote) error {
	if c == nil {
		before := s.tls
		s.tls, s.listening = nil, ""
		if before != nil {
			_ = before.Close()
		}
		return nil
	}
	k, err := newKeeper(c, s.log)
	if err != nil {
		return err
	}
	last := s.keeper.Swap(k) // before anybody can come
	if c.Listen != s.listening {
		l, err := listenTLS(c.Listen, s.certificate, func(who *caller) bool { return s.access.Load().role(who) != RoleNone })
		if err != nil {
			s.keeper.Store(last)
			return err
		}
		before := s.tls
		s.tls, s.listening = l, c.Listen
		if before != nil {
			_ = before.Close()
		}
		s.wait.Go(func() { s.serve(s.remote, l) })
	}
	return nil
}

func (s *Server) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.keeper.Load().get(h)
}

func (s *Server) serve(h *http.Server, l net.Listener) {
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		s.log.Error("the API is not served any more", "listener", l.Addr().String(), "error", err)
	}
}

// openSocket gives the unix socket the mode that the config asks for. Whom its mode
// lets in is then told by the kernel. s.mu is held.
func (s *Server) openSocket() error {
	if s.socket == "" {
		return nil
	}
	a, mode := s.access.Load(), os.FileMode(0o660)
	if a.others != RoleNone {
		mode = 0o666
	} else if a.hasGrp {
		// Without the right to give it away, members are kept out: they are told so by
		// the mode, and nobody else is let in.
		if err := os.Chown(s.socket, -1, int(a.group)); err != nil {
			s.log.Warn("the API's socket cannot be given to its group", "group", a.group, "error", err)
		}
	}
	if err := os.Chmod(s.socket, mode); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

// Serve answers on l, a unix socket, and on the TLS port until ctx ends. It closes both
// and leaves no goroutine.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.mu.Lock()
	s.socket = l.Addr().String()
	err := s.openSocket()
	s.mu.Unlock()
	if err != nil {
		return errors.Join(err, l.Close(), s.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	s.serve(s.local, &localListener{Listener: l, access: &s.access})
	return s.Close()
}

// Close ends both listeners and all connections.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var err error
	if s.tls != nil {
		err = s.tls.Close()
	}
	s.mu.Unlock()
	// The answer to who asked for the end still goes out.
	ctx, cancel := context.WithTimeout(context.Background(), lastTime)
	defer cancel()
	for _, h := range []*http.Server{s.local, s.remote} {
		if h.Shutdown(ctx) != nil {
			err = errors.Join(err, h.Close())
		}
	}
	s.wait.Wait()
	return err
}

// A localListener knows who connects, and how many there are.
type localListener struct {
	net.Listener
	access *atomic.Pointer[access]

	mu               sync.Mutex
	conns, onlookers int
}

// A countedConn makes room for another when it is closed.
type countedConn struct {
	net.Conn
	gone func()
	once sync.Once
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}

// A localConn is a connection of a process on this host.
type localConn struct {
	countedConn
	caller *caller
}

// Accept returns the next connection. Beyond the bounds it is closed at once.
func (l *localListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		u, ok := conn.(*net.UnixConn)
		if !ok {
			_ = conn.Close()
			return nil, fmt.Errorf("api: %s is no unix socket", l.Addr())
		}
		c, err := peerOf(u)
		if err != nil {
			_ = conn.Close()
			continue
		}
		onlooker := l.access.Load().role(c) < RoleOperator
		if !l.admit(onlooker) {
			_ = conn.Close()
			continue
		}
		return &localConn{countedConn{Conn: conn, gone: func() { l.leave(onlooker) }}, c}, nil
	}
}

// admit counts a connection if there is room for it.
func (l *localListener) admit(onlooker bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns >= localMost || onlooker && l.onlookers >= onlookersMost {
		return false
	}
	l.conns++
	if onlooker {
		l.onlookers++
	}
	return true
}

func (l *localListener) leave(onlooker bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if onlooker {
		l.onlookers--
	}
}
