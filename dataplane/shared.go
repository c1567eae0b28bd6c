package dataplane

import "github.com/headrace/headrace/dataplane/window"

// Recount makes the allowance of keys that workers share what their panes say. It comes
// when all of them have been built over warm memory, and before any runs: a worker may
// have died between drawing on the allowance and using what it drew.
func Recount(s *window.Shared, workers []*Worker) {
	var states []*window.State
	for _, w := range workers {
		states = append(states, w.windows)
	}
	s.Recount(states)
}
