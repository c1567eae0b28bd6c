package compile_test

import (
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
)

var update = flag.Bool("update", false, "rewrite the golden files")

// options are those of a host with four CPUs.
func options() compile.Options {
	return compile.Options{Formats: compiletest.Formats, CPUs: 4}
}

// golden compares got with the file at path, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got); go test -update accepts it:\n%s", path, d)
	}
}

// Every broken config says all that is wrong with it, at its place, and how to mend it.
func TestBrokenConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d broken configs, %v; want at least 20", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = compile.Compile(config.Read(filepath.Base(path), text), options())
			var found config.Findings
			if !errors.As(err, &found) {
				t.Fatalf("Compile = %v, want findings", err)
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".golden", found.Error()+"\n")
		})
	}
}
