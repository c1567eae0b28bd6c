package topology

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// CPUsMax bounds the numbers in a [CPUSet]: the kernel's own limit is 8192.
const CPUsMax = 8192

// ErrCPUList reports text that is no list of CPUs.
var ErrCPUList = errors.New("not a list of CPUs")

// CPUSet is a set of CPU numbers, or of node numbers. The zero value is empty. Sets are
// values: no method changes its receiver.
type CPUSet struct {
	// words holds bit n of word n/64 for CPU n; the last word is never zero, so that
	// equal sets have equal words.
	words []uint64
}

// CPUs returns the set of the given numbers; those outside of 0 to [CPUsMax]-1 are not
// numbers of CPUs and are left out.
func CPUs(numbers ...int) CPUSet {
	var s CPUSet
	for _, n := range numbers {
		insert(&s, n)
	}
	return s
}

// insert is for sets that nobody else has yet.
func insert(s *CPUSet, n int) {
	if n < 0 || n >= CPUsMax {
		return
	}
	for len(s.words) <= n/64 {
		s.words = append(s.words, 0)
	}
	s.words[n/64] |= 1 << (n % 64)
}

// ParseCPUs reads the kernel's list form: "0-3,8", also with strides as in "0-31:2/8"
// (of each 8 the first 2). Space around it, and an empty list, are allowed; so is
// "(null)", which is how nohz_full says that it is empty.
func ParseCPUs(list string) (CPUSet, error) {
	var s CPUSet
	list = strings.TrimSpace(list)
	if list == "" || list == "(null)" {
		return s, nil
	}
	for part := range strings.SplitSeq(list, ",") {
		first, last, used, group, ok := parseRange(part)
		if !ok {
			return CPUSet{}, fmt.Errorf("%w: %q in %q; one is like 0-3,8", ErrCPUList, part, list)
		}
		for n := first; n <= last; n++ {
			if (n-first)%group < used {
				insert(&s, n)
			}
		}
	}
	return s, nil
}

// parseRange reads "a", "a-b" or "a-b:used/group".
func parseRange(part string) (first, last, used, group int, ok bool) {
	span, stride, strided := strings.Cut(part, ":")
	a, b, isRange := strings.Cut(span, "-")
	if !isRange {
		b = a
	}
	first, okA := number(a)
	last, okB := number(b)
	used, group = 1, 1
	if strided {
		u, g, found := strings.Cut(stride, "/")
		var okU, okG bool
		used, okU = number(u)
		group, okG = number(g)
		if !isRange || !found || !okU || !okG || used < 1 || group < used {
			return 0, 0, 0, 0, false
		}
	}
	return first, last, used, group, okA && okB && first <= last
}

func number(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), err == nil && n < CPUsMax && text[0] != '+'
}

// ParseMask reads the kernel's mask form: hexadecimal words of 32 bits, the highest
// first, "ff,00000001".
func ParseMask(mask string) (CPUSet, error) {
	var s CPUSet
	words := strings.Split(strings.TrimSpace(mask), ",")
	if len(words) > CPUsMax/32 {
		return s, fmt.Errorf("%w: a mask of %d words", ErrCPUList, len(words))
	}
	for i, word := range words {
		v, err := strconv.ParseUint(word, 16, 32)
		if err != nil {
			return CPUSet{}, fmt.Errorf("%w: mask %q; one is like ff,00000001", ErrCPUList, mask)
		}
		for v != 0 {
			insert(&s, 32*(len(words)-1-i)+bits.TrailingZeros64(v))
			v &= v - 1
		}
	}
	return s, nil
}

// String is the kernel's list form: "0-3,8", and "" for the empty set.
func (s CPUSet) String() string {
	var b strings.Builder
	list := s.List()
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(list[i]))
		if j > i {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(list[j]))
		}
		i = j + 1
	}
	return b.String()
}

// Mask is the kernel's mask form, as short as it can be; "0" for the empty set.
func (s CPUSet) Mask() string {
	if len(s.words) == 0 {
		return "0"
	}
	var halves []uint32
	for _, w := range s.words {
		halves = append(halves, uint32(w), uint32(w>>32))
	}
	for len(halves) > 1 && halves[len(halves)-1] == 0 {
		halves = halves[:len(halves)-1]
	}
	var b strings.Builder
	for i, h := range slices.Backward(halves) {
		if i == len(halves)-1 {
			fmt.Fprintf(&b, "%x", h)
		} else {
			fmt.Fprintf(&b, ",%08x", h)
		}
	}
	return b.String()
}

// MarshalText is the list form, for JSON.
func (s CPUSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the list form.
func (s *CPUSet) UnmarshalText(text []byte) (err error) {
	*s, err = ParseCPUs(string(text))
	return err
}

// List returns the numbers in ascending order.
func (s CPUSet) List() []int {
	list := make([]int, 0, s.Len())
	for i, w := range s.words {
		for ; w != 0; w &= w - 1 {
			list = append(list, 64*i+bits.TrailingZeros64(w))
		}
	}
	return list
}

// Len counts the numbers.
func (s CPUSet) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Empty reports a set without numbers.
func (s CPUSet) Empty() bool { return len(s.words) == 0 }

// Has reports whether n is in the set.
func (s CPUSet) Has(n int) bool {
	return n >= 0 && n/64 < len(s.words) && s.words[n/64]&(1<<(n%64)) != 0
}

// First returns the least number, or -1 of the empty set.
func (s CPUSet) First() int {
	for i, w := range s.words {
		if w != 0 {
			return 64*i + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// Equal reports whether both hold the same numbers.
func (s CPUSet) Equal(o CPUSet) bool { return slices.Equal(s.words, o.words) }

// Union returns what is in s or in o.
func (s CPUSet) Union(o CPUSet) CPUSet {
	return combine(s, o, func(a, b uint64) uint64 { return a | b })
}

// Intersect returns what is in both.
func (s CPUSet) Intersect(o CPUSet) CPUSet {
	return combine(s, o, func(a, b uint64) uint64 { return a & b })
}

// Minus returns what is in s and not in o.
func (s CPUSet) Minus(o CPUSet) CPUSet {
	return combine(s, o, func(a, b uint64) uint64 { return a &^ b })
}

// Contains reports whether all of o is in s.
func (s CPUSet) Contains(o CPUSet) bool { return o.Minus(s).Empty() }

func combine(s, o CPUSet, word func(a, b uint64) uint64) CPUSet {
	out := make([]uint64, max(len(s.words), len(o.words)))
	for i := range out {
		var a, b uint64
		if i < len(s.words) {
			a = s.words[i]
		}
		if i < len(o.words) {
			b = o.words[i]
		}
		out[i] = word(a, b)
	}
	for len(out) > 0 && out[len(out)-1] == 0 {
		out = out[:len(out)-1]
	}
	return CPUSet{out}
}
