package window

import (
	"math"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
)

// Geometry is the layout of a query's pane tables. An entry is a slot of stride
// words: hash, key words, key length (where it varies), aggregate states. A key
// group has a run of Slots slots; its room is the same for any number of workers,
// so that a group is moved by copying a range.
type Geometry struct {
	KeyWords  int
	Variable  bool // keys have different lengths: one word more
	State     int  // words of aggregate state
	Slots     int  // of a run
	Stride    int  // words of a slot
	RunWords  int
	PaneWords int
}

// NewGeometry lays out tables for a limit of keys in one pane. With λ = keys/1024
// keys expected in a group a run has (λ + 6√λ + 8)/0.8 slots: six standard deviations
// above the mean, a fifth of the slots left empty to keep probes short.
func NewGeometry(keys, keyWidth int, variable bool, stateWords int) Geometry {
	lambda := float64(keys) / event.GroupCount
	g := Geometry{KeyWords: (keyWidth + 7) / 8, Variable: variable, State: stateWords}
	g.Slots = int(math.Ceil((lambda + 6*math.Sqrt(lambda) + 8) / 0.8))
	g.Stride = 1 + g.KeyWords + stateWords
	if variable {
		g.Stride++
	}
	g.RunWords = g.Slots * g.Stride
	g.PaneWords = event.GroupCount * g.RunWords
	return g
}

// stateAt is the offset of the aggregate states in an entry.
func (g *Geometry) stateAt() uint32 {
	at := uint32(1 + g.KeyWords)
	if g.Variable {
		at++
	}
	return at
}

// home returns the word offset, within a pane, of the slot where the search for
// hash begins.
func (g *Geometry) home(hash uint64) uint32 {
	return home(hash, uint64(g.Slots), uint32(g.Stride), uint32(g.RunWords))
}

func home(hash, slots uint64, stride, run uint32) uint32 {
	slot := uint32((hash << 10 >> 32) * slots >> 32)
	return uint32(hash>>54)*run + slot*stride
}

// tag is what a slot stores of a hash; 0 means empty.
func tag(hash uint64) uint64 { return max(hash, 1) }

// A pane is the state of one window of one query. It is plain memory.
type pane struct {
	Index    int64 // window number
	State    uint32
	Flags    uint32 // outbox flags that the pane has earned
	Count    uint64 // entries
	Missing  uint64
	Cause    uint64 // what was known of [State.SetCause] when it began to close
	Firing   uint32
	Revision uint32
	Group    uint32 // where closing goes on
	Slot     uint32
}

// States of a pane.
const (
	paneFree = iota
	paneOpen
	paneClosing
	paneSpent // put out, and to be cleared when that is committed
)

// holds reports that p is the pane of window i.
func (p *pane) holds(i int64) bool {
	return p.Index == i && (p.State == paneOpen || p.State == paneClosing)
}

// flag says that the pane has lost something.
func (p *pane) flag(undo *arena.Undo) {
	if p.Flags&flagIncomplete == 0 {
		arena.Save(undo, p)
		p.Flags |= flagIncomplete
	}
}

// find returns the entry of the key of event i in the pane at base, or the empty
// slot where it belongs, as a word offset; full if its run has neither.
func (q *query) find(base uint32, k *event.Keyed, i int) (at uint32, found, full bool) {
	g := &q.geometry
	h := tag(k.Hash[i])
	at = base + g.home(k.Hash[i])
	start := base + uint32(k.Hash[i]>>54)*uint32(g.RunWords)
	end := start + uint32(g.RunWords)
	key := k.Key[i*g.KeyWords : (i+1)*g.KeyWords]
	for range g.Slots {
		switch e := q.mem[at]; {
		case e == 0:
			return at, false, false
		case e == h && q.sameKey(at, key, k.KeyLen[i]):
			return at, true, false
		}
		if at += uint32(g.Stride); at == end {
			at = start
		}
	}
	return 0, false, true
}

// sameKey compares the whole key: a hash is not an identity.
func (q *query) sameKey(at uint32, key []uint64, length uint8) bool {
	g := &q.geometry
	entry := q.mem[at+1:]
	entry = entry[:g.KeyWords]
	for w, v := range key {
		if entry[w] != v {
			return false
		}
	}
	return !g.Variable || q.mem[at+1+uint32(g.KeyWords)] == uint64(length)
}

// insert makes the empty slot at the entry of event i's key.
func (q *query) insert(slot int, at uint32, k *event.Keyed, i int) {
	g := &q.geometry
	group := int(k.Hash[i] >> 54)
	index := (at - uint32(slot*g.PaneWords+group*g.RunWords)) / uint32(g.Stride)
	used := &q.used[(slot*event.GroupCount+group)*q.usedWords+int(index/64)]
	if q.undo != nil {
		q.undo.PutZeros(q.mem[at : at+uint32(g.Stride)])
		arena.Put(q.undo, used)
		q.undo.Publish()
	}
	q.mem[at] = tag(k.Hash[i])
	fault.Point()
	copy(q.mem[at+1:at+1+uint32(g.KeyWords)], k.Key[i*g.KeyWords:(i+1)*g.KeyWords])
	if g.Variable {
		q.mem[at+1+uint32(g.KeyWords)] = uint64(k.KeyLen[i])
	}
	fault.Point()
	*used |= 1 << (index % 64)
	fault.Point()
	// What follows is derived from that, in a start over warm memory.
	q.groups[slot*event.GroupCount+group]++
	q.panes[slot].Count++
}
