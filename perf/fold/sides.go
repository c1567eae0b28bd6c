package fold

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	events "github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/window"
)

// A Round is what one side did with a round of events.
type Round struct {
	Fold, Close time.Duration
	// Rows and Checksum are of all rounds so far.
	Rows, Checksum uint64
}

// A side folds the stream's next events, n of them, a multiple of the batch.
type side interface {
	run(n uint64) (Round, error)
	// bytesPerKey is the table memory of one window by its keys, 0: unknown.
	bytesPerKey() float64
	close() error
}

// cpu returns the processor time of the calling thread.
func cpu() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic("fold: clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}

// headrace is the window stage of one worker.
type headrace struct {
	keys, made uint64
	region     *arena.Region
	state      *window.State
	keyer      *exchange.Keyer
	keyed      [chunk / batchMax]*events.Keyed
	box        *outbox.Writer
	reader     *outbox.Reader
	set        *aggregate.Set
	greatest   events.Nanos
	perKey     float64
	total      Round
}

func newPlan(keys, perWindow uint64) *plan.Plan {
	columns := []plan.Column{{Name: "key", Type: events.Int64}, {Name: "value", Type: events.Int64}}
	value := plan.Program{Ops: []plan.Op{{Code: plan.OpColumn, Column: 1, Type: events.Int64}}, Type: events.Int64}
	return &plan.Plan{
		Version: plan.Version, Name: "fold", Workers: 1, WorkersMax: 1, Batch: batchMax, Replay: true,
		Feeds:   []plan.Feed{{Name: "events", Columns: columns}},
		Streams: []plan.Stream{{Key: []int{0}, Columns: []int{1}, Queries: []int{0}, KeyWidth: 8}},
		Queries: []plan.Query{{
			Name: "sums", Width: time.Duration(perWindow * step), Delay: delay, Keys: int(keys), Panes: 2,
			Aggregates: []plan.Aggregate{{Name: "count", Kind: plan.Count}, {Name: "sum", Kind: plan.Sum, Args: []plan.Program{value}}},
		}},
	}
}

func newHeadrace(keys, perWindow uint64) (_ side, err error) {
	p := newPlan(keys, perWindow)
	q, feed := &p.Queries[0], &p.Feeds[0]
	h := &headrace{keys: keys, greatest: events.MinNanos, keyer: exchange.NewKeyer(&p.Streams[0])}
	if h.set, err = aggregate.NewSet(q, feed.Columns); err != nil {
		return nil, err
	}
	if h.region, err = arena.New("fold", 1<<40); err != nil {
		return nil, err
	}
	h.state, err = window.New(window.Config{Plan: p, Limit: window.Alone, Wait: true, Counters: make([]segment.QueryCounters, 1)}, h.region)
	if err != nil {
		return nil, err
	}
	g := window.NewGeometry(q.Keys, 8, false, h.set.Words())
	h.perKey = float64(g.PaneWords) * 8 / float64(keys)
	ring := outbox.Ring{Bytes: make([]byte, 1<<20), Produced: new(atomic.Uint64), Freed: new(atomic.Uint64)}
	h.box = outbox.NewWriter(ring)
	h.reader = outbox.NewReader(ring, outbox.Limits{Words: []int{h.set.Words()}})
	for i := range h.keyed {
		b := events.NewBatch([]events.Column{{Type: events.Int64}, {Type: events.Int64}})
		h.keyed[i] = events.NewKeyed(b, 8, 1)
	}
	return h, nil
}

func (h *headrace) close() error         { return h.region.Close() }
func (h *headrace) bytesPerKey() float64 { return h.perKey }

// generate fills batch k and ends it as a worker ends a release: with its greatest
// event time.
func (h *headrace) generate(k *events.Keyed) {
	b := k.Batch
	b.Reset()
	for i := range batchMax {
		t, key, value := event(h.made, h.keys)
		b.SetNum(0, key)
		b.SetNum(1, value)
		b.Time[i] = events.Nanos(t)
		b.N++
		h.made++
		h.greatest = max(h.greatest, events.Nanos(t))
	}
	b.Marks = append(b.Marks, events.Mark{Kind: events.MarkRelease, At: batchMax, Time: h.greatest})
}

// fold does what a worker does with a decoded batch, and returns the time of closing
// within it.
func (h *headrace) fold(k *events.Keyed) (closing time.Duration, err error) {
	b := k.Batch
	sel := k.Select[0][:0]
	for e := range b.N {
		sel = append(sel, uint16(e))
	}
	k.Select[0] = sel
	h.keyer.Keys(k, func(int, events.Drop, uint64) { err = fmt.Errorf("an event was dropped") })
	h.state.Attach(0, []*events.Keyed{k})
	for !h.state.Apply(0, b) {
		d, err := h.closeWindows()
		if err != nil {
			return 0, err
		}
		closing += d
	}
	return closing, err
}

// closeWindows puts out what the watermark has passed. It returns the time that all
// of it took; the closing's own time goes into the total.
func (h *headrace) closeWindows() (time.Duration, error) {
	begin := cpu()
	for h.state.Closing() {
		from := cpu()
		h.state.Close(h.box, 4096)
		h.box.Publish()
		h.total.Close += cpu() - from
		if err := h.read(); err != nil {
			return 0, err
		}
	}
	return cpu() - begin, nil
}

// read takes the rows out of the outbox.
func (h *headrace) read() error {
	var p outbox.Partial
	for {
		ok, err := h.reader.Next(&p)
		if !ok {
			h.reader.Free(h.reader.Position())
			return err
		}
		if p.Kind != outbox.KindPartial {
			continue
		}
		key := int64(binary.BigEndian.Uint64(p.Key) ^ 1<<63)
		count, sum := h.set.Value(0, p.State), h.set.Value(1, p.State)
		h.total.Checksum += rowSum(key, int64(p.Start), count.Lo, sum.Lo)
		h.total.Rows++
	}
}

func (h *headrace) run(n uint64) (Round, error) {
	h.total.Fold, h.total.Close = 0, 0
	for to := h.made + n; h.made < to; {
		count := 0
		for ; count < len(h.keyed) && h.made < to; count++ {
			h.generate(h.keyed[count])
		}
		begin, closing := cpu(), time.Duration(0)
		for _, k := range h.keyed[:count] {
			d, err := h.fold(k)
			if err != nil {
				return h.total, err
			}
			closing += d
		}
		h.total.Fold += cpu() - begin - closing
	}
	return h.total, nil
}

// gomap folds into built-in maps: a map from key to a slot, so that an event of a
// known key costs one lookup.
type gomap struct {
	keys, made, perWindow uint64

	batches  [chunk / batchMax]columns
	windows  []mapWindow
	current  *mapWindow
	start    int64 // of the window of the last event
	end      int64
	closed   int64
	greatest int64
	total    Round
}

type columns struct{ time, key, value [batchMax]int64 }

type mapWindow struct {
	index int64
	open  bool
	slots map[int64]uint32
	sums  []sums
}

type sums struct {
	key    int64
	count  uint64
	lo, hi uint64
}

func newMap(keys, perWindow uint64) (side, error) {
	m := &gomap{keys: keys, perWindow: perWindow, start: 1, windows: make([]mapWindow, 3)}
	for i := range m.windows {
		m.windows[i].slots = make(map[int64]uint32, keys)
		m.windows[i].sums = make([]sums, 0, keys)
	}
	return m, nil
}

func (m *gomap) close() error         { return nil }
func (m *gomap) bytesPerKey() float64 { return 0 }

func (m *gomap) run(n uint64) (Round, error) {
	m.total.Fold, m.total.Close = 0, 0
	for to := m.made + n; m.made < to; {
		count := 0
		for ; count < len(m.batches) && m.made < to; count++ {
			b := &m.batches[count]
			for i := range b.time {
				b.time[i], b.key[i], b.value[i] = event(m.made, m.keys)
				m.made++
			}
		}
		from := cpu()
		for i := range m.batches[:count] {
			if err := m.fold(&m.batches[i]); err != nil {
				return m.total, err
			}
			if width := int64(m.perWindow * step); (m.greatest-delay)/width > m.closed {
				m.total.Fold += cpu() - from
				m.closeBefore((m.greatest - delay) / width)
				from = cpu()
			}
		}
		m.total.Fold += cpu() - from
	}
	return m.total, nil
}

func (m *gomap) fold(b *columns) error {
	for i, t := range b.time {
		if t < m.start || t >= m.end {
			if !m.turn(t) {
				return fmt.Errorf("the event at %d has no window", t)
			}
		}
		w := m.current
		slot, ok := w.slots[b.key[i]]
		if !ok {
			slot = uint32(len(w.sums))
			w.slots[b.key[i]] = slot
			w.sums = append(w.sums, sums{key: b.key[i]})
		}
		s, v := &w.sums[slot], b.value[i]
		s.count++
		var carry uint64
		s.lo, carry = bits.Add64(s.lo, uint64(v), 0)
		s.hi += uint64(v>>63) + carry
		m.greatest = max(m.greatest, t)
	}
	return nil
}

func (m *gomap) turn(t int64) bool {
	width := int64(m.perWindow * step)
	index := t / width
	m.start, m.end = index*width, (index+1)*width
	free := -1
	for i := range m.windows {
		w := &m.windows[i]
		if w.open && w.index == index {
			m.current = w
			return true
		}
		if !w.open {
			free = i
		}
	}
	if free < 0 || index < m.closed {
		return false
	}
	m.current = &m.windows[free]
	m.current.index, m.current.open = index, true
	return true
}

func (m *gomap) closeBefore(index int64) {
	m.closed, m.start, m.end = index, 1, 0
	for i := range m.windows {
		w := &m.windows[i]
		if !w.open || w.index >= index {
			continue
		}
		for _, s := range w.sums { // what is made of them is not this benchmark's matter
			m.total.Checksum += rowSum(s.key, w.index*int64(m.perWindow*step), s.count, s.lo)
			m.total.Rows++
		}
		from := cpu()
		clear(w.slots)
		w.sums, w.open = w.sums[:0], false
		m.total.Close += cpu() - from
	}
}
