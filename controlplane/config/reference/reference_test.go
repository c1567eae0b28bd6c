package reference_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/headrace/headrace/controlplane/config/reference"
)

var update = flag.Bool("update", false, "write docs/config.schema.json and docs/CONFIG.md anew")

const source = ".."

func current(t *testing.T, path string, written func(dir string) ([]byte, error)) {
	t.Helper()
	got, err := written(source)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what controlplane/config/config.go says: go test ./controlplane/config/reference -update", path)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	current(t, "../../../docs/config.schema.json", reference.Schema)
}

func TestReferenceIsCurrent(t *testing.T) {
	current(t, "../../../docs/CONFIG.md", reference.Markdown)
}

// Every field of the reference has a meaning.
func TestEveryFieldIsDescribed(t *testing.T) {
	text, err := reference.Markdown(source)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "| `") {
			rows++
			if strings.HasSuffix(line, "|  |") {
				t.Errorf("no meaning: %s", line)
			}
		}
	}
	if rows < 60 {
		t.Errorf("%d fields, want at least 60", rows)
	}
}

type schema = map[string]any

// validate checks v against s, as far as our schema goes.
func validate(root, s schema, v any, at string) error {
	if ref, ok := s["$ref"].(string); ok {
		def, ok := root["$defs"].(schema)[strings.TrimPrefix(ref, "#/$defs/")].(schema)
		if !ok {
			return fmt.Errorf("%s: no definition %s", at, ref)
		}
		return validate(root, def, v, at)
	}
	if list, ok := s["oneOf"].([]any); ok {
		return validateOneOf(root, list, v, at)
	}
	if enum, ok := s["enum"].([]any); ok {
		found := false
		for _, e := range enum {
			found = found || e == v
		}
		if !found {
			return fmt.Errorf("%s: %v is none of %v", at, v, enum)
		}
	}
	switch s["type"] {
	case "string":
		text, ok := v.(string)
		if p, has := s["pattern"].(string); !ok || has && !regexp.MustCompile(p).MatchString(text) {
			return fmt.Errorf("%s: %v is not text of the pattern", at, v)
		}
	case "integer":
		n, ok := v.(uint64)
		if low, has := s["minimum"].(float64); !ok || has && float64(n) < low {
			return fmt.Errorf("%s: %v is not a number within bounds", at, v)
		}
		if high, has := s["maximum"].(float64); has && float64(n) > high {
			return fmt.Errorf("%s: %v is not a number within bounds", at, v)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: %v is not true or false", at, v)
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: %v is not a list", at, v)
		}
		if items, ok := s["items"].(schema); ok {
			for i, e := range list {
				if err := validate(root, items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		}
	case "object":
		return validateObject(root, s, v, at)
	}
	return nil
}

func validateOneOf(root schema, list []any, v any, at string) error {
	matches := 0
	var first error
	for _, e := range list {
		if err := validate(root, e.(schema), v, at); err == nil {
			matches++
		} else if first == nil {
			first = err
		}
	}
	if matches != 1 {
		return fmt.Errorf("%s: %d forms match; %w", at, matches, first)
	}
	return nil
}

func validateObject(root, s schema, v any, at string) error {
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %v is not a map", at, v)
	}
	required, _ := s["required"].([]any)
	for _, r := range required {
		if _, ok := m[r.(string)]; !ok {
			return fmt.Errorf("%s: no %s", at, r)
		}
	}
	properties, _ := s["properties"].(schema)
	for k, x := range m {
		p, ok := properties[k].(schema)
		if !ok {
			if p, ok = s["additionalProperties"].(schema); !ok {
				return fmt.Errorf("%s: unknown field %s", at, k)
			}
		}
		if err := validate(root, p, x, at+"."+k); err != nil {
			return err
		}
	}
	return nil
}

func check(t *testing.T, path string) error {
	t.Helper()
	text, err := reference.Schema(source)
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	return validate(root, root, v, "config")
}

func TestSchemaAcceptsTheExamples(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, path := range files {
		if err := check(t, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSchemaRefusesWhatItCanSee(t *testing.T) {
	for _, name := range []string{"unknown-field", "wrong-type", "bad-values", "missing-required", "format-unknown", "column-types", "later-windows", "workers", "group-missing", "group-values", "group-not-a-map", "group-pins"} {
		if err := check(t, "../../compile/testdata/broken/"+name+".yaml"); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
