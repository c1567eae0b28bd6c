package wire

import (
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/plan"
)

// A Format describes a payload format: what the config may say about it and how
// to make its decoder. The list of them is in wire/formats.
type Format struct {
	Name     string
	Doc      string
	Sequence plan.Sequence
	// Fields are the built-in columns; nil where the config declares the columns.
	Fields []Field
	// Kinds are the message kinds; their names are the values of the built-in
	// column "message".
	Kinds []Kind
	// OwnTime says that the format brings its own event time.
	OwnTime bool
	// Place is the placement where the config gives none.
	Place plan.Placement
	// New returns a decoder for f. State of channels is taken from r, which may be warm,
	// and is saved in undo, which may be nil, before it is changed.
	New func(f *plan.Feed, r *arena.Region, undo *arena.Undo) (Decoder, error)
}
