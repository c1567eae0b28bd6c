package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file. The YAML parser's time grows with the square of the keys in one
// map, and it recurses; tokens bound both.
const (
	fileMax  = 1 << 20
	tokenMax = 1 << 15
	depthMax = 32
	valueMax = 1 << 16 // values after aliases are followed
)

// Load reads the file at path; see [Read]. The error is only about getting at the
// file: its mistakes are in [Config.Findings].
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	buf := make([]byte, fileMax+1)
	n := 0
	for n < len(buf) {
		m, err := f.Read(buf[n:])
		n += m
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
	}
	return Read(path, buf[:n]), nil
}

// Read reads a config of at most 1 MiB. file is its name in findings. The Config is
// complete and checked, as far as the file alone allows, if [Config.Findings] is
// empty; else it holds what could be read.
func Read(file string, text []byte) *Config {
	text = []byte(strings.TrimPrefix(string(text), "\ufeff"))
	c := &Config{src: newSource(file, string(text))}
	setDefaults(reflect.ValueOf(c).Elem())
	if len(text) > fileMax {
		c.Report(Pos{1, 1}, "the file is larger than 1 MiB", "split it: one file for each run", "")
		return c
	}
	if at, ok := badText(string(text)); ok {
		c.Report(at, "the file is not UTF-8 text", "save it as UTF-8, without control characters", "")
		return c
	}
	body, ok := c.body(string(text))
	if !ok {
		return c
	}
	d := &decoder{c: c, src: c.src, anchors: map[string]ast.Node{}, active: map[string]bool{}, types: map[reflect.Type]*structType{}}
	ast.Walk(anchorVisitor{d}, body)
	if d.object(body, "", reflect.ValueOf(c).Elem()) {
		c.check()
	}
	return c
}

// badText finds the first character that is not text.
func badText(text string) (Pos, bool) {
	line, column := 1, 1
	for i, r := range text {
		switch {
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				return Pos{line, column}, true
			}
		case r == '\n':
			line, column = line+1, 0
		case r == '\r' && !strings.HasPrefix(text[i+1:], "\n"):
			return Pos{line, column}, true // some readers of YAML begin a line here
		case r < ' ' && r != '\t' && r != '\r', r == 0x7f:
			return Pos{line, column}, true
		}
		column++
	}
	return Pos{}, false
}

// body parses text and returns its one document.
func (c *Config) body(text string) (body ast.Node, ok bool) {
	defer func() {
		// The parser is another's: whatever it does with hostile text is a finding.
		if r := recover(); r != nil {
			c.Report(Pos{1, 1}, "the file cannot be read as YAML", "simplify it", "")
			ok = false
		}
	}()
	tokens := lexer.Tokenize(text)
	if len(tokens) > tokenMax {
		c.Report(Pos{1, 1}, fmt.Sprintf("the file has %d YAML tokens", len(tokens)), fmt.Sprintf("at most %d", tokenMax), "")
		return nil, false
	}
	if at, ok := tooDeep(tokens); ok {
		c.Report(at, fmt.Sprintf("nested more than %d deep", depthMax), "write it flatter", "")
		return nil, false
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		c.syntax(err, tokens)
		return nil, false
	}
	var docs []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType && doc.Body.Type() != ast.NullType {
			docs = append(docs, doc.Body)
		}
	}
	switch {
	case len(docs) == 0:
		c.Report(Pos{1, 1}, "the file is empty", "write feeds: and queries:", "")
		return nil, false
	case len(docs) > 1:
		c.Report(posOf(docs[1]), "a second YAML document begins here", "one file holds one config: take the line --- out", "")
		return nil, false
	}
	return docs[0], true
}

// syntax reports an error of the YAML parser, where its cause is rather than where
// the parser noticed.
func (c *Config) syntax(err error, tokens token.Tokens) {
	at, message := Pos{1, 1}, err.Error()
	var y yaml.Error
	if errors.As(err, &y) {
		message = y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			at = Pos{max(1, t.Position.Line), max(1, t.Position.Column)}
		}
	}
	message, _, _ = strings.Cut(message, "\n")
	message = "YAML: " + message
	allowed := "check indentation, brackets and quotes"
	row := []rune(c.row(at.Line))
	rest := string(row[min(len(row), at.Column):])
	switch {
	case strings.HasPrefix(strings.TrimLeft(string(row), " "), "\t"):
		at.Column = 1 + strings.IndexByte(string(row), '\t')
		message, allowed = "the line is indented with a tab", "indent with spaces"
	case strings.Contains(message, "must be specified"):
		if open, ok := unclosed(tokens, at); ok {
			at = Pos{open.Position.Line, open.Position.Column}
			message, allowed = fmt.Sprintf("this %s is not closed", open.Value), "close it on its line, or before the next key"
		}
	case strings.Contains(message, "unexpected key name"):
		message, allowed = "this is neither a key with its colon nor a value", "write the name, a colon, and below it its fields"
	case strings.Contains(message, "value is not allowed in this context") && !strings.Contains(message, "mapping value"):
		message, allowed = "this does not go on what stands before it", "indent all keys of one map alike; a text with quotes in it needs other quotes around it"
	case strings.Contains(message, "mapping value is not allowed"):
		allowed = `a text that holds ": " or " :" needs quotes`
		next := c.row(at.Line + 1)
		if !strings.Contains(rest, ": ") && !strings.Contains(rest, " :") && !strings.HasSuffix(strings.TrimSpace(rest), ":") && strings.TrimSpace(next) != "" {
			at = Pos{at.Line + 1, 1 + len(next) - len(strings.TrimLeft(next, " "))}
			message, allowed = "the line is indented further than the one before, which has a value", "indent it like its neighbors"
		}
	}
	c.Report(at, message, allowed, "")
}

// row returns a line of the file, "" if there is none.
func (c *Config) row(line int) string {
	if line < 1 || line > len(c.src.lines) {
		return ""
	}
	return c.src.lines[line-1]
}

// unclosed returns the innermost bracket that is open at a position.
func unclosed(tokens token.Tokens, at Pos) (*token.Token, bool) {
	var open []*token.Token
	for _, t := range tokens {
		if t.Position.Line > at.Line || t.Position.Line == at.Line && t.Position.Column >= at.Column {
			break
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, t)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(0, len(open)-1)]
		}
	}
	if len(open) == 0 {
		return nil, false
	}
	return open[len(open)-1], true
}

// tooDeep finds nesting that the parser would recurse into: brackets, and list
// entries, keys, anchors and tags that pile up on one line.
func tooDeep(tokens token.Tokens) (Pos, bool) {
	brackets, line, onLine := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets = max(0, brackets-1)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			onLine++
		}
		deep := t.Position.Column > depthMax*depthMax && (t.Type == token.SequenceEntryType || t.Type == token.MappingKeyType)
		if brackets > depthMax || brackets == 0 && onLine > depthMax || deep {
			return Pos{t.Position.Line, max(1, t.Position.Column)}, true
		}
	}
	return Pos{}, false
}

func posOf(n ast.Node) Pos {
	switch m := n.(type) {
	case *ast.MappingNode:
		// The node's own token is a colon.
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return posOf(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return posOf(m.Key)
	case *ast.LiteralNode:
		n = m
	}
	if n == nil {
		return Pos{1, 1}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return Pos{max(1, t.Position.Line), max(1, t.Position.Column)}
	}
	return Pos{1, 1}
}

// A decoder fills the structs of a Config from YAML nodes.
type decoder struct {
	c       *Config
	src     *source
	anchors map[string]ast.Node
	values  int
	depth   int
	stopped bool
	active  map[string]bool // anchors that are being read
	types   map[reflect.Type]*structType
}

type anchorVisitor struct{ d *decoder }

func (v anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok {
		name := tokenText(a.Name)
		if _, twice := v.d.anchors[name]; twice {
			v.d.c.Report(posOf(a), fmt.Sprintf("anchor %q is defined twice", name), "give each anchor a name of its own", "")
		}
		v.d.anchors[name] = a.Value
	}
	return v
}

// reads counts a value and bounds depth and number; leave undoes its depth.
func (d *decoder) reads(n ast.Node) bool {
	d.values++
	if d.stopped {
		return false
	}
	if d.values > valueMax || d.depth >= depthMax {
		d.stopped = true
		what := "nested more than " + strconv.Itoa(depthMax) + " deep"
		if d.values > valueMax {
			what = "more than " + strconv.Itoa(valueMax) + " values, aliases followed"
		}
		d.c.Report(posOf(n), what, "write it out, with fewer aliases", "")
		return false
	}
	return true
}

// resolve follows anchors and aliases. It returns nil, and has reported it, for what
// cannot be followed.
func (d *decoder) resolve(n ast.Node) ast.Node {
	for range depthMax {
		switch m := n.(type) {
		case *ast.AnchorNode:
			n = m.Value
		case *ast.AliasNode:
			name := tokenText(m.Value)
			target, ok := d.anchors[name]
			if !ok {
				d.c.Report(posOf(m), fmt.Sprintf("alias *%s has no anchor", name), fmt.Sprintf("write &%s before the value that it repeats", name), Nearest(name, sortedKeys(d.anchors)))
				return nil
			}
			n = target
		case *ast.TagNode:
			d.c.Report(posOf(m), "YAML tags are not used here", "take it out", "")
			return nil
		case nil:
			return nil
		default:
			return n
		}
	}
	d.c.Report(posOf(n), "an alias leads to itself", "write it out", "")
	return nil
}

// enter marks the anchors that n defines or follows as being read, and refuses one
// that is being read already: it holds itself.
func (d *decoder) enter(n ast.Node) (names []string, ok bool) {
	for range depthMax {
		var name string
		var next ast.Node
		switch m := n.(type) {
		case *ast.AnchorNode:
			name, next = tokenText(m.Name), m.Value
		case *ast.AliasNode:
			name = tokenText(m.Value)
			next = d.anchors[name]
		default:
			return names, true
		}
		if d.active[name] {
			d.c.Report(posOf(n), fmt.Sprintf("alias *%s stands within its own anchor", name), "write it out", "")
			return names, false
		}
		d.active[name] = true
		names, n = append(names, name), next
	}
	return names, true
}

func (d *decoder) exit(names []string) {
	for _, name := range names {
		delete(d.active, name)
	}
}

func tokenText(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// found says in words what n is.
func found(n ast.Node) string {
	switch m := n.(type) {
	case *ast.NullNode:
		return "nothing"
	case *ast.MappingNode:
		if len(m.Values) == 0 {
			return "an empty map"
		}
		return "a map"
	case *ast.MappingValueNode:
		return "a map"
	case *ast.SequenceNode:
		if len(m.Values) == 0 {
			return "an empty list"
		}
		return "a list"
	case *ast.BoolNode:
		return m.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + n.GetToken().Value
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", clip(m.Value))
	case *ast.LiteralNode:
		return "a block of text"
	}
	return "something else"
}

func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}

// wrong reports that n is not what the value at p wants.
func (d *decoder) wrong(n ast.Node, p path, wants, fix string) bool {
	d.src.markBad(p)
	message := fmt.Sprintf("%s is %s", what(p), found(n))
	if _, null := n.(*ast.NullNode); null {
		message = what(p) + " has no value"
	}
	d.c.Report(posOf(n), message, wants, fix)
	return false
}

// what names the value at p in messages.
func what(p path) string {
	steps := strings.Split(string(p), "\x00")
	last := steps[len(steps)-1]
	if _, err := strconv.Atoi(last); err == nil && len(steps) > 1 {
		return fmt.Sprintf("entry %s of %s", last, steps[len(steps)-2])
	}
	if last == "" {
		return "the file"
	}
	return clip(last)
}

// A pair is one entry of a map.
type pair struct {
	key   string
	at    Pos
	value ast.Node
}

// mapping returns n's entries, keys once each.
func (d *decoder) mapping(n ast.Node, p path, wants string) ([]pair, bool) {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		return nil, d.wrong(n, p, wants, "")
	}
	pairs := make([]pair, 0, len(values))
	seen := map[string]Pos{}
	for _, v := range values {
		at := posOf(v.Key)
		switch v.Key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		case *ast.MergeKeyNode:
			d.src.markBad(p)
			d.c.Report(at, "merge keys (<<) are not used here", "write the fields out, or repeat the whole value by an alias", "")
			continue
		default:
			d.src.markBad(p)
			d.c.Report(at, "this key is not plain text", "write a name, a colon and a value", "")
			continue
		}
		key := v.Key.GetToken().Value
		if first, twice := seen[key]; twice {
			d.src.markBad(p)
			d.c.Report(at, fmt.Sprintf("%q is given twice", clip(key)), fmt.Sprintf("the first is on line %d: keep one", first.Line), "")
			continue
		}
		seen[key] = at
		pairs = append(pairs, pair{key, at, v.Value})
	}
	return pairs, true
}

func (d *decoder) sequence(n ast.Node, p path, wants string) ([]ast.Node, bool) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		return nil, d.wrong(n, p, wants, "")
	}
	return s.Values, true
}

// scalarText returns the text of a scalar as written, quotes removed.
func scalarText(n ast.Node) (string, bool) {
	switch m := n.(type) {
	case *ast.StringNode:
		return m.Value, true
	case *ast.LiteralNode:
		if m.Value == nil {
			return "", true
		}
		return m.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// place remembers where the value at p stands.
func (d *decoder) place(n ast.Node, p path) {
	at := posOf(n)
	d.src.values[p] = at
	text, ok := scalarText(n)
	if !ok {
		return
	}
	start := at
	switch n.(type) {
	case *ast.LiteralNode:
		start = Pos{at.Line + 1, 1}
	default:
		row := []rune(d.src.lines[min(at.Line, len(d.src.lines))-1])
		if at.Column <= len(row) && (row[at.Column-1] == '"' || row[at.Column-1] == '\'') {
			start.Column++
		}
	}
	d.src.texts[p] = textAt{start, text}
}

// A node is a type that reads its own forms.
type node interface {
	decode(d *decoder, n ast.Node, p path) bool
}

// value reads n into v. It reports whether that went well; if not, it has said why.
func (d *decoder) value(n ast.Node, p path, v reflect.Value, f *field) bool {
	if !d.reads(n) {
		d.src.markBad(p)
		return false
	}
	d.depth++
	defer func() { d.depth-- }()
	names, ok := d.enter(n)
	defer d.exit(names)
	if !ok {
		d.src.markBad(p)
		return false
	}
	r := d.resolve(n)
	if r == nil {
		d.src.markBad(p)
		return false
	}
	d.place(r, p)
	if r.Type() == ast.NullType && f.required && f.name != "match" {
		return d.wrong(r, p, f.hint(), "")
	}
	if n.Type() == ast.AliasType {
		d.src.values[p] = posOf(n) // what is wrong with the whole is wrong where it is used
	}
	if v.CanAddr() {
		switch t := v.Addr().Interface().(type) {
		case node:
			return t.decode(d, r, p)
		case scalar:
			return d.scalar(r, p, t)
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		setDefaults(v.Elem())
		d.values--
		return d.value(r, p, v.Elem(), f)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Reserved]() {
			d.src.markBad(p)
			d.c.Report(d.src.key(p), what(p)+" is reserved", f.later, "")
			return false
		}
		return d.object(r, p, v)
	case reflect.Slice:
		if nameOf(v.Type().Elem()) != nil {
			return d.named(r, p, v)
		}
		return d.list(r, p, v, f)
	case reflect.String:
		return d.text(r, p, v, f)
	case reflect.Int:
		return d.integer(r, p, v, f)
	case reflect.Bool:
		return d.boolean(r, p, v)
	}
	panic("config: no way to read a " + v.Type().String())
}

func (d *decoder) scalar(n ast.Node, p path, s scalar) bool {
	text, ok := scalarText(n)
	if !ok {
		wants := "write one value"
		if f, ok := s.(interface{ ShortForms() []ShortForm }); ok {
			wants = "write " + f.ShortForms()[0].Doc
		}
		return d.wrong(n, p, wants, "")
	}
	if bad := s.parse(text); bad != nil {
		d.src.markBad(p)
		d.c.Report(posOf(n), bad.message, bad.allowed, bad.fix)
		return false
	}
	return true
}

func (d *decoder) text(n ast.Node, p path, v reflect.Value, f *field) bool {
	wants := "write text"
	if len(f.enum) > 0 {
		wants = "write " + OneOf(f.enum)
	}
	text, ok := scalarText(n)
	_, isText := n.(*ast.StringNode)
	if !ok || !isText && len(f.enum) == 0 {
		fix := ""
		if ok {
			wants = "write text, in quotes"
		}
		return d.wrong(n, p, wants, fix)
	}
	if len(f.enum) > 0 && !contains(f.enum, text) {
		return d.wrong(n, p, wants, nearestWord(text, f.enum))
	}
	if text == "" {
		return d.wrong(n, p, wants, "")
	}
	v.SetString(text)
	return true
}

func (d *decoder) integer(n ast.Node, p path, v reflect.Value, f *field) bool {
	wants := fmt.Sprintf("write a whole number from %d to %d", f.min, f.max)
	m, ok := n.(*ast.IntegerNode)
	if !ok {
		if s, text := n.(*ast.StringNode); text && bareNumber.MatchString(s.Value) {
			wants += ", without quotes"
		}
		return d.wrong(n, p, wants, "")
	}
	written := m.GetToken().Value
	if len(written) > 1 && written[0] == '0' && bareNumber.MatchString(written) {
		return d.wrong(n, p, "a leading 0 means octal in some YAML: leave it out", "")
	}
	k, err := strconv.ParseInt(strings.ReplaceAll(written, "_", ""), 0, 64)
	if err != nil || k < int64(f.min) || k > int64(f.max) {
		return d.wrong(n, p, wants, "")
	}
	v.SetInt(k)
	return true
}

func (d *decoder) boolean(n ast.Node, p path, v reflect.Value) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		fix := ""
		if text, ok := scalarText(n); ok {
			fix = map[string]string{"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}[strings.ToLower(text)]
		}
		return d.wrong(n, p, "write true or false", fix)
	}
	v.SetBool(b.Value)
	return true
}

func (d *decoder) list(n ast.Node, p path, v reflect.Value, f *field) bool {
	const wants = "write a list, such as [a, b]"
	if s, ok := n.(*ast.StringNode); ok {
		return d.wrong(n, p, wants, "["+clip(s.Value)+"]")
	}
	entries, ok := d.sequence(n, p, wants)
	if !ok {
		return false
	}
	if k := len(entries); k > 0 && k < f.minItems {
		return d.report(p, fmt.Sprintf("%s has %d of at least %d", what(p), k, f.minItems), "write more", "")
	} else if k < f.minItems {
		return d.wrong(n, p, fmt.Sprintf("write at least %d", f.minItems), "")
	}
	for i, e := range entries {
		x := reflect.New(v.Type().Elem()).Elem()
		setDefaults(x)
		at := p.to(strconv.Itoa(i))
		if d.value(e, at, x, f) {
			v.Set(reflect.Append(v, x))
		} else {
			ok = false
		}
	}
	return ok
}

// named reads a map from names to values into a slice, in the file's order.
func (d *decoder) named(n ast.Node, p path, v reflect.Value) bool {
	name := nameOf(v.Type().Elem())
	pairs, ok := d.mapping(n, p, fmt.Sprintf("write a map from each %s's name to what it is", name.noun))
	if !ok {
		return false
	}
	if len(pairs) == 0 {
		return d.wrong(n, p, "write at least one "+name.noun, "")
	}
	for _, e := range pairs {
		at := p.to(e.key)
		d.src.keys[at] = e.at
		if !d.name(name.noun, e.key, e.at) {
			d.src.markBad(at)
			ok = false
		}
		x := reflect.New(v.Type().Elem()).Elem()
		setDefaults(x)
		x.FieldByName("Name").SetString(e.key)
		if !d.value(e.value, at, x, &field{}) {
			ok = false
		}
		v.Set(reflect.Append(v, x)) // what could not be read is marked bad
	}
	return ok
}

// object reads a map into the fields of struct v.
func (d *decoder) object(n ast.Node, p path, v reflect.Value) bool {
	if p == "" {
		if n = d.resolve(n); n == nil {
			return false
		}
	}
	t := d.structType(v.Type())
	pairs, ok := d.mapping(n, p, "write a map with "+t.describe())
	if !ok {
		return false
	}
	seen := map[string]bool{}
	for _, e := range pairs {
		f := t.byName[e.key]
		if f == nil {
			allowed := "the fields here are " + strings.Join(t.names, ", ")
			if len(t.names) == 0 {
				allowed = "nothing goes here: write {}"
			}
			d.src.markBad(p)
			d.c.Report(e.at, d.unknown(e, p), allowed, nearestField(e.key, t.names))
			ok = false
			continue
		}
		seen[e.key] = true
		at := p.to(e.key)
		d.src.keys[at] = e.at
		if !d.value(e.value, at, v.Field(f.index), f) {
			ok = false
		}
	}
	for _, f := range t.fields {
		if f.required && !seen[f.name] {
			at := d.src.key(p)
			if p == "" {
				at = Pos{1, 1}
			}
			d.src.markBad(p.to(f.name))
			d.c.Report(at, fmt.Sprintf("%s is missing its field %q", what(p), f.name), f.hint(), "")
			ok = false
		}
	}
	return ok || p == ""
}

func (d *decoder) unknown(e pair, p path) string {
	if _, null := e.value.(*ast.NullNode); null && strings.ContainsAny(e.key, "()") {
		return fmt.Sprintf("%q is what follows a comma", clip(e.key))
	}
	return fmt.Sprintf("%s has no field %q", what(p), clip(e.key))
}

// nearestField adds to Nearest the words of other systems.
func nearestField(word string, names []string) string {
	also := map[string]string{
		"query":  "queries",
		"source": "from", "feed": "from", "filter": "where", "group_by": "key", "keys_by": "key", "key_by": "key", "groupby": "key",
		"fields": "columns", "schema": "columns", "aggregates": "select", "values": "select", "outputs": "sinks", "output": "sinks",
		"dst": "destination", "address": "destination", "group": "destination", "ip": "destination", "proto": "protocol",
		"separator": "delimiter", "endian": "order", "endianness": "order", "timestamp": "time", "size": "width", "length": "width",
		"lateness": "delay", "timezone": "zone", "tz": "zone", "date": "day", "file": "path",
	}[strings.ToLower(word)]
	if contains(names, also) {
		return also
	}
	return Nearest(word, names)
}

// nearestWord adds to Nearest what else a value is called.
func nearestWord(word string, words []string) string {
	also := map[string]string{
		"iso8601": "rfc3339", "seconds": "s", "sec": "s", "millis": "ms", "milliseconds": "ms", "micros": "us", "µs": "us", "nanos": "ns",
		"le": "little", "be": "big", "network": "big", "driver": "native", "drv": "native", "skb": "generic", "busy": "spin", "poll": "adaptive", "rdma": "verbs", "roce": "verbs", "ib": "verbs",
		"src": "source", "dst": "destination", "sport": "source_port", "dport": "destination_port", "proto": "protocol",
	}[strings.ToLower(word)]
	if contains(words, also) {
		return also
	}
	return Nearest(word, words)
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}
