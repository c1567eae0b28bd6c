package rows

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrBadPartial reports a partial that no worker can have made.
var ErrBadPartial = errors.New("not a partial of this plan")

// Values knows the aggregate states of one query.
type Values interface {
	// Words is the number of state words of a partial.
	Words() int
	// AppendJSON appends value i, a JSON number or string, to dst. With a reason it
	// has no value: the row says null and gives the reason in its errors.
	// It must cope with any state.
	AppendJSON(dst []byte, i int, state []uint64) (out []byte, reason string)
}

// Version is the version of a row's bytes: it changes with anything that makes another
// line of the same partial. Boxes of one group must have the same, since each may write
// the rows of another.
const Version = 1

// The first part of a row's identity says whose row it is: Scope and the box's id
// for what one box saw, nothing behind Scope for a box that is in no group, and
// GlobalScope for what a group saw.
const (
	Scope       = "local:"
	GlobalScope = "global"
)

// GroupInfo says whose partials are in a global row.
type GroupInfo struct {
	// Merged are the peers whose partials are in the row, or who had none to give;
	// Known are those of the group. Both are in the group's order.
	Merged, Known []string
	// Epoch is the group's epoch in which the row was fired.
	Epoch uint64
}

// A Former makes rows of one plan's partials. One goroutine uses it.
type Former struct {
	queries []query
	scope   string // of this box's own rows
}

type query struct {
	name       string
	open       string // {"query":NAME,"key":{ or, in a group, {"query":NAME,"scope":"local:ME","key":{
	openGlobal string
	key        []keyColumn
	aggregates []string // "NAME": for each
	values     Values
	errors     []fault
}

type keyColumn struct {
	open  string // "NAME":
	typ   event.Type
	scale uint8
}

type fault struct {
	aggregate int
	reason    string
}

// New returns a former for p. values has one entry for each query. It panics if p
// is not a plan: a key that is no key column, or fewer values than queries.
func New(p *plan.Plan, values []Values) *Former {
	f := &Former{queries: make([]query, len(p.Queries)), scope: Scope}
	member := ""
	if p.Group != nil {
		f.scope += p.Group.Me
		member = `,"scope":` + string(AppendString(nil, []byte(f.scope)))
	}
	for i := range p.Queries {
		q := &p.Queries[i]
		out := query{name: q.Name, values: values[i]}
		name := string(AppendString([]byte(`{"query":`), []byte(q.Name)))
		out.open, out.openGlobal = name+member+`,"key":{`, name+`,"scope":"`+GlobalScope+`","key":{`
		for _, c := range p.Streams[q.Stream].Key {
			col := p.Feeds[q.Feed].Columns[c]
			if col.Type != event.Int64 && col.Type != event.Decimal && col.Type != event.Text {
				panic(fmt.Sprintf("rows: query %s: key column %s of type %s", q.Name, col.Name, col.Type))
			}
			out.key = append(out.key, keyColumn{string(AppendString(nil, []byte(col.Name))) + ":", col.Type, col.Scale})
		}
		for _, a := range q.Aggregates {
			out.aggregates = append(out.aggregates, string(AppendString(nil, []byte(a.Name)))+":")
		}
		f.queries[i] = out
	}
	return f
}

// Words returns the number of state words of each query's partials.
func (f *Former) Words() []int {
	words := make([]int, len(f.queries))
	for i := range words {
		words[i] = f.queries[i].values.Words()
	}
	return words
}

// Append appends part's row and its newline to dst: what this box saw. part.Kind is
// KindPartial.
//
// The members come in this order: query, scope (only in a group), key,
// window_start, window_end, firing, revision, values, errors (only if some value is
// null for a reason), completeness, row_id.
//
// The error wraps [ErrBadPartial]; dst is then unchanged. The state comes from
// memory that is not trusted, so even a panic over it is such an error.
func (f *Former) Append(dst []byte, part *outbox.Partial) (out []byte, err error) {
	return f.append(dst, part, nil)
}

// AppendGlobal appends the row of a group and its newline to dst, part being what
// the partials of g.Merged together are. It is otherwise as [Former.Append]; the
// row's completeness also has merged, known and epoch, and is never true if some
// known peer is not in it.
func (f *Former) AppendGlobal(dst []byte, part *outbox.Partial, g *GroupInfo) (out []byte, err error) {
	return f.append(dst, part, g)
}

func (f *Former) append(dst []byte, part *outbox.Partial, g *GroupInfo) (out []byte, err error) {
	before := len(dst)
	defer func() {
		if r := recover(); r != nil {
			out, err = dst[:before], fmt.Errorf("rows: %w: %v", ErrBadPartial, r)
		}
	}()
	if part.Kind != outbox.KindPartial || int(part.Query) >= len(f.queries) {
		return dst, fmt.Errorf("rows: %w: kind %d of query %d", ErrBadPartial, part.Kind, part.Query)
	}
	q := &f.queries[part.Query]
	if len(part.State) != q.values.Words() {
		return dst, fmt.Errorf("rows: query %s: %w: %d state words", q.name, ErrBadPartial, len(part.State))
	}
	open, scope := q.open, f.scope
	if g != nil {
		open, scope = q.openGlobal, GlobalScope
	}
	out = append(dst, open...)
	if out, err = q.appendKey(out, part.Key); err != nil {
		return dst[:before], fmt.Errorf("rows: query %s: %w", q.name, err)
	}
	out = appendTime(append(out, `},"window_start":"`...), part.Start)
	out = appendTime(append(out, `","window_end":"`...), part.End)
	out = append(out, `","firing":"`...)
	switch part.Firing {
	case outbox.OnTime:
		out = append(out, "on_time"...)
	case outbox.Flush:
		out = append(out, "flush"...)
	default:
		return dst[:before], fmt.Errorf("rows: query %s: %w: firing %d", q.name, ErrBadPartial, part.Firing)
	}
	out = strconv.AppendUint(append(out, `","revision":`...), uint64(part.Revision), 10)
	out = q.appendValues(out, part.State)
	out = appendCompleteness(out, part, g)
	out = q.appendID(append(out, `,"row_id":"`...), scope, part)
	return append(out, '"', '}', '\n'), nil
}

// appendKey decodes the canonical key; see package event for its form.
func (q *query) appendKey(dst, key []byte) ([]byte, error) {
	for i := range q.key {
		value := key
		if len(q.key) > 1 {
			if len(key) < 2 || len(key)-2 < int(binary.BigEndian.Uint16(key)) {
				return dst, fmt.Errorf("%w: a key that ends within column %d", ErrBadPartial, i)
			}
			n := int(binary.BigEndian.Uint16(key))
			value, key = key[2:2+n], key[2+n:]
		} else {
			key = nil
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, q.key[i].open...)
		switch c := &q.key[i]; {
		case c.typ == event.Text && len(value) <= event.TextMax:
			dst = AppendString(dst, value)
		case c.typ == event.Int64 && len(value) == 8:
			dst = strconv.AppendInt(dst, canonicalInt(value), 10)
		case c.typ == event.Decimal && len(value) == 9 && value[0] == c.scale:
			dst = AppendDecimal(dst, canonicalInt(value[1:]), c.scale)
		default:
			return dst, fmt.Errorf("%w: %d bytes are no %s of a key", ErrBadPartial, len(value), c.typ)
		}
	}
	if len(key) > 0 {
		return dst, fmt.Errorf("%w: %d bytes after the key", ErrBadPartial, len(key))
	}
	return dst, nil
}

func canonicalInt(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

// appendValues appends the values, and after them the reasons of those that are null.
func (q *query) appendValues(dst []byte, state []uint64) []byte {
	q.errors = q.errors[:0]
	dst = append(dst, `,"values":{`...)
	for i, open := range q.aggregates {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, open...)
		at := len(dst)
		var reason string
		if dst, reason = q.values.AppendJSON(dst, i, state); reason != "" {
			dst = append(dst[:at], "null"...)
			q.errors = append(q.errors, fault{i, reason})
		}
	}
	dst = append(dst, '}')
	for i, e := range q.errors {
		if i == 0 {
			dst = append(dst, `,"errors":{`...)
		} else {
			dst = append(dst, ',')
		}
		dst = append(dst, q.aggregates[e.aggregate]...)
		dst = AppendString(dst, []byte(e.reason))
	}
	if len(q.errors) > 0 {
		dst = append(dst, '}')
	}
	return dst
}

// appendCompleteness: false if something is known to be lost or some peer's part is
// not in it, true if the feed's sequence shows that nothing is, null if nobody can
// know.
func appendCompleteness(dst []byte, part *outbox.Partial, g *GroupInfo) []byte {
	dst = append(dst, `,"completeness":{"complete":`...)
	switch {
	case part.Missing > 0 || part.Flags&outbox.FlagIncomplete != 0, g != nil && !slices.Equal(g.Merged, g.Known):
		dst = append(dst, "false"...)
	case part.Flags&outbox.FlagSequenced != 0:
		dst = append(dst, "true"...)
	default:
		dst = append(dst, "null"...)
	}
	dst = strconv.AppendUint(append(dst, `,"missing":`...), part.Missing, 10)
	if g != nil {
		dst = appendNames(append(dst, `,"merged":[`...), g.Merged)
		dst = appendNames(append(dst, `],"known":[`...), g.Known)
		dst = strconv.AppendUint(append(dst, `],"epoch":`...), g.Epoch, 10)
	}
	return append(dst, '}')
}

func appendNames(dst []byte, names []string) []byte {
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), name...), '"') // an id has nothing to escape
	}
	return dst
}

// idBytes is room for the longest input of the hash but for the names of the query
// and of the box.
const idBytes = 5*4 + len(Scope) + event.KeyMax + 16

// appendID appends the row's identity as 32 hex digits: the first 128 bits of
// SHA-256 over scope, query, canonical key, window start and window end, each
// part after its length (u32 big-endian), times as int64 big-endian nanoseconds.
func (q *query) appendID(dst []byte, scope string, part *outbox.Partial) []byte {
	var room [idBytes + 128]byte
	be := binary.BigEndian
	in := append(be.AppendUint32(room[:0], uint32(len(scope))), scope...)
	in = append(be.AppendUint32(in, uint32(len(q.name))), q.name...)
	in = append(be.AppendUint32(in, uint32(len(part.Key))), part.Key...)
	in = be.AppendUint64(be.AppendUint32(in, 8), uint64(part.Start))
	in = be.AppendUint64(be.AppendUint32(in, 8), uint64(part.End))
	sum := sha256.Sum256(in)
	return hex.AppendEncode(dst, sum[:16])
}

// appendTime appends t in RFC 3339, UTC, with as many decimals as it needs.
func appendTime(dst []byte, t event.Nanos) []byte {
	return time.Unix(0, int64(t)).UTC().AppendFormat(dst, time.RFC3339Nano)
}

// AppendDecimal appends v·10^-scale with exactly scale digits after the point.
func AppendDecimal(dst []byte, v int64, scale uint8) []byte {
	if v < 0 {
		dst = append(dst, '-')
	}
	at := len(dst)
	u := uint64(v)
	if v < 0 {
		u = -u
	}
	dst = strconv.AppendUint(dst, u, 10)
	if scale == 0 {
		return dst
	}
	for len(dst)-at <= int(scale) { // at least one digit before the point
		dst = append(dst, 0)
		copy(dst[at+1:], dst[at:])
		dst[at] = '0'
	}
	dst = append(dst, 0)
	point := len(dst) - 1 - int(scale)
	copy(dst[point+1:], dst[point:])
	dst[point] = '.'
	return dst
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. Bytes that are no UTF-8 become U+FFFD,
// one each, as encoding/json has it: two keys may then look alike, and row_id,
// which is made from the bytes, tells them apart.
func AppendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for len(s) > 0 {
		c := s[0]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(s)
			dst, s = utf8.AppendRune(dst, r), s[n:] // RuneError, of width 1, for a bad byte
			continue
		}
		s = s[1:]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(dst, '"')
}
