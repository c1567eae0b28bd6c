package itch

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/value"
)

// DefaultZone is the zone of the time stamps where the feed names none.
const DefaultZone = "America/New_York"

const (
	locates    = 1 << 16 // stock locates of a channel
	headerSize = 11      // type, stock locate, tracking number, time stamp
	// dayMax is the longest day there is: the one on which daylight saving ends.
	dayMax = 25 * time.Hour
)

// decoder decodes one feed. State of channels is in the arena.
type decoder struct {
	types    [256]kind
	hidden   kind // C, not printable
	identity bool

	book    *book      // nil: no wanted kind refers to orders
	symbols []uint64   // [channel·locates + locate], 0: not known; nil: nobody asks
	highest []uint32   // greatest locate in symbols, by channel
	days    []midnight // by channel; nil: fixed
	fixed   event.Nanos
	zone    *time.Location
	undo    *arena.Undo // nil: nothing is saved
	region  *arena.Region
}

// midnight is the instant that a channel's time stamps count from.
type midnight struct {
	at    event.Nanos
	known uint64
}

// A kind is what to do with messages of one type.
type kind struct {
	size   uint32 // least length; beyond every length where the type is unknown
	known  bool
	wanted bool
	learn  bool
	book   bool // the message changes the book
	stock  uint8
	ops    []op
}

// An op fills one column.
type op struct {
	code   opcode
	at     uint8
	column uint8
	name   value.Name
}

// context is what a message says by way of what came before it.
type context struct {
	symbol              uint64
	side, price, shares uint32 // of the order that it names; 0 if that is not known
}

// refersToOrders are the kinds whose messages name an order by its reference alone.
const refersToOrders = 1<<kindTrade | 1<<kindExecution | 1<<kindOrderCancel | 1<<kindOrderDelete | 1<<kindOrderReplace

func newDecoder(f *plan.Feed, r *arena.Region, undo *arena.Undo) (wire.Decoder, error) {
	d, err := build(f, r, undo)
	if err != nil {
		return nil, fmt.Errorf("itch: feed %s: %w", f.Name, err)
	}
	return d, nil
}

func build(f *plan.Feed, r *arena.Region, undo *arena.Undo) (*decoder, error) {
	if f.Channels < 1 || f.Channels > plan.SourceStride {
		return nil, fmt.Errorf("channels is %d, want 1 to %d", f.Channels, plan.SourceStride)
	}
	d := &decoder{identity: f.Identity, undo: undo, region: r}
	if err := d.setTypes(f); err != nil {
		return nil, err
	}
	if err := d.setDay(f, r); err != nil {
		return nil, err
	}
	var err error
	if f.Kinds&refersToOrders != 0 {
		if d.book, err = newBook(r, undo, f.Name, f.Channels, f.Orders); err != nil {
			return nil, err
		}
	}
	for _, c := range f.Columns {
		if fields[c.Field].Name != "symbol" || d.symbols != nil {
			continue
		}
		if d.symbols, err = arena.Slice[uint64](r, f.Name+": symbols", f.Channels*locates); err != nil {
			return nil, fmt.Errorf("symbols: %w", err)
		}
		if d.highest, err = arena.Slice[uint32](r, f.Name+": greatest stock locates", f.Channels); err != nil {
			return nil, fmt.Errorf("symbols: %w", err)
		}
	}
	return d, nil
}

// setTypes makes the ops of every message type for f's columns.
func (d *decoder) setTypes(f *plan.Feed) error {
	for _, c := range f.Columns {
		if c.Field < 0 || c.Field >= len(fields) {
			return fmt.Errorf("column %s: the format has no field number %d", c.Name, c.Field)
		}
		if x := &fields[c.Field]; c.Type != x.Type || c.Scale != x.Scale {
			return fmt.Errorf("column %s is %v(%d), want %v(%d)", c.Name, c.Type, c.Scale, x.Type, x.Scale)
		}
	}
	for i := range d.types {
		d.types[i].size = 1 << 16
	}
	for _, l := range layouts {
		d.types[l.code] = newKind(f, l)
		if l.code == 'C' {
			l.kind = kindExecution
			d.hidden = newKind(f, l)
		}
	}
	return nil
}

func newKind(f *plan.Feed, l layout) kind {
	k := kind{
		size: uint32(l.size), known: true, learn: l.learn, stock: uint8(l.stock),
		wanted: f.Kinds&(1<<l.kind) != 0,
		book:   strings.IndexByte("AFECXDU", l.code) >= 0,
	}
	for i, c := range f.Columns {
		k.ops = append(k.ops, fields[c.Field].op(i, l))
	}
	return k
}

// op returns how to fill column number column with the field of a message of type l.
func (f *field) op(column int, l layout) op {
	o := op{code: opNull, column: uint8(column)}
	if f.from == nil {
		o.code, o.name = opName, value.NewName(kinds[l.kind].Name)
	}
	for _, s := range f.from {
		if strings.IndexByte(s.types, l.code) >= 0 {
			o.code, o.at = s.code, uint8(s.at)
		}
	}
	return o
}

// setDay reads the feed's day and zone.
func (d *decoder) setDay(f *plan.Feed, r *arena.Region) error {
	name := f.Zone
	if name == "" {
		name = DefaultZone
	}
	var err error
	if d.zone, err = time.LoadLocation(name); err != nil {
		return fmt.Errorf("zone %q: name a zone of the IANA list, as America/New_York: %w", name, err)
	}
	if f.Day == "" {
		if d.days, err = arena.Slice[midnight](r, f.Name+": days", f.Channels); err != nil {
			return fmt.Errorf("days: %w", err)
		}
		return nil
	}
	day, err := time.ParseInLocation(time.DateOnly, f.Day, d.zone)
	if err != nil {
		return fmt.Errorf("day %q: write it as 2010-12-24: %w", f.Day, err)
	}
	d.fixed = event.Nanos(day.UnixNano())
	if !time.Unix(0, day.UnixNano()).Equal(day) {
		return fmt.Errorf("day %q: years 1678 to 2261 can be written in nanoseconds", f.Day)
	}
	return nil
}

// midnight returns the instant from which the packet's time stamps count.
func (d *decoder) midnight(p *wire.Packet) event.Nanos {
	if d.days == nil {
		return d.fixed
	}
	m := &d.days[p.Channel]
	if m.known == 0 {
		arena.Save(d.undo, m)
		year, month, day := time.Unix(0, int64(p.Receive)).In(d.zone).Date()
		m.at = event.Nanos(time.Date(year, month, day, 0, 0, 0, 0, d.zone).UnixNano())
		fault.Point()
		m.known = 1
	}
	return m.at
}

// Forget voids the channel's orders, symbols and day.
func (d *decoder) Forget(c int) {
	if d.book != nil {
		d.book.forget(c)
	}
	if d.symbols != nil {
		if known := d.symbols[c*locates:][:d.highest[c]+1]; d.highest[c] > 0 {
			arena.SaveSlice(d.undo, known)
			clear(known)
			fault.Point()
			arena.Save(d.undo, &d.highest[c])
			d.highest[c] = 0
		}
	}
	if d.days != nil {
		arena.Save(d.undo, &d.days[c])
		d.days[c] = midnight{}
	}
}

// SaveMax implements [wire.Saver]. A message may change an order's slot, its home, the
// home of an order that had been forgotten, and with a replacement as much again; and
// teach a symbol.
func (d *decoder) SaveMax(payload int) int {
	const least, slot = 2 + 19, 4 // bytes of a message that changes something; words of a slot
	return (payload/least+1)*(5*slot+4) + 8
}

// ForgetMax implements [wire.Saver].
func (d *decoder) ForgetMax() int { return locates + 16 }

// Decode decodes messages [p.Skip, p.Skip+p.Count). Where they stop is kept in
// p.Next (bytes) and p.Done (messages).
func (d *decoder) Decode(p *wire.Packet, b *event.Batch) (more bool) {
	body, at := p.Payload, p.Next
	if p.Done == 0 && at == 0 && p.Skip > 0 {
		at = skip(body, p.Skip)
	}
	midnight := d.midnight(p)
	done, latest := p.Done, p.Max
	first, filtered := b.N, uint64(0)
	for ; done < p.Count && at+2 <= len(body); done++ {
		end := at + 2 + int(binary.BigEndian.Uint16(body[at:]))
		if end > len(body) {
			break // cut off: the packet ends with the last whole message
		}
		m := body[at+2 : end]
		if len(m) == 0 {
			at = end
			d.refuse(p, m)
			continue
		}
		k := &d.types[m[0]]
		if len(m) < int(k.size) || len(m) < headerSize { // the second is for the compiler
			at = end
			d.refuse(p, m)
			continue
		}
		clock := binary.BigEndian.Uint64(m[3:headerSize]) & (1<<48 - 1)
		if clock >= uint64(dayMax) {
			at = end
			p.Lose(event.DropNoTime)
			continue
		}
		if m[0] == 'C' && m[31] != 'Y' {
			k = &d.hidden
		}
		if k.wanted && b.Full() { // before the message changes the book
			more = true
			break
		}
		t := midnight + event.Nanos(clock)
		latest = max(latest, t)
		at = end
		switch drop := d.apply(k, p, b, m); {
		case drop != event.Kept:
			p.Lose(drop)
		case !k.wanted:
			filtered++
		default:
			if d.identity {
				b.Chan[b.N], b.Order[b.N], b.Seq[b.N], b.Index[b.N] = p.Chan, p.Order, p.Seq+uint64(done), 0
			}
			b.Time[b.N] = t
			b.N++
		}
	}
	events := uint64(b.N - first)
	p.Max, p.Done, p.Next = latest, done, at
	p.Filtered += filtered
	p.Events += events
	p.Messages += filtered + events
	return more
}

// skip returns where the block behind the first n begins, or the body's end.
func skip(body []byte, n int) int {
	at := 0
	for ; n > 0; n-- {
		if at+2 > len(body) {
			return len(body)
		}
		at += 2 + int(binary.BigEndian.Uint16(body[at:]))
	}
	return min(at, len(body))
}

// refuse counts a message that is of no known type or too short for its type.
func (d *decoder) refuse(p *wire.Packet, m []byte) {
	if len(m) > 0 && !d.types[m[0]].known {
		p.Messages++
		p.Drops[event.DropSkippedType]++
		return
	}
	p.Lose(event.DropBadMessage)
}

// apply lets the message teach the decoder what it teaches and, if its kind is
// wanted, writes the columns of the event being added.
func (d *decoder) apply(k *kind, p *wire.Packet, b *event.Batch, m []byte) event.Drop {
	var x context
	if d.symbols != nil && (k.learn || k.wanted) {
		x.symbol = d.symbol(k, p.Channel, m)
	}
	if k.book && d.book != nil {
		if drop := d.order(&x, p.Channel, m); drop != event.Kept && (k.wanted || drop == event.DropOrderLimit) {
			return drop
		}
	}
	if !k.wanted {
		return event.Kept
	}
	return k.fill(b, m, &x)
}

// symbol returns the message's symbol, or 0.
func (d *decoder) symbol(k *kind, channel int, m []byte) uint64 {
	locate := int(binary.BigEndian.Uint16(m[1:]))
	known := &d.symbols[channel*locates+locate]
	if k.stock == 0 {
		return *known
	}
	symbol := binary.LittleEndian.Uint64(m[k.stock:])
	if k.learn && locate != 0 && *known != symbol {
		arena.Save(d.undo, known)
		*known = symbol
		fault.Point()
		if d.highest[channel] < uint32(locate) {
			arena.Save(d.undo, &d.highest[channel])
			d.highest[channel] = uint32(locate)
		}
	}
	return symbol
}

// order applies a message of type A, F, E, C, X, D or U to the book, and tells x of
// the order that it names.
func (d *decoder) order(x *context, channel int, m []byte) event.Drop {
	ref := binary.BigEndian.Uint64(m[11:])
	if m[0] == 'A' || m[0] == 'F' {
		return d.add(channel, ref, sideOf(m[19]), binary.BigEndian.Uint32(m[32:]), binary.BigEndian.Uint32(m[20:]))
	}
	o := d.book.find(channel, ref)
	if o != nil {
		x.side, x.price, x.shares = o.tag&3, o.price, o.shares
	}
	switch m[0] {
	case 'E', 'C', 'X':
		if o != nil {
			d.book.reduce(o, binary.BigEndian.Uint32(m[19:]))
		}
	case 'D':
		if o != nil {
			d.book.remove(o)
		}
	case 'U':
		if o != nil {
			d.book.remove(o)
		}
		return d.add(channel, binary.BigEndian.Uint64(m[19:]), x.side, binary.BigEndian.Uint32(m[31:]), binary.BigEndian.Uint32(m[27:]))
	}
	if o == nil && m[0] != 'C' {
		return event.DropUnknownOrder
	}
	return event.Kept
}

func (d *decoder) add(channel int, ref uint64, side, price, shares uint32) event.Drop {
	if d.book.put(channel, ref, side, price, shares) {
		return event.Kept
	}
	return event.DropOrderLimit
}

func sideOf(c byte) uint32 {
	switch c {
	case 'B':
		return buySide
	case 'S':
		return sellSide
	}
	return noSide
}

var sides = [...]value.Name{buySide: value.NewName("buy"), sellSide: value.NewName("sell")}

// fill writes the columns of the event being added from message m, which is at
// least k.size long. A drop leaves the event unfinished.
func (k *kind) fill(b *event.Batch, m []byte, x *context) event.Drop {
	heap := len(b.Heap)
	for i := range k.ops {
		o := &k.ops[i]
		c := int(o.column)
		switch o.code {
		case opUint32:
			b.SetNum(c, int64(binary.BigEndian.Uint32(m[o.at:])))
		case opUint16:
			b.SetNum(c, int64(binary.BigEndian.Uint16(m[o.at:])))
		case opCount:
			v := binary.BigEndian.Uint64(m[o.at:])
			if v > math.MaxInt64 {
				b.Heap = b.Heap[:heap]
				return event.DropBadValue
			}
			b.SetNum(c, int64(v))
		case opID:
			b.SetNum(c, int64(binary.BigEndian.Uint64(m[o.at:])))
		case opChar:
			value.SetWord(b, c, uint64(m[o.at])|pad8)
		case opText2:
			value.SetWord(b, c, uint64(binary.LittleEndian.Uint16(m[o.at:]))|pad16)
		case opText4:
			value.SetWord(b, c, uint64(binary.LittleEndian.Uint32(m[o.at:]))|pad32)
		case opName:
			value.SetName(b, c, &o.name)
		case opSymbol:
			if x.symbol == 0 {
				b.SetNull(c)
				continue
			}
			value.SetWord(b, c, x.symbol)
		case opSide:
			setSide(b, c, sideOf(m[o.at]))
		case opOrderSide:
			setSide(b, c, x.side)
		case opOrderPrice:
			b.SetNum(c, int64(x.price))
		case opOrderShares:
			b.SetNum(c, int64(x.shares))
		case opNull:
			b.SetNull(c)
		}
	}
	return event.Kept
}

// Spaces behind one, two and four bytes of text.
const (
	pad8  = 0x2020202020202000
	pad16 = 0x2020202020200000
	pad32 = 0x2020202000000000
)

func setSide(b *event.Batch, c int, side uint32) {
	if side == noSide {
		b.SetNull(c)
		return
	}
	value.SetName(b, c, &sides[side&3])
}
