package acceptance

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/testdata"
)

// kindsConfig counts a feed's messages by kind.
const kindsConfig = `
feeds:
  f:
    match: {protocol: udp}
    format: %s
queries:
  kinds:
    from: f
    key: [%s]
    window: {tumbling: 1d}
    watermark: {delay: 1d}
    select: {n: count()}
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`

func kindsOf(format, key string) string { return fmt.Sprintf(kindsConfig, format, key) }

// formatsUnder are all formats, with something to count.
var formatsUnder = map[string]string{
	"iex-deep": kindsOf("iex-deep", "message"),
	"iex-tops": kindsOf("iex-tops", "message"),
	"itch50":   kindsOf("itch50", "message"),
	"flow":     kindsOf("flow", "protocol"),
	"json":     kindsOf("json\n    columns: {a: text}\n    time: {receive: true}", "a"),
	"csv":      kindsOf("csv\n    columns: {a: text}\n    time: {receive: true}", "a"),
	"raw":      kindsOf("raw\n    columns: {a: {type: int64, offset: 0, width: 2}}\n    time: {receive: true}", "a"),
}

// unread are the reasons for which a packet is dropped before it has messages.
var unread = []string{"short", "version", "length", "truncated", "unknown_feed", "hold_limit"}

// balance checks that every message went somewhere, and every packet that was no
// message. It holds for one query over formats where a message is an event.
func (r *result) balance(tb testing.TB, what string) {
	tb.Helper()
	s := &r.summary
	sum := s.Applied + s.Filtered + *s.Duplicates
	for reason, n := range s.Drops {
		if reason == "" || reason == "unknown" || n == 0 {
			tb.Errorf("%s: drops %v", what, s.Drops)
		}
		if !slices.Contains(unread, reason) {
			sum += n
		}
	}
	if sum != *s.Messages {
		tb.Errorf("%s: %d messages, but %d applied + %d filtered + %d duplicates + drops %v = %d",
			what, *s.Messages, s.Applied, s.Filtered, *s.Duplicates, s.Drops, sum)
	}
}

// udpPayload finds the payload below Ethernet, any number of tags and IPv4.
func udpPayload(frame []byte) []byte {
	at := 12
	for binary.BigEndian.Uint16(frame[at:]) == 0x8100 || binary.BigEndian.Uint16(frame[at:]) == 0x88a8 {
		at += 4
	}
	ip := frame[at+2:]
	ip = ip[:binary.BigEndian.Uint16(ip[2:])]
	return ip[int(ip[0]&15)*4+8:]
}

var iexNames = map[byte]string{
	'T': "trade", 'B': "trade_break", 'Q': "quote", '8': "price_level", '5': "price_level", 'X': "official_price", 'A': "auction",
	'D': "security_directory", 'H': "trading_status", 'O': "op_halt", 'P': "short_sale", 'E': "security_event", 'S': "system_event",
}

var itchNames = map[byte]string{
	'S': "system_event", 'R': "directory", 'H': "trading_action", 'Y': "short_sale", 'L': "participant", 'J': "auction_collar",
	'A': "add_order", 'F': "add_order", 'E': "trade", 'C': "trade", 'X': "order_cancel", 'D': "order_delete", 'U': "order_replace",
	'P': "trade", 'Q': "cross", 'B': "broken_trade", 'I': "imbalance", 'V': "mwcb_levels", 'K': "ipo_quotation", 'h': "op_halt", 'N': "retail_interest",
}

// walkIEX counts the kinds in IEX-TP packets.
func walkIEX(records []record) map[string]int {
	kinds := map[string]int{}
	le := binary.LittleEndian
	for _, r := range records {
		p := udpPayload(r.data)
		body := p[40:]
		for range le.Uint16(p[14:]) {
			kinds[iexNames[body[2]]]++
			body = body[2+le.Uint16(body):]
		}
	}
	return kinds
}

// walkITCH counts the kinds in MoldUDP64 packets, the first copy of each message, and
// those of orders that are not known.
func walkITCH(records []record) (kinds map[string]int, duplicates, unknown int) {
	kinds = map[string]int{}
	seen, orders := map[string]bool{}, map[string]bool{}
	be := binary.BigEndian
	for _, r := range records {
		p := udpPayload(r.data)
		body := p[20:]
		for i := range int(be.Uint16(p[18:])) {
			m := body[2 : 2+be.Uint16(body)]
			body = body[2+len(m):]
			id := fmt.Sprint(string(p[:10]), be.Uint64(p[10:])+uint64(i))
			if seen[id] {
				duplicates++
				continue
			}
			seen[id] = true
			name := itchNames[m[0]]
			switch m[0] {
			case 'A', 'F':
				orders[string(m[11:19])] = true
			case 'U':
				orders[string(m[19:27])] = true
			case 'E', 'X', 'D':
				if !orders[string(m[11:19])] {
					unknown++
					continue
				}
			case 'C':
				if m[31] == 'N' {
					name = "execution"
				}
			}
			kinds[name]++
		}
	}
	return kinds, duplicates, unknown
}

// kindRows reads rows of kindsConfig.
func kindRows(tb testing.TB, rows []byte) map[string]int {
	tb.Helper()
	out := map[string]int{}
	for _, l := range bytes.Split(bytes.TrimSpace(rows), []byte("\n")) {
		if len(l) == 0 {
			continue
		}
		var r struct {
			Key    struct{ Message string }
			Values struct{ N int }
		}
		if err := json.Unmarshal(l, &r); err != nil {
			tb.Fatal(err)
		}
		out[r.Key.Message] += r.Values.N
	}
	return out
}

func TestVenuesAreDecodedOrDroppedWithAReason(t *testing.T) {
	root := testdata.Path(t, "venues")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".pcap" {
			return err
		}
		files++
		records := readPcap(t, path)
		for format, config := range formatsUnder {
			if testing.Short() && !strings.HasPrefix(format, "i") {
				continue
			}
			what := format + " reads " + filepath.Base(path)
			r := replay(t, config, append(flag("workers", 1+files%3), path)...)
			r.balance(t, what)
			s := &r.summary
			if *s.Packets != uint64(len(records)) || len(s.Passed) > 0 {
				t.Errorf("%s: %d packets, passed %v, want %d", what, *s.Packets, s.Passed, len(records))
			}
			var want map[string]int
			switch {
			case format == "iex-deep" && strings.Contains(path, "Deep.IexTp"), format == "iex-tops" && strings.Contains(path, "Tops.IexTp"):
				want = walkIEX(records)
				r.counts(t, map[string]uint64{"duplicates": 0, "missing": 0, "epochs": 1})
			case format == "itch50" && strings.Contains(path, "Totalview") || format == "itch50" && strings.Contains(path, "TotalView"):
				var duplicates, unknown int
				want, duplicates, unknown = walkITCH(records)
				r.counts(t, map[string]uint64{"duplicates": uint64(duplicates), "unknown_order": uint64(unknown), "epochs": 1})
			case format == "flow":
				r.counts(t, map[string]uint64{"messages": uint64(len(records)), "applied": uint64(len(records)), "rows": 1})
				continue
			case format == "itch50" && filepath.Base(path) == "Heartbeat.pcap":
				continue // by chance a heartbeat of MoldUDP64 too
			case strings.HasPrefix(format, "i"):
				sum := uint64(0)
				for _, reason := range unread {
					sum += s.Drops[reason]
				}
				if sum != uint64(len(records)) || *s.Messages != 0 {
					t.Errorf("%s: %d messages, drops %v", what, *s.Messages, s.Drops)
				}
				continue
			default:
				continue
			}
			if got := kindRows(t, r.rows); !maps.Equal(got, want) {
				t.Errorf("%s: kinds %v, want %v", what, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 35 {
		t.Errorf("%d captures, want more", files)
	}
}

// zstdRaw puts b into a zstd frame of uncompressed blocks: RFC 8878, 3.1.1.
func zstdRaw(b []byte) []byte {
	le := binary.LittleEndian
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // single segment, content size in 4 bytes
	out = le.AppendUint32(out, uint32(len(b)))
	for {
		n := min(len(b), 100_000)
		h := uint32(n) << 3
		if n == len(b) {
			h |= 1
		}
		out = append(out, byte(h), byte(h>>8), byte(h>>16))
		out = append(out, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return out
		}
	}
}

func TestCapturesInAnyWrapping(t *testing.T) {
	records, bursts := skewed(5, second/2, 400, false)
	for i := range records {
		records[i].stamp -= records[i].stamp % 1000 // pcapng has microseconds here
	}
	config := fmt.Sprintf(skewConfig, "10s", 30)
	kept := judge(bursts, 10*second, 30)
	want := text(flushed(bars(kept.kept, second, nil), kept.mark))
	dir := t.TempDir()
	plain, ng := pcapBytes(records), pcapngBytes(records)
	files := map[string][]byte{
		"a.pcap": plain, "a.pcapng": ng, "gzip": gzipped(t, plain), "ng.gz": gzipped(t, ng), "z.zst": zstdRaw(plain), "ngz.pcap": zstdRaw(ng),
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		write(t, path, b)
		for _, more := range [][]string{nil, {"--preload"}} {
			r := replay(t, config, append(more, path)...)
			same(t, name, r.rows, want)
			in := try(t, config, b, append(more, "-")...)
			same(t, name+" from standard input", in.rows, want)
		}
	}
	// Several captures are merged by stamp, in whatever wrapping and order.
	var parts [3][]record
	for i, r := range records {
		parts[i%3] = append(parts[i%3], r)
	}
	write(t, filepath.Join(dir, "1"), pcapBytes(parts[0]))
	write(t, filepath.Join(dir, "2"), gzipped(t, pcapngBytes(parts[1])))
	for _, n := range []string{"1", "3"} {
		r := try(t, config, zstdRaw(pcapBytes(parts[2])), "--workers", n, filepath.Join(dir, "1"), "-", filepath.Join(dir, "2"))
		if r.code != 0 {
			t.Fatal(r.stderr)
		}
		same(t, "three captures", r.rows, want)
	}
}

func TestBadCapturesAreRefusedWithAReason(t *testing.T) {
	dir := t.TempDir()
	records, _ := skewed(6, 0, 5, false)
	good := pcapBytes(records)
	config := fmt.Sprintf(skewConfig, "10s", 30)
	cooked := slices.Clone(good)
	cooked[20] = 113
	write(t, filepath.Join(dir, "good"), good)
	for _, c := range []struct {
		name string
		file []byte // nil: there is none
		code int
		want string
	}{
		{"missing", nil, 1, "no such file"},
		{"empty", []byte{}, 1, "empty"},
		{"text", []byte("{\"a\":1}\n"), 1, "not a capture"},
		{"garbage", bytes.Repeat([]byte{0xde, 0xad, 0xbe, 0xef}, 100), 1, "not a capture"},
		{"cooked", cooked, 1, "Ethernet"},
		{"header", good[:20], 1, "header"},
		{"no packets", good[:24], 0, ""},
		{"cut", good[:len(good)-7], 0, ""},
		{"long record", append(slices.Clone(good), bytes.Repeat([]byte{0xff}, 64)...), 1, "damaged"},
		{"bad gzip", append(gzipped(t, good)[:60], "nothing that inflates"...), 1, ""},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-"))
		if c.file != nil {
			write(t, path, c.file)
		}
		for _, more := range [][]string{nil, {"--preload"}, {"--workers", "3"}} {
			r := try(t, config, nil, append(more, path)...)
			if r.code != c.code {
				t.Errorf("%s %v: exit %d, want %d: %s", c.name, more, r.code, c.code, r.stderr)
				continue
			}
			if c.code != 0 && (!strings.Contains(r.stderr, c.want) || !strings.Contains(r.stderr, filepath.Base(path)) || !strings.HasPrefix(r.stderr, "headrace: ")) {
				t.Errorf("%s %v: standard error is %q, want %q and the file's name in it", c.name, more, r.stderr, c.want)
			}
		}
		// It spoils the good ones beside it, and says which it is.
		if r := try(t, config, nil, filepath.Join(dir, "good"), path); r.code != c.code {
			t.Errorf("%s beside a good one: exit %d, want %d: %s", c.name, r.code, c.code, r.stderr)
		}
	}
	if r := try(t, config, nil, dir); r.code != 1 || !strings.Contains(r.stderr, "folder") {
		t.Errorf("a folder: exit %d: %s", r.code, r.stderr)
	}
	if r := try(t, config, good, "-", "-"); r.code == 0 {
		t.Errorf("standard input twice: exit %d: %s", r.code, r.stderr)
	}
}

// A capture cut anywhere is read as far as it goes.
func TestACaptureCutAnywhere(t *testing.T) {
	records, _ := skewed(7, 0, 4, false)
	config := fmt.Sprintf(skewConfig, "10s", 30)
	dir := t.TempDir()
	for _, b := range [][]byte{pcapBytes(records), pcapngBytes(records)} {
		step := 13
		if testing.Short() {
			step = 101
		}
		for n := 25; n < len(b); n += step {
			path := filepath.Join(dir, "cut")
			if err := os.WriteFile(path, b[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if r := try(t, config, nil, path); r.code == 0 {
				r.balance(t, fmt.Sprintf("cut at %d", n))
			} else if r.code != 1 || len(r.stderr) == 0 {
				t.Errorf("cut at %d of %d: exit %d: %q", n, len(b), r.code, r.stderr)
			}
		}
	}
}
