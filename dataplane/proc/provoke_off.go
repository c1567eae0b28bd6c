//go:build !faults

package proc

// provoke does what a test asks for; here nothing.
func (*process) provoke() {}
