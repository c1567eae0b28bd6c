package compile_test

import (
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// values is a feed with columns of every type, whose only value is the expression.
func values(expr string) string {
	return `feeds:
  f:
    match: {port: 9000}
    format: json
    columns: {a: int64, b: decimal(2), c: decimal(5), x: float64, s: text, type: int64, map: int64, count: int64, if: int64, key: text}
    time: {receive: true}
queries:
  q:
    from: f
    key: [key]
    window: {tumbling: 1s}
    sinks: [rows]
    ` + expr + "\n" + sinks
}

func value(expr string) string {
	return values("select: {v: '" + strings.ReplaceAll(expr, "'", "''") + "'}")
}

func where(expr string) string {
	return values("select: {v: count()}\n    where: '" + strings.ReplaceAll(expr, "'", "''") + "'")
}

func TestExpressionsBecomePrograms(t *testing.T) {
	for _, c := range []struct{ expr, want, typ string }{
		{"sum(a)", "a", "int64"},
		{"sum(a + b)", "a scale 2 b +", "decimal(2)"},
		{"sum(b - c)", "b scale 3 c -", "decimal(5)"},
		{"sum(b * c)", "b c *", "decimal(7)"},
		{"sum(a * 1.10)", "a int 110 *", "decimal(2)"},
		{"sum(b + 1)", "b int 100 +", "decimal(2)"},
		{"sum(b + 0.1)", "b int 10 +", "decimal(2)"},
		{"sum(0.1 + 0.2)", "int 1 int 2 +", "decimal(1)"},
		{"sum(0.1234567890123456780000)", "int 123456789012345678", "decimal(18)"},
		{"sum(-a)", "a neg", "int64"},
		{"sum(-1.50)", "int -150", "decimal(2)"},
		{"sum(+a)", "a", "int64"},
		{"sum(a - -1)", "a int -1 -", "int64"},
		{"sum(b / a)", "b float a float /", "float64"},
		{"sum(b / 0.1)", "b float float 0.1 /", "float64"},
		{"sum(x + a)", "x a float +", "float64"},
		{"sum(x * 9007199254740993)", "x float 9007199254740992 *", "float64"},
		{"sum(a * 1e3)", "a float float 1000 *", "float64"},
		{"sum(a + b * c)", "a scale 7 b c * +", "decimal(7)"},
		{"sum((a + b) * c)", "a scale 2 b + c *", "decimal(7)"},
		{"sum(a - a - a)", "a a - a -", "int64"},
		{"sum(type * map + if)", "type map * if +", "int64"},
		{"max(count)", "count", "int64"},
		{"sum(0x10 + 1_000)", "int 16 int 1000 +", "int64"},
		{"count(s)", "s", "text"},
		{"count(a > 1)", "a int 1 >", "bool"},
	} {
		p, err := compile.Compile(config.Read("x.yaml", []byte(value(c.expr))), options())
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		prog := p.Queries[0].Aggregates[0].Args[0]
		typ := config.TypeName(prog.Type, prog.Scale)
		if got := show(p, &prog); got != c.want || typ != c.typ {
			t.Errorf("%s = %s: %s, want %s: %s", c.expr, got, typ, c.want, c.typ)
		}
	}
}

func TestConditionsBecomePrograms(t *testing.T) {
	for _, c := range []struct{ expr, want string }{
		{`a > 1`, "a int 1 >"},
		{`b == 1.005`, "b scale 1 int 1005 =="},
		{`a < x`, "a float x <"},
		{`s == "x"`, `s "x" ==`},
		{`s < key`, "s key <"},
		{`1 < a <= 5`, "int 1 a < a int 5 <= and"},
		{`a == 1 or a == 2 and b == 3`, "a int 1 == a int 2 == b int 300 == and or"},
		{`not (a == 1)`, "a int 1 == not"},
		{`!(a == 1) || a != 2`, "a int 1 == not a int 2 != or"},
		{`a in [1, 2.5]`, "a int 1 == a scale 1 int 25 == or"},
		{`s not in ["x", "y"]`, `s "x" == s "y" == or not`},
		{`true`, "bool 1"},
		{`(a > 1) == (b > 1)`, "a int 1 > b int 100 > =="},
	} {
		p, err := compile.Compile(config.Read("x.yaml", []byte(where(c.expr))), options())
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if got := show(p, &p.Queries[0].Where); got != c.want {
			t.Errorf("%s = %s, want %s", c.expr, got, c.want)
		}
	}
}

func TestWhatExpressionsCannotSayIsNamed(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{value("first(s)"), "first() of text"},
		{value("min(a > 1)"), "min() of true or false"},
		{value("sum(s + 1)"), "+ of text and int64"},
		{value("sum(a % 2)"), "the operator % is not supported"},
		{value("sum(a) / sum(b)"), "a value is one aggregate"},
		{value("median(a)"), "there is no aggregate median()"},
		{value("sum(abs(a))"), "there is no function abs()"},
		{value("sum(a, b)"), "sum() is given 2 arguments"},
		{value("a | sum()"), `"|" is no operator here`},
		{value("sum(nil)"), "nil is not supported"},
		{value("sum([a])"), "a list outside of in is not supported"},
		{value("let z = 1; sum(z)"), `"=" is no operator here`},
		{value("sum(c * c * c * c)"), "a product of decimal(15) and decimal(5) has 20 digits after the point"},
		{where("a"), "where is int64"},
		{where("s > 1"), "> compares text with int64"},
		{where("a and b > 1"), "and takes comparisons, not int64"},
		{where("not a"), "not of int64"},
		{where("s matches 'x'"), "the operator matches is not supported"},
		{where("count() > 1"), "count() is an aggregate"},
		{where("s == '" + strings.Repeat("x", 65) + "'"), "the text has 65 bytes"},
		{where("a in b"), "in takes a list"},
		{where("a == 1 b"), `unexpected ("b")`},
		{where("a == 'x"), "the text in quotes does not end"},
		{where("(a == 1) < (b == 1)"), "< compares true or false with true or false"},
	} {
		_, err := compile.Compile(config.Read("x.yaml", []byte(c.text)), options())
		var found config.Findings
		if !errors.As(err, &found) || !strings.Contains(found[0].Message, c.want) {
			t.Errorf("%q is not among %v", c.want, err)
		}
	}
}

// A number is a literal or column and its exact value, or nothing where a float
// entered.
type number struct {
	text  string
	value *big.Rat
	scale int
}

var columnValues = map[string]struct {
	value int64
	scale int
}{"a": {-7, 0}, "b": {12345, 2}, "c": {-9876543, 5}}

func rat(v int64, scale int) *big.Rat {
	return new(big.Rat).SetFrac(big.NewInt(v), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
}

func genNumber(t *rapid.T, depth int) number {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth == 0 {
		kind %= 2
	}
	switch kind {
	case 0:
		name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "column")
		v := columnValues[name]
		return number{name, rat(v.value, v.scale), v.scale}
	case 1:
		v, scale := rapid.Int64Range(0, 999999).Draw(t, "digits"), rapid.IntRange(0, 4).Draw(t, "scale")
		r := rat(v, scale)
		return number{r.FloatString(scale), r, scale}
	case 2:
		n := genNumber(t, depth-1)
		return number{"-(" + n.text + ")", new(big.Rat).Neg(n.value), n.scale}
	}
	x, y := genNumber(t, depth-1), genNumber(t, depth-1)
	out := number{value: new(big.Rat), scale: max(x.scale, y.scale)}
	op := []string{"+", "-", "*"}[kind-3]
	switch op {
	case "+":
		out.value.Add(x.value, y.value)
	case "-":
		out.value.Sub(x.value, y.value)
	default:
		out.value.Mul(x.value, y.value)
		out.scale = x.scale + y.scale
	}
	out.text = "(" + x.text + " " + op + " " + y.text + ")"
	return out
}

// run evaluates an exact program on columnValues with integers of any size.
func run(p *plan.Plan, prog *plan.Program) (*big.Int, error) {
	var stack []*big.Int
	pop := func() *big.Int {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		return v
	}
	for _, op := range prog.Ops {
		z := new(big.Int)
		switch op.Code {
		case plan.OpColumn:
			z.SetInt64(columnValues[p.Feeds[0].Columns[op.Column].Name].value)
		case plan.OpInt:
			z.SetInt64(op.Int)
		case plan.OpScale:
			z.Mul(pop(), new(big.Int).Exp(big.NewInt(10), big.NewInt(op.Int), nil))
		case plan.OpNeg:
			z.Neg(pop())
		case plan.OpAdd, plan.OpSub, plan.OpMul:
			y, x := pop(), pop()
			switch op.Code {
			case plan.OpAdd:
				z.Add(x, y)
			case plan.OpSub:
				z.Sub(x, y)
			default:
				z.Mul(x, y)
			}
		default:
			return nil, fmt.Errorf("operation %v", op)
		}
		stack = append(stack, z)
	}
	if len(stack) != 1 {
		return nil, fmt.Errorf("%d values left", len(stack))
	}
	return stack[0], nil
}

// A program of integers and decimals computes exactly what its text says, with the
// scale that the rules for + - * give.
func TestExactArithmeticIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := genNumber(t, 4)
		p, err := compile.Compile(config.Read("x.yaml", []byte(value("sum("+n.text+")"))), options())
		if n.scale > event.ScaleMax {
			if err == nil {
				t.Fatalf("%s has scale %d and was accepted", n.text, n.scale)
			}
			return
		}
		if err != nil {
			// A part of it may have more digits than the whole.
			if !strings.Contains(err.Error(), "digits after the point") {
				t.Fatalf("%s: %v", n.text, err)
			}
			return
		}
		prog := &p.Queries[0].Aggregates[0].Args[0]
		got, err := run(p, prog)
		if err != nil {
			t.Fatalf("%s: %v", n.text, err)
		}
		if int(prog.Scale) != n.scale {
			t.Fatalf("%s has scale %d, want %d", n.text, prog.Scale, n.scale)
		}
		r := new(big.Rat).SetFrac(got, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(prog.Scale)), nil))
		if r.Cmp(n.value) != 0 {
			t.Fatalf("%s = %s, want %s", n.text, r, n.value)
		}
	})
}

// FuzzConfig checks that no file makes reading or compiling panic, that every
// finding stands inside the file, and that a file without findings has a plan.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(deep + query("a", "select: {n: count()}") + sinks))
	f.Add([]byte(value("sum(a * 1.5) ")))
	for _, pattern := range []string{"testdata/broken/*.yaml", "../../examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("no files %s: %v", pattern, err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		c := config.Read("f", text)
		p, err := compile.Compile(c, options())
		if (p == nil) == (err == nil) {
			t.Fatalf("Compile = %v, %v", p, err)
		}
		var found config.Findings
		if err != nil && (!errors.As(err, &found) || len(found) == 0) {
			t.Fatalf("Compile = %v, want findings", err)
		}
		rows := strings.Split(string(text), "\n")
		for _, x := range found {
			if x.Line < 1 || x.Column < 1 || x.Line > len(rows)+1 {
				t.Fatalf("finding outside of %d lines: %v", len(rows), x)
			}
			if x.Line <= len(rows) && x.Column > utf8.RuneCountInString(rows[x.Line-1])+2 {
				t.Fatalf("finding behind the line %q: %v", rows[x.Line-1], x)
			}
			if x.Message == "" || strings.ContainsAny(x.String(), "\n\r") {
				t.Fatalf("finding %q", x)
			}
		}
	})
}

// FuzzExpression checks that no expression makes compiling panic.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{"sum(a*b)", "count()", "vwap(b, a)", "a in [1, 2]", `s == "x" and not (a > 1.5)`, "1 < a < 3", "max(-c / 0.1e2)", "a ? b : c", "x | sum()"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return
		}
		for _, text := range []string{value(s), where(s)} {
			p, err := compile.Compile(config.Read("f", []byte(text)), options())
			if (p == nil) == (err == nil) {
				t.Fatalf("Compile of %q = %v, %v", s, p, err)
			}
		}
	})
}
