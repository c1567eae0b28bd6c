package audit

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/headrace/headrace/pinning/gaps"
)

// Class is a promise about how long a worker may be kept from its core: at p99.9 of
// the worst gap of each millisecond.
type Class uint8

// The classes.
const (
	ClassA Class = iota + 1 // below 10 µs
	ClassB                  // below 50 µs
	ClassC                  // below 1 ms
	ClassD                  // best effort
)

var classBounds = [...]time.Duration{ClassA: 10 * time.Microsecond, ClassB: 50 * time.Microsecond, ClassC: time.Millisecond}

// String is the class's letter.
func (c Class) String() string {
	if c < ClassA || c > ClassD {
		return fmt.Sprintf("class(%d)", uint8(c))
	}
	return string(rune('A' + c - ClassA))
}

// MarshalText is the letter.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a letter.
func (c *Class) UnmarshalText(text []byte) error {
	if len(text) != 1 || text[0] < 'A' || text[0] > 'D' {
		return fmt.Errorf("audit: %q is no class", text)
	}
	*c = ClassA + Class(text[0]-'A')
	return nil
}

// Promise is what the class says, in words.
func (c Class) Promise() string {
	if c < ClassA || c >= ClassD {
		return "best effort"
	}
	return fmt.Sprintf("p99.9 below %v", classBounds[c])
}

// classOf returns the best class of a p99.9.
func classOf(p999 time.Duration) Class {
	for c := ClassA; c < ClassD; c++ {
		if p999 < classBounds[c] {
			return c
		}
	}
	return ClassD
}

// enough is how long must be measured for a class better than C: ten of ten thousand
// milliseconds lie above p99.9, of fewer chance decides. Of less than little there is
// no p99.9.
const enough, little = 10 * time.Second, time.Second

// A Verdict is the class that a host is granted, and why no better one.
type Verdict struct {
	Granted Class `json:"granted"`
	// P999 is the worst worker core's, 0 if nothing was measured.
	P999 time.Duration `json:"p999_ns"`
	// HeldBack is what allows no better class than granted, and what allows no better
	// than others above it, the worst first.
	HeldBack []Hold `json:"held_back,omitempty"`
}

// A Hold is one reason why a class is no better than To.
type Hold struct {
	To Class `json:"to"`
	// By is a finding's id and subject, or "noise".
	By string `json:"by"`
	// Evidence is the value that was seen.
	Evidence string `json:"evidence"`
}

// grant is the rule: the worst of what was measured, of how long it was, and of each
// finding that stands. A quiet measurement does not outweigh a finding: it is of some
// seconds, and what the finding names can happen at any time.
func grant(findings []Finding, f *Facts) Verdict {
	v := Verdict{Granted: ClassA}
	hold := func(to Class, by, evidence string) {
		v.Granted = max(v.Granted, to)
		if to > ClassA {
			v.HeldBack = append(v.HeldBack, Hold{to, by, evidence})
		}
	}
	switch {
	case f.Noise == nil || len(f.Noise.Cores) == 0:
		why := cmp.Or(f.NoiseUnknown, "not asked for")
		hold(ClassD, "noise", "not measured: "+why)
	default:
		worst, shortest := f.Noise.Worst(), time.Duration(1<<62)
		for i := range f.Noise.Cores {
			shortest = min(shortest, f.Noise.Cores[i].For)
		}
		v.P999 = worst.P999
		hold(classOf(worst.P999), "noise", fmt.Sprintf("p99.9 %v on core %d", Round(worst.P999), worst.CPU))
		// A millisecond of slack: the loop ends on a reading.
		const slack = time.Millisecond
		measured := shortest.Round(time.Millisecond)
		switch {
		case shortest < little-slack:
			hold(ClassD, "noise", fmt.Sprintf("measured for %v, and a class needs %v", measured, little))
		case shortest < enough-slack:
			hold(ClassC, "noise", fmt.Sprintf("measured for %v, and better than C needs %v", measured, enough))
		}
	}
	for i := range findings {
		if s := findings[i].Severity; s == Warn || s == Fail || s == Note {
			hold(findings[i].Best, findings[i].name(), findings[i].Measured)
		}
	}
	slices.SortStableFunc(v.HeldBack, func(a, b Hold) int { return cmp.Compare(b.To, a.To) })
	return v
}

// Round leaves three digits of a length of time, to be read.
func Round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// ClassOf returns the best class that a measurement alone allows.
func ClassOf(r *gaps.Report) Class { return classOf(r.Worst().P999) }
