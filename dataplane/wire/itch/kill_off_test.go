//go:build !faults

package itch

// arm would end the process at the n-th point from here on.
func arm(int64) {}
