package doctor

import (
	"os"
	"runtime"

	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/gaps"
)

// Version is that of the report's shape. It grows when a field changes its meaning or
// goes; new fields may come without.
const Version = 1

// Exit codes.
const (
	exitWarn = 1
	exitFail = 2
)

// A Report is what `headrace doctor --json` prints. Times are nanoseconds.
type Report struct {
	Version int  `json:"version"`
	Host    Host `json:"host"`
	// Config is the file, if one was given.
	Config     string   `json:"config,omitempty"`
	Interfaces []string `json:"interfaces"`
	// Cores are the worker cores, as a list: "1-3".
	Cores string `json:"cores"`
	// Worst is the worst severity, ExitCode the exit code that comes of it.
	Worst    audit.Severity `json:"worst"`
	ExitCode int            `json:"exit_code"`
	Class    audit.Verdict  `json:"class"`
	// Findings are in the order of the checks.
	Findings []audit.Finding `json:"findings"`
	// Noise is the measurement of the worker cores, if there was one.
	Noise *gaps.Report `json:"noise,omitempty"`

	audit *audit.Report
}

// A Host is the machine.
type Host struct {
	Name   string `json:"name"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	CPUs   int    `json:"cpus"`
	Nodes  int    `json:"nodes"`
}

func newReport(f *audit.Facts, o audit.Options) *Report {
	judged := audit.Audit(f)
	r := &Report{
		Version: Version, Interfaces: o.Interfaces, Cores: f.Workers.String(), Worst: judged.Worst(),
		Class: judged.Class, Findings: judged.Findings, Noise: f.Noise, audit: judged,
		Host: Host{Arch: runtime.GOARCH, CPUs: f.Machine.Online.Len(), Nodes: len(f.Machine.Nodes), Kernel: audit.KernelRelease(f.Root)},
	}
	if r.Interfaces == nil {
		r.Interfaces = []string{}
	}
	if f.Config != nil {
		r.Config = f.Config.File
	}
	r.Host.Name, _ = os.Hostname()
	switch r.Worst {
	case audit.Warn:
		r.ExitCode = exitWarn
	case audit.Fail:
		r.ExitCode = exitFail
	}
	return r
}
