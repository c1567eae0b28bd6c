package decode

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A Result is what was measured of one case.
type Result struct {
	Name   string
	Rounds []float64 // nanoseconds a message
	Bytes  float64   // of payload a message
	Events float64   // share of the messages that became events
}

// Measure decodes each case's packets for about the given time in every round, the
// cases in turns. data is the folder of captures. A message that is dropped is an
// error: it would be measured as fast.
func Measure(data string, rounds int, reading time.Duration) ([]Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var runs []*run
	defer func() {
		for _, r := range runs {
			_ = r.region.Close()
		}
	}()
	results := make([]Result, len(definitions))
	for i := range definitions {
		r, err := definitions[i].open(data)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
		messages, dropped, _ := r.once()
		if messages == 0 || dropped > 0 {
			return nil, fmt.Errorf("decode: %s: %d of %d messages are dropped", r.name, dropped, messages)
		}
		results[i] = Result{Name: r.name, Bytes: float64(r.bytes) / float64(messages), Events: float64(r.events) / float64(messages)}
	}
	for range rounds {
		for i, r := range runs {
			messages, took := uint64(0), time.Duration(0)
			for took < reading {
				n, _, d := r.once()
				messages += n
				took += d
			}
			results[i].Rounds = append(results[i].Rounds, float64(took)/float64(messages))
		}
	}
	return results, nil
}

// cpu returns the processor time of the calling thread.
func cpu() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic("decode: clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}
