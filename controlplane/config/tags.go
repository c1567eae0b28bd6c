package config

import (
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A field is what the tags of a struct field say.
type field struct {
	index    int
	name     string
	enum     []string
	min, max int
	minItems int
	required bool
	later    string
	preset   string
}

// hint says how a missing field is written.
func (f *field) hint() string {
	h := map[string]string{
		"feeds": "write feeds: and below it each feed's name", "queries": "write queries: and below it each query's name",
		"match":  "write match: {protocol: udp, destination: 239.1.1.1, port: 9000}",
		"format": "write format: and the format's name, such as json",
		"from":   "write from: and a feed's name", "key": "write key: [column]",
		"window": "write window: {tumbling: 1m}", "select": "write select: {events: count()}",
		"sinks": "write sinks: [name]", "path": `write path: and a file's name, or "-" for standard output`,
		"type": "write type: int64, decimal(N), float64 or text",
		"me":   "write me: and the id of this box", "id": "write id: and a name for the box",
		"peers": `write peers: and a list of {id: a, address: "10.0.0.1:7400", pin: "sha256:…"}, this box included`, "address": `write address: "10.0.0.1:7400"`,
		"pin":    "write pin: and what headrace group init prints of the box's key",
		"listen": `write listen: "10.0.0.1:7443"`, "role": "write role: viewer, operator or admin",
		"clients": "write clients: and below it each client's name",
	}[f.name]
	if h == "" {
		h = "write it"
	}
	return h
}

// A structType is the fields of a struct that the file can give.
type structType struct {
	fields []*field
	byName map[string]*field
	names  []string // in order, without what is reserved
}

func (t *structType) describe() string {
	if len(t.names) == 0 {
		return "nothing in it: {}"
	}
	return "the fields " + strings.Join(t.names, ", ")
}

func (d *decoder) structType(t reflect.Type) *structType {
	if s := d.types[t]; s != nil {
		return s
	}
	s := &structType{byName: map[string]*field{}}
	for i := range t.NumField() {
		f := fieldOf(t.Field(i))
		if f == nil {
			continue
		}
		f.index = i
		s.fields = append(s.fields, f)
		s.byName[f.name] = f
		if f.later == "" {
			s.names = append(s.names, f.name)
		}
	}
	d.types[t] = s
	return s
}

// fieldOf reads f's tags: yaml gives the name, jsonschema the constraints. It
// returns nil for a field that is not in the file.
func fieldOf(f reflect.StructField) *field {
	name := f.Tag.Get("yaml")
	if name == "" || name == "-" {
		return nil
	}
	out := &field{name: name, min: math.MinInt, max: math.MaxInt, later: f.Tag.Get("later")}
	for _, tag := range splitTag(f.Tag.Get("jsonschema")) {
		key, value, _ := strings.Cut(tag, "=")
		number, _ := strconv.Atoi(value) // tags are ours; a test reads every one
		switch key {
		case "required":
			out.required = true
		case "enum":
			out.enum = append(out.enum, value)
		case "minimum":
			out.min = number
		case "maximum":
			out.max = number
		case "minItems":
			out.minItems = number
		case "default":
			out.preset = value
		}
	}
	return out
}

// splitTag splits at commas that no backslash precedes.
func splitTag(tag string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(tag); i++ {
		switch {
		case tag[i] == '\\' && i+1 < len(tag):
			i++
			b.WriteByte(tag[i])
		case tag[i] == ',':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(tag[i])
		}
	}
	return append(parts, b.String())
}

// setDefaults gives v's fields, and those of the structs in it, their defaults.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		f := fieldOf(v.Type().Field(i))
		if f == nil {
			continue
		}
		x := v.Field(i)
		if f.preset == "" {
			setDefaults(x)
			continue
		}
		if s, ok := x.Addr().Interface().(scalar); ok {
			if p := s.parse(f.preset); p != nil {
				panic("config: default of " + f.name + ": " + p.message)
			}
			continue
		}
		switch x.Kind() {
		case reflect.String:
			x.SetString(f.preset)
		case reflect.Int:
			n, err := strconv.Atoi(f.preset)
			if err != nil {
				panic("config: default of " + f.name + ": " + err.Error())
			}
			x.SetInt(int64(n))
		default:
			panic("config: no default for a " + x.Type().String())
		}
	}
}

// An entryName is what the entries of a map are called.
type entryName struct{ noun string }

// nameOf returns what an element of a named map is called, or nil if t is none.
func nameOf(t reflect.Type) *entryName {
	if t.Kind() != reflect.Struct {
		return nil
	}
	f, ok := t.FieldByName("Name")
	if !ok || f.Tag.Get("name") == "" {
		return nil
	}
	return &entryName{f.Tag.Get("name")}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
