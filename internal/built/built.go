// Package built gives tests the binary under test, built once a process.
//
// Only tests import it; their TestMain calls [Remove] at the end.
package built

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

var (
	mu       sync.Mutex
	binaries = map[string]binary{} // by tags
)

type binary struct {
	dir, path string
	err       error
}

// Headrace returns the path of headrace, built with the given build tags and then with
// cgo; without tags it is built without. Any goroutine may call it.
func Headrace(tags string) (path string, err error) {
	mu.Lock()
	defer mu.Unlock()
	b, ok := binaries[tags]
	if !ok {
		b = build(tags)
		binaries[tags] = b
	}
	return b.path, b.err
}

func build(tags string) (b binary) {
	if b.dir, b.err = os.MkdirTemp("", "headrace-built-"); b.err != nil {
		return b
	}
	b.path = filepath.Join(b.dir, "headrace")
	cgo := "CGO_ENABLED=0"
	if tags != "" {
		cgo = "CGO_ENABLED=1"
	}
	c := exec.Command("go", "build", "-tags", tags, "-o", b.path, "github.com/headrace/headrace/cmd/headrace")
	c.Env = append(os.Environ(), cgo)
	if said, err := c.CombinedOutput(); err != nil {
		b.err = fmt.Errorf("build headrace: %w\n%s", err, said)
	}
	return b
}

// Remove removes what was built.
func Remove() error {
	mu.Lock()
	defer mu.Unlock()
	var errs []error
	for tags, b := range binaries {
		errs = append(errs, os.RemoveAll(b.dir))
		delete(binaries, tags)
	}
	return errors.Join(errs...)
}
