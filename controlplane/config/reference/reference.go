// Package reference writes what the config can say, from the Go types of package
// config and their comments: the JSON Schema for editors (docs/config.schema.json)
// and the reference for readers (docs/CONFIG.md). Its test holds both to the code;
// `go test ./controlplane/config/reference -update` writes them anew.
package reference

//go:generate go test -run Current -update .

import (
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/headrace/headrace/controlplane/config"
)

// comments returns the comments of the package in folder dir, by "Type" and
// "Type.Field".
func comments(dir string) (func(t reflect.Type, field string) string, error) {
	var r jsonschema.Reflector
	if err := r.AddGoComments("x", dir, jsonschema.WithFullComment()); err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	return func(t reflect.Type, field string) string {
		key := path.Join("x", dir) + "." + t.Name()
		if field != "" {
			key += "." + field
		}
		return strings.Join(strings.Fields(r.CommentMap[key]), " ")
	}, nil
}

type shortForms interface{ ShortForms() []config.ShortForm }

func forms(t reflect.Type) []config.ShortForm {
	if f, ok := reflect.New(t).Interface().(shortForms); ok {
		return f.ShortForms()
	}
	return nil
}

// named returns the element of a map from names, which is a slice whose elements
// carry their name.
func named(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() != reflect.Slice || t.Elem().Kind() != reflect.Struct {
		return nil, false
	}
	f, ok := t.Elem().FieldByName("Name")
	return t.Elem(), ok && f.Tag.Get("name") != ""
}

// object says whether the file writes t as a map with fields.
func object(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			return true
		}
	}
	return t == reflect.TypeFor[config.NoOptions]()
}

// A schemaMaker makes the schema and collects the types that it refers to.
type schemaMaker struct {
	doc  func(t reflect.Type, field string) string
	todo []reflect.Type
}

func (m *schemaMaker) ref(t reflect.Type) *jsonschema.Schema {
	if t.Name() == "Value" {
		return &jsonschema.Schema{Type: "string", Description: m.doc(t, "Expr")}
	}
	m.todo = append(m.todo, t)
	return &jsonschema.Schema{Ref: "#/$defs/" + t.Name()}
}

func shortSchema(f config.ShortForm) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: f.Type, Pattern: f.Pattern, Description: f.Doc}
	for _, e := range f.Enum {
		s.Enum = append(s.Enum, e)
	}
	return s
}

// mapper says how types are written that are not what their Go kind suggests.
func (m *schemaMaker) mapper(t reflect.Type) *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string"}
	switch t {
	case reflect.TypeFor[config.Rules]():
		rule := m.ref(t.Elem())
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{rule, {Type: "array", Items: rule}}}
	case reflect.TypeFor[config.Interfaces]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "array", Items: text}, {Type: "object", AdditionalProperties: m.ref(t.Elem())}}}
	case reflect.TypeFor[config.Pins]():
		pin := shortSchema(forms(t)[0])
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{pin, {Type: "array", Items: pin}}}
	case reflect.TypeFor[config.FieldPath]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "array", Items: text}}}
	}
	if e, ok := named(t); ok {
		return &jsonschema.Schema{Type: "object", AdditionalProperties: m.ref(e)}
	}
	f := forms(t)
	if len(f) == 0 || object(t) {
		return nil
	}
	if len(f) == 1 {
		return shortSchema(f[0])
	}
	out := &jsonschema.Schema{}
	for _, x := range f {
		out.OneOf = append(out.OneOf, shortSchema(x))
	}
	return out
}

// Schema returns the JSON Schema of the config. dir is the folder of package config.
func Schema(dir string) ([]byte, error) {
	doc, err := comments(dir)
	if err != nil {
		return nil, err
	}
	m := &schemaMaker{doc: doc}
	r := &jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Anonymous: true, Mapper: m.mapper, LookupComment: doc}
	out := r.ReflectFromType(reflect.TypeFor[config.Config]())
	for len(m.todo) > 0 {
		t := m.todo[0]
		m.todo = m.todo[1:]
		if out.Definitions[t.Name()] != nil {
			continue
		}
		for name, d := range r.ReflectFromType(t).Definitions {
			out.Definitions[name] = d
		}
	}
	for _, t := range objects() {
		d := out.Definitions[t.Name()]
		if d == nil {
			return nil, fmt.Errorf("reference: no definition of %s", t.Name())
		}
		if t == reflect.TypeFor[config.Format]() || t == reflect.TypeFor[config.Sink]() {
			one := uint64(1)
			d.MinProperties, d.MaxProperties = &one, &one
		}
		if f := forms(t); f != nil {
			both := &jsonschema.Schema{Description: d.Description}
			for _, x := range f {
				both.OneOf = append(both.OneOf, shortSchema(x))
			}
			d.Description = ""
			both.OneOf = append(both.OneOf, d)
			out.Definitions[t.Name()] = both
		}
	}
	out.Title = "headrace config"
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	return append(text, '\n'), nil
}

// objects returns the types that are written as maps with fields, in the order in
// which a reader meets them.
func objects() []reflect.Type {
	var out []reflect.Type
	seen := map[reflect.Type]bool{}
	var visit func(t reflect.Type)
	visit = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if !object(t) || seen[t] {
			return
		}
		seen[t] = true
		out = append(out, t)
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("yaml") != "" && f.Tag.Get("yaml") != "-" {
				visit(f.Type)
			}
		}
	}
	visit(reflect.TypeFor[config.Config]())
	return out
}

const preface = `# Config reference

<!-- Written by controlplane/config/reference from controlplane/config/config.go; go test ./controlplane/config/reference -update -->

A config is one YAML file. ` + "`headrace check FILE`" + ` finds every mistake in it; ` + "`headrace explain FILE`" + ` says what it
amounts to. Editors can use [config.schema.json](config.schema.json). Complete examples are in [examples/](../examples).

Names of feeds, queries and sinks have letters, digits, ` + "`-` and `_`" + `; names of columns letters, digits and ` + "`_`" + `.
Anchors and aliases may repeat whole values; merge keys, tags and several documents in a file are refused. A file has
at most 1 MiB.

## Values

| written | meaning |
|---|---|
`

const expressions = `
## Expressions

` + "`where`" + ` is a condition, a value of ` + "`select`" + ` one aggregate over an argument. Both are made of columns, whole numbers, decimals
(` + "`1.50`" + `: exact, with the digits written), floats (` + "`1.5e3`" + `), texts in quotes, ` + "`true`, `false`, `+ - * /`, unary `-`, `== != < <= > >=`" + `,
` + "`in [...]`, `and` `or` `not` (`&&` `||` `!`)" + ` and parentheses.

- ` + "`+ - *`" + ` on int64 and decimal are exact; a product's scale is the sum of scales, at most 18. ` + "`/`" + ` gives float64, and so does
  arithmetic with a float64.
- Numbers compare with numbers, texts with texts. Arithmetic and comparisons on null give null; ` + "`where`" + ` keeps what is true.
- ` + "`count()`" + ` counts events, ` + "`count(x)`" + ` values. The other aggregates take numbers and skip nulls: ` + "`sum min max first last mean variance`" + `
  of one argument, ` + "`vwap(price, size)`" + `. ` + "`mean` and `vwap`" + ` of exact numbers are rounded half-even to 8 digits.
- Within ` + "`{ }`" + ` an expression with a comma needs quotes: ` + "`select: {v: \"vwap(price, size)\"}`" + `.
- A conjunct ` + "`message == \"trade\"`" + ` lets the decoder skip all other messages.
`

// Markdown returns the reference of the config. dir is the folder of package config.
func Markdown(dir string) ([]byte, error) {
	doc, err := comments(dir)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(preface)
	for _, t := range []reflect.Type{
		reflect.TypeFor[config.Duration](), reflect.TypeFor[config.Size](), reflect.TypeFor[config.Prefix](), reflect.TypeFor[config.ColumnType](),
		reflect.TypeFor[config.Ring](), reflect.TypeFor[config.Delimiter](), reflect.TypeFor[config.Expression](),
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", word(t), cell(doc(t, "")))
	}
	for _, t := range objects() {
		if t == reflect.TypeFor[config.NoOptions]() {
			continue
		}
		name := "Top level"
		if t != reflect.TypeFor[config.Config]() {
			name = t.Name()
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", name, doc(t, ""))
		for _, f := range forms(t) {
			fmt.Fprintf(&b, "\nShort form: %s.\n", strings.TrimSuffix(f.Doc, "."))
		}
		b.WriteString("\n| field | type | default | meaning |\n|---|---|---|---|\n")
		for i := range t.NumField() {
			f := t.Field(i)
			if tag := f.Tag.Get("yaml"); tag == "" || tag == "-" {
				continue
			}
			writeField(&b, t, f, doc)
		}
	}
	b.WriteString(expressions)
	return []byte(b.String()), nil
}

func writeField(b *strings.Builder, t reflect.Type, f reflect.StructField, doc func(reflect.Type, string) string) {
	kind, preset := typeWords(f), ""
	tag := strings.ReplaceAll(f.Tag.Get("jsonschema"), `\,`, "\x00")
	for _, part := range strings.Split(tag, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "required":
			preset = "**required**"
		case "default":
			preset = "`" + strings.ReplaceAll(value, "\x00", ",") + "`"
		}
	}
	if later := f.Tag.Get("later"); later != "" {
		kind, preset = "reserved", ""
	}
	fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.Tag.Get("yaml"), kind, preset, cell(doc(t, f.Name)))
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// typeWords says what a field takes.
func typeWords(f reflect.StructField) string {
	var enum []string
	low, high := "", ""
	for _, part := range strings.Split(f.Tag.Get("jsonschema"), ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "enum":
			enum = append(enum, "`"+value+"`")
		case "minimum":
			low = value
		case "maximum":
			high = value
		}
	}
	words := strings.Join(enum, ", ")
	if words == "" {
		words = word(f.Type)
	}
	if f.Type.Kind() == reflect.Slice && len(enum) > 0 {
		words = "list of " + words
	}
	if low != "" && high != "" {
		words += " " + low + " to " + high
	}
	return cell(words)
}

func word(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	link := func(t reflect.Type) string { return "[" + t.Name() + "](#" + strings.ToLower(t.Name()) + ")" }
	switch {
	case t == reflect.TypeFor[config.Rules]():
		return link(t.Elem()) + ", or a list of them"
	case t == reflect.TypeFor[config.Interfaces]():
		return "list of names, or map of " + link(t.Elem())
	case t == reflect.TypeFor[config.Select]():
		return "map of aggregates"
	case t == reflect.TypeFor[config.FieldPath]():
		return "path"
	case t == reflect.TypeFor[config.Duration](), t == reflect.TypeFor[config.Size](), t == reflect.TypeFor[config.Prefix](),
		t == reflect.TypeFor[config.Expression](), t == reflect.TypeFor[config.Delimiter](), t == reflect.TypeFor[config.Ring]():
		return strings.ToLower(t.Name())
	case t == reflect.TypeFor[config.ColumnType]():
		return "type"
	case t == reflect.TypeFor[config.NoOptions]():
		return "`{}`"
	}
	if e, ok := named(t); ok {
		return "map of " + link(e)
	}
	if object(t) {
		return link(t)
	}
	if f := forms(t); f != nil {
		docs := make([]string, len(f))
		for i := range f {
			docs[i] = f[i].Doc
		}
		return strings.Join(docs, ", or ")
	}
	switch t.Kind() {
	case reflect.Slice:
		if object(t.Elem()) {
			return "list of " + link(t.Elem())
		}
		return "list of text"
	case reflect.Int:
		return "integer"
	case reflect.Bool:
		return "`true`, `false`"
	}
	return "text"
}
