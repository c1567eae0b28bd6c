package arch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/cpu"

	"github.com/headrace/headrace/internal/packet"
	"github.com/headrace/headrace/internal/testdata"
)

// floats has every kernel in which a compiler could contract or reorder something.
const floats = `
feeds:
  f:
    match: {protocol: udp, destination: 239.1.1.1, port: 9000}
    format: json
    columns: {k: int64, x: float64, y: float64, z: float64, n: int64, price: decimal(4)}
    time: {column: t, unit: ms}
queries:
  q:
    from: f
    where: x * y + z < 1e30 or x - z * y > -1e30
    key: [k]
    window: {tumbling: 1s}
    watermark: {delay: 1s}
    select:
      count: count()
      sum: sum(x)
      product: sum(x * y)
      fused: sum(x * y + z)
      other: sum(z - x * y * y)
      quotient: sum(x / y - z)
      mixed: sum(x * price + n)
      mean: mean(x)
      means: mean(x * y - z)
      var: variance(x)
      vars: variance(z * y + x)
      pvar: variance(price)
      pmean: mean(price)
      min: min(x * y + z)
      max: max(z - x / y)
      first: first(x * y + z)
      last: last(x * y - z)
      vwap: vwap(x, y)
      exact: "vwap(price, n)"
      notional: sum(price * n)
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`

// capture writes UDP payloads into a classic capture.
func capture(t *testing.T, payloads [][]byte) string {
	t.Helper()
	le := binary.LittleEndian
	b := append(le.AppendUint32(nil, 0xa1b23c4d), 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	for i, p := range payloads {
		u := packet.UDP{
			Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 5)}), 5000),
			Destination: netip.MustParseAddrPort("239.1.1.1:9000"),
		}
		frame := u.Append(nil, p)
		for _, v := range []uint32{1_500_000_000, uint32(i), uint32(len(frame)), uint32(len(frame))} {
			b = le.AppendUint32(b, v)
		}
		b = append(b, frame...)
	}
	path := filepath.Join(t.TempDir(), "floats.pcap")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func objects() [][]byte {
	dice := rand.New(rand.NewPCG(1, 1))
	number := func() string {
		v := math.Ldexp(dice.Float64()-0.5, dice.IntN(121)-60)
		if dice.IntN(3) > 0 {
			v = 100 + dice.NormFloat64()
		}
		return fmt.Sprint(v)
	}
	var out [][]byte
	for i := range 6000 {
		out = append(out, fmt.Appendf(nil, `{"t":%d,"k":%d,"x":%s,"y":%s,"z":%s,"n":%d,"price":%.4f}`,
			i, dice.IntN(20), number(), number(), number(), dice.Int64N(1e12), dice.Float64()*1e5))
	}
	return out
}

// deep is the beginning of a real capture.
func deep(t *testing.T) string {
	t.Helper()
	z, err := exec.Command("gzip", "-dc", testdata.Path(t, "iex", "DEEP10.pcap.gz")).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "deep.pcap")
	if err := os.WriteFile(path, z[:4<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func build(t *testing.T, dir, name string, env ...string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	c := exec.Command("go", "build", "-o", path, "github.com/headrace/headrace/cmd/headrace")
	c.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

func TestBuildsForOtherProcessorsMakeTheSameRows(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary for several processors: left out of -short")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("GOARCH is " + runtime.GOARCH + ": the builds compared are those of amd64 and arm64")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "floats.yaml")
	if err := os.WriteFile(config, []byte(floats), 0o600); err != nil {
		t.Fatal(err)
	}
	inputs := []struct{ name, config, capture string }{
		{"floats", config, capture(t, objects())},
		{"bars", "../../../examples/iex-bars.yaml", deep(t)},
	}
	reference := build(t, dir, "v1", "GOARCH=amd64", "GOAMD64=v1")
	want := map[string][]byte{}
	compare := func(t *testing.T, command ...string) {
		t.Helper()
		for _, in := range inputs {
			for _, workers := range []string{"1", "3"} {
				out := filepath.Join(t.TempDir(), "rows.jsonl")
				args := append(command[1:len(command):len(command)], "replay", "-c", in.config, "--workers", workers, "--out", out, in.capture)
				if b, err := exec.CommandContext(t.Context(), command[0], args...).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, b)
				}
				rows, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case bytes.Count(rows, []byte("\n")) < 50 || in.name == "floats" && !bytes.Contains(rows, []byte("e-")):
					t.Fatalf("%s: rows are\n%s", in.name, rows)
				case want[in.name] == nil:
					want[in.name] = rows
				case !bytes.Equal(rows, want[in.name]):
					g, w := strings.Split(string(rows), "\n"), strings.Split(string(want[in.name]), "\n")
					for i := range w {
						if i >= len(g) || g[i] != w[i] {
							t.Fatalf("%s, %s workers: line %d is\n%s\nwant\n%s", in.name, workers, i+1, g[min(i, len(g)-1)], w[i])
						}
					}
					t.Fatalf("%s: %d lines, want %d", in.name, len(g), len(w))
				}
			}
		}
	}
	compare(t, reference)
	t.Run("GOAMD64=v3", func(t *testing.T) {
		if !cpu.X86.HasAVX2 || !cpu.X86.HasFMA || !cpu.X86.HasBMI2 {
			t.Skip("this processor has no AVX2, FMA and BMI2: GOAMD64=v3 does not run on it")
		}
		compare(t, build(t, dir, "v3", "GOARCH=amd64", "GOAMD64=v3"))
	})
	t.Run("arm64", func(t *testing.T) {
		qemu, err := exec.LookPath("qemu-aarch64-static")
		if err != nil {
			t.Skip("qemu-aarch64-static is not installed: make deps installs it")
		}
		compare(t, qemu, build(t, dir, "arm64", "GOARCH=arm64"))
	})
}
