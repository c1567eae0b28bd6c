package expr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrProgram reports a program that cannot be evaluated. Config never makes one,
// so it means that two processes disagree.
var ErrProgram = errors.New("not a valid program")

// OpsMax bounds the operations of a program.
const OpsMax = 1024

// Compile checks p against the feed's columns and takes the memory to evaluate
// it. The empty program compiles too; it is only good for [Kernel.Filter], as is
// no program whose type is not Bool. The error wraps [ErrProgram].
func Compile(p *plan.Program, columns []plan.Column) (*Kernel, error) {
	if len(p.Ops) == 0 {
		return &Kernel{}, nil
	}
	if len(p.Ops) > OpsMax {
		return nil, fmt.Errorf("expr: %d operations, at most %d: %w", len(p.Ops), OpsMax, ErrProgram)
	}
	if len(columns) > event.ColumnsMax {
		return nil, fmt.Errorf("expr: %d columns, at most %d: %w", len(columns), event.ColumnsMax, ErrProgram)
	}
	c := compiler{columns: columns}
	for i := range p.Ops {
		if err := c.op(&p.Ops[i]); err != nil {
			return nil, fmt.Errorf("expr: operation %d: %w: %w", i, err, ErrProgram)
		}
	}
	if len(c.stack) != 1 {
		return nil, fmt.Errorf("expr: %d values are left, want 1: %w", len(c.stack), ErrProgram)
	}
	out := c.stack[0].v
	if out.Type != p.Type || out.Scale != p.Scale {
		return nil, fmt.Errorf("expr: the result is %v scale %d, the program says %v scale %d: %w", out.Type, out.Scale, p.Type, p.Scale, ErrProgram)
	}
	return &Kernel{steps: c.steps, out: out}, nil
}

// An operand is a value on the stack while compiling.
type operand struct {
	v      *Vector
	column int  // of text
	fixed  bool // a constant
	text   string
}

type compiler struct {
	columns []plan.Column
	steps   []step
	stack   []operand
	free    [][]int64 // memory of vectors that nothing will read any more
}

func (c *compiler) memory() []int64 {
	if n := len(c.free); n > 0 {
		m := c.free[n-1]
		c.free = c.free[:n-1]
		return m
	}
	return make([]int64, event.BatchMax)
}

// release gives the memory of an operand that has been read to later steps. A
// loop reads entry i of its operands before it writes entry i of its result, so
// the very next step may write there.
func (c *compiler) release(o operand) {
	if o.fixed {
		return
	}
	for _, m := range [][]int64{o.v.num, o.v.hi} {
		if m != nil {
			c.free = append(c.free, m)
		}
	}
}

func (c *compiler) push(o operand) { c.stack = append(c.stack, o) }

// pop takes the top n operands off the stack, the deepest first.
func (c *compiler) pop(n int) ([]operand, error) {
	if len(c.stack) < n {
		return nil, fmt.Errorf("needs %d values, the stack has %d", n, len(c.stack))
	}
	at := len(c.stack) - n
	o := append([]operand(nil), c.stack[at:]...)
	c.stack = c.stack[:at]
	return o, nil
}

func (c *compiler) op(op *plan.Op) error {
	if op.Scale > event.ScaleMax {
		return fmt.Errorf("scale %d, at most %d", op.Scale, event.ScaleMax)
	}
	switch op.Code {
	case plan.OpColumn:
		return c.load(op)
	case plan.OpInt, plan.OpFloat, plan.OpText, plan.OpBool:
		return c.literal(op)
	case plan.OpScale, plan.OpToFloat, plan.OpNeg, plan.OpNot:
		return c.unary(op)
	case plan.OpAdd, plan.OpSub, plan.OpMul, plan.OpDiv:
		return c.binary(op)
	case plan.OpEq, plan.OpNe, plan.OpLt, plan.OpLe, plan.OpGt, plan.OpGe:
		return c.compare(op)
	case plan.OpAnd, plan.OpOr:
		return c.logic(op)
	}
	return fmt.Errorf("unknown code %d", op.Code)
}

func (c *compiler) load(op *plan.Op) error {
	if op.Column < 0 || op.Column >= len(c.columns) {
		return fmt.Errorf("column %d of %d", op.Column, len(c.columns))
	}
	col := &c.columns[op.Column]
	if op.Type != col.Type || op.Scale != col.Scale {
		return fmt.Errorf("column %q is %v scale %d, not %v scale %d", col.Name, col.Type, col.Scale, op.Type, op.Scale)
	}
	v := &Vector{Type: op.Type, Scale: op.Scale}
	run := loadNumber
	switch {
	case op.Type == event.Text:
		run = loadText
	case integer(op.Type, op.Scale), op.Type == event.Float64 && op.Scale == 0:
		v.num = c.memory()
	default:
		return fmt.Errorf("column %q has type %v scale %d", col.Name, op.Type, op.Scale)
	}
	c.steps = append(c.steps, step{run: run, to: v, column: op.Column})
	c.push(operand{v: v, column: op.Column})
	return nil
}

func (c *compiler) literal(op *plan.Op) error {
	o := operand{v: &Vector{Type: op.Type, Scale: op.Scale}, fixed: true}
	value := op.Int
	switch {
	case op.Code == plan.OpInt && integer(op.Type, op.Scale):
		c.constant(&o, op.Int, op.Int>>63)
	case op.Code == plan.OpFloat && op.Type == event.Float64 && op.Scale == 0:
		if math.IsNaN(op.Float) || math.IsInf(op.Float, 0) {
			return fmt.Errorf("constant %v is not finite", op.Float)
		}
		c.constant(&o, word(op.Float), 0)
		o.v.Wide, o.v.hi = false, nil
	case op.Code == plan.OpText && op.Type == event.Text && op.Scale == 0:
		o.text = op.Text
	case op.Code == plan.OpBool && op.Type == event.Bool && op.Scale == 0:
	default:
		return fmt.Errorf("constant of type %v scale %d", op.Type, op.Scale)
	}
	c.steps = append(c.steps, step{run: loadConstant, to: o.v, constant: value})
	c.push(o)
	return nil
}

// constant fills a vector with an integer, wide only if it has to be.
func (c *compiler) constant(o *operand, lo, hi int64) {
	v := o.v
	v.num = filled(lo)
	if v.Wide = hi != lo>>63; v.Wide {
		v.hi = filled(hi)
	}
}

func filled(x int64) []int64 {
	s := make([]int64, event.BatchMax)
	for i := range s {
		s[i] = x
	}
	return s
}

func (c *compiler) unary(op *plan.Op) error {
	in, err := c.pop(1)
	if err != nil {
		return err
	}
	a := in[0]
	t, sc := a.v.Type, a.v.Scale
	isInt := integer(t, sc)
	to := &Vector{Type: op.Type, Scale: op.Scale}
	s := step{to: to, a: a.v}
	o := operand{v: to}
	switch {
	case op.Code == plan.OpNot && t == event.Bool && op.Type == event.Bool && op.Scale == 0:
		s.run = not
	case op.Code == plan.OpNeg && t == event.Float64 && op.Type == event.Float64 && op.Scale == 0:
		s.run = negateFloat
	case op.Code == plan.OpToFloat && isInt && op.Type == event.Float64:
		s.run, s.constant, to.Scale = toFloat, int64(sc), 0
	case op.Code == plan.OpNeg && isInt && integer(op.Type, op.Scale) && op.Scale == sc:
		if a.fixed && !a.v.Wide && a.v.num[0] != math.MinInt64 {
			c.constant(&o, -a.v.num[0], -a.v.num[0]>>63)
			return c.folded(o)
		}
		c.widen(&a)
		s.run, to.Wide = negate, true
	case op.Code == plan.OpScale && isInt && integer(op.Type, op.Scale) && op.Int >= 0 && op.Int <= event.ScaleMax && int64(op.Scale) == int64(sc)+op.Int:
		s.constant = int64(powers[op.Int])
		if a.fixed && !a.v.Wide {
			lo, hi, _ := mul128(a.v.num[0], a.v.num[0]>>63, s.constant, 0)
			c.constant(&o, lo, hi)
			return c.folded(o)
		}
		s.run, to.Wide = scale, true
	default:
		return fmt.Errorf("code %d on %v scale %d cannot give %v scale %d", op.Code, t, sc, op.Type, op.Scale)
	}
	c.release(a)
	c.result(s, o)
	return nil
}

// folded pushes a constant that was computed from a constant.
func (c *compiler) folded(o operand) error {
	o.fixed = true
	c.steps = append(c.steps, step{run: loadConstant, to: o.v})
	c.push(o)
	return nil
}

// result gives a step's vector its memory and pushes it.
func (c *compiler) result(s step, o operand) {
	if s.to.Type != event.Bool {
		s.to.num = c.memory()
	}
	if s.to.Wide {
		s.to.hi = c.memory()
	}
	c.steps = append(c.steps, s)
	c.push(o)
}

// widen makes sure that an integer has its high words.
func (c *compiler) widen(o *operand) {
	if o.v.Wide {
		return
	}
	o.v.Wide = true
	if o.fixed { // loadConstant does it
		o.v.hi = filled(o.v.num[0] >> 63)
		return
	}
	o.v.hi = c.memory()
	c.steps = append(c.steps, step{run: widen, to: o.v})
}

func (c *compiler) binary(op *plan.Op) error {
	in, err := c.pop(2)
	if err != nil {
		return err
	}
	a, b := in[0], in[1]
	to := &Vector{Type: op.Type, Scale: op.Scale}
	s := step{to: to}
	switch {
	case a.v.Type == event.Float64 && b.v.Type == event.Float64 && op.Type == event.Float64 && op.Scale == 0:
		s.run = map[plan.OpCode]func(*step, *frame){plan.OpAdd: addFloat, plan.OpSub: subFloat, plan.OpMul: mulFloat, plan.OpDiv: divFloat}[op.Code]
	case op.Code != plan.OpDiv && integer(a.v.Type, a.v.Scale) && integer(b.v.Type, b.v.Scale) && integer(op.Type, op.Scale):
		if err := scales(op, a.v.Scale, b.v.Scale); err != nil {
			return err
		}
		c.integers(op.Code, &s, &a, &b)
	default:
		return fmt.Errorf("code %d on %v and %v cannot give %v scale %d", op.Code, a.v.Type, b.v.Type, op.Type, op.Scale)
	}
	s.a, s.b = a.v, b.v
	c.release(a)
	c.release(b)
	c.result(s, operand{v: to})
	return nil
}

// integers chooses the loop of + - * on integers: the 64-bit ones cannot
// overflow 128 bits.
func (c *compiler) integers(code plan.OpCode, s *step, a, b *operand) {
	s.to.Wide = true
	if !a.v.Wide && !b.v.Wide {
		s.run = map[plan.OpCode]func(*step, *frame){plan.OpAdd: addNarrow, plan.OpSub: subNarrow, plan.OpMul: mulNarrow}[code]
		return
	}
	c.widen(a)
	c.widen(b)
	s.run = map[plan.OpCode]func(*step, *frame){plan.OpAdd: addWide, plan.OpSub: subWide, plan.OpMul: mulWide}[code]
}

func scales(op *plan.Op, a, b uint8) error {
	if op.Code == plan.OpMul {
		if op.Scale != a+b {
			return fmt.Errorf("a product of scales %d and %d has scale %d, not %d", a, b, a+b, op.Scale)
		}
		return nil
	}
	if a != b || op.Scale != a {
		return fmt.Errorf("a sum of scales %d and %d cannot have scale %d", a, b, op.Scale)
	}
	return nil
}

func (c *compiler) compare(op *plan.Op) error {
	in, err := c.pop(2)
	if err != nil {
		return err
	}
	a, b := in[0], in[1]
	if op.Type != event.Bool || op.Scale != 0 {
		return fmt.Errorf("a comparison gives bool, not %v scale %d", op.Type, op.Scale)
	}
	s := step{to: &Vector{Type: event.Bool}, negate: op.Code == plan.OpNe || op.Code == plan.OpLe || op.Code == plan.OpGe}
	equal := op.Code == plan.OpEq || op.Code == plan.OpNe
	// a > b is b < a, and a <= b is its negation.
	if op.Code == plan.OpGt || op.Code == plan.OpLe {
		a, b = b, a
	}
	choose := func(eq, lt func(*step, *frame)) {
		if s.run = lt; equal {
			s.run = eq
		}
	}
	ta, tb := a.v.Type, b.v.Type
	switch {
	case integer(ta, a.v.Scale) && integer(tb, b.v.Scale) && a.v.Scale == b.v.Scale:
		if !a.v.Wide && !b.v.Wide {
			choose(eqNarrow, ltNarrow)
			break
		}
		c.widen(&a)
		c.widen(&b)
		choose(eqWide, ltWide)
	case ta == event.Float64 && tb == event.Float64:
		choose(eqFloat, ltFloat)
	case ta == event.Bool && tb == event.Bool && equal:
		s.run = eqBool
	case ta == event.Text && tb == event.Text:
		return c.texts(s, equal, a, b)
	default:
		return fmt.Errorf("cannot compare %v scale %d with %v scale %d by code %d", ta, a.v.Scale, tb, b.v.Scale, op.Code)
	}
	s.a, s.b = a.v, b.v
	c.release(a)
	c.release(b)
	c.result(s, operand{v: s.to})
	return nil
}

// texts chooses the loop of a comparison of texts. The constant is copied: its
// bytes must not keep a whole plan alive.
func (c *compiler) texts(s step, equal bool, a, b operand) error {
	s.a, s.b, s.column, s.other = a.v, b.v, a.column, b.column
	switch {
	case a.fixed && b.fixed:
		truth := a.text == b.text
		if !equal {
			truth = a.text < b.text
		}
		s.run = loadConstant
		if truth != s.negate {
			s.constant = 1
		}
	case !a.fixed && !b.fixed:
		if s.run = ltColumns; equal {
			s.run = eqColumns
		}
	case a.fixed: // constant < column, constant = column
		s.a, s.column, s.text = b.v, b.column, strings.Clone(a.text)
		s.run = gtText
	default:
		s.text = strings.Clone(b.text)
		s.run = ltText
	}
	if equal && a.fixed != b.fixed {
		s.run = eqText
		if n := len(s.text); n <= 8 {
			var w [8]byte
			copy(w[:], s.text)
			s.run, s.word = eqTextShort, binary.LittleEndian.Uint64(w[:])
			s.mask = ^uint64(0) >> (64 - 8*n)
		}
	}
	c.result(s, operand{v: s.to, fixed: a.fixed && b.fixed})
	return nil
}

func (c *compiler) logic(op *plan.Op) error {
	in, err := c.pop(2)
	if err != nil {
		return err
	}
	if in[0].v.Type != event.Bool || in[1].v.Type != event.Bool || op.Type != event.Bool || op.Scale != 0 {
		return fmt.Errorf("and, or of %v and %v", in[0].v.Type, in[1].v.Type)
	}
	s := step{run: and, to: &Vector{Type: event.Bool}, a: in[0].v, b: in[1].v}
	if op.Code == plan.OpOr {
		s.run = or
	}
	c.result(s, operand{v: s.to})
	return nil
}

// integer says whether a type and scale are those of an exact number.
func integer(t event.Type, scale uint8) bool {
	return t == event.Decimal && scale <= event.ScaleMax || t == event.Int64 && scale == 0
}
