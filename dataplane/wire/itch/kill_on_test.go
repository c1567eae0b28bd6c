//go:build faults

package itch

import "github.com/headrace/headrace/dataplane/fault"

// arm ends the process at the n-th point from here on: it panics with killed.
func arm(n int64) { fault.Arm(n, func() { panic(killed{}) }) }
