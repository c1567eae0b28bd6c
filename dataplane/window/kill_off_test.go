//go:build !faults

package window

// Without points a process ends between two calls only.
func arm(int64) {}

func disarm() {}
