package audit

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says how bad a finding is.
type Severity uint8

// Severities, from good to bad. Unknown stands apart: it could not be seen.
const (
	OK Severity = iota
	Note
	Unknown
	Warn
	Fail
)

var severityNames = [...]string{"ok", "note", "unknown", "warn", "fail"}

// String returns the name, as in JSON.
func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return fmt.Sprintf("severity(%d)", uint8(s))
}

// MarshalText is the name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severityNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("audit: %q is no severity", text)
	}
	*s = Severity(i)
	return nil
}

// A Finding is what one check found about one thing.
type Finding struct {
	// ID names the check. It never changes its meaning.
	ID string `json:"id"`
	// Subject is the interface or the feed, where there may be several.
	Subject  string   `json:"subject,omitempty"`
	Severity Severity `json:"severity"`
	// What is what is or is not so, in a sentence.
	What string `json:"what"`
	// Measured is the value that was seen.
	Measured string `json:"measured"`
	// Why is what it costs, with an order of magnitude and where that is from.
	Why string `json:"why,omitempty"`
	// Fix is a command, a word of the kernel's command line or a setting of the firmware.
	Fix string `json:"fix,omitempty"`
	// Best is the best class that a host can have while this stands.
	Best Class `json:"best_class"`
}

// name is the finding's id and subject.
func (f *Finding) name() string {
	if f.Subject == "" {
		return f.ID
	}
	return f.ID + " " + f.Subject
}

// A Report is the outcome of an audit.
type Report struct {
	// Findings are in the order of the checks.
	Findings []Finding `json:"findings"`
	Class    Verdict   `json:"class"`
}

// A check looks at one thing. It returns nothing if there is nothing to look at.
type check func(f *Facts) []Finding

// checks are all there are, in the order in which a reader wants to know.
func checks() []check {
	return []check{
		checkNICs, checkNUMA, checkConfig,
		checkIsolation, checkCmdline, checkSMT, checkGovernor, checkCStates, checkNeighbors,
		checkIRQs, checkIRQBalance,
		checkHugePages, checkTHP, checkNUMABalancing, checkMemory, checkMemlock,
		checkClockSource, checkClockSync, checkPTP,
		checkKernel, checkJIT, checkRTThrottle, checkWatchdog, checkStatInterval, checkVirtual, checkCapabilities,
	}
}

// Audit judges what was seen.
func Audit(f *Facts) *Report {
	r := &Report{}
	for _, c := range checks() {
		r.Findings = append(r.Findings, c(f)...)
	}
	for i := range r.Findings {
		if r.Findings[i].Best == 0 {
			r.Findings[i].Best = ClassA
		}
	}
	r.Class = grant(r.Findings, f)
	return r
}

// Worst returns the worst severity; unknown counts as a note, since it says something
// about who asks and not about the host.
func (r *Report) Worst() Severity {
	worst := OK
	for i := range r.Findings {
		s := r.Findings[i].Severity
		if s == Unknown {
			s = Note
		}
		worst = max(worst, s)
	}
	return worst
}

// Count returns how many findings have a severity.
func (r *Report) Count(s Severity) int {
	n := 0
	for i := range r.Findings {
		if r.Findings[i].Severity == s {
			n++
		}
	}
	return n
}

// ByWeight returns the findings, the worst first and else in their order.
func (r *Report) ByWeight() []Finding {
	sorted := slices.Clone(r.Findings)
	slices.SortStableFunc(sorted, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return sorted
}
