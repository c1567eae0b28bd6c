package show

import (
	"encoding/json"
	"io"
)

// JSON writes v for machines, indented so that people can read it too, with <, > and & as
// they are. The error is also that of w.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
