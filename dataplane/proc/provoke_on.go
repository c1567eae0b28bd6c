//go:build faults

package proc

import (
	"fmt"
	"os"
	"time"

	"github.com/headrace/headrace/dataplane/fault"
)

// Environment variables by which a test has the process do what it should not.
const (
	forbidden = "HEADRACE_FORBIDDEN" // a file to open
	elsewhere = "HEADRACE_PANIC"     // when to fail in a goroutine that is no worker
	noFuse    = "HEADRACE_FUSE"      // set: the heap has no room to grow
)

// provoke does what a test asks for by the environment.
func (p *process) provoke() {
	fault.ArmFromEnvironment()
	if path := os.Getenv(forbidden); path != "" {
		_, err := os.Open(path)
		fmt.Fprintf(os.Stderr, "tried to open %s: %v\n", path, err)
	}
	if after, err := time.ParseDuration(os.Getenv(elsewhere)); err == nil {
		time.AfterFunc(after, func() { panic("a test has asked for this") })
	}
	if os.Getenv(noFuse) != "" {
		p.pins.fuse = 0
	}
}
