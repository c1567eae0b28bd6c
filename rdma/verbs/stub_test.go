//go:build !linux || !cgo || !rdma

package verbs

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/rdma"
)

var _ rdma.Transport = (*Transport)(nil)

func TestStubSaysWhy(t *testing.T) {
	_, err := New(Config{GIDIndex: -1})
	if !errors.Is(err, ErrNoVerbs) || !strings.Contains(err.Error(), "built without the tag rdma") {
		t.Errorf("New = %v, want ErrNoVerbs and why", err)
	}
}
