package aggregate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/expr"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrAggregate reports an aggregate that cannot be computed: an unknown kind, or
// arguments of the wrong number or type. Config never makes one.
var ErrAggregate = errors.New("not a valid aggregate")

// kinds says how each aggregate is built. A new one is a line here.
var kinds = [...]struct {
	args  int
	build func(*builder, []plan.Program) (finish, error)
}{
	plan.Count:       {0, buildCount},
	plan.CountValues: {1, buildCountValues},
	plan.Sum:         {1, buildSum},
	plan.Min:         {1, buildMin},
	plan.Max:         {1, buildMax},
	plan.First:       {1, buildFirst},
	plan.Last:        {1, buildLast},
	plan.Mean:        {1, buildMean},
	plan.Variance:    {1, buildVariance},
	plan.VWAP:        {2, buildVWAP},
}

// A finish reads an aggregate's value from a whole state, which is as long as it
// should be and otherwise not to be trusted. It must not write to the state.
type finish func(state []uint64) Value

// A part is a piece of state: an offset and what happens to the words there.
type part struct {
	cell
	view *view
	off  int
	name string // equal names are equal parts
}

// A cell is a commutative monoid over size words, whose identity is zeros.
type cell interface {
	size() int
	// fold adds the values of v's events to the words at mem[v.at[i]+off:].
	fold(mem []uint64, off uint, v *view)
	merge(dst, src []uint64)
}

// A Set computes the aggregates of one query. It is made once a worker (and once
// in the control plane) and allocates nothing in Fold and Merge. One goroutine
// uses it at a time.
type Set struct {
	kernels   []*expr.Kernel
	vectors   []*expr.Vector // of the batch in hand, by program
	views     []*view        // views[0]: all events
	parts     []*part
	finishes  []finish
	marks     []uint64 // the seen bits of all views, by flag word
	head      head
	words     int
	notFinite uint64
}

// NewSet prepares the aggregates of q, whose feed has the given columns. The
// layout of a state is a function of these alone. The error wraps [ErrAggregate]
// or [expr.ErrProgram].
func NewSet(q *plan.Query, columns []plan.Column) (*Set, error) {
	s := &Set{}
	b := &builder{set: s, columns: columns, programs: map[string]int{}, views: map[string]*view{}}
	b.events()
	for i := range q.Aggregates {
		a := &q.Aggregates[i]
		if a.Kind == 0 || int(a.Kind) >= len(kinds) {
			return nil, fmt.Errorf("aggregate: %q has kind %d, of which this version knows nothing: %w", a.Name, a.Kind, ErrAggregate)
		}
		k := &kinds[a.Kind]
		if len(a.Args) != k.args {
			return nil, fmt.Errorf("aggregate: %q: %v has %d arguments, want %d: %w", a.Name, a.Kind, len(a.Args), k.args, ErrAggregate)
		}
		f, err := k.build(b, a.Args)
		if err != nil {
			return nil, fmt.Errorf("aggregate: %q: %v: %w", a.Name, a.Kind, err)
		}
		s.finishes = append(s.finishes, f)
	}
	s.layout()
	return s, nil
}

// layout gives the parts their offsets: flags, then small parts before great ones.
func (s *Set) layout() {
	s.vectors = make([]*expr.Vector, len(s.kernels))
	s.marks = make([]uint64, (len(s.views)-1+flagsPerWord-1)/flagsPerWord)
	for _, v := range s.views[1:] {
		s.marks[v.flags] |= v.seen
	}
	slices.SortStableFunc(s.parts, func(a, b *part) int { return a.size() - b.size() })
	s.words = len(s.marks)
	for _, p := range s.parts {
		p.off = s.words
		s.words += p.size()
	}
	s.head = newHead(s)
}

// Words returns the length of a state. A state of zeros has seen no event.
func (s *Set) Words() int { return s.words }

// Len returns the number of aggregates.
func (s *Set) Len() int { return len(s.finishes) }

// NotFinite returns how often a value was skipped because it was NaN or infinite,
// since the Set was made. Aggregates over the same arguments count once.
func (s *Set) NotFinite() uint64 { return s.notFinite }

// Fold adds event sel[i] of b to the state at mem[at[i]:], for every i. Several
// events may have the same state. sel holds at most BatchMax indices below b.N,
// in any order; at is as long as sel. An offset beyond mem panics.
func (s *Set) Fold(mem []uint64, at []uint32, b *event.Batch, sel []uint16) {
	if len(sel) == 0 {
		return
	}
	at = at[:len(sel)]
	arg := sel
	if whole(sel, b.N) {
		arg = nil
	}
	for i, k := range s.kernels {
		s.vectors[i] = k.Eval(b, arg)
	}
	complete := true
	for _, v := range s.views {
		v.prepare(b, at, sel)
		complete = complete && v.complete
	}
	parts := s.parts
	if complete {
		s.head.fold(mem, at, s.marks)
		parts = s.head.rest
	} else {
		for _, v := range s.views[1:] {
			v.mark(mem, at)
		}
	}
	for _, p := range parts {
		fault.Point()
		p.fold(mem, uint(p.off), p.view)
	}
}

// everything is the selection of all events of a full batch.
var everything = func() (s [event.BatchMax]uint16) {
	for i := range s {
		s[i] = uint16(i)
	}
	return s
}()

// whole says whether sel is every event of a batch of n in order.
func whole(sel []uint16, n int) bool {
	if len(sel) != n {
		return false
	}
	if n == event.BatchMax {
		return *(*[event.BatchMax]uint16)(sel) == everything
	}
	d := 0
	for i, e := range sel {
		d |= i ^ int(e)
	}
	return d == 0
}

// foldMarks sets the bits m in the flag word off of the states.
func foldMarks(mem []uint64, off uint, at []uint32, m uint64) {
	for _, a := range at {
		mem[uint(a)+off] |= m
	}
}

// Merge adds the state src to dst. Both are Words long.
func (s *Set) Merge(dst, src []uint64) {
	dst, src = dst[:s.words], src[:s.words]
	for w := range s.marks {
		dst[w] |= src[w]
	}
	for _, p := range s.parts {
		n := p.off + p.size()
		p.merge(dst[p.off:n], src[p.off:n])
	}
}

// Value returns aggregate i of a state. The state may hold anything: what no
// sequence of folds can have made may come out as null with [ReasonInvalid], or
// as a number, but never as a panic.
func (s *Set) Value(i int, state []uint64) Value {
	if len(state) < s.words {
		return null(ReasonInvalid)
	}
	return s.finishes[i](state[:s.words])
}

// AppendJSON appends aggregate i of a state to dst as a JSON number, or "null"
// and returns the reason for that.
func (s *Set) AppendJSON(dst []byte, i int, state []uint64) (out []byte, reason string) {
	v := s.Value(i, state)
	return v.AppendJSON(dst), v.Reason
}

// A builder collects what the aggregates of a set ask for, each thing once.
type builder struct {
	set      *Set
	columns  []plan.Column
	programs map[string]int
	views    map[string]*view
}

// program returns the number of p's kernel.
func (b *builder) program(p *plan.Program) (int, error) {
	if len(p.Ops) == 0 {
		return 0, fmt.Errorf("the argument is empty: %w", ErrAggregate)
	}
	name := fmt.Sprintf("%#v", p.Ops)
	if n, ok := b.programs[name]; ok {
		return n, nil
	}
	k, err := expr.Compile(p, b.columns)
	if err != nil {
		return 0, err
	}
	n := len(b.set.kernels)
	b.set.kernels = append(b.set.kernels, k)
	b.programs[name] = n
	return n, nil
}

// numeric returns the number of p's kernel if p is a number.
func (b *builder) numeric(p *plan.Program) (int, error) {
	switch p.Type {
	case event.Int64, event.Decimal, event.Float64:
		return b.program(p)
	}
	return 0, fmt.Errorf("the argument is %v, want a number: %w", p.Type, ErrAggregate)
}

// wide says whether program n has 128-bit values.
func (b *builder) wide(n int) bool { return b.set.kernels[n].Wide() }

// part returns the part of the given name, made by c if there is none yet.
func (b *builder) part(name string, v *view, c cell) *part {
	name = fmt.Sprintf("%s of view %d", name, v.number)
	for _, p := range b.set.parts {
		if p.name == name {
			return p
		}
	}
	p := &part{cell: c, view: v, name: name}
	b.set.parts = append(b.set.parts, p)
	return p
}
