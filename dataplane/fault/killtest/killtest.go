// Package killtest is what the tests share that end a process at any of its points: a
// panic stands for the end, and what the call has left in memory is looked at. Only tests
// import it.
package killtest

import "github.com/headrace/headrace/dataplane/fault"

// killed is what ends a call.
type killed struct{}

// Arm sees to it that the n-th point from here on ends the call, if this binary has
// points; 0 that none does.
func Arm(n int64) { fault.Arm(n, Die) }

// Die ends the call, as a point does.
func Die() { panic(killed{}) }

// Attempt is [Ends], and arms no point for what comes after.
func Attempt(f func()) (dead bool) {
	defer Arm(0)
	return Ends(f)
}

// Ends calls f and reports whether that was ended before it returned.
func Ends(f func()) (dead bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			dead = true
		}
	}()
	f()
	return false
}
