package replay_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/internal/testdata"
)

// BenchmarkDEEP10 replays a real capture from memory, new workers and cold memory
// each time. ns/message is by the replay's own clock, which runs while the workers do.
func BenchmarkDEEP10(b *testing.B) {
	mem, err := capture.Preload([]string{testdata.Path(b, "iex", "DEEP10.pcap.gz")}, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, workers := range []int{1, 2, 3, 8} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			var seconds, messages float64
			before := cpu(b)
			for b.Loop() {
				mem.Rewind()
				s, err := replay.Run(b.Context(), replay.Config{Plan: deepPlan(workers), Records: mem, OpenSinks: func() ([]export.Sink, error) {
					return []export.Sink{&memory{}}, nil
				}})
				if err != nil {
					b.Fatal(err)
				}
				seconds += s.Seconds
				messages += float64(s.Messages)
			}
			b.ReportMetric(seconds/messages*1e9, "ns/message")
			b.ReportMetric(messages/seconds/1e6, "Mmessages/s")
			b.ReportMetric((cpu(b)-before)/messages*1e9, "cpu-ns/message")
		})
	}
}

// cpu is the processor time that the process has taken, in seconds.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
