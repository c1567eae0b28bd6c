// Package formats lists the formats.
package formats

import (
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/iex"
	"github.com/headrace/headrace/dataplane/wire/itch"
)

// Lookup returns the format called name.
func Lookup(name string) (wire.Format, bool) {
	for _, f := range []wire.Format{iex.Deep(), iex.Tops(), itch.Format()} {
		if f.Name == name {
			return f, true
		}
	}
	return wire.Format{}, false
}
