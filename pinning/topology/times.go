package topology

import (
	"io/fs"
	"strconv"
	"strings"
)

// CPUTime is how a CPU spent its time since boot, in hundredths of a second. Busy does
// not include Steal.
type CPUTime struct{ Busy, Idle, Steal uint64 }

// ReadCPUTimes reads the lines of CPUs of /proc/stat, by number. What is not there is
// left out.
func ReadCPUTimes(fsys fs.FS) map[int]CPUTime {
	times := map[int]CPUTime{}
	stat, _ := (&reader{fsys: fsys}).text("proc/stat")
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		if len(fields) < 9 {
			continue
		}
		digits, ok := strings.CutPrefix(fields[0], "cpu")
		cpu, err := strconv.Atoi(digits)
		if !ok || err != nil { // "cpu" alone is the sum
			continue
		}
		var t CPUTime
		for i, digits := range fields[1:9] {
			n, err := strconv.ParseUint(digits, 10, 64)
			switch {
			case err != nil:
			case i == 3 || i == 4: // idle, iowait
				t.Idle += n
			case i == 7:
				t.Steal = n
			default:
				t.Busy += n
			}
		}
		times[cpu] = t
	}
	return times
}
