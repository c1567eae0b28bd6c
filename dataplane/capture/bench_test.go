package capture

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/headrace/headrace/internal/testdata"
)

// BenchmarkRead reads DEEP10, from its gzip file, decompressed in memory and
// preloaded, and once with gopacket's reader beside ours.
func BenchmarkRead(b *testing.B) {
	packed, err := os.ReadFile(testdata.Path(b, "iex", "DEEP10.pcap.gz"))
	if err != nil {
		b.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		b.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		b.Fatal(err)
	}
	memory, err := Preload([]string{"-"}, bytes.NewReader(plain))
	if err != nil {
		b.Fatal(err)
	}
	drain := func(r Records) (n int) {
		var rec Record
		for r.Next(&rec) == nil {
			n++
		}
		return n
	}
	of := func(in []byte) func() int {
		return func() int {
			r, err := OpenReader(bytes.NewReader(in), "bench")
			if err != nil {
				b.Fatal(err)
			}
			return drain(r)
		}
	}
	for _, c := range []struct {
		name string
		read func() int
	}{
		{"from=gzip", of(packed)},
		{"from=plain", of(plain)},
		{"from=memory", func() int { memory.Rewind(); return drain(memory) }},
		{"from=plain-pcapgo", func() int {
			r, err := pcapgo.NewReader(bytes.NewReader(plain))
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for {
				if _, _, err := r.ZeroCopyReadPacketData(); err != nil {
					return n
				}
				n++
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			records := 0
			for b.Loop() {
				records += c.read()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
		})
	}
}
