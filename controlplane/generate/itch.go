package generate

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// MoldUDP64, version 1.00, and ITCH 5.0, by NASDAQ's specifications.
const (
	moldHeader       = 20
	moldEndOfSession = 0xffff
	moldBeat         = time.Second // silence after which a heartbeat is due
	endsOfSession    = 3           // sent for each channel, one millisecond apart

	packetMessagesMax = 16
	tick              = 100 // a cent, in 1/10000
	priceMin          = 200 * tick
	ordersMin         = 4  // live orders of a symbol below which one is added
	ordersMax         = 64 // live orders of a symbol above which none is added
)

// An order is a live order of a symbol.
type order struct {
	ref    uint64
	price  uint32
	shares uint32
	side   byte
}

type symbol struct {
	text   [8]byte // padded
	name   string
	locate uint16
	mid    uint32 // the price walks around here
	orders []order
}

type channel struct {
	session string
	seq     uint64      // of the next message, from 1
	symbols int         // how many belong to it
	last    event.Nanos // when it sent last
	listed  int         // how many of its opening messages were sent
}

// itch makes MoldUDP64 packets of ITCH messages.
type itch struct {
	c          *Config
	dice       dice
	begin, out event.Nanos // the day, half-open
	n          uint64      // messages so far
	now        event.Nanos // time of the latest message
	symbols    []symbol
	channels   []channel
	ref, match uint64
	ended      bool

	opened  int // channels whose first heartbeat was sent
	listing int // channel whose directory is being sent
	beating int // next channel to look at for a heartbeat; len(channels): none
	beatAt  event.Nanos
	closed  int // ends of session sent
	closing event.Nanos

	body []byte // messages of the packet that is being made
	mark int    // where the current message begins in it
}

func newITCH(c *Config) (*itch, error) {
	m := &itch{c: c, dice: newDice(c.Seed, streamMessages), now: c.Start, beatAt: c.Start.Add(moldBeat)}
	var err error
	if m.begin, m.out, err = c.midnight(); err != nil {
		return nil, err
	}
	m.symbols = make([]symbol, c.Keys)
	for i, name := range tickers(c.Keys) {
		s := &m.symbols[i]
		s.name, s.locate = name, uint16(i+1)
		copy(s.text[:], name+"        ")
		s.mid = uint32(500+m.dice.low(50_000)) * tick
	}
	for k := range c.Channels {
		session := c.session(k)
		m.channels = append(m.channels, channel{
			session: string(session[:]), seq: 1, symbols: (c.Keys - k + c.Channels - 1) / c.Channels, last: c.Start,
		})
	}
	m.beating = len(m.channels)
	return m, nil
}

// tickers returns n different symbols of two to five letters, known ones first.
func tickers(n int) []string {
	out := []string{
		"AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AVGO", "COST", "NFLX",
		"AMD", "INTC", "CSCO", "QCOM", "ADBE", "PEP", "TXN", "SBUX", "MU", "ZM",
	}
	seen := map[string]bool{}
	for _, s := range out {
		seen[s] = true
	}
	const letters, four = 26, 26 * 26 * 26 * 26
	// 7919 has no divisor in common with 26, so the walk meets every word once.
	for i := 1; len(out) < n; i++ {
		v := i * 7919 * 53 % four
		var w [4]byte
		for k := range w {
			w[3-k] = byte('A' + v%letters)
			v /= letters
		}
		if s := string(w[:]); !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out[:n]
}

func (m *itch) end()         { m.ended = true }
func (m *itch) made() uint64 { return m.n }

// more reports whether another message may be made.
func (m *itch) more() bool {
	return !m.ended && (m.c.Count == 0 || m.n < m.c.Count) && m.c.at(m.n) < m.out
}

// next makes the next packet: opening heartbeats, directories, the day, the end.
func (m *itch) next(p *parcel) bool {
	if m.opened < len(m.channels) {
		m.opened++
		m.empty(p, m.opened-1, 0, m.c.Start, true)
		return true
	}
	if m.more() {
		if m.listing < len(m.channels) {
			m.directory(p)
			return true
		}
		if m.beat(p) {
			return true
		}
		m.trade(p)
		return true
	}
	if m.closed == len(m.channels)*endsOfSession {
		return false
	}
	if m.closed == 0 {
		m.closing = m.now
	}
	k, round := m.closed%len(m.channels), m.closed/len(m.channels)
	m.closed++
	m.empty(p, k, moldEndOfSession, m.closing.Add(time.Duration(round)*time.Millisecond), true)
	return true
}

// empty makes a packet without messages: a heartbeat or an end of session.
func (m *itch) empty(p *parcel, k int, count uint16, at event.Nanos, control bool) {
	c := &m.channels[k]
	c.last = at
	*p = parcel{payload: c.header(p.payload[:0], count), at: at, session: c.session, seq: c.seq, control: control}
}

func (c *channel) header(dst []byte, count uint16) []byte {
	dst = append(dst, c.session...)
	dst = binary.BigEndian.AppendUint64(dst, c.seq)
	return binary.BigEndian.AppendUint16(dst, count)
}

// beat makes a heartbeat if a channel has been silent for too long. Channels are
// looked through once a second of event time.
func (m *itch) beat(p *parcel) bool {
	now := m.c.at(m.n)
	if m.beating == len(m.channels) && now >= m.beatAt {
		m.beating, m.beatAt = 0, now.Add(moldBeat)
	}
	for m.beating < len(m.channels) {
		k := m.beating
		m.beating++
		if now >= m.channels[k].last.Add(moldBeat) {
			m.empty(p, k, 0, now, false)
			return true
		}
	}
	return false
}

// packet finishes a packet of channel k with the count messages in body.
func (m *itch) packet(p *parcel, k, count int) {
	c := &m.channels[k]
	dst := append(c.header(p.payload[:0], uint16(count)), m.body...)
	*p = parcel{payload: dst, at: m.now, session: c.session, seq: c.seq, count: count}
	c.seq += uint64(count)
	c.last = m.now
	m.body = m.body[:0]
}

// directory makes the next packet of the opening of a channel: O, its symbols, Q.
func (m *itch) directory(p *parcel) {
	k := m.listing
	c := &m.channels[k]
	count := 0
	for ; count < packetMessagesMax && c.listed < c.symbols+2 && m.more(); count++ {
		switch i := c.listed - 1; {
		case i < 0:
			m.system('O')
		case i < c.symbols:
			m.listSymbol(&m.symbols[k+i*len(m.channels)])
		default:
			m.system('Q')
		}
		c.listed++
	}
	if c.listed == c.symbols+2 {
		m.listing++
	}
	m.packet(p, k, count)
}

// trade makes a packet of what happens during the day.
func (m *itch) trade(p *parcel) {
	k := int(m.dice.below(uint64(len(m.channels))))
	want := 1 + int(m.dice.below(packetMessagesMax))
	count := 0
	for ; count < want && m.more(); count++ {
		i := int(m.dice.key(uint64(m.channels[k].symbols)))
		m.act(&m.symbols[k+i*len(m.channels)])
	}
	m.packet(p, k, count)
}

// act makes one message of s.
func (m *itch) act(s *symbol) {
	s.mid = uint32(int(s.mid) + (int(m.dice.below(3))-1)*tick)
	s.mid = max(s.mid, priceMin)
	roll := m.dice.below(100)
	n := len(s.orders)
	switch {
	case n < ordersMin || roll < 42 && n < ordersMax:
		m.add(s)
		return
	case roll >= 99:
		m.cross(s)
		return
	case roll >= 95:
		m.hidden(s)
		return
	}
	i := int(m.dice.below(uint64(n)))
	switch o := &s.orders[i]; {
	case roll >= 86:
		m.replace(s, o)
	case roll >= 72 || roll < 42 || o.shares == 1 && roll >= 64:
		m.open('D', s)
		m.u64(o.ref)
		m.shut()
		s.drop(i, o.shares)
	case roll >= 64:
		less := uint32(1 + m.dice.below(uint64(o.shares)-1))
		m.open('X', s)
		m.u64(o.ref)
		m.u32(less)
		m.shut()
		s.drop(i, less)
	default:
		m.execute(s, i, roll >= 61)
	}
}

// drop takes shares from order i, and the order when none are left.
func (s *symbol) drop(i int, shares uint32) {
	if s.orders[i].shares -= shares; s.orders[i].shares == 0 {
		last := len(s.orders) - 1
		s.orders[i] = s.orders[last]
		s.orders = s.orders[:last]
	}
}

// size draws a number of shares: round lots for the most part.
func (m *itch) size() uint32 {
	if m.dice.below(5) == 0 {
		return uint32(1 + m.dice.below(99))
	}
	return uint32(1+m.dice.low(10)) * 100
}

// quote draws a side and a price on it.
func (m *itch) quote(s *symbol) (side byte, price uint32) {
	away := uint32(1+m.dice.low(20)) * tick
	if m.dice.below(2) == 0 {
		return 'B', s.mid - away
	}
	return 'S', s.mid + away
}

// near draws a price at most so many ticks away.
func (m *itch) near(price uint32, ticks int) uint32 {
	away := int(m.dice.below(uint64(2*ticks+1))) - ticks
	return uint32(max(int(price)+away*tick, tick))
}

func (m *itch) add(s *symbol) {
	side, price := m.quote(s)
	m.ref++
	o := order{ref: m.ref, price: price, shares: m.size(), side: side}
	s.orders = append(s.orders, o)
	kind := byte('A')
	if m.dice.below(8) == 0 {
		kind = 'F'
	}
	m.open(kind, s)
	m.u64(o.ref)
	m.text(o.side)
	m.u32(o.shares)
	m.text(s.text[:]...)
	m.u32(o.price)
	if kind == 'F' {
		m.words("HDRC")
	}
	m.shut()
}

func (m *itch) replace(s *symbol, o *order) {
	m.ref++
	old := o.ref
	o.ref, o.shares, o.price = m.ref, m.size(), m.near(o.price, 2)
	m.open('U', s)
	m.u64(old)
	m.u64(o.ref)
	m.u32(o.shares)
	m.u32(o.price)
	m.shut()
}

// execute makes an E, or a C at a price of its own.
func (m *itch) execute(s *symbol, i int, ownPrice bool) {
	o := &s.orders[i]
	shares, price := min(o.shares, m.size()), o.price
	m.match++
	if !ownPrice {
		m.open('E', s)
		m.u64(o.ref)
		m.u32(shares)
		m.u64(m.match)
		m.shut()
		m.traded(s, price, shares)
		s.drop(i, shares)
		return
	}
	printable := byte('Y')
	if m.dice.below(5) == 0 {
		printable = 'N'
	}
	price = m.near(price, 3)
	m.open('C', s)
	m.u64(o.ref)
	m.u32(shares)
	m.u64(m.match)
	m.text(printable)
	m.u32(price)
	m.shut()
	if printable == 'Y' {
		m.traded(s, price, shares)
	}
	s.drop(i, shares)
}

// hidden makes a P: a trade against an order that was never shown.
func (m *itch) hidden(s *symbol) {
	shares := m.size()
	m.match++
	m.open('P', s)
	m.u64(0)
	m.text('B')
	m.u32(shares)
	m.text(s.text[:]...)
	m.u32(s.mid)
	m.u64(m.match)
	m.shut()
	m.traded(s, s.mid, shares)
}

// cross makes a Q, which is no trade of a bar.
func (m *itch) cross(s *symbol) {
	m.match++
	m.open('Q', s)
	m.u64(uint64(m.size()))
	m.text(s.text[:]...)
	m.u32(s.mid)
	m.u64(m.match)
	m.text('I')
	m.shut()
}

func (m *itch) system(code byte) {
	m.open('S', &symbol{})
	m.text(code)
	m.shut()
}

func (m *itch) listSymbol(s *symbol) {
	m.open('R', s)
	m.text(s.text[:]...)
	m.text('Q', 'N') // global select market, no deficiency
	m.u32(100)       // round lot
	m.text('N', 'C') // odd lots too; common stock
	m.words("Z ")    // no subtype
	m.text('P', 'N') // live; no short sale threshold
	m.text(' ', '1') // not an IPO; LULD tier 1
	m.text('N')      // no ETP
	m.u32(0)         // its leverage
	m.text('N')      // not inverse
	m.shut()
}

func (m *itch) traded(s *symbol, price, shares uint32) {
	m.c.Truth.trade(Trade{Symbol: s.name, At: m.now, Price: int64(price), Shares: int64(shares)})
}

// open begins a message block: its length, to be set by shut, then type, stock
// locate, tracking number and time.
func (m *itch) open(kind byte, s *symbol) {
	m.now = m.c.at(m.n)
	m.n++
	m.mark = len(m.body)
	m.body = append(m.body, 0, 0, kind)
	m.body = binary.BigEndian.AppendUint16(m.body, s.locate)
	since := uint64(m.now - m.begin)
	m.body = append(m.body, 0, 0, byte(since>>40), byte(since>>32))
	m.body = binary.BigEndian.AppendUint32(m.body, uint32(since))
}

func (m *itch) text(b ...byte) { m.body = append(m.body, b...) }
func (m *itch) words(s string) { m.body = append(m.body, s...) }
func (m *itch) u32(v uint32)   { m.body = binary.BigEndian.AppendUint32(m.body, v) }
func (m *itch) u64(v uint64)   { m.body = binary.BigEndian.AppendUint64(m.body, v) }

// shut ends a message block. A length that ITCH does not know is our own fault.
func (m *itch) shut() {
	b := m.body[m.mark:]
	if len(b)-2 != sizes[b[2]] {
		panic(fmt.Sprintf("generate: message %c of %d bytes, want %d", b[2], len(b)-2, sizes[b[2]]))
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
}

// sizes are the lengths of the ITCH 5.0 messages that are generated.
var sizes = [256]int{
	'S': 12, 'R': 39, 'A': 36, 'F': 40, 'E': 31, 'C': 36, 'X': 23, 'D': 19, 'U': 35, 'P': 44, 'Q': 40,
}
