//go:build faults

package xsk

import "github.com/headrace/headrace/dataplane/fault"

// arm makes the n-th fault point from now on panic with errKilled; 0 disarms.
func arm(n int64) { fault.Arm(n, func() { panic(errKilled) }) }

// armFromEnvironment lets this process end itself where the environment says.
func armFromEnvironment() { fault.ArmFromEnvironment() }
