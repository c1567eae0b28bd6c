package aggregate

import "math/bits"

// A head folds what nearly every query has, the flags, a count and the sum of a
// column of integers, in one loop instead of three. It is for batches in which all
// arguments have values: then all counts are the same.
type head struct {
	counted bool  // the word after the only flag word is a count
	sum     *part // folded here too, if counted
	rest    []*part
}

// newHead chooses the parts that fit.
func newHead(s *Set) (h head) {
	h.rest = s.parts
	if len(s.marks) != 1 || len(s.parts) == 0 {
		return h
	}
	if _, ok := s.parts[0].cell.(counter); !ok {
		return h
	}
	h.counted, h.rest = true, nil
	for _, p := range s.parts[1:] {
		if _, ok := p.cell.(sumNarrow); ok && h.sum == nil {
			h.sum = p
			continue
		}
		h.rest = append(h.rest, p)
	}
	return h
}

func (h *head) fold(mem []uint64, at []uint32, marks []uint64) {
	switch {
	case h.sum != nil:
		x := h.sum.view.num(h.sum.cell.(sumNarrow).program, 0)
		foldSum(mem, uint(h.sum.off), at, marks[0], x)
	case h.counted:
		foldCount(mem, at, marks[0])
	default:
		for w, m := range marks {
			foldMarks(mem, uint(w), at, m)
		}
	}
}

func foldCount(mem []uint64, at []uint32, m uint64) {
	for _, a := range at {
		mem[a] |= m
		mem[uint(a)+1]++
	}
}

func foldSum(mem []uint64, off uint, at []uint32, m uint64, x []int64) {
	at = at[:len(x)]
	if off == 2 { // behind the flags and the count
		for i, y := range x {
			p := (*[4]uint64)(mem[at[i]:]) // keeps its check: a wild offset must stop the program
			lo, carry := bits.Add64(p[2], uint64(y), 0)
			p[0] |= m
			p[1]++
			p[2] = lo
			p[3] += uint64(y>>63) + carry
		}
		return
	}
	for i, y := range x {
		a := at[i] //gcassert:bce
		// Two checks of an index are cheaper than one slice of mem.
		o := uint(a) + off
		count, sum, high := &mem[uint(a)+1], &mem[o], &mem[o+1]
		mem[a] |= m
		*count++
		lo, carry := bits.Add64(*sum, uint64(y), 0)
		*sum = lo
		*high += uint64(y>>63) + carry
	}
}
