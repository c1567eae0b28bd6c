package compile

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/parser/lexer"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

const supported = "there are columns, numbers, texts in quotes, true, false, + - * /, == != < <= > >=, in [...], and, or, not and parentheses"

// errSaid ends an expression whose trouble has been reported elsewhere.
var errSaid = errors.New("a column's type is unknown")

// A mistake is what is wrong with an expression, at a character of it. It stops
// the compiling of that expression only.
type mistake struct {
	at                    int
	message, allowed, fix string
}

func (m *mistake) Error() string { return m.message }

func mistakeAt(n ast.Node, message, allowed, fix string) *mistake {
	return &mistake{n.Location().From, message, allowed, fix}
}

// language makes the parser take every word before a parenthesis for a function
// of ours, also where the language has one of that name.
func language() *conf.Config {
	c := conf.CreateNew()
	c.DisableIfOperator = true
	c.MaxNodes = 1000
	for _, f := range builtin.Builtins {
		c.Functions[f.Name] = f
	}
	return c
}

// parse reads text.
func parse(text string) (n ast.Node, err error) {
	defer func() {
		// The parser is another's: whatever it does with hostile text is a mistake.
		if r := recover(); r != nil {
			err = &mistake{0, "the expression cannot be read", supported, ""}
		}
	}()
	if m := checkTokens(text); m != nil {
		return nil, m
	}
	tree, err := parser.ParseWithConfig(text, language())
	if err != nil {
		m := &mistake{0, err.Error(), supported, ""}
		var f *file.Error
		if errors.As(err, &f) {
			m.at, m.message = f.From, f.Message
		}
		m.message = strings.NewReplacer("unexpected token EOF", "the expression ends too early", "unexpected token ", "unexpected ",
			`Operator("*")`, `"*"`, `Operator(`, "(", `Bracket(`, "(", `Identifier(`, "(", `Number(`, "(", `String(`, "(").Replace(m.message)
		if strings.ReplaceAll(text, " ", "") == "count(*)" {
			m.allowed, m.fix = "count() counts events", "count()"
		}
		return nil, m
	}
	if tree.Node == nil {
		return nil, &mistake{0, "the expression is empty", supported, ""}
	}
	return tree.Node, nil
}

// checkTokens finds what the parser would take for something else or report at
// the wrong place.
func checkTokens(text string) *mistake {
	tokens, err := lexer.Lex(file.NewSource(text))
	if err != nil {
		var f *file.Error
		if errors.As(err, &f) {
			return &mistake{f.From, strings.Replace(f.Message, "literal not terminated", "the text in quotes does not end", 1), supported, ""}
		}
		return &mistake{0, err.Error(), supported, ""}
	}
	for _, t := range tokens {
		if t.Kind == lexer.Operator {
			if fix := map[string]string{"=": "==", "&": "and", "|": "or", "<>": "!=", "=>": ">=", "=<": "<=", "===": "==", "!==": "!="}[t.Value]; fix != "" {
				return &mistake{t.From, fmt.Sprintf("%q is no operator here", t.Value), supported, fix}
			}
		}
		if t.Kind == lexer.Number && !strings.ContainsAny(t.Value, ".eE") {
			if _, err := strconv.ParseInt(strings.ReplaceAll(t.Value, "_", ""), 0, 64); err != nil && !decimalDigits(t.Value) {
				return &mistake{t.From, fmt.Sprintf("the number %s is too large", t.Value), "an int64 goes up to 9223372036854775807", ""}
			}
		}
	}
	return nil
}

// decimalDigits accepts what ParseInt takes for octal: 010 is ten.
func decimalDigits(s string) bool {
	_, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
	return err == nil
}

// A tree is a typed expression. Columns are of feed.columns.
type tree struct {
	op     plan.OpCode
	kids   []*tree
	typ    event.Type
	scale  uint8
	column int
	num    int64 // OpInt, OpBool, OpScale
	float  float64
	text   string // OpText; the digits of OpInt and OpFloat
	at     int
}

func (t *tree) number() bool { return t.exact() || t.typ == event.Float64 }
func (t *tree) exact() bool  { return t.typ == event.Int64 || t.typ == event.Decimal }

// describe says what t is, for messages.
func (t *tree) describe() string {
	if t.typ == event.Bool {
		return "true or false"
	}
	return typeName(t.typ, t.scale)
}

// A reader types the expressions of one query.
type reader struct {
	feed *feed
	text []rune
}

var unaryName = map[string]string{"not": "not", "!": "not", "-": "-", "+": "+"}

// read types n.
func (r *reader) read(n ast.Node) (*tree, error) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return r.columnOf(n)
	case *ast.IntegerNode:
		return &tree{op: plan.OpInt, typ: event.Int64, num: int64(n.Value), text: strconv.Itoa(n.Value), at: n.Location().From}, nil
	case *ast.FloatNode:
		return r.decimal(n)
	case *ast.StringNode:
		if len(n.Value) > event.TextMax {
			return nil, mistakeAt(n, fmt.Sprintf("the text has %d bytes", len(n.Value)), fmt.Sprintf("text values have at most %d", event.TextMax), "")
		}
		return &tree{op: plan.OpText, typ: event.Text, text: n.Value, at: n.Location().From}, nil
	case *ast.BoolNode:
		t := &tree{op: plan.OpBool, typ: event.Bool, at: n.Location().From}
		if n.Value {
			t.num = 1
		}
		return t, nil
	case *ast.UnaryNode:
		return r.unary(n)
	case *ast.BinaryNode:
		return r.binary(n)
	case *ast.CallNode:
		return nil, r.call(n)
	}
	return nil, r.unsupported(n)
}

// call refuses a function within an expression.
func (r *reader) call(n *ast.CallNode) error {
	name := callee(n)
	if _, ok := aggregates[name]; ok {
		return mistakeAt(n, name+"() is an aggregate", "aggregates stand alone, under select", "")
	}
	return mistakeAt(n, fmt.Sprintf("there is no function %s()", name), supported, "")
}

func callee(n *ast.CallNode) string {
	switch c := n.Callee.(type) {
	case *ast.IdentifierNode:
		return c.Value
	case *ast.MemberNode:
		if p, ok := c.Property.(*ast.StringNode); ok {
			return p.Value
		}
	}
	return "?"
}

func (r *reader) columnOf(n *ast.IdentifierNode) (*tree, error) {
	i := r.feed.column(n.Value)
	if i < 0 {
		names := r.feed.names()
		fix := config.Nearest(n.Value, names)
		allowed := "the columns of feed " + r.feed.config.Name + " are " + orNone(names)
		for _, k := range r.feed.format.Kinds {
			if k.Name == n.Value {
				fix, allowed = `"`+n.Value+`"`, "a text is written in quotes; "+allowed
			}
		}
		return nil, mistakeAt(n, fmt.Sprintf("there is no column %q", n.Value), allowed, fix)
	}
	c := r.feed.columns[i]
	if c.Type == 0 {
		return nil, errSaid
	}
	return &tree{op: plan.OpColumn, typ: c.Type, scale: c.Scale, column: i, at: n.Location().From}, nil
}

// decimal reads a number with a point from its digits, exactly; one with an
// exponent is a float64.
func (r *reader) decimal(n *ast.FloatNode) (*tree, error) {
	at := n.Location()
	if at.From < 0 || at.To > len(r.text) || at.From > at.To {
		return nil, mistakeAt(n, "the number cannot be read", supported, "")
	}
	digits := strings.ReplaceAll(string(r.text[at.From:at.To]), "_", "")
	if strings.ContainsAny(digits, "eE") {
		if math.IsInf(n.Value, 0) {
			return nil, mistakeAt(n, "the number "+digits+" is too large", "a float64 goes up to 1.8e308", "")
		}
		return &tree{op: plan.OpFloat, typ: event.Float64, float: n.Value, text: digits, at: at.From}, nil
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	if len(fraction) > event.ScaleMax {
		fraction = strings.TrimRight(fraction, "0")
	}
	value, ok := new(big.Int).SetString("0"+whole+fraction, 10)
	if !ok || len(fraction) > event.ScaleMax || !value.IsInt64() {
		return nil, mistakeAt(n, "the number "+digits+" has too many digits", fmt.Sprintf("a decimal has at most %d after the point, and 18 in all", event.ScaleMax), "")
	}
	return &tree{op: plan.OpInt, typ: event.Decimal, scale: uint8(len(fraction)), num: value.Int64(), text: digits, at: at.From}, nil
}

func (r *reader) unary(n *ast.UnaryNode) (*tree, error) {
	x, err := r.read(n.Node)
	if err != nil {
		return nil, err
	}
	switch unaryName[n.Operator] {
	case "not":
		if x.typ != event.Bool {
			return nil, mistakeAt(n, "not of "+x.describe(), "not takes a comparison", "")
		}
		return &tree{op: plan.OpNot, kids: []*tree{x}, typ: event.Bool, at: n.Location().From}, nil
	case "-", "+":
		if !x.number() {
			return nil, mistakeAt(n, n.Operator+" of "+x.describe(), "the sign takes a number", "")
		}
		if n.Operator == "+" {
			return x, nil
		}
		switch {
		case x.op == plan.OpInt && x.num != math.MinInt64:
			x.num, x.text = -x.num, "-"+x.text
			return x, nil
		case x.op == plan.OpFloat:
			x.float, x.text = -x.float, "-"+x.text
			return x, nil
		}
		return &tree{op: plan.OpNeg, kids: []*tree{x}, typ: x.typ, scale: x.scale, at: n.Location().From}, nil
	}
	return nil, r.unsupported(n)
}

var binaryOps = map[string]plan.OpCode{
	"+": plan.OpAdd, "-": plan.OpSub, "*": plan.OpMul, "/": plan.OpDiv,
	"==": plan.OpEq, "!=": plan.OpNe, "<": plan.OpLt, "<=": plan.OpLe, ">": plan.OpGt, ">=": plan.OpGe,
	"and": plan.OpAnd, "&&": plan.OpAnd, "or": plan.OpOr, "||": plan.OpOr,
}

func (r *reader) binary(n *ast.BinaryNode) (*tree, error) {
	if n.Operator == "in" {
		return r.in(n)
	}
	op, ok := binaryOps[n.Operator]
	if !ok {
		return nil, r.unsupported(n)
	}
	a, err := r.read(n.Left)
	b, err2 := r.read(n.Right)
	if err != nil || err2 != nil {
		return nil, cmpError(err, err2)
	}
	switch op {
	case plan.OpAnd, plan.OpOr:
		for _, x := range []*tree{a, b} {
			if x.typ != event.Bool {
				return nil, &mistake{x.at, fmt.Sprintf("%s takes comparisons, not %s", n.Operator, x.describe()), `write a comparison, such as size > 0`, ""}
			}
		}
		return &tree{op: op, kids: []*tree{a, b}, typ: event.Bool, at: n.Location().From}, nil
	case plan.OpAdd, plan.OpSub, plan.OpMul, plan.OpDiv:
		return arithmetic(op, a, b, n)
	}
	return r.compare(op, a, b, n)
}

func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// arithmetic types a op b. Exact numbers stay exact, except when divided.
func arithmetic(op plan.OpCode, a, b *tree, n *ast.BinaryNode) (*tree, error) {
	for _, x := range []*tree{a, b} {
		if !x.number() {
			return nil, mistakeAt(n, fmt.Sprintf("%s of %s and %s", n.Operator, a.describe(), b.describe()), "arithmetic takes numbers", "")
		}
	}
	t := &tree{op: op, typ: event.Float64, at: n.Location().From}
	if op == plan.OpDiv || a.typ == event.Float64 || b.typ == event.Float64 {
		t.kids = []*tree{a.toFloat(), b.toFloat()}
		return t, nil
	}
	t.typ = event.Int64
	if a.typ == event.Decimal || b.typ == event.Decimal {
		t.typ = event.Decimal
	}
	if op == plan.OpMul {
		t.scale, t.kids = a.scale+b.scale, []*tree{a, b}
		if t.scale > event.ScaleMax {
			return nil, mistakeAt(n, fmt.Sprintf("a product of %s and %s has %d digits after the point", a.describe(), b.describe(), t.scale),
				fmt.Sprintf("at most %d: declare a smaller scale, or divide, which gives float64", event.ScaleMax), "")
		}
		return t, nil
	}
	t.scale = max(a.scale, b.scale)
	t.kids = []*tree{a.toScale(t.scale), b.toScale(t.scale)}
	return t, nil
}

// compare types a op b, and checks the names of kinds of message.
func (r *reader) compare(op plan.OpCode, a, b *tree, n *ast.BinaryNode) (*tree, error) {
	t := &tree{op: op, typ: event.Bool, at: n.Location().From, kids: []*tree{a, b}}
	switch {
	case a.exact() && b.exact():
		s := max(a.scale, b.scale)
		t.kids = []*tree{a.toScale(s), b.toScale(s)}
	case a.number() && b.number():
		t.kids = []*tree{a.toFloat(), b.toFloat()}
	case a.typ == event.Text && b.typ == event.Text:
		return t, r.checkKind(a, b)
	case a.typ == event.Bool && b.typ == event.Bool && (op == plan.OpEq || op == plan.OpNe):
	default:
		allowed := "compare numbers with numbers and texts with texts"
		if a.typ == event.Text && b.op == plan.OpInt || b.typ == event.Text && a.op == plan.OpInt {
			allowed += "; a text is written in quotes"
		}
		return nil, mistakeAt(n, fmt.Sprintf("%s compares %s with %s", n.Operator, a.describe(), b.describe()), allowed, "")
	}
	return t, nil
}

func (r *reader) isMessage(t *tree) bool {
	return t.op == plan.OpColumn && len(r.feed.format.Kinds) > 0 && r.feed.columns[t.column].Name == "message"
}

func (r *reader) checkKind(a, b *tree) error {
	if r.isMessage(b) {
		a, b = b, a
	}
	if !r.isMessage(a) || b.op != plan.OpText {
		return nil
	}
	var names []string
	for _, k := range r.feed.format.Kinds {
		if !slices.Contains(names, k.Name) {
			names = append(names, k.Name)
		}
	}
	if slices.Contains(names, b.text) {
		return nil
	}
	return &mistake{b.at, fmt.Sprintf("format %s has no message %q", r.feed.format.Name, b.text), "its messages are " + strings.Join(names, ", "), config.Nearest(b.text, names)}
}

// in types `x in [a, b]`: x == a or x == b.
func (r *reader) in(n *ast.BinaryNode) (*tree, error) {
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok || len(list.Nodes) == 0 {
		return nil, mistakeAt(n, "in takes a list", `write it as in ["a", "b"]`, "")
	}
	var out *tree
	for _, x := range list.Nodes {
		a, err := r.read(n.Left)
		if err != nil {
			return nil, err
		}
		b, err := r.read(x)
		if err != nil {
			return nil, err
		}
		eq, err := r.compare(plan.OpEq, a, b, n)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = eq
			continue
		}
		out = &tree{op: plan.OpOr, kids: []*tree{out, eq}, typ: event.Bool, at: eq.at}
	}
	return out, nil
}

// unsupported names what n is.
func (r *reader) unsupported(n ast.Node) error {
	what, allowed := "this", supported
	switch n := n.(type) {
	case *ast.BinaryNode:
		what = fmt.Sprintf("the operator %s", n.Operator)
	case *ast.UnaryNode:
		what = fmt.Sprintf("the operator %s", n.Operator)
	case *ast.MemberNode, *ast.ChainNode:
		what, allowed = "a value within a value", "declare a column with the path to it, and use that"
	case *ast.ConditionalNode:
		what = "a ? b : c"
	case *ast.NilNode:
		what, allowed = "nil", "comparing with null is never true; aggregates skip nulls"
	case *ast.ArrayNode:
		what = "a list outside of in"
	case *ast.MapNode:
		what = "a map"
	case *ast.SliceNode:
		what = "a slice"
	case *ast.VariableDeclaratorNode:
		what = "let"
	case *ast.SequenceNode:
		what = "a sequence with ;"
	case *ast.BytesNode:
		what = "a text of bytes"
	case *ast.BuiltinNode:
		what = "the function " + n.Name
	}
	return mistakeAt(n, what+" is not supported", allowed, "")
}
