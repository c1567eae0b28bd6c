package acceptance

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// at writes nanoseconds as RFC 3339 in UTC with as many decimals as needed.
func at(nanos int64) string {
	t := time.Unix(0, nanos).UTC()
	s := t.Format("2006-01-02T15:04:05")
	if n := t.Nanosecond(); n != 0 {
		s += "." + strings.TrimRight(fmt.Sprintf("%09d", n), "0")
	}
	return s + "Z"
}

// fixed writes v·10^-scale with exactly scale decimals.
func fixed(v *big.Int, scale int) string {
	s := new(big.Int).Abs(v).String()
	if scale > 0 {
		for len(s) <= scale {
			s = "0" + s
		}
		s = s[:len(s)-scale] + "." + s[len(s)-scale:]
	}
	if v.Sign() < 0 {
		s = "-" + s
	}
	return s
}

// halfEven rounds a/b to an integer, halves to the even one. b is positive.
func halfEven(a, b *big.Int) *big.Int {
	q, r := new(big.Int), new(big.Int)
	q.DivMod(a, b, r) // r in [0, b)
	switch c := r.Lsh(r, 1).Cmp(b); {
	case c > 0, c == 0 && q.Bit(0) == 1:
		q.Add(q, big.NewInt(1))
	}
	return q
}

// rowID is the identity of a row of a box in no group: canonical is the canonical key.
func rowID(query, canonical string, start, end int64) string {
	h := sha256.New()
	part := func(s string) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	instant := func(v int64) string {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(v))
		return string(b[:])
	}
	part("local:")
	part(query)
	part(canonical)
	part(instant(start))
	part(instant(end))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// canonicalInt is the canonical form of an int64 key column.
func canonicalInt(v int64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(v))
	b[0] ^= 0x80
	return string(b[:])
}

// composite joins the canonical forms of several key columns.
func composite(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return string(b)
}

// A line is a row to expect. key and values are JSON without the braces.
type line struct {
	query, key, canonical string
	start, end            int64
	firing                string // on_time if empty
	values, errors        string
	complete              string // null if empty
	missing               uint64
}

func (l *line) String() string {
	firing, complete := l.firing, l.complete
	if firing == "" {
		firing = "on_time"
	}
	if complete == "" {
		complete = "null"
	}
	errs := ""
	if l.errors != "" {
		errs = `,"errors":{` + l.errors + `}`
	}
	return fmt.Sprintf(`{"query":%q,"key":{%s},"window_start":"%s","window_end":"%s","firing":"%s","revision":0,"values":{%s}%s,"completeness":{"complete":%s,"missing":%d},"row_id":"%s"}`,
		l.query, l.key, at(l.start), at(l.end), firing, l.values, errs, complete, l.missing, rowID(l.query, l.canonical, l.start, l.end)) + "\n"
}

// text writes the lines in the order of a replay's file: window end, query, key.
func text(lines []line) []byte {
	sortLines(lines)
	var b strings.Builder
	for i := range lines {
		b.WriteString(lines[i].String())
	}
	return []byte(b.String())
}
