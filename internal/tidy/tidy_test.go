// Package tidy holds the house rules that no linter knows, as a test.
package tidy

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the repository's root.
const root = "../.."

// files calls f with every file that belongs to the project.
func files(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if rel == "bin" || rel == ".git" || rel == "dist" {
				return filepath.SkipDir
			}
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnsafeLivesWhereItMust(t *testing.T) {
	allowed := regexp.MustCompile(`^(dataplane/(arena|xsk)/|dataplane/segment/mapping\.go|dataplane/pin\.go|pinning/|rdma/verbs/|rdma/tcp/raw\.go|rdma/deliver/memory\.go|controlplane/send/mmsg\.go|controlplane/api/peer\.go|internal/netns/)`)
	files(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || allowed.MatchString(path) {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		for _, i := range file.Imports {
			if i.Path.Value == `"unsafe"` {
				t.Errorf("%s imports unsafe: that is for arena, xsk, segment's mapping, the pin of a worker that spins, the sendmmsg calls, the groups of a peer, those of rdma's sockets and its ring in shared memory", path)
			}
		}
	})
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	documented, seen := map[string]bool{}, map[string]string{}
	files(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return
		}
		dir := filepath.Dir(path)
		seen[dir] = path
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments|parser.PackageClauseOnly)
		if err == nil && file.Doc != nil && len(strings.Fields(file.Doc.Text())) >= 8 {
			documented[dir] = true
		}
	})
	for dir := range seen {
		if !documented[dir] {
			t.Errorf("%s has no package comment that says what it owns", dir)
		}
	}
}

func TestNoFileHoldsAPlaceholder(t *testing.T) {
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	files(t, func(path string, text []byte) {
		if strings.Contains(path, "testdata/") || strings.HasSuffix(path, ".o") {
			return
		}
		for n, line := range bytes.Split(text, []byte("\n")) {
			if marks.Match(line) {
				t.Errorf("%s:%d: %s", path, n+1, line)
			}
		}
	})
}

func TestFilesAreSmall(t *testing.T) {
	const most = 512 << 10 // bytes; inputs stay outside the repository
	files(t, func(path string, text []byte) {
		if len(text) > most {
			t.Errorf("%s has %d bytes: captures and results stay outside the repository", path, len(text))
		}
	})
}

func TestCFilesAreHiddenFromGo(t *testing.T) {
	files(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".c") && !strings.HasSuffix(path, ".cc") && !strings.HasSuffix(path, ".cpp") {
			return
		}
		goFiles, err := filepath.Glob(filepath.Join(root, filepath.Dir(path), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if len(goFiles) > 0 && !bytes.HasPrefix(text, []byte("//go:build ignore")) {
			t.Errorf("%s stands beside Go files: its first line must be //go:build ignore", path)
		}
	})
}
