package jsonwire

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"github.com/headrace/headrace/dataplane/event"
)

// DepthMax is how deep objects and arrays may nest.
const DepthMax = 32

// A node is a step of the columns' paths: the members of an object that are wanted.
type node struct {
	key      string
	slots    []uint8 // that take the value here
	under    []uint8 // these and those of all nodes below
	children []node
}

// A form says what stands at a path.
type form uint8

const (
	absent form = iota
	null
	number
	text    // a string; raw is between the quotes
	escaped // a string with backslashes
	other   // true, false, an object or an array
)

// A slot is the value found for a column.
type slot struct {
	form form
	raw  []byte
}

// A scanner reads one line.
type scanner struct {
	b     []byte
	at    int
	slots []slot
}

// object reads a line that must be one object.
func (s *scanner) object(b []byte, root *node) event.Drop {
	s.b, s.at = b, 0
	clear(s.slots)
	s.space()
	if s.at == len(b) || b[s.at] != '{' {
		return event.DropSyntax
	}
	if d := s.members(root, 1); d != event.Kept {
		return d
	}
	s.space()
	if s.at != len(b) {
		return event.DropSyntax
	}
	return event.Kept
}

func (s *scanner) space() {
	for s.at < len(s.b) && isSpace(s.b[s.at]) {
		s.at++
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// next skips space and takes the byte c.
func (s *scanner) next(c byte) bool {
	if s.at < len(s.b) && s.b[s.at] == c { // without space, the common case
		s.at++
		return true
	}
	s.space()
	if s.at == len(s.b) || s.b[s.at] != c {
		return false
	}
	s.at++
	return true
}

// members reads an object from its brace on. n, which may be nil, says what is wanted
// of it.
func (s *scanner) members(n *node, depth int) event.Drop {
	if depth > DepthMax {
		return event.DropDepth
	}
	s.at++
	if s.next('}') {
		return event.Kept
	}
	for {
		if !s.next('"') {
			return event.DropSyntax
		}
		start := s.at
		f, ok := s.str()
		if !ok {
			return event.DropSyntax
		}
		child := n.child(s.b[start:s.at-1], f == escaped)
		if !s.next(':') {
			return event.DropSyntax
		}
		if child != nil {
			for _, i := range child.under { // of equal keys the last counts
				s.slots[i] = slot{}
			}
		}
		if d := s.value(child, depth); d != event.Kept {
			return d
		}
		if s.next(',') {
			continue
		}
		if s.next('}') {
			return event.Kept
		}
		return event.DropSyntax
	}
}

// child returns the node of a key, or nil.
func (n *node) child(key []byte, escaped bool) *node {
	if n == nil {
		return nil
	}
	for i := range n.children {
		c := &n.children[i]
		if !escaped && string(key) == c.key || escaped && equalUnescaped(key, c.key) {
			return c
		}
	}
	return nil
}

// value reads any value and leaves it in the slots of n.
func (s *scanner) value(n *node, depth int) event.Drop {
	s.space()
	if s.at == len(s.b) {
		return event.DropSyntax
	}
	start, found, ok := s.at, other, true
	switch c := s.b[s.at]; c {
	case '{':
		if d := s.members(n, depth+1); d != event.Kept {
			return d
		}
	case '[':
		if d := s.elements(depth + 1); d != event.Kept {
			return d
		}
	case '"':
		s.at++
		start++
		found, ok = s.str()
	case 't':
		ok = s.word("true")
	case 'f':
		ok = s.word("false")
	case 'n':
		found, ok = null, s.word("null")
	case 'N':
		found, ok = number, s.word("NaN")
	case 'I':
		found, ok = number, s.word("Infinity")
	default:
		found, ok = number, s.number()
	}
	if !ok {
		return event.DropSyntax
	}
	if n != nil {
		end := s.at
		if found == text || found == escaped {
			end--
		}
		for _, i := range n.slots {
			s.slots[i] = slot{found, s.b[start:end]}
		}
	}
	return event.Kept
}

// elements reads an array from its bracket on.
func (s *scanner) elements(depth int) event.Drop {
	if depth > DepthMax {
		return event.DropDepth
	}
	s.at++
	if s.next(']') {
		return event.Kept
	}
	for {
		if d := s.value(nil, depth); d != event.Kept {
			return d
		}
		if s.next(',') {
			continue
		}
		if s.next(']') {
			return event.Kept
		}
		return event.DropSyntax
	}
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.at < len(w) || string(s.b[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

// str reads a string from behind its opening quote to behind its closing one.
func (s *scanner) str() (form, bool) {
	f := text
	b := s.b
	for i := s.at; ; {
		if i = plainEnd(b, i); i == len(b) || b[i] < ' ' {
			return f, false
		}
		if b[i] == '"' {
			s.at = i + 1
			return f, true
		}
		f = escaped
		i++
		if i == len(b) {
			return f, false
		}
		switch b[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i++
		case 'u':
			if _, ok := hex4(b[i+1:]); !ok {
				return f, false
			}
			i += 5
		default:
			return f, false
		}
	}
}

// plainEnd returns where, from i on, the first quote, backslash or control character
// is, or len(b). It looks at eight bytes at a time: a byte less than n sets its top bit
// in (x − n…) &^ x, and the lowest such bit is never wrong.
func plainEnd(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, slash := x^'"'*ones, x^'\\'*ones
		found := ((quote-ones)&^quote | (slash-ones)&^slash | (x-' '*ones)&^x) & tops
		if found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
		i++
	}
	return i
}

// number reads -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?, or -Infinity.
func (s *scanner) number() bool {
	b, i := s.b, s.at
	if b[i] == '-' {
		i++
		if i < len(b) && b[i] == 'I' {
			s.at = i
			return s.word("Infinity")
		}
	}
	switch {
	case i == len(b):
		return false
	case b[i] == '0':
		i++
	default:
		start := i
		if i = digits(b, i); i == start {
			return false
		}
	}
	if i < len(b) && b[i] == '.' {
		start := i + 1
		if i = digits(b, start); i == start {
			return false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		start := i
		if i = digits(b, start); i == start {
			return false
		}
	}
	s.at = i
	return true
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		r <<= 4
		switch {
		case c-'0' <= 9:
			r |= rune(c - '0')
		case c|0x20-'a' <= 5 && c|0x20 >= 'a':
			r |= rune(c|0x20-'a') + 10
		default:
			return 0, false
		}
	}
	return r, true
}

// unescape reads the first character of raw, which str has checked, and what is left.
// A surrogate without its partner is U+FFFD. Bytes that are not escaped come
// as they are, one by one: n is their count in c, 1 to 4.
func unescape(raw []byte) (c [4]byte, n int, rest []byte) {
	if raw[0] != '\\' {
		c[0] = raw[0]
		return c, 1, raw[1:]
	}
	switch raw[1] {
	case 'b':
		c[0] = '\b'
	case 'f':
		c[0] = '\f'
	case 'n':
		c[0] = '\n'
	case 'r':
		c[0] = '\r'
	case 't':
		c[0] = '\t'
	case 'u':
		r, _ := hex4(raw[2:])
		rest = raw[6:]
		if r >= 0xd800 && r < 0xdc00 && len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
			if low, _ := hex4(rest[2:]); low >= 0xdc00 && low < 0xe000 {
				r = (r-0xd800)<<10 | (low - 0xdc00) + 0x10000
				rest = rest[6:]
			}
		}
		n = utf8.EncodeRune(c[:], r) // a lone surrogate is no rune: U+FFFD
		return c, n, rest
	default: // " \ /
		c[0] = raw[1]
	}
	return c, 1, raw[2:]
}

// equalUnescaped says whether raw, a string with escapes, is key.
func equalUnescaped(raw []byte, key string) bool {
	for len(raw) > 0 {
		c, n, rest := unescape(raw)
		if len(key) < n || key[:n] != string(c[:n]) {
			return false
		}
		key, raw = key[n:], rest
	}
	return key == ""
}
