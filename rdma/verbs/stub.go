//go:build !linux || !cgo || !rdma

package verbs

import (
	"fmt"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

var errTag = fmt.Errorf("verbs: %w: built without the tag rdma and cgo", ErrNoVerbs)

// A Transport makes meshes of queue pairs. In this build there is none.
type Transport struct{}

// New returns an error: [ErrConfig], or [ErrNoVerbs] with the reason.
func New(c Config) (*Transport, error) {
	if _, err := c.checked(); err != nil {
		return nil, fmt.Errorf("verbs: %w", err)
	}
	return nil, errTag
}

// Name is the transport's name in metrics.
func (*Transport) Name() string { return "verbs" }

// Prepare returns an error.
func (*Transport) Prepare(uint64, collective.Set) ([][]byte, error) { return nil, errTag }

// Open returns an error.
func (*Transport) Open(rdma.MeshConfig) (rdma.Mesh, error) { return nil, errTag }

// Stats returns zeros.
func (*Transport) Stats() Stats { return Stats{} }

// Close does nothing.
func (*Transport) Close() error { return nil }
