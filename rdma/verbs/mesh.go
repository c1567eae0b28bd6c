//go:build linux && cgo && rdma

package verbs

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// probeEvery is how often something is sent to every peer at least.
const probeEvery = 250 * time.Millisecond

// overheadMax bounds what a seal adds to a frame.
const overheadMax = 16

// slotBytes is a whole frame, in cache lines.
const slotBytes = (frame.HeaderBytes + rdma.FrameMax + overheadMax + 63) &^ 63

// A peer is the other end of a pair.
type peer struct {
	flow
	id    int
	path  path
	ring  []byte   // where it writes to us
	lens  []uint32 // of the frames in ring, by slot
	out   []byte   // where we write to it from
	to    uint64   // its ring
	last  word     // that it wrote, if it wrote any
	words uint32   // our writes without a frame that are not completed
	err   error    // why the pair failed
	told  bool     // err has been an event
	stale bool     // hello was not answered: to be said again
	// quiet: nothing was sent to it since the last probe. probing: it has not answered
	// the last one.
	quiet, probing bool
}

// A mesh is the frames of one epoch. It implements [rdma.Mesh].
type mesh struct {
	t     *Transport
	link  *link
	arena *arena
	bell  *rdma.Bell
	codec *frame.Codec
	me    int
	epoch uint64
	peers []*peer // all but ourselves
	by    [collective.PeersMax]*peer
	// Every peer is joining until both ends of the pair are known to be ready, then
	// live until it fails.
	joining, live collective.Set
	armed         bool // the next completion makes the link's descriptor readable
	turn          int  // whose frames are read first
	probed        time.Time
	poll          [3]unix.PollFd
}

// Send implements [rdma.Mesh]. A peer that has failed or is no member takes nothing.
func (m *mesh) Send(to collective.Set, h *frame.Header, payload []byte) (taken collective.Set) {
	if len(payload) > rdma.FrameMax {
		panic(fmt.Sprintf("verbs: a payload of %d bytes", len(payload)))
	}
	n, sealed, sum := 0, m.codec.Sealed(), uint32(0)
	if !sealed {
		sum = frame.Sum(payload) // once for all of them
	}
	for s := to & m.live; s != 0; s = s.Without(s.Lowest()) {
		p := m.by[s.Lowest()]
		room := p.room()
		m.t.sawRoom(room)
		if room == 0 {
			continue
		}
		slot, w := p.send()
		f := p.out[slot*slotBytes:][:slotBytes]
		if sealed {
			m.codec.Seal(f[:0], p.id, h, payload)
		} else {
			m.codec.HeaderSum((*[frame.HeaderBytes]byte)(f), p.id, h, len(payload), sum)
			copy(f[frame.HeaderBytes:], payload)
		}
		m.link.requests[n] = request{
			from: addr(f), to: p.to + slot*slotBytes, peer: uint32(p.id), kind: kindFrame,
			len: uint32(m.codec.FrameBytes(len(payload))), imm: uint32(w),
		}
		p.quiet = false
		taken = taken.With(p.id)
		n++
	}
	m.post(n)
	return taken
}

// post gives the link its first n requests. What is refused fails its peer.
func (m *mesh) post(n int) {
	if n == 0 {
		return
	}
	m.link.post(n)
	for i := range m.link.requests[:n] {
		if r := &m.link.requests[i]; r.err != 0 {
			m.fail(m.by[r.peer], fmt.Errorf("ibv_post_send: %w", unix.Errno(r.err)))
		}
	}
}

// postWord sends a word without a frame: after what was sent before.
func (m *mesh) postWord(p *peer, kind, n int) {
	m.link.requests[n] = request{to: p.to, peer: uint32(p.id), kind: kindWord, imm: uint32(p.word(kind, 0))}
	p.words++
	p.quiet = false
}

// probe sends an empty write to the peers to whom nothing was sent for some time. The
// peer's device answers it, no matter how busy the peer is; who only listens would
// never learn that the other end is gone. It also asks the device how it is.
func (m *mesh) probe(now time.Time) {
	if now.Sub(m.probed) < probeEvery {
		return
	}
	m.probed = now
	m.troubles()
	n := 0
	for _, p := range m.peers {
		if m.live.Has(p.id) && p.quiet && !p.probing {
			p.probing = true
			m.link.requests[n] = request{to: p.to, peer: uint32(p.id), kind: kindProbe}
			n++
		}
		p.quiet = true
	}
	m.post(n)
}

// Poll implements [rdma.Mesh].
func (m *mesh) Poll(events []rdma.Event) (n int) {
	for _, p := range m.peers {
		p.released = p.read // what the last Poll lent
	}
	m.drain(1)
	m.giveBack()
	for i := range m.peers {
		n += m.read(m.peers[(m.turn+i)%len(m.peers)], events[n:])
	}
	if m.turn++; m.turn%64 == 0 { // for who never parks
		m.probe(time.Now())
	}
	return n
}

// read fills in what has come from one peer: its frames, then its failure.
func (m *mesh) read(p *peer, events []rdma.Event) (n int) {
	for n < len(events) && p.read < p.arrived {
		slot := p.read % p.slots
		p.read++
		ev := &events[n]
		payload, err := m.codec.Open(p.id, &ev.Header, p.ring[slot*slotBytes:][:p.lens[slot]])
		switch {
		case err == nil:
			ev.Peer, ev.Payload, ev.Err = p.id, payload, nil
			n++
		case !errors.Is(err, frame.ErrEpoch):
			p.read = p.arrived // nothing after it counts
			m.fail(p, err)
		}
	}
	if n < len(events) && p.err != nil && !p.told && p.read == p.arrived {
		p.told = true
		events[n] = rdma.Event{Peer: p.id, Err: fmt.Errorf("verbs: peer %d: %w", p.id, p.err)}
		n++
	}
	return n
}

// giveBack tells each peer of slots that nothing we send does.
func (m *mesh) giveBack() {
	n := 0
	for _, p := range m.peers {
		if m.live.Has(p.id) && p.due() && p.words < wordsMax {
			m.postWord(p, wordCredit, n)
			n++
		}
	}
	m.post(n)
}

// drain takes in all completions that there are, looking so many times for the first,
// and returns how many.
func (m *mesh) drain(looks int) (total int) {
	for {
		n := m.link.poll(looks)
		if n < 0 {
			m.failAll(errors.New("ibv_poll_cq failed"))
			return total + 1
		}
		good := 0
		for i := range m.link.completions[:n] {
			c := &m.link.completions[i]
			if c.status != 0 {
				m.broken(c)
				continue
			}
			good++
			m.completed(c)
		}
		if good > 0 {
			m.t.completions[0].Add(uint64(good))
		}
		if total += n; n < batchMax {
			return total
		}
		looks = 1
	}
}

// completed takes in a success.
func (m *mesh) completed(c *completion) {
	p := m.by[c.peer()]
	switch {
	case p.err != nil: // nothing more of it counts
	case c.kind() == kindReceive:
		if err := m.received(p, word(c.imm), c.len); err != nil {
			m.fail(p, err)
		}
	case c.life() != m.link.life(p.id):
	case c.kind() == kindFrame:
		p.done++
	case c.kind() == kindWord:
		p.words--
	case c.kind() == kindProbe:
		p.probing = false
	}
}

// received takes in a write by p, of so many bytes.
//
// An empty write with the word of the write before it is let pass. On a starved machine
// soft RoCE of Linux 6.1 was seen to complete a frame's word twice; by its source, it
// can begin to repeat a message while that is being acknowledged, of which nothing but
// the word is left then. Words that mean something are never the same twice, and no
// frame is empty.
func (m *mesh) received(p *peer, w word, length uint32) error {
	if length == 0 && w == p.last {
		return nil
	}
	p.last = w
	switch kind := w.kind(); {
	case kind == wordHello && m.joining.Has(p.id) && p.id > m.me:
		m.joined(p)
		m.postWord(p, wordWelcome, 0)
		m.post(1)
		return nil
	case kind == wordWelcome && m.joining.Has(p.id) && p.id < m.me:
		m.joined(p)
		return nil
	case kind > wordCredit || m.joining.Has(p.id):
		return errOrder
	}
	if length > slotBytes {
		return fmt.Errorf("%w: %d bytes", errRing, length)
	}
	if w.kind() == wordFrame {
		p.lens[p.arrived%p.slots] = length
	}
	if err := p.receive(w); err != nil {
		return fmt.Errorf("write of %d bytes: %w", length, err)
	}
	return nil
}

func (m *mesh) joined(p *peer) {
	m.joining = m.joining.Without(p.id)
	m.live = m.live.With(p.id)
}

// broken takes in a completion that is not a success. What follows the first one of a
// peer is flushed and says nothing more.
func (m *mesh) broken(c *completion) {
	p := m.by[c.peer()]
	status := Status(min(c.status, StatusCount-1))
	m.t.completions[status].Add(1)
	switch {
	case p.err != nil || c.life() != m.link.life(p.id):
	case m.joining.Has(p.id) && p.id < m.me:
		p.stale = true // it is not there yet, perhaps: see join
	default:
		m.fail(p, &CompletionError{Status: status, Vendor: c.vendor})
	}
}

// fail ends the pair; frames that have come from p are still read.
func (m *mesh) fail(p *peer, err error) {
	if p.err != nil {
		return
	}
	p.err = err
	m.live = m.live.Without(p.id)
	m.link.kill(p.id)
}

func (m *mesh) failAll(err error) {
	for _, p := range m.peers {
		m.fail(p, err)
	}
}

// join makes sure that both ends of every pair are ready. A queue pair that is not
// connected yet drops what comes, and the sender gives up after [Config.Silence], so
// the higher peer of a pair says hello for as long as it takes, and the lower one
// sends nothing before it has heard it. Hello has the same packet number each time: a
// peer that heard it and could not say so takes it for a repetition.
func (m *mesh) join(patience time.Duration) error {
	for _, p := range m.peers {
		if err := m.connect(p); err != nil {
			return err
		}
	}
	var refused error
	for start := time.Now(); ; {
		m.drain(1)
		for _, p := range m.peers {
			if p.err != nil {
				return fmt.Errorf("peer %d: %w", p.id, p.err)
			}
			if !p.stale || !m.joining.Has(p.id) {
				continue
			}
			if refused = m.again(p); refused == nil {
				p.stale = false
			}
		}
		if m.joining == 0 {
			return nil
		}
		left := patience - time.Since(start)
		if left <= 0 && refused != nil {
			return fmt.Errorf("not ready after %v: %w", patience, refused)
		}
		if left <= 0 {
			return fmt.Errorf("peer %d does not answer after %v", m.joining.Lowest(), patience)
		}
		m.wait(min(left, 10*time.Millisecond), 2)
	}
}

// again says hello once more, on a queue pair that has failed. A soft device tells of a
// failure before it has entered that state itself, and if it does so after the reset, the
// next step is refused: then all of it is to be done anew.
func (m *mesh) again(p *peer) error {
	if err := m.link.reset(p.id); err != nil {
		return fmt.Errorf("peer %d: %w", p.id, err)
	}
	p.words = 0
	return m.connect(p)
}

func (m *mesh) connect(p *peer) error {
	if err := m.link.connect(p.id, &p.path, &m.t.config); err != nil {
		return fmt.Errorf("peer %d: %w", p.id, err)
	}
	if p.id < m.me {
		m.postWord(p, wordHello, 0)
		m.post(1)
	}
	return nil
}

// Park implements [rdma.Mesh].
func (m *mesh) Park(d time.Duration) {
	for _, p := range m.peers {
		if p.read < p.arrived || p.err != nil && !p.told {
			return
		}
	}
	now := time.Now()
	m.probe(now)
	d = min(d, probeEvery)
	switch {
	case d <= 0 || m.bell.Rung():
	case m.t.config.Busy:
		m.spin(now, d)
	default:
		m.wait(d, 3)
	}
}

// spin polls from start for d. It yields the core now and then: with soft devices it is the
// kernel's interrupts that need it.
func (m *mesh) spin(start time.Time, d time.Duration) {
	for m.drain(256) == 0 && !m.bell.Rung() {
		if time.Since(start) > d {
			return
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// wait waits in the kernel for completions, the device's troubles and, if n is 3, the
// bell.
func (m *mesh) wait(d time.Duration, n int) {
	if !m.armed {
		if m.armed = m.link.arm(); !m.armed {
			m.failAll(errors.New("ibv_req_notify_cq failed"))
			return
		}
		if m.drain(1) > 0 { // what came before it was armed makes no event
			return
		}
	}
	for i := range m.poll {
		m.poll[i].Revents = 0
	}
	ts := unix.NsecToTimespec(int64(d))
	if k, err := unix.Ppoll(m.poll[:n], &ts, nil); k <= 0 || err != nil {
		return
	}
	if m.poll[0].Revents != 0 {
		m.link.disarm()
		m.armed = false
	}
	if m.poll[1].Revents != 0 {
		m.troubles()
	}
}

// troubles takes in what the device says of itself.
func (m *mesh) troubles() {
	for {
		peer, what, ok := m.link.trouble()
		switch {
		case !ok:
			return
		case what == "":
		case peer < 0:
			m.failAll(errors.New(what))
		default:
			m.fail(m.by[peer], errors.New(what))
		}
	}
}

// Close implements [rdma.Mesh].
func (m *mesh) Close() error {
	m.t.release(m)
	return nil
}
