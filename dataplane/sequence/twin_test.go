package sequence

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// The twin keeps a map entry for every message and remembers everything. It is
// slow, unbounded but for the limits that are part of the rules, and has no
// intervals, no fast path and no memory of its own.
type twin struct {
	restarts               bool
	channels               int
	holdPackets, holdBytes int
	holdFor                int64
	slots                  []*twinChannel
	ended                  []int // slots, longest retired first
}

type twinPacket struct {
	channel, session int
	kind             HeaderKind
	seq              uint64
	sent             int64
	texts            []string
	cut              int // messages promised beyond texts

	at, since int64
	left      int // messages that wait
}

func (p *twinPacket) size() (n int) {
	for _, t := range p.texts {
		n += 2 + len(t)
	}
	return n
}

type twinChannel struct {
	name, session int
	epoch         int
	silent        bool
	state         string // "live", "ending", "retired"
	clock         int64

	start   uint64 // joined here, or 1
	floor   uint64
	settled map[uint64]bool // released or given up
	waiting map[uint64]*twinPacket
	lost    [][2]uint64 // runs given up, in order
	told    []twinTold  // announcements not yet reached: the first, and the rest as one

	known                       uint64 // one more than the highest number known
	knownSent, bornSent, oldEnd int64
	beat                        int64
	born                        uint64
}

type twinTold struct {
	to    uint64
	since int64
}

// A twinRelease is a release as a list of lines, one a message.
type twinRelease struct {
	Channel, Epoch, Retired                  int
	New, Began, More, Heartbeat              bool
	Drop                                     event.Drop
	Messages, Cut                            uint64
	Fresh, Duplicate, Held, Ancient, Missing uint64
	Lines                                    string
}

func (w *twin) push(p *twinPacket, at int64) []twinRelease {
	p.at = at
	r := twinRelease{Channel: -1, Retired: -1, Messages: uint64(len(p.texts)), Cut: uint64(p.cut), Heartbeat: p.kind != Data}
	drop := func(d event.Drop) []twinRelease { r.Drop = d; return []twinRelease{r} }
	i := slices.IndexFunc(w.slots, func(c *twinChannel) bool {
		return w.restarts && c.name == p.channel || !w.restarts && c.session == p.session
	})
	if i < 0 {
		switch {
		case p.kind == EndOfSession:
			return drop(event.DropNoChannel)
		case len(w.slots) < w.channels:
			i = len(w.slots)
			w.slots = append(w.slots, nil)
		case len(w.ended) > 0:
			i = w.ended[0]
			w.ended = w.ended[1:]
		default:
			return drop(event.DropChannelLimit)
		}
		w.slots[i] = w.join(p, &r)
		w.accept(i, p, &r)
		return []twinRelease{r}
	}
	c := w.slots[i]
	if c.session != p.session {
		if p.sent <= c.knownSent || p.sent <= c.beat {
			return drop(event.DropNoChannel)
		}
		end := twinRelease{Channel: i, Epoch: c.epoch, Retired: i, More: true}
		c.flush(&end)
		w.slots[i] = w.join(p, &r)
		w.accept(i, p, &r)
		return []twinRelease{end, r}
	}
	if c.state == "retired" && p.kind == Data {
		for k := range p.texts {
			if !c.settled[p.seq+uint64(k)] {
				return drop(event.DropNoChannel)
			}
		}
	}
	w.accept(i, p, &r)
	return []twinRelease{r}
}

func (w *twin) join(p *twinPacket, r *twinRelease) *twinChannel {
	c := &twinChannel{name: p.channel, session: p.session, state: "live", clock: math.MinInt64, beat: math.MinInt64, knownSent: math.MinInt64}
	w.begin(c, p, p.seq, r)
	r.New = true
	return c
}

func (w *twin) begin(c *twinChannel, p *twinPacket, start uint64, r *twinRelease) {
	c.oldEnd = c.knownSent
	c.epoch++
	c.silent, c.start, c.floor, c.known, c.knownSent = true, start, 0, start, p.sent
	c.settled, c.waiting, c.lost, c.told = map[uint64]bool{}, map[uint64]*twinPacket{}, nil, nil
	c.born, c.bornSent = p.seq, p.sent
	r.Began = true
}

func (w *twin) accept(i int, p *twinPacket, r *twinRelease) {
	c := w.slots[i]
	c.clock = max(c.clock, p.at)
	w.judge(c, c.clock, r)
	old := false
	if w.restarts {
		switch {
		case p.sent < c.bornSent:
			lower := p.seq < c.born || p.seq == c.born && p.kind == Heartbeat
			old = !lower || p.sent <= c.oldEnd
		case p.seq < c.known && p.sent > c.knownSent:
			c.flush(r)
			w.begin(c, p, 1, r)
		}
	}
	switch {
	case old:
		r.Ancient += uint64(len(p.texts))
	case p.kind == Data:
		w.data(c, p, r)
	case c.state != "retired":
		c.announce(p)
	}
	w.judge(c, c.clock, r)
	w.settle(i, r)
}

func (w *twin) settle(i int, r *twinRelease) {
	c := w.slots[i]
	r.Channel, r.Epoch = i, c.epoch
	if c.state == "ending" && len(c.waiting) == 0 && c.next() == c.known {
		c.state = "retired"
		r.Retired = i
		w.ended = append(w.ended, i)
	}
}

func (c *twinChannel) announce(p *twinPacket) {
	if p.kind == EndOfSession {
		c.state = "ending"
	}
	c.beat = max(c.beat, p.sent)
	if p.seq > c.known {
		c.known, c.knownSent = p.seq, max(c.knownSent, p.sent)
	}
	c.forget()
	if n := len(c.told); p.seq > c.next() && (n == 0 || p.seq > c.told[n-1].to) {
		c.told = append(c.told[:min(n, 1)], twinTold{p.seq, c.clock})
	}
}

// forget drops announcements that have been reached.
func (c *twinChannel) forget() {
	for len(c.told) > 0 && c.told[0].to <= c.next() {
		c.told = c.told[1:]
	}
}

func (c *twinChannel) next() uint64 {
	n := c.start
	for c.settled[n] {
		n++
	}
	return n
}

func (c *twinChannel) edge() uint64 {
	n := c.start
	for n > 0 && c.settled[n-1] {
		n--
	}
	return n
}

func (w *twin) data(c *twinChannel, p *twinPacket, r *twinRelease) {
	if to := p.seq + uint64(len(p.texts)); to > c.known {
		c.known, c.knownSent = to, max(c.knownSent, p.sent)
	}
	edge := c.edge()
	var fresh uint64
	for k, text := range p.texts {
		n := p.seq + uint64(k)
		switch {
		case n < c.floor:
			r.Ancient++
		case c.wasLost(n):
			r.Ancient++
		case c.settled[n] || c.waiting[n] != nil:
			r.Duplicate++
		case n < edge:
			c.settled[n] = true
			r.Fresh++
			c.line(r, n, text, p.at, false)
		default:
			c.waiting[n] = p
			p.left++
			fresh++
		}
	}
	// Runs apart from the joined part are bounded: the lowest goes, and all below it.
	var early []uint64
	for n := range c.settled {
		if n < c.edge() {
			early = append(early, n)
		}
	}
	slices.Sort(early)
	var ends []uint64
	for k, n := range early {
		if k+1 == len(early) || early[k+1] != n+1 {
			ends = append(ends, n+1)
		}
	}
	if len(ends) > lowerMax {
		c.floor = ends[0]
		maps.DeleteFunc(c.settled, func(n uint64, _ bool) bool { return n < c.floor })
	}
	p.since = c.clock
	c.release(r, p)
	for {
		packets := map[*twinPacket]bool{}
		bytes := 0
		for _, q := range c.waiting {
			if !packets[q] {
				packets[q] = true
				bytes += q.size()
			}
		}
		if len(packets) <= w.holdPackets && bytes <= w.holdBytes {
			break
		}
		c.giveUp(r, p, math.MaxUint64)
	}
	w.judgeWith(c, c.clock, r, p)
	if p.left > 0 {
		r.Held += fresh
	} else {
		r.Fresh += fresh
	}
}

func (c *twinChannel) wasLost(n uint64) bool {
	for _, v := range c.lost[max(0, len(c.lost)-lapsedMax):] {
		if v[0] <= n && n < v[1] {
			return true
		}
	}
	return false
}

func (c *twinChannel) line(r *twinRelease, n uint64, text string, at int64, held bool) {
	r.Lines += fmt.Sprintf("%d.%d %s at %d held %v new %v\n", c.epoch, n, text, at, held, c.silent)
	c.silent = false
}

func (c *twinChannel) release(r *twinRelease, fresh *twinPacket) {
	for n := c.next(); c.waiting[n] != nil; n++ {
		p := c.waiting[n]
		delete(c.waiting, n)
		c.settled[n] = true
		p.left--
		c.line(r, n, p.texts[n-p.seq], p.at, p != fresh)
	}
	c.forget()
}

// giveUp gives the lowest hole up, as far as to.
func (c *twinChannel) giveUp(r *twinRelease, fresh *twinPacket, to uint64) {
	from := c.next()
	n := from
	for ; n < to && n < c.known && c.waiting[n] == nil; n++ {
		c.settled[n] = true
		r.Missing++
		r.Lines += fmt.Sprintf("%d.%d missing\n", c.epoch, n)
	}
	if k := len(c.lost); k > 0 && c.lost[k-1][1] == from {
		c.lost[k-1][1] = n
	} else {
		c.lost = append(c.lost, [2]uint64{from, n})
	}
	c.release(r, fresh)
}

func (c *twinChannel) flush(r *twinRelease) {
	for len(c.waiting) > 0 || c.next() < c.known {
		c.giveUp(r, nil, math.MaxUint64)
	}
}

func (w *twin) judge(c *twinChannel, now int64, r *twinRelease) { w.judgeWith(c, now, r, nil) }

func (w *twin) judgeWith(c *twinChannel, now int64, r *twinRelease, fresh *twinPacket) {
	for {
		oldest := int64(math.MaxInt64)
		for _, p := range c.waiting {
			oldest = min(oldest, p.since)
		}
		switch {
		case len(c.waiting) > 0 && now-oldest >= w.holdFor:
			c.giveUp(r, fresh, math.MaxUint64)
		case len(c.told) > 0 && now-c.told[0].since >= w.holdFor:
			c.giveUp(r, fresh, c.told[0].to)
		default:
			return
		}
	}
}

// expire and finish release one channel's gaps, the lowest slot first.
func (w *twin) expire(now int64) (twinRelease, bool) {
	for i, c := range w.slots {
		r := twinRelease{Retired: -1}
		if w.judge(c, now, &r); r.Lines != "" {
			w.settle(i, &r)
			return r, true
		}
	}
	return twinRelease{}, false
}

func (w *twin) finish() (twinRelease, bool) {
	for i, c := range w.slots {
		r := twinRelease{Retired: -1}
		if c.flush(&r); r.Lines != "" {
			w.settle(i, &r)
			return r, true
		}
	}
	return twinRelease{}, false
}

// flatten writes a release as the twin does.
func flatten(s *Sequencer, p plan.Sequence, r *Release) twinRelease {
	w := outcome(r)
	for i := range r.Items {
		w.Lines += lines(s, p, &r.Items[i])
	}
	return w
}

// lines writes an item, one line a message.
func lines(s *Sequencer, p plan.Sequence, it *Item) string {
	var b strings.Builder
	for k := range it.Gap.Count {
		fmt.Fprintf(&b, "%d.%d missing\n", it.Gap.Epoch, it.Gap.Seq+k)
	}
	if it.Gap.Count > 0 {
		return b.String()
	}
	sp := &it.Span
	for k := range sp.Count {
		fmt.Fprintf(&b, "%d.%d %s at %d held %v new %v\n",
			sp.Epoch, sp.Seq+uint64(k), message(p, s.Body(sp), sp.Skip+k), sp.Receive, sp.Held, sp.NewEpoch && k == 0)
	}
	return b.String()
}

// outcome is a release without its items.
func outcome(r *Release) twinRelease {
	return twinRelease{
		Channel: r.Channel, Epoch: int(r.Epoch), Retired: r.Retired, New: r.New, Began: r.Began, More: r.More, Heartbeat: r.Heartbeat,
		Drop: r.Drop, Messages: r.Messages, Cut: r.Cut, Fresh: r.Fresh, Duplicate: r.Duplicate, Held: r.Held, Ancient: r.Ancient,
		Missing: r.Missing,
	}
}

// wire builds the packet; a cut one loses its last bytes.
func (p *twinPacket) wire(protocol plan.Sequence) []byte {
	texts := slices.Clone(p.texts)
	for range p.cut {
		texts = append(texts, "this is not there")
	}
	var b []byte
	switch {
	case protocol == plan.IEXTP:
		b = iex(uint32(p.channel), uint32(p.session), p.seq, event.Nanos(p.sent), texts...)
	case p.kind == EndOfSession:
		b = moldStop(fmt.Sprint("s", p.session), p.seq)
	default:
		b = mold(fmt.Sprint("s", p.session), p.seq, texts...)
	}
	if p.cut > 0 {
		b = b[:len(b)-(p.cut-1)*19-1-p.cut%19]
	}
	return b
}

// drawPacket makes a packet near what its channel expects, or a wild one.
func drawPacket(t *rapid.T, w *twin, id int, style string) *twinPacket {
	small := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
	p := &twinPacket{channel: 1, session: 1, kind: Data}
	if w.restarts {
		p.channel = small("channel", 1, 2)
		if small("other session", 0, 19) == 0 {
			p.session = 2
		}
	} else {
		p.session = small("session", 1, 3)
	}
	// Where the sender is, as far as anybody knows.
	at, sent := uint64(20), int64(20)
	if style == "joined late" {
		at = 60
	}
	for _, c := range w.slots {
		if w.restarts && c.name == p.channel || !w.restarts && c.session == p.session {
			at, sent = c.next(), c.knownSent
			if w.restarts && p.session != 2 {
				p.session = c.session
			}
		}
	}
	count, place := small("count", 0, 4), small("place", 0, 9)
	switch {
	case style == "joined late" && id > 0:
		place, count = 8, small("few", 1, 2)
	case style == "gaps" && place < 6:
		place = 4
	}
	switch place {
	case 0, 1, 2: // in order
		p.seq, p.sent = at, sent+1
	case 3, 4, 5: // ahead
		p.seq, p.sent = at+uint64(small("ahead", 1, 9)), sent+int64(small("later", 0, 2))
	case 6, 7: // a late one
		p.seq, p.sent = at-min(at-1, uint64(small("behind", 0, 12))), sent-int64(small("earlier", 0, 12))
	case 8: // long before
		p.seq, p.sent = uint64(small("low", 1, int(min(at, 60)))), sent-int64(small("long before", 0, 30))
	case 9: // a restart
		p.seq, p.sent = uint64(small("first", 1, 6)), sent+int64(small("after", -2, 2))
		if small("begins", 0, 3) > 0 {
			p.seq, p.sent = at, sent+1
		}
	}
	if !w.restarts {
		p.sent = 0
	}
	if count == 0 {
		p.kind = Heartbeat
		if !w.restarts && small("end", 0, 5) == 0 {
			p.kind = EndOfSession
		}
		return p
	}
	for k := range count {
		p.texts = append(p.texts, fmt.Sprintf("p%d.%d%s", id, k, strings.Repeat("x", small("length", 0, 2))))
	}
	if small("cut", 0, 15) == 0 {
		p.cut = small("cut by", 1, 3)
	}
	return p
}

func checkAgainstTwin(t *rapid.T, protocol plan.Sequence, s *Sequencer, w *twin) {
	l := &ledger{}
	now := int64(100)
	compare := func(what any, r *Release, want twinRelease) {
		l.add(t, r)
		if got := flatten(s, protocol, r); got != want {
			t.Fatalf("%+v\n got %+v\nwant %+v", what, got, want)
		}
	}
	style := rapid.SampledFrom([]string{"mixed", "mixed", "gaps", "joined late"}).Draw(t, "style")
	for id := range rapid.IntRange(1, 120).Draw(t, "packets") {
		now += int64(rapid.IntRange(0, 3).Draw(t, "passes"))
		if rapid.IntRange(0, 19).Draw(t, "expire") == 0 {
			for {
				want, more := w.expire(now)
				r := s.Expire(event.Nanos(now))
				if (r != nil) != more {
					t.Fatalf("Expire(%d) = %v, want a release: %v %+v", now, r, more, want)
				}
				if r == nil {
					break
				}
				compare("expire", r, want)
			}
		}
		p := drawPacket(t, w, id, style)
		at := now - int64(rapid.IntRange(0, 3).Draw(t, "skew"))
		wants := w.push(p, at)
		r := s.Push(p.wire(protocol), uint8(id&1), event.Nanos(at), p.cut > 0)
		for _, want := range wants {
			if r == nil {
				t.Fatalf("%+v: no release, want %+v", p, want)
			}
			compare(p, r, want)
			r = s.Rest()
		}
		if r != nil {
			t.Fatalf("%+v: one more release: %+v", p, r)
		}
		for i, c := range w.slots {
			got, open := s.Next(i)
			var count uint64
			for n := c.next(); n < c.known && c.waiting[n] == nil; n++ {
				count++
			}
			if open != (count > 0) || open && (got.Seq != c.next() || got.Count != count || int(got.Epoch) != c.epoch) {
				t.Fatalf("Next(%d) = %+v, %v, want %d from %d of epoch %d", i, got, open, count, c.next(), c.epoch)
			}
		}
		l.balance(t, s)
	}
	for {
		want, more := w.finish()
		r := s.Finish()
		if (r != nil) != more {
			t.Fatalf("Finish = %v, want a release: %v", r, more)
		}
		if r == nil {
			break
		}
		compare("finish", r, want)
	}
	l.finish(t, s, nil)
}

func TestRandomStreamsAgreeWithTheTwin(t *testing.T) {
	for _, protocol := range []plan.Sequence{plan.IEXTP, plan.MoldUDP64} {
		t.Run(string(protocol), func(t *testing.T) {
			property := func(rt *rapid.T) {
				f := feed(protocol)
				f.Channels = rapid.IntRange(1, 3).Draw(rt, "channels")
				f.HoldPackets = rapid.IntRange(0, 6).Draw(rt, "hold packets")
				f.HoldBytes = rapid.IntRange(0, 120).Draw(rt, "hold bytes")
				f.HoldFor = rapid.SampledFrom([]time.Duration{0, 3, 12, 60}).Draw(rt, "hold for")
				w := &twin{
					restarts: protocol == plan.IEXTP, channels: f.Channels,
					holdPackets: f.HoldPackets, holdBytes: f.HoldBytes, holdFor: int64(f.HoldFor),
				}
				s := newSequencer(rt, f)
				s.bodyBytes = uint32(f.HoldBytes) + 80 // longer than any of these bodies: so that they must be moved
				checkAgainstTwin(rt, protocol, s, w)
			}
			for range 10 { // each with a seed of its own
				rapid.Check(t, property)
			}
		})
	}
}
