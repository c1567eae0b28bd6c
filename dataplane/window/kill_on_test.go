//go:build faults

package window

import "github.com/headrace/headrace/dataplane/fault"

// arm ends the process, as far as the tests go, at the n-th point from here.
func arm(n int64) { fault.Arm(n, func() { panic(killed{}) }) }

func disarm() { fault.Arm(0, nil) }
