package exchange

import (
	"encoding/binary"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// A Keyer makes the keys of one stream.
type Keyer struct {
	columns []int
	scratch [event.ColumnsMax*(event.TextMax+2) + 16]byte
}

// NewKeyer returns the keyer of stream s.
func NewKeyer(s *plan.Stream) *Keyer { return &Keyer{columns: s.Key} }

// Keys gives every event of k's batch that a query selects its key and hash.
// Events without a key leave all selections; drop counts them by the query's place
// in the stream and the reason.
func (x *Keyer) Keys(k *event.Keyed, drop func(query int, reason event.Drop, n uint64)) {
	var wanted, bad, long event.Bits
	all := k.Select[0]
	if len(k.Select) > 1 {
		for _, sel := range k.Select {
			for _, i := range sel {
				wanted.Set(int(i))
			}
		}
		all = nil
	}
	clean := true
	if all != nil && len(x.columns) == 1 && x.words(k, all) {
		return
	}
	if all != nil {
		for _, i := range all {
			clean = x.key(k, int(i), &bad, &long) && clean
		}
	} else {
		for i := range k.Batch.N {
			if wanted.Has(i) {
				clean = x.key(k, i, &bad, &long) && clean
			}
		}
	}
	if !clean {
		x.discard(k, &bad, &long, drop)
	}
}

// words makes the keys of the events sel where the key is one column of integers
// without nulls, and reports whether it is.
func (x *Keyer) words(k *event.Keyed, sel []uint16) bool {
	n := k.Batch.N
	c := &k.Batch.Cols[x.columns[0]]
	if c.Type != event.Int64 || k.Words != 1 {
		return false
	}
	var all event.Bits
	all.Fill(n)
	for w := range all {
		if all[w]&^c.Valid[w] != 0 {
			return false
		}
	}
	copy(k.KeyLen[:n], eights[:n])
	if len(sel) == n {
		hash := k.Hash[:n]
		num, keys := c.Num[:len(hash)], k.Key[:len(hash)]
		for i := range hash {
			key := bits.ReverseBytes64(uint64(num[i]) ^ 1<<63)
			keys[i], hash[i] = key, event.HashWord(key)
		}
		return true
	}
	num, keys := (*[event.BatchMax]int64)(c.Num), (*[event.BatchMax]uint64)(k.Key)
	for _, e := range sel {
		i := uint8(e)
		key := bits.ReverseBytes64(uint64(num[i]) ^ 1<<63)
		keys[i], k.Hash[i] = key, event.HashWord(key)
	}
	return true
}

// eights are the lengths of keys of 8 bytes.
var eights = func() (l [event.BatchMax]uint8) {
	for i := range l {
		l[i] = 8
	}
	return l
}()

// key makes the key of event i, or notes why there is none.
func (x *Keyer) key(k *event.Keyed, i int, null, long *event.Bits) bool {
	b := k.Batch
	if len(x.columns) == 1 {
		c := &b.Cols[x.columns[0]]
		if !c.Valid.Has(i) {
			null.Set(i)
			return false
		}
		switch c.Type {
		case event.Text:
			text := b.Heap[c.Off[i] : c.Off[i]+uint32(c.Len[i])]
			if len(text) > k.Words*8 {
				long.Set(i)
				return false
			}
			k.PutKey(i, text)
			k.Hash[i] = event.HashKey(text)
		case event.Decimal:
			key := event.AppendDecimal(x.scratch[:0], c.Num[i], c.Scale)
			k.PutKey(i, key)
			k.Hash[i] = event.HashKey(key)
		default:
			key := x.scratch[:8]
			binary.BigEndian.PutUint64(key, uint64(c.Num[i])^1<<63)
			k.PutKey(i, key)
			k.Hash[i] = event.HashKey(key)
		}
		return true
	}
	return x.composite(k, i, null, long)
}

// composite makes the key of a list of several columns: each value behind its length.
func (x *Keyer) composite(k *event.Keyed, i int, null, long *event.Bits) bool {
	b := k.Batch
	key := x.scratch[:0]
	for _, column := range x.columns {
		c := &b.Cols[column]
		if !c.Valid.Has(i) {
			null.Set(i)
			return false
		}
		at := len(key)
		key = append(key, 0, 0)
		switch c.Type {
		case event.Text:
			key = append(key, b.Heap[c.Off[i]:c.Off[i]+uint32(c.Len[i])]...)
		case event.Decimal:
			key = event.AppendDecimal(key, c.Num[i], c.Scale)
		default:
			key = event.AppendInt64(key, c.Num[i])
		}
		binary.BigEndian.PutUint16(key[at:], uint16(len(key)-at-2))
	}
	if len(key) > event.KeyMax || len(key) > k.Words*8 {
		long.Set(i)
		return false
	}
	k.PutKey(i, key)
	k.Hash[i] = event.HashKey(key)
	return true
}

func (x *Keyer) discard(k *event.Keyed, null, long *event.Bits, drop func(int, event.Drop, uint64)) {
	for q, sel := range k.Select {
		kept := sel[:0]
		var nulls, longs uint64
		for _, i := range sel {
			switch {
			case null.Has(int(i)):
				nulls++
			case long.Has(int(i)):
				longs++
			default:
				kept = append(kept, i)
			}
		}
		k.Select[q] = kept
		drop(q, event.DropNullKey, nulls)
		drop(q, event.DropKeyLength, longs)
	}
}
