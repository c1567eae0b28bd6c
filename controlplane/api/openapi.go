package api

//go:generate go test -run TheDocumentInTheRepositoryIsCurrent -update .

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

type object = map[string]any

// every route may answer with these.
var everywhere = []int{
	http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
	http.StatusInternalServerError, http.StatusGatewayTimeout,
}

// document writes the OpenAPI document of a table.
func document(list []route) ([]byte, error) {
	s := &schemas{defined: object{}}
	paths := object{}
	for i := range list {
		r := &list[i]
		path, ok := paths[r.path].(object)
		if !ok {
			path = object{}
			paths[r.path] = path
		}
		path[strings.ToLower(r.method)] = operation(s, r)
	}
	s.of(reflect.TypeFor[Problem]())
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "headrace", "version": "1",
			"description": "A running headrace, asked and changed. On the host it is reached through the unix socket NAME.sock in /run/headrace, where the kernel " +
				"says who asks; over a network only by clients whose certificate the config knows. Errors are application/problem+json (RFC 9457). " +
				"What is not in this document is refused: unknown parameters and fields too.",
			"license": object{"name": "see LICENSE"},
		},
		"servers": []any{object{"url": "http://headrace", "description": "through the unix socket"}},
		"tags": []any{
			object{"name": RoleViewer.String(), "description": "asks"},
			object{"name": RoleOperator.String(), "description": "pauses, drains, moves, captures, sets the log level"},
			object{"name": RoleAdmin.String(), "description": "changes config, workers and binary, detaches"},
		},
		"paths": paths,
		"components": object{
			"schemas": s.defined,
			"headers": object{
				requestHeader: object{"description": "The request's id in the log: the client's, if it sent one.", "schema": object{"type": "string"}},
			},
			"securitySchemes": object{"certificate": object{"type": "mutualTLS", "description": "Only over a network."}},
		},
		// Through the unix socket there is nothing to show.
		"security": []any{object{}, object{"certificate": []any{}}},
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("api: document: %w", err)
	}
	return append(text, '\n'), nil
}

func operation(s *schemas, r *route) object {
	op := object{
		"operationId": r.id, "summary": r.summary, "tags": []any{r.role.String()},
		"responses": responses(s, r),
	}
	if r.doc != "" {
		op["description"] = r.doc
	}
	if p := parameters(r); len(p) > 0 {
		op["parameters"] = p
	}
	switch {
	case r.in != nil:
		t := reflect.TypeOf(r.in)
		op["requestBody"] = object{"required": needsBody(t), "content": object{typeJSON: object{"schema": s.of(t)}}}
	case r.body != "":
		op["requestBody"] = object{"required": true, "content": object{r.body: object{
			// The whole schema of a config is a document of its own, docs/config.schema.json.
			"schema": object{
				"type": "object", "description": "A config of at most 1 MiB, as docs/CONFIG.md and docs/config.schema.json describe it.",
				"properties": object{"feeds": object{"type": "object"}, "queries": object{"type": "object"}}, "required": []any{"feeds", "queries"},
			},
			"examples": object{"flow": object{"value": exampleConfig}},
		}}}
	}
	return op
}

// exampleConfig is a whole config.
var exampleConfig = object{
	"feeds":   object{"all": object{"match": object{"port": 9000}, "format": "flow"}},
	"queries": object{"talkers": object{"from": "all", "key": []any{"source"}, "window": object{"tumbling": "1m"}, "select": object{"packets": "count()"}, "sinks": []any{"rows"}}},
	"sinks":   object{"rows": object{"jsonl": object{"path": "rows.jsonl"}}},
}

// needsBody reports whether something in t must be given.
func needsBody(t reflect.Type) bool {
	for i := range t.NumField() {
		if name, optional := jsonName(t.Field(i)); name != "" && !optional {
			return true
		}
	}
	return false
}

func parameters(r *route) []any {
	var out []any
	for i := range r.params {
		p := &r.params[i]
		schema := object{"type": p.kind}
		switch p.kind {
		case "integer":
			schema["minimum"], schema["maximum"] = p.min, p.max
			if n, err := strconv.Atoi(p.preset); err == nil {
				schema["default"] = n
			}
		case "boolean":
			schema["default"] = p.preset == "true"
		default:
			schema["maxLength"], schema["pattern"] = p.max, `^[^\x00-\x1f\x7f]*$`
			schema["default"] = p.preset
		}
		out = append(out, object{"name": p.name, "in": "query", "required": false, "description": p.doc, "schema": schema})
	}
	if r.match {
		out = append(out, object{
			"name": "If-Match", "in": "header", "required": false, "description": "The ETag of the config that is replaced, or *.",
			"schema": object{"type": "string", "pattern": tagsPattern, "example": "*"},
		})
	}
	if r.id == "config" {
		out = append(out, object{
			"name": "If-None-Match", "in": "header", "required": false, "description": "ETags that are known already.",
			"schema": object{"type": "string", "pattern": tagsPattern},
		})
	}
	return out
}

func responses(s *schemas, r *route) object {
	id := object{requestHeader: object{"$ref": "#/components/headers/" + requestHeader}}
	good := object{"description": http.StatusText(r.status), "headers": id}
	switch {
	case r.out != nil:
		good["content"] = object{typeJSON: object{"schema": s.of(reflect.TypeOf(r.out))}}
	case r.media == typeJSON:
		good["content"] = object{typeJSON: object{"schema": object{"type": "object"}}}
	case r.media == typePcapng:
		good["content"] = object{typePcapng: object{"schema": object{"type": "string", "contentMediaType": typePcapng}}}
	default:
		good["content"] = object{"text/plain": object{"schema": object{"type": "string"}}}
	}
	if r.path == "/v1/config" {
		good["headers"] = object{
			requestHeader: id[requestHeader],
			"ETag":        object{"description": "The revision of the config that is in force, in quotes.", "schema": object{"type": "string"}},
		}
	}
	out := object{strconv.Itoa(r.status): good}
	fails := slices.Concat(everywhere, r.fails)
	if r.alone {
		fails = append(fails, http.StatusConflict)
	}
	for _, status := range fails {
		if status == http.StatusNotModified {
			out[strconv.Itoa(status)] = object{"description": "It is known already.", "headers": id}
			continue
		}
		out[strconv.Itoa(status)] = object{
			"description": kinds[status].title, "headers": id,
			"content": object{problemType: object{"schema": object{"$ref": "#/components/schemas/Problem"}}},
		}
	}
	return out
}

// schemas writes the JSON Schemas of Go types.
type schemas struct{ defined object }

// of returns the schema of a value of type t in an answer. Structs with names are
// defined once.
func (s *schemas) of(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	if t.Implements(reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()) {
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Struct:
		return s.structure(t)
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 && t.Kind() == reflect.Slice {
			return object{"type": []any{"string", "null"}, "contentEncoding": "base64"}
		}
		kind := any("array")
		if t.Kind() == reflect.Slice { // none is null
			kind = []any{"array", "null"}
		}
		return object{"type": kind, "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": []any{"object", "null"}, "additionalProperties": s.of(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	}
	panic("api: no schema of a " + t.String())
}

// structure defines a struct and refers to it.
func (s *schemas) structure(t reflect.Type) object {
	name := t.Name()
	// Two packages may have types of one name.
	if pkg := t.PkgPath(); !strings.HasSuffix(pkg, "/api") {
		name = title(pkg[strings.LastIndexByte(pkg, '/')+1:]) + name
	}
	ref := object{"$ref": "#/components/schemas/" + name}
	if s.defined[name] != nil {
		return ref
	}
	s.defined[name] = object{} // it may hold itself
	s.defined[name] = s.fields(t)
	return ref
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (s *schemas) fields(t reflect.Type) object {
	properties, required := object{}, []any{}
	s.collect(t, properties, &required)
	return object{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

func (s *schemas) collect(t reflect.Type, properties object, required *[]any) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Tag.Get("json") == "" { // its fields are the outer one's
			s.collect(f.Type, properties, required)
			continue
		}
		name, optional := jsonName(f)
		if name == "" {
			continue
		}
		properties[name] = s.field(f)
		if !optional {
			*required = append(*required, name)
		}
	}
}

// field adds to a type's schema what the field's tags say.
func (s *schemas) field(f reflect.StructField) object {
	x := s.of(f.Type)
	if f.Type.Kind() == reflect.Pointer && !strings.Contains(f.Tag.Get("json"), "omitempty") {
		x = object{"oneOf": []any{x, object{"type": "null"}}}
	}
	if doc := f.Tag.Get("doc"); doc != "" {
		x["description"] = doc
	}
	enum, low, high, long := tagsOf(f)
	if len(enum) > 0 {
		list := make([]any, len(enum))
		for i := range enum {
			list[i] = enum[i]
		}
		x["enum"] = list
	}
	if f.Tag.Get("maximum") != "" {
		x["minimum"], x["maximum"] = low, high
	}
	if long > 0 {
		x["maxLength"] = long
	}
	return x
}
