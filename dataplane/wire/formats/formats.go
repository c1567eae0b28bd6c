// Package formats is the list of payload formats, and the only place that knows them
// all. A format is added by its folder and one line here.
package formats

import (
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/csvwire"
	"github.com/headrace/headrace/dataplane/wire/flow"
	"github.com/headrace/headrace/dataplane/wire/iex"
	"github.com/headrace/headrace/dataplane/wire/itch"
	"github.com/headrace/headrace/dataplane/wire/jsonwire"
	"github.com/headrace/headrace/dataplane/wire/raw"
)

// all returns every format, in the order in which they are shown.
func all() []wire.Format {
	return []wire.Format{
		iex.Deep(),
		iex.Tops(),
		itch.Format(),
		jsonwire.Format(),
		csvwire.Format(),
		raw.Format(),
		flow.Format(),
	}
}

// Lookup returns the format called name.
func Lookup(name string) (wire.Format, bool) {
	for _, f := range all() {
		if f.Name == name {
			return f, true
		}
	}
	return wire.Format{}, false
}

// Names returns the names of all formats.
func Names() []string {
	var names []string
	for _, f := range all() {
		names = append(names, f.Name)
	}
	return names
}
