package api_test

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

type object = map[string]any

// matches judges v by a JSON Schema, as far as our documents go; a word that it does
// not know is an error.
func matches(doc, schema object, v any, at string) error {
	for word := range schema {
		if !slices.Contains([]string{
			"$ref", "type", "properties", "required", "additionalProperties", "items", "enum", "minimum", "maximum", "maxLength",
			"minLength", "pattern", "format", "description", "oneOf", "default", "contentMediaType", "contentEncoding", "example",
		}, word) {
			return fmt.Errorf("%s: the schema has the word %s", at, word)
		}
	}
	if ref, ok := schema["$ref"].(string); ok {
		target, ok := doc["components"].(object)["schemas"].(object)[strings.TrimPrefix(ref, "#/components/schemas/")].(object)
		if !ok {
			return fmt.Errorf("%s: %s is not defined", at, ref)
		}
		return matches(doc, target, v, at)
	}
	if list, ok := schema["oneOf"].([]any); ok {
		n := 0
		for _, s := range list {
			if matches(doc, s.(object), v, at) == nil {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%s: %d of the forms match %v", at, n, v)
		}
		return nil
	}
	if err := ofType(schema, v, at); err != nil {
		return err
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%s: %v is none of %v", at, v, enum)
	}
	switch x := v.(type) {
	case string:
		if p, ok := schema["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(x) {
			return fmt.Errorf("%s: %q does not match %s", at, x, p)
		}
		if _, err := time.Parse(time.RFC3339, x); schema["format"] == "date-time" && err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	case float64:
		low, hasLow := schema["minimum"].(float64)
		high, hasHigh := schema["maximum"].(float64)
		if hasLow && x < low || hasHigh && x > high {
			return fmt.Errorf("%s: %v is out of bounds", at, x)
		}
	case []any:
		for i, e := range x {
			if err := matches(doc, schema["items"].(object), e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case object:
		if schema["properties"] == nil && schema["additionalProperties"] == nil {
			return nil // any object
		}
		return ofFields(doc, schema, x, at)
	}
	return nil
}

func ofFields(doc, schema, x object, at string) error {
	required, _ := schema["required"].([]any)
	for _, r := range required {
		if _, ok := x[r.(string)]; !ok {
			return fmt.Errorf("%s: no %s", at, r)
		}
	}
	properties, _ := schema["properties"].(object)
	for name, v := range x {
		s, ok := properties[name].(object)
		if !ok {
			if s, ok = schema["additionalProperties"].(object); !ok {
				return fmt.Errorf("%s: %s is not in the schema", at, name)
			}
		}
		if err := matches(doc, s, v, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func ofType(schema object, v any, at string) error {
	var types []any
	switch t := schema["type"].(type) {
	case nil:
		return nil
	case string:
		types = []any{t}
	case []any:
		types = t
	}
	kind := "null"
	switch x := v.(type) {
	case string:
		kind = "string"
	case bool:
		kind = "boolean"
	case []any:
		kind = "array"
	case object:
		kind = "object"
	case float64:
		kind = "number"
		if x == math.Trunc(x) && slices.Contains(types, any("integer")) {
			kind = "integer"
		}
	}
	if !slices.Contains(types, any(kind)) {
		return fmt.Errorf("%s: %v is a %s, want %v", at, v, kind, types)
	}
	return nil
}
