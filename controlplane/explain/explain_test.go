package explain_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/compile/compiletest"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/explain"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func explained(t *testing.T, path string, o explain.Options) (string, error) {
	t.Helper()
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := compile.Compile(c, compile.Options{Formats: compiletest.Formats, CPUs: 4})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = explain.Explain(&out, c, p, o)
	return out.String(), err
}

func TestExplainExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d examples, %v; want at least 6", len(files), err)
	}
	o := explain.Options{
		Formats: compiletest.Formats,
		Memory: func(p *plan.Plan) ([]arena.Line, error) {
			lines := []arena.Line{{Label: "UMEM", Bytes: 16384 * 2048}}
			for _, q := range p.Queries {
				lines = append(lines, arena.Line{Label: "query " + q.Name + ": panes", Bytes: q.Panes * q.Keys * 64})
			}
			return append(lines, arena.Line{Label: "counters", Bytes: 960}), nil
		},
		State: func(q *plan.Query, _ []plan.Column) (int, error) { return 8 * len(q.Aggregates), nil },
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			got, err := explained(t, path, o)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got, go test -update accepts it:\n%s", d)
			}
		})
	}
}

func TestExplainPassesErrorsOn(t *testing.T) {
	broken := errors.New("no memory today")
	_, err := explained(t, "../../examples/cars.yaml", explain.Options{
		Formats: compiletest.Formats, Memory: func(*plan.Plan) ([]arena.Line, error) { return nil, broken },
	})
	if !errors.Is(err, broken) {
		t.Errorf("Explain = %v, want %v", err, broken)
	}
}
