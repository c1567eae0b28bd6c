// Package show is what the demonstrations of `make run` and `make run-peers` share: a
// screen that draws a view on a terminal or prints it as lines, the signals that end a
// demonstration, and how settings and numbers are written; and the JSON of commands that
// look at the host.
//
// It knows nothing of what is shown.
package show
