package boot

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Why a connection ended.
var (
	errSilent   = errors.New("nothing was heard for too long")
	errReplaced = errors.New("a newer connection replaces it")
	errRetired  = errors.New("its key is retired")
)

// A session is a connection after its handshake.
type session struct {
	m      *Mesh
	number int // of the peer
	conn   *tls.Conn
	raw    net.Conn
	state  tls.ConnectionState
	pin    string // of the peer's key
	start  time.Time

	last           atomic.Int64 // when the last bytes came, since start
	sent, received atomic.Uint64
	soon           atomic.Bool   // send a beat now
	wake           chan struct{} // something to send
	leaving        chan struct{} // closed: send what is there, then end
	done           chan struct{} // closed: it has ended
	once           sync.Once

	// Under Mesh.mu.
	out          queue
	beats        int
	clock        clock
	echo, echoed int64 // of the last beat that came: its stamp, and when it came
}

func newSession(m *Mesh, number int, conn *tls.Conn, pin string) *session {
	return &session{
		m: m, number: number, conn: conn, raw: conn.NetConn(), state: conn.ConnectionState(), pin: pin, start: time.Now(),
		wake: make(chan struct{}, 1), leaving: make(chan struct{}), done: make(chan struct{}),
	}
}

// poke has the writer look.
func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end ends the connection, at once. Only the first cause counts.
func (s *session) end(cause error) {
	s.once.Do(func() {
		if tcp, ok := s.raw.(*net.TCPConn); ok && errors.Is(cause, errSilent) {
			_ = tcp.SetLinger(0) // a FIN would wait behind data that nobody acknowledges
		}
		_ = s.raw.Close()
		s.m.ended(s, cause)
		close(s.done)
	})
}

// Read reads from the connection and notes that something came: bytes of a message
// that takes long are a sign of life too.
func (s *session) Read(b []byte) (int, error) {
	n, err := s.conn.Read(b)
	if n > 0 {
		s.last.Store(int64(time.Since(s.start)))
		s.received.Add(uint64(n))
	}
	return n, err
}

func (s *session) read() {
	r := bufio.NewReaderSize(s, 64<<10)
	for {
		k, body, err := readFrame(r, frameMax)
		if err == nil {
			err = s.take(k, body)
		}
		if errors.Is(err, errGarbage) {
			s.m.ledger.refused(refuse(Garbage, "%v", err), s.m.c.Peers[s.number].ID, s.raw.RemoteAddr())
		}
		if err != nil {
			s.end(fmt.Errorf("reading: %w", err))
			return
		}
	}
}

func (s *session) take(k kind, body []byte) error {
	switch k {
	case kindBeat:
		b, err := decodeBeat(body, len(s.m.peers))
		if err != nil {
			return err
		}
		s.m.take(s, &b, time.Now())
	case kindMessage:
		s.m.deliver(s, body)
	case kindHello, kindStart, kindRefuse, kindJoin, kindWelcome:
		return fmt.Errorf("%w: kind %d after the handshake", errGarbage, k)
	default:
		return fmt.Errorf("%w: kind %d", errGarbage, k)
	}
	return nil
}

// writeBytes is how much is collected before it is written.
const writeBytes = 64 << 10

func (s *session) write() {
	t := time.NewTicker(s.m.c.Beat)
	defer t.Stop()
	regular, leaving := true, false
	var buf []byte
	for {
		buf, regular = s.collect(buf[:0], regular), false
		if len(buf) > 0 {
			n, err := s.conn.Write(buf)
			s.sent.Add(uint64(n))
			if err != nil {
				s.end(fmt.Errorf("writing: %w", err))
				return
			}
			if cap(buf) > 1<<20 {
				buf = nil
			}
			select { // beats have their turn between messages
			case <-t.C:
				regular = true
			default:
			}
			continue
		}
		if leaving {
			s.leave()
			return
		}
		select {
		case <-s.done:
			return
		case <-t.C:
			regular = true
		case <-s.wake:
		case <-s.leaving:
			leaving = true
		}
	}
}

// collect appends a beat, if it is time for one, and messages.
func (s *session) collect(buf []byte, regular bool) []byte {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.soon.Swap(false) || regular {
		b := beat{
			regular: regular, hears: s.m.row(), sent: time.Now().UnixNano(),
			echo: s.echo, echoed: s.echoed, status: s.m.status,
		}
		buf = appendFrame(buf, kindBeat, b.encode())
	}
	for len(buf) < writeBytes {
		msg, ok := s.out.pop()
		if !ok {
			break
		}
		buf = appendFrame(buf, kindMessage, msg)
		s.m.peers[s.number].counts.MessagesSent++
	}
	return buf
}

// leave says goodbye after everything is sent. The reader sees the other end leave.
func (s *session) leave() {
	_ = s.raw.SetDeadline(time.Now().Add(closePatience))
	_ = s.conn.CloseWrite()
	if tcp, ok := s.raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}
