// Package testdata finds the inputs that tests read but the repository does not
// hold: captures and event files from public sources.
package testdata

import (
	"os"
	"path/filepath"
	"testing"
)

// Path returns the path of a file or folder of the test inputs, which lie in
// ../shared/data beside the repository, or where HEADRACE_DATA says. It fails tb
// if there is nothing at that path.
func Path(tb testing.TB, elem ...string) string {
	tb.Helper()
	root := os.Getenv("HEADRACE_DATA")
	if root == "" {
		root = filepath.Join(repository(tb), "..", "shared", "data")
	}
	path := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("test input %s is not there: put the inputs beside the repository or name their folder in HEADRACE_DATA (%v)",
			filepath.Join(elem...), err)
	}
	return path
}

// repository returns the folder of go.mod, at or above the test's own.
func repository(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			tb.Fatal("no go.mod above the test's folder")
		}
		dir = up
	}
}
