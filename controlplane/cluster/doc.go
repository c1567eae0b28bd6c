// Package cluster makes the rows of global queries out of every peer's partials.
package cluster
