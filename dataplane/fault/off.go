//go:build !faults

package fault

// On says that this binary has points.
const On = false

// Point is a place where a test may end the process.
func Point() {}

// Arm does nothing: there are no points.
func Arm(int64, func()) {}

// ArmFromEnvironment does nothing either.
func ArmFromEnvironment() {}

// Poison is where a test may end the process because of what a packet carries.
func Poison([]byte) {}
