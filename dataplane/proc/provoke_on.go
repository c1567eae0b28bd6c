//go:build faults

package proc

import (
	"fmt"
	"os"

	"github.com/headrace/headrace/dataplane/fault"
)

// forbidden is the environment variable that has the process try what it must not.
const forbidden = "HEADRACE_FORBIDDEN"

// provoke does what a test asks for by the environment.
func (*process) provoke() {
	fault.ArmFromEnvironment()
	if path := os.Getenv(forbidden); path != "" {
		_, err := os.Open(path)
		fmt.Fprintf(os.Stderr, "tried to open %s: %v\n", path, err)
	}
}
