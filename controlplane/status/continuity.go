package status

import (
	"fmt"
	"math"
	"time"
)

// Continuity says how the data plane's process was replaced without losing its state,
// and whether that could be done now.
type Continuity struct {
	// Takeovers are the processes that went on where the one before them was.
	Takeovers uint64 `json:"takeovers"`
	// Pause is how long the last of them took.
	Pause time.Duration `json:"last_pause_nanos"`
	// Budget is how long the emptiest time of the last ten seconds would have let the rings
	// take what comes now, with nobody there: a takeover that takes longer loses frames.
	// 0: nothing comes.
	Budget time.Duration `json:"restart_budget_nanos"`
	// Rate is what came in the last second to the worker that had most, in frames a second.
	Rate float64 `json:"frames_per_second"`
	// Poison are frames that brought a data plane down and were left out.
	Poison uint64 `json:"poison"`
	// PoisonFile is where the last frame is that a worker failed at; "" if there was none.
	PoisonFile string `json:"poison_file,omitempty"`
	// State is what is to be known about the data plane now, in words; "" if it runs.
	State string `json:"state,omitempty"`
}

// note is the line of a report.
func (c *Continuity) note() string {
	switch {
	case c == nil:
		return ""
	case c.State != "":
		return c.State + c.poison()
	case c.Takeovers == 0:
		return ""
	}
	s := fmt.Sprintf("the data plane's process was replaced %d times without losing its state; the last time took %v", c.Takeovers, c.Pause.Round(100*time.Microsecond))
	if c.Budget > 0 {
		s += fmt.Sprintf("; at %.0f frames/s the rings hold %v", c.Rate, c.Budget.Round(time.Millisecond))
	}
	return s + c.poison()
}

// poison is what is said of frames that workers failed at.
func (c *Continuity) poison() string {
	switch {
	case c.PoisonFile == "":
		return ""
	case c.Poison == 0:
		return "; a worker failed, its last frame is in " + c.PoisonFile
	}
	return fmt.Sprintf("; %d frames that workers failed at were left out, the last is in %s", c.Poison, c.PoisonFile)
}

// continuityMetrics are the families of a [Continuity].
func continuityMetrics() []metric[Continuity] {
	return []metric[Continuity]{
		{name: "headrace_takeovers_total", help: "Data-plane processes that went on where the one before them was.", kind: counter, one: of(func(c *Continuity) uint64 { return c.Takeovers })},
		{name: "headrace_takeover_pause_seconds", help: "How long the last takeover took.", kind: gauge, one: func(c *Continuity) float64 { return c.Pause.Seconds() }},
		{name: "headrace_restart_budget_seconds", help: "How long the rings would hold what comes now with nobody there; +Inf if nothing comes.", kind: gauge, one: func(c *Continuity) float64 {
			if c.Budget == 0 {
				return math.Inf(1)
			}
			return c.Budget.Seconds()
		}},
		{name: "headrace_poison_frames_total", help: "Frames that brought a data plane down and were left out.", kind: counter, one: of(func(c *Continuity) uint64 { return c.Poison })},
	}
}
