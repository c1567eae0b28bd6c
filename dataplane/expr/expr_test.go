package expr_test

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/expr"
	"github.com/headrace/headrace/dataplane/plan"
)

// columns of the tests: two of each type.
var columns = []plan.Column{
	{Name: "i", Type: event.Int64},
	{Name: "j", Type: event.Int64},
	{Name: "d", Type: event.Decimal, Scale: 4},
	{Name: "e", Type: event.Decimal, Scale: 4},
	{Name: "x", Type: event.Float64},
	{Name: "y", Type: event.Float64},
	{Name: "s", Type: event.Text},
	{Name: "t", Type: event.Text},
}

func newBatch() *event.Batch {
	cols := make([]event.Column, len(columns))
	for i, c := range columns {
		cols[i] = event.Column{Type: c.Type, Scale: c.Scale}
	}
	return event.NewBatch(cols)
}

var (
	someInts   = []int64{0, 1, -1, 2, 7, 10000, 1 << 53, 1<<53 + 1, -(1<<53 + 1), math.MaxInt64, math.MinInt64, math.MinInt64 + 1}
	someFloats = []float64{0, math.Copysign(0, -1), 1, -1.5, 1e300, -1e300, 5e-324, math.Inf(1), math.Inf(-1), math.NaN(), 0.1}
	someTexts  = []string{"", "a", "trade", "tradf", "trade ", "eight888", "eight889", "nine99999", "a\x00", strings.Repeat("z", 64)}
)

// fill gives b n random events, of which a tenth of the values are null.
func fill(b *event.Batch, r *rand.Rand, n int) {
	b.Reset()
	for ; b.N < n; b.N++ {
		for c := range columns {
			switch {
			case r.IntN(10) == 0:
				b.SetNull(c)
			case columns[c].Type == event.Text:
				b.SetText(c, []byte(someTexts[r.IntN(len(someTexts))]))
			case columns[c].Type == event.Float64:
				f := r.NormFloat64()
				if r.IntN(2) == 0 {
					f = someFloats[r.IntN(len(someFloats))]
				}
				b.SetNum(c, int64(math.Float64bits(f)))
			case r.IntN(2) == 0:
				b.SetNum(c, someInts[r.IntN(len(someInts))])
			default:
				b.SetNum(c, int64(r.Uint64())>>r.IntN(63))
			}
		}
	}
}

// A cell is what the slow interpreter computes with. Of null and over at most
// one is set.
type cell struct {
	null, over bool
	n          *big.Int
	f          float64
	s          string
	b          bool
}

// interpret runs p on one event, in unbounded integers.
func interpret(p *plan.Program, b *event.Batch, e int) cell {
	var stack []cell
	pop := func() cell {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		return c
	}
	scales := []uint8{}
	for _, op := range p.Ops {
		var out cell
		switch op.Code {
		case plan.OpColumn:
			out = load(b, op.Column, e)
		case plan.OpInt:
			out.n = big.NewInt(op.Int)
		case plan.OpFloat:
			out.f = op.Float
		case plan.OpText:
			out.s = op.Text
		case plan.OpBool:
			out.b = op.Int != 0
		case plan.OpNot:
			a := pop()
			scales = scales[:len(scales)-1]
			out = cell{null: a.null, over: a.over, b: !a.b}
		case plan.OpScale, plan.OpToFloat, plan.OpNeg:
			a := pop()
			sc := scales[len(scales)-1]
			scales = scales[:len(scales)-1]
			out = slowUnary(op, a, sc)
		case plan.OpAnd, plan.OpOr:
			y, x := pop(), pop()
			scales = scales[:len(scales)-2]
			out = slowLogic(op.Code == plan.OpOr, x, y)
		default:
			y, x := pop(), pop()
			scales = scales[:len(scales)-2]
			out = slowBinary(op, x, y)
		}
		if out.n != nil && !out.null && !out.over {
			limit := new(big.Int).Lsh(big.NewInt(1), 127)
			if out.n.Cmp(limit) >= 0 || out.n.Cmp(limit.Neg(limit)) < 0 {
				out = cell{over: true}
			}
		}
		stack = append(stack, out)
		scales = append(scales, op.Scale)
	}
	return pop()
}

func load(b *event.Batch, c, e int) cell {
	col := &b.Cols[c]
	switch {
	case !col.Valid.Has(e):
		return cell{null: true}
	case col.Type == event.Text:
		return cell{s: string(b.TextAt(c, e))}
	case col.Type == event.Float64:
		return cell{f: math.Float64frombits(uint64(col.Num[e]))}
	}
	return cell{n: big.NewInt(col.Num[e])}
}

func slowUnary(op plan.Op, a cell, scale uint8) cell {
	if a.null || a.over {
		return cell{null: a.null, over: a.over}
	}
	ten := big.NewInt(10)
	switch {
	case op.Code == plan.OpNeg && a.n != nil:
		return cell{n: new(big.Int).Neg(a.n)}
	case op.Code == plan.OpNeg:
		return cell{f: -a.f}
	case op.Code == plan.OpScale:
		return cell{n: new(big.Int).Mul(a.n, ten.Exp(ten, big.NewInt(op.Int), nil))}
	}
	f, _ := new(big.Rat).SetFrac(a.n, ten.Exp(ten, big.NewInt(int64(scale)), nil)).Float64()
	return cell{f: f}
}

// slowLogic is Kleene's: unknown stays unknown unless the other side decides.
func slowLogic(or bool, x, y cell) cell {
	for _, c := range []cell{x, y} {
		if !c.null && !c.over && c.b == or {
			return cell{b: or}
		}
	}
	if x.over || y.over {
		return cell{over: true}
	}
	return cell{null: x.null || y.null, b: !or}
}

func slowBinary(op plan.Op, x, y cell) cell {
	if x.null || y.null {
		return cell{null: true}
	}
	if x.over || y.over {
		return cell{over: true}
	}
	switch op.Code {
	case plan.OpAdd, plan.OpSub, plan.OpMul, plan.OpDiv:
		if x.n != nil {
			return cell{n: map[plan.OpCode]func(_, _ *big.Int) *big.Int{
				plan.OpAdd: new(big.Int).Add, plan.OpSub: new(big.Int).Sub, plan.OpMul: new(big.Int).Mul,
			}[op.Code](x.n, y.n)}
		}
		d := y.f
		return cell{f: map[plan.OpCode]float64{plan.OpAdd: x.f + y.f, plan.OpSub: x.f - y.f, plan.OpMul: float64(x.f * y.f), plan.OpDiv: x.f / math.Abs(d) * sign(d)}[op.Code]}
	}
	for _, f := range []float64{x.f, y.f} {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return cell{null: true}
		}
	}
	c := strings.Compare(x.s, y.s)
	switch {
	case x.n != nil:
		c = x.n.Cmp(y.n)
	case x.f < y.f:
		c = -1
	case x.f > y.f:
		c = 1
	case x.b != y.b:
		c = 1 // only for = and !=
	}
	return cell{b: map[plan.OpCode]bool{plan.OpEq: c == 0, plan.OpNe: c != 0, plan.OpLt: c < 0, plan.OpLe: c <= 0, plan.OpGt: c > 0, plan.OpGe: c >= 0}[op.Code]}
}

func sign(f float64) float64 {
	if f < 0 {
		return -1
	}
	return 1
}

// A source of programs: postfix, well typed, from random choices.
type author struct{ r *rand.Rand }

func (a author) number(t event.Type, depth int) (ops []plan.Op, scale uint8) {
	pick := a.r.IntN(8)
	if depth == 0 {
		pick %= 2
	}
	if t == event.Float64 {
		return a.float(depth, pick), 0
	}
	op := plan.Op{Type: t}
	switch pick {
	case 0:
		op.Code, op.Column = plan.OpColumn, a.r.IntN(2)
		if t == event.Decimal {
			op.Column, op.Scale = op.Column+2, 4
		}
		return []plan.Op{op}, op.Scale
	case 1:
		op.Code, op.Int = plan.OpInt, someInts[a.r.IntN(len(someInts))]
		if t == event.Decimal {
			op.Scale = uint8(a.r.IntN(6))
		}
		return []plan.Op{op}, op.Scale
	case 2:
		x, s := a.number(t, depth-1)
		op.Code, op.Scale = plan.OpNeg, s
		return append(x, op), s
	case 3, 4:
		x, s := a.number(t, depth-1)
		y, s2 := a.number(t, depth-1)
		if s+s2 <= event.ScaleMax {
			op.Code, op.Scale = plan.OpMul, s+s2
			return append(append(x, y...), op), op.Scale
		}
		return x, s
	}
	x, y, s := a.pair(t, depth)
	op.Code, op.Scale = []plan.OpCode{plan.OpAdd, plan.OpSub}[a.r.IntN(2)], s
	return append(append(x, y...), op), s
}

func (a author) float(depth, pick int) []plan.Op {
	op := plan.Op{Type: event.Float64}
	switch pick {
	case 0:
		op.Code, op.Column = plan.OpColumn, 4+a.r.IntN(2)
		return []plan.Op{op}
	case 1:
		op.Code, op.Float = plan.OpFloat, someFloats[a.r.IntN(7)]
		return []plan.Op{op}
	case 2:
		x, _ := a.number(event.Float64, depth-1)
		op.Code = plan.OpNeg
		return append(x, op)
	case 3:
		x, s := a.number(event.Decimal, depth-1)
		op.Code, op.Scale = plan.OpToFloat, s
		return append(x, op)
	}
	x, _ := a.number(event.Float64, depth-1)
	y, _ := a.number(event.Float64, depth-1)
	op.Code = plan.OpCode(int(plan.OpAdd) + a.r.IntN(4))
	return append(append(x, y...), op)
}

// pair returns two numbers of equal scale.
func (a author) pair(t event.Type, depth int) (x, y []plan.Op, scale uint8) {
	x, s := a.number(t, depth-1)
	y, s2 := a.number(t, depth-1)
	up := func(ops []plan.Op, from, to uint8) []plan.Op {
		if from == to {
			return ops
		}
		return append(ops, plan.Op{Code: plan.OpScale, Int: int64(to - from), Type: event.Decimal, Scale: to})
	}
	m := max(s, s2)
	return up(x, s, m), up(y, s2, m), m
}

func (a author) truth(depth int) []plan.Op {
	op := plan.Op{Type: event.Bool}
	switch pick := a.r.IntN(8); {
	case depth == 0:
		op.Code, op.Int = plan.OpBool, int64(a.r.IntN(2))
		return []plan.Op{op}
	case pick == 0:
		op.Code = plan.OpNot
		return append(a.truth(depth-1), op)
	case pick < 3:
		op.Code = []plan.OpCode{plan.OpAnd, plan.OpOr, plan.OpEq, plan.OpNe}[a.r.IntN(4)]
		return append(append(a.truth(depth-1), a.truth(depth-1)...), op)
	}
	op.Code = plan.OpCode(int(plan.OpEq) + a.r.IntN(6))
	var x, y []plan.Op
	switch a.r.IntN(4) {
	case 0:
		x, y, _ = a.pair(event.Int64, depth)
	case 1:
		x, y, _ = a.pair(event.Decimal, depth)
	case 2:
		x, _ = a.number(event.Float64, depth-1)
		y, _ = a.number(event.Float64, depth-1)
	default:
		x, y = a.text(), a.text()
	}
	return append(append(x, y...), op)
}

func (a author) text() []plan.Op {
	if a.r.IntN(2) == 0 {
		return []plan.Op{{Code: plan.OpColumn, Column: 6 + a.r.IntN(2), Type: event.Text}}
	}
	return []plan.Op{{Code: plan.OpText, Text: someTexts[a.r.IntN(len(someTexts))], Type: event.Text}}
}

func (a author) program() *plan.Program {
	p := &plan.Program{Type: event.Type(1 + a.r.IntN(4))}
	depth := a.r.IntN(5)
	switch p.Type {
	case event.Text: // stands for bool: a text is never computed
		p.Type, p.Ops = event.Bool, a.truth(depth)
	default:
		p.Ops, p.Scale = a.number(p.Type, depth)
	}
	return p
}

// want compares entry j of v with what the slow interpreter says.
func want(v *expr.Vector, j int, c cell) error {
	if got := v.Valid.Has(j); got != (!c.null && !c.over) {
		return fmt.Errorf("valid = %v, want %+v", got, c)
	}
	if got := v.Over.Has(j); got != c.over {
		return fmt.Errorf("over = %v, want %+v", got, c)
	}
	if c.null || c.over {
		if v.True.Has(j) {
			return errors.New("unknown but true")
		}
		return nil
	}
	switch v.Type {
	case event.Bool:
		if v.True.Has(j) != c.b {
			return fmt.Errorf("got %v, want %v", v.True.Has(j), c.b)
		}
	case event.Float64:
		if g := v.Float(j); math.Float64bits(g) != math.Float64bits(c.f) && !(math.IsNaN(g) && math.IsNaN(c.f)) {
			return fmt.Errorf("got %v, want %v", g, c.f)
		}
	case event.Int64, event.Decimal:
		hi := v.Num[j] >> 63
		if v.Wide {
			hi = v.Hi[j]
		}
		g := new(big.Int).Lsh(big.NewInt(hi), 64)
		g.Add(g, new(big.Int).SetUint64(uint64(v.Num[j])))
		if g.Cmp(c.n) != 0 {
			return fmt.Errorf("got %v, want %v", g, c.n)
		}
	}
	return nil
}

// Every program gives the values of an interpreter that computes one event at a
// time in big integers.
func TestEvalAgreesWithASlowInterpreter(t *testing.T) {
	b := newBatch()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		p := author{r}.program()
		k, err := expr.Compile(p, columns)
		if err != nil {
			t.Fatalf("Compile(%+v): %v", p, err)
		}
		for range 2 { // nothing may be left over from the first batch
			fill(b, r, rapid.IntRange(0, event.BatchMax).Draw(t, "events"))
			var sel []uint16
			if rapid.Bool().Draw(t, "select") {
				sel = make([]uint16, 0, event.BatchMax)
				for e := range b.N {
					if r.IntN(2) == 0 {
						sel = append(sel, uint16(e))
					}
				}
				r.Shuffle(len(sel), func(i, j int) { sel[i], sel[j] = sel[j], sel[i] })
			}
			v := k.Eval(b, sel)
			n := b.N
			if sel != nil {
				n = len(sel)
			}
			for j := range n {
				e := j
				if sel != nil {
					e = int(sel[j])
				}
				if err := want(v, j, interpret(p, b, e)); err != nil {
					t.Fatalf("%+v\nevent %d: %v", p, e, err)
				}
			}
		}
	})
}

func TestFilterSelectsWhatIsTrue(t *testing.T) {
	b := newBatch()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		p := &plan.Program{Type: event.Bool, Ops: author{r}.truth(3)}
		k, err := expr.Compile(p, columns)
		if err != nil {
			t.Fatal(err)
		}
		fill(b, r, r.IntN(event.BatchMax+1))
		var want []uint16
		for e := range b.N {
			if c := interpret(p, b, e); c.b && !c.null && !c.over {
				want = append(want, uint16(e))
			}
		}
		if got := k.Filter(b, nil); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("Filter = %v, want %v: %+v", got, want, p)
		}
	})
}

func TestTheEmptyProgramSelectsEverything(t *testing.T) {
	k, err := expr.Compile(&plan.Program{}, columns)
	if err != nil {
		t.Fatal(err)
	}
	b := newBatch()
	fill(b, rand.New(rand.NewPCG(1, 1)), 3)
	if got := k.Filter(b, nil); fmt.Sprint(got) != "[0 1 2]" {
		t.Errorf("Filter = %v, want [0 1 2]", got)
	}
}

// The last text of a full heap is followed by nothing that could be loaded with it.
func TestShortTextsAreComparedUpToTheEndOfTheHeap(t *testing.T) {
	b := event.NewBatch([]event.Column{{Type: event.Text}})
	for ; b.N < event.BatchMax; b.N++ {
		b.SetText(0, []byte(strings.Repeat("x", event.TextMax-3)+"end"))
	}
	last := event.BatchMax - 1
	b.Cols[0].Off[last] += event.TextMax - 3
	b.Cols[0].Len[last] = 3
	p := &plan.Program{Type: event.Bool, Ops: []plan.Op{
		{Code: plan.OpColumn, Type: event.Text}, {Code: plan.OpText, Text: "end", Type: event.Text}, {Code: plan.OpEq, Type: event.Bool},
	}}
	k, err := expr.Compile(p, []plan.Column{{Type: event.Text}})
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Filter(b, nil); len(got) != 1 || int(got[0]) != last {
		t.Errorf("Filter = %v, want [%d]", got, last)
	}
}

func TestProgramsThatCannotBeEvaluatedAreRefused(t *testing.T) {
	i := plan.Op{Code: plan.OpColumn, Column: 0, Type: event.Int64}
	d := plan.Op{Code: plan.OpColumn, Column: 2, Type: event.Decimal, Scale: 4}
	x := plan.Op{Code: plan.OpColumn, Column: 4, Type: event.Float64}
	s := plan.Op{Code: plan.OpColumn, Column: 6, Type: event.Text}
	yes := plan.Op{Code: plan.OpBool, Int: 1, Type: event.Bool}
	for name, p := range map[string]plan.Program{
		"a column beyond the feed's":      {Type: event.Int64, Ops: []plan.Op{{Code: plan.OpColumn, Column: 8, Type: event.Int64}}},
		"a negative column":               {Type: event.Int64, Ops: []plan.Op{{Code: plan.OpColumn, Column: -1, Type: event.Int64}}},
		"a column of another type":        {Type: event.Int64, Ops: []plan.Op{{Code: plan.OpColumn, Column: 2, Type: event.Int64}}},
		"a column of another scale":       {Type: event.Decimal, Scale: 3, Ops: []plan.Op{{Code: plan.OpColumn, Column: 2, Type: event.Decimal, Scale: 3}}},
		"an empty stack":                  {Type: event.Int64, Ops: []plan.Op{i, {Code: plan.OpAdd, Type: event.Int64}}},
		"two results":                     {Type: event.Int64, Ops: []plan.Op{i, i}},
		"another result":                  {Type: event.Float64, Ops: []plan.Op{i}},
		"an unknown code":                 {Type: event.Int64, Ops: []plan.Op{i, {Code: 99, Type: event.Int64}}},
		"code zero":                       {Type: event.Int64, Ops: []plan.Op{{Type: event.Int64}}},
		"a sum of different scales":       {Type: event.Decimal, Scale: 4, Ops: []plan.Op{d, i, {Code: plan.OpAdd, Type: event.Decimal, Scale: 4}}},
		"a sum of an integer and a float": {Type: event.Float64, Ops: []plan.Op{i, x, {Code: plan.OpAdd, Type: event.Float64}}},
		"a product with a wrong scale":    {Type: event.Decimal, Scale: 4, Ops: []plan.Op{d, d, {Code: plan.OpMul, Type: event.Decimal, Scale: 4}}},
		"a quotient of integers":          {Type: event.Int64, Ops: []plan.Op{i, i, {Code: plan.OpDiv, Type: event.Int64}}},
		"a text compared with a number":   {Type: event.Bool, Ops: []plan.Op{i, s, {Code: plan.OpEq, Type: event.Bool}}},
		"an order of truths":              {Type: event.Bool, Ops: []plan.Op{yes, yes, {Code: plan.OpLt, Type: event.Bool}}},
		"a comparison that is a number":   {Type: event.Int64, Ops: []plan.Op{i, i, {Code: plan.OpEq, Type: event.Int64}}},
		"not of a number":                 {Type: event.Bool, Ops: []plan.Op{i, {Code: plan.OpNot, Type: event.Bool}}},
		"and of a text":                   {Type: event.Bool, Ops: []plan.Op{yes, s, {Code: plan.OpAnd, Type: event.Bool}}},
		"the negation of a text":          {Type: event.Text, Ops: []plan.Op{s, {Code: plan.OpNeg, Type: event.Text}}},
		"a scale above the greatest":      {Type: event.Decimal, Scale: 19, Ops: []plan.Op{{Code: plan.OpInt, Type: event.Decimal, Scale: 19}}},
		"a negative scaling":              {Type: event.Decimal, Scale: 3, Ops: []plan.Op{d, {Code: plan.OpScale, Int: -1, Type: event.Decimal, Scale: 3}}},
		"a constant that is not finite":   {Type: event.Float64, Ops: []plan.Op{{Code: plan.OpFloat, Float: math.Inf(1), Type: event.Float64}}},
		"a scaled int64":                  {Type: event.Int64, Scale: 2, Ops: []plan.Op{{Code: plan.OpInt, Type: event.Int64, Scale: 2}}},
		"too many operations":             {Type: event.Int64, Ops: make([]plan.Op, expr.OpsMax+1)},
	} {
		if _, err := expr.Compile(&p, columns); !errors.Is(err, expr.ErrProgram) {
			t.Errorf("%s: Compile = %v, want ErrProgram", name, err)
		}
	}
}

func TestEvalAndFilterDoNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	b := newBatch()
	fill(b, r, event.BatchMax)
	sel := []uint16{3, 5, 1, 255, 77}
	dst := make([]uint16, 0, event.BatchMax)
	for range 50 {
		p := author{r}.program()
		k, err := expr.Compile(p, columns)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(5, func() {
			k.Eval(b, nil)
			k.Eval(b, sel)
			if p.Type == event.Bool {
				dst = k.Filter(b, dst[:0])
			}
		}); n != 0 {
			t.Fatalf("%v allocations a batch, want 0: %+v", n, p)
		}
	}
}

// FuzzCompile checks that whatever is compiled can be evaluated.
func FuzzCompile(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 1, 1, 1, 0, 10, 0, 1, 0})
	f.Add([]byte{1, 6, 4, 0, 4, 3, 4, 0, 14, 0, 5, 0})
	f.Add([]byte{1, 2, 2, 4, 7, 0, 3, 4, 12, 0, 3, 0})
	b := newBatch()
	fill(b, rand.New(rand.NewPCG(3, 3)), 200)
	f.Fuzz(func(t *testing.T, in []byte) {
		var p plan.Program
		for ; len(in) >= 4; in = in[4:] {
			op := plan.Op{
				Code: plan.OpCode(in[0]), Column: int(int8(in[1])), Int: int64(int8(in[1])),
				Float: float64(in[1]) / 3, Text: strings.Repeat("t", int(in[1])), Type: event.Type(in[2]), Scale: in[3],
			}
			p.Ops = append(p.Ops, op)
			p.Type, p.Scale = op.Type, op.Scale
			if op.Code == plan.OpToFloat {
				p.Scale = 0
			}
		}
		k, err := expr.Compile(&p, columns)
		if err != nil || len(p.Ops) == 0 {
			return
		}
		v := k.Eval(b, nil)
		for e := range b.N {
			if v.Type == event.Text {
				continue
			}
			if err := want(v, e, interpret(&p, b, e)); err != nil {
				t.Fatalf("%+v\nevent %d: %v", p, e, err)
			}
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	i := plan.Op{Code: plan.OpColumn, Column: 0, Type: event.Int64}
	d := plan.Op{Code: plan.OpColumn, Column: 2, Type: event.Decimal, Scale: 4}
	s := plan.Op{Code: plan.OpColumn, Column: 6, Type: event.Text}
	boolean := func(c plan.OpCode) plan.Op { return plan.Op{Code: c, Type: event.Bool} }
	for _, c := range []struct {
		name string
		ops  []plan.Op
	}{
		{"text=constant", []plan.Op{s, {Code: plan.OpText, Text: "trade", Type: event.Text}, boolean(plan.OpEq)}},
		{"int>constant", []plan.Op{i, {Code: plan.OpInt, Int: 100, Type: event.Int64}, boolean(plan.OpGt)}},
		{"price*size>constant", []plan.Op{d, i, {Code: plan.OpMul, Type: event.Decimal, Scale: 4}, {Code: plan.OpInt, Int: 100, Type: event.Int64}, {Code: plan.OpScale, Int: 4, Type: event.Decimal, Scale: 4}, boolean(plan.OpGt)}},
	} {
		b.Run("where="+c.name, func(b *testing.B) {
			k, err := expr.Compile(&plan.Program{Type: event.Bool, Ops: c.ops}, columns)
			if err != nil {
				b.Fatal(err)
			}
			batch := newBatch()
			fill(batch, rand.New(rand.NewPCG(1, 2)), event.BatchMax)
			dst := make([]uint16, 0, event.BatchMax)
			b.ReportAllocs()
			for b.Loop() {
				dst = k.Filter(batch, dst[:0])
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/event.BatchMax, "ns/event")
		})
	}
}
