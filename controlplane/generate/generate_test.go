package generate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/internal/packet"
)

// A sent is a frame of a source, taken apart.
type sent struct {
	at      event.Nanos
	line    string // destination
	port    uint16 // source port
	payload []byte
}

// drain reads a source to its end; checks that every frame is a right one and that
// time does not go back.
func drain(tb testing.TB, s *Source) []sent {
	tb.Helper()
	var out []sent
	last := event.MinNanos
	for {
		frame, at, ok := s.Next()
		if !ok {
			return out
		}
		if at < last {
			tb.Fatalf("frame %d is sent at %d, the one before it at %d", len(out), at, last)
		}
		last = at
		if len(out) >= 200 && frame[12] == 8 && frame[23] == 17 { // the builder's own test covers the rest
			n := int(binary.BigEndian.Uint16(frame[38:])) - 8
			to := fmt.Sprintf("%d.%d.%d.%d:%d", frame[30], frame[31], frame[32], frame[33], binary.BigEndian.Uint16(frame[36:]))
			out = append(out, sent{at, to, binary.BigEndian.Uint16(frame[34:]), slices.Clone(frame[42 : 42+n])})
			continue
		}
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
		ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if !ok || packet.Checksum(0, ip.Contents) != 0 {
			tb.Fatalf("frame %d: not IPv4 with a right checksum", len(out))
		}
		udp, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		if !ok || p.ErrorLayer() != nil {
			tb.Fatalf("frame %d: %v", len(out), p.ErrorLayer())
		}
		payload := udp.Payload[:udp.Length-8]
		out = append(out, sent{at, fmt.Sprintf("%v:%d", ip.DstIP, udp.DstPort), uint16(udp.SrcPort), slices.Clone(payload)})
	}
}

func source(tb testing.TB, c Config) *Source {
	tb.Helper()
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func digest(tb testing.TB, c Config) string {
	tb.Helper()
	h := sha256.New()
	s := source(tb, c)
	var stamp [8]byte
	for {
		frame, at, ok := s.Next()
		if !ok {
			return hex.EncodeToString(h.Sum(nil)[:8])
		}
		binary.BigEndian.PutUint64(stamp[:], uint64(at))
		h.Write(stamp[:])
		h.Write(frame)
	}
}

// The bytes of a seed are for ever: a change here is a change of every stream that
// anyone has written down.
func TestTheSameConfigMakesTheSameBytes(t *testing.T) {
	for name, want := range map[string]struct {
		c   Config
		sum string
	}{
		"itch":            {Config{Kind: ITCH, Count: 20_000}, "c09f3351174552f9"},
		"itch, all flags": {Config{Kind: ITCH, Count: 20_000, Seed: 7, Rate: 12_345, Keys: 500, Lines: 2, Loss: 0.1, Reorder: 7, Duplicate: 0.1, Channels: 3, Session: "ABC"}, "16464cf806a6ad93"},
		"json":            {Config{Kind: JSON, Count: 5_000}, "8c92e7e671e6f686"},
		"csv":             {Config{Kind: CSV, Count: 5_000, Loss: 0.1, Reorder: 3, Duplicate: 0.1}, "338390c387f50dad"},
		"raw":             {Config{Kind: Raw, Count: 5_000, Seed: math.MaxUint64}, "bf03079dd4d88391"},
	} {
		t.Run(name, func(t *testing.T) {
			got := digest(t, want.c)
			if got != want.sum {
				t.Errorf("the stream's digest is %s, want %s", got, want.sum)
			}
			want.c.Seed++
			if digest(t, want.c) == got {
				t.Error("another seed makes the same stream")
			}
		})
	}
}

// itchSizes are those of the ITCH 5.0 specification, typed in once more.
var itchSizes = map[byte]int{
	'S': 12, 'R': 39, 'A': 36, 'F': 40, 'E': 31, 'C': 36, 'X': 23, 'D': 19, 'U': 35, 'P': 44, 'Q': 40,
}

// A book follows a stream of ITCH messages as a receiver would.
type book struct {
	t       *testing.T
	symbols map[uint16]string
	orders  map[uint64]*bookOrder
	kinds   map[byte]int
	begin   event.Nanos // midnight
	trades  []Trade
}

type bookOrder struct {
	locate uint16
	shares uint32
	price  uint32
}

func newBook(t *testing.T, begin event.Nanos) *book {
	t.Helper()
	return &book{t, map[uint16]string{}, map[uint64]*bookOrder{}, map[byte]int{}, begin, nil}
}

func (b *book) apply(m []byte) event.Nanos {
	b.t.Helper()
	u16, u32, u64 := binary.BigEndian.Uint16, binary.BigEndian.Uint32, binary.BigEndian.Uint64
	if len(m) != itchSizes[m[0]] {
		b.t.Fatalf("message %c of %d bytes, want %d", m[0], len(m), itchSizes[m[0]])
	}
	b.kinds[m[0]]++
	locate := u16(m[1:])
	at := b.begin + event.Nanos(uint64(u16(m[5:]))<<32|uint64(u32(m[7:])))
	name := func(at int) string { return strings.TrimRight(string(m[at:at+8]), " ") }
	known := func(s string) {
		if b.symbols[locate] != s {
			b.t.Fatalf("message %c names %q, the directory has %q for %d", m[0], s, b.symbols[locate], locate)
		}
	}
	take := func(shares uint32) *bookOrder {
		o := b.orders[u64(m[11:])]
		if o == nil || o.locate != locate || shares > o.shares || shares == 0 {
			b.t.Fatalf("message %c of %d shares refers to order %d: %+v", m[0], shares, u64(m[11:]), o)
		}
		if o.shares -= shares; o.shares == 0 {
			delete(b.orders, u64(m[11:]))
		}
		return o
	}
	trade := func(price, shares uint32) {
		b.trades = append(b.trades, Trade{b.symbols[locate], at, int64(price), int64(shares)})
	}
	switch m[0] {
	case 'R':
		if s := name(11); b.symbols[locate] == "" && s != "" {
			b.symbols[locate] = s
		} else {
			b.t.Fatalf("symbol %d is listed as %q and as %q", locate, b.symbols[locate], s)
		}
	case 'A', 'F':
		known(name(24))
		if side := m[19]; side != 'B' && side != 'S' || b.orders[u64(m[11:])] != nil {
			b.t.Fatalf("order %d on side %q is not a new one", u64(m[11:]), side)
		}
		b.orders[u64(m[11:])] = &bookOrder{locate, u32(m[20:]), u32(m[32:])}
	case 'E':
		trade(take(u32(m[19:])).price, u32(m[19:]))
	case 'C':
		if take(u32(m[19:])); m[31] == 'Y' {
			trade(u32(m[32:]), u32(m[19:]))
		}
	case 'X':
		take(u32(m[19:]))
		if b.orders[u64(m[11:])] == nil {
			b.t.Fatal("an X took all that was left")
		}
	case 'D':
		take(b.orders[u64(m[11:])].shares)
	case 'U':
		take(b.orders[u64(m[11:])].shares)
		b.orders[u64(m[19:])] = &bookOrder{locate, u32(m[27:]), u32(m[31:])}
	case 'P':
		known(name(24))
		trade(u32(m[32:]), u32(m[20:]))
	case 'Q':
		known(name(19))
	}
	return at
}

// mold takes a MoldUDP64 packet apart.
func mold(t *testing.T, p []byte) (session string, seq uint64, count int, messages [][]byte) {
	t.Helper()
	session, seq, count = string(p[:10]), binary.BigEndian.Uint64(p[10:]), int(binary.BigEndian.Uint16(p[18:]))
	for rest := p[20:]; len(rest) > 0; {
		n := int(binary.BigEndian.Uint16(rest))
		messages = append(messages, rest[2:2+n])
		rest = rest[2+n:]
	}
	if count != moldEndOfSession && count != len(messages) {
		t.Fatalf("a packet of %d messages says %d", len(messages), count)
	}
	return session, seq, count, messages
}

func TestITCHIsWhatAReceiverExpects(t *testing.T) {
	truth := &Truth{}
	c := Config{Kind: ITCH, Count: 100_000, Rate: 700, Keys: 70, Channels: 3, Session: "TEST", Seed: 5, Truth: truth}
	s := source(t, c)
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 3, 2, 0, 0, 0, 0, zone)
	if open := day.Add(9*time.Hour + 30*time.Minute); open.UnixNano() != int64(DefaultStart) {
		t.Errorf("the default start is %d, half past nine is %d", DefaultStart, open.UnixNano())
	}
	b := newBook(t, event.Nanos(day.UnixNano()))
	next := map[string]uint64{}
	ends := map[string]int{}
	var n int64
	for _, p := range drain(t, s) {
		session, seq, count, messages := mold(t, p.payload)
		if _, seen := next[session]; !seen {
			if count != 0 || seq != 1 {
				t.Fatalf("session %q begins with %d messages at %d", session, count, seq)
			}
			next[session] = 1
		}
		if seq != next[session] || p.line != "239.10.1.1:26400" {
			t.Fatalf("%q on %s: packet of %d, want %d", session, p.line, seq, next[session])
		}
		if count == moldEndOfSession {
			ends[session]++
			continue
		}
		next[session] += uint64(count)
		for _, m := range messages {
			if at, want := b.apply(m), DefaultStart+event.Nanos(n*1e9/700); at != want || at > p.at {
				t.Fatalf("message %d is of %d, want %d; sent at %d", n, at, want, p.at)
			}
			n++
		}
	}
	if n != 100_000 || len(b.symbols) != 70 || len(next) != 3 || s.Summary().Messages != 100_000 {
		t.Errorf("%d messages of %d symbols in %d sessions", n, len(b.symbols), len(next))
	}
	for k := range itchSizes {
		if b.kinds[k] == 0 {
			t.Errorf("no message %c", k)
		}
	}
	for session := range next {
		if len(session) != 10 || !strings.HasPrefix(session, "TEST") || ends[session] != endsOfSession {
			t.Errorf("session %q ends %d times", session, ends[session])
		}
	}
	checkBars(t, truth.Bars(), b.trades)
}

// checkBars holds the truth against bars made of the receiver's trades.
func checkBars(t *testing.T, got []Bar, trades []Trade) {
	t.Helper()
	want := map[string]*Bar{}
	for _, x := range trades {
		start := x.At - x.At%60e9
		k := fmt.Sprint(start, x.Symbol)
		b := want[k]
		if b == nil {
			b = &Bar{Symbol: x.Symbol, Start: start, Open: x.Price, Low: math.MaxInt64}
			want[k] = b
		}
		b.High, b.Low, b.Close = max(b.High, x.Price), min(b.Low, x.Price), x.Price
		b.Volume, b.Trades, b.Notional = b.Volume+x.Shares, b.Trades+1, b.Notional+x.Price*x.Shares
	}
	if len(got) != len(want) || len(got) < 100 {
		t.Errorf("%d bars, want %d", len(got), len(want))
	}
	for i, b := range got {
		if w := want[fmt.Sprint(b.Start, b.Symbol)]; w == nil || *w != b {
			t.Fatalf("bar %d is %+v, want %+v", i, b, w)
		}
	}
}

func TestASilentChannelSendsHeartbeats(t *testing.T) {
	beats, last := 0, map[string]event.Nanos{}
	for _, p := range drain(t, source(t, Config{Kind: ITCH, Rate: 4, Count: 200, Keys: 10, Channels: 5})) {
		session, _, count, _ := mold(t, p.payload)
		if count == 0 {
			beats++
		}
		// A packet of up to 16 messages takes up to 4 s at this rate.
		if gap := time.Duration(p.at - last[session]); last[session] != 0 && gap > 6*time.Second {
			t.Errorf("session %q was silent for %v", session, gap)
		}
		last[session] = p.at
	}
	if beats < 30 {
		t.Errorf("%d heartbeats", beats)
	}
}

// Loss, copies and swaps are as asked for, on each line by itself, and leave the
// messages as they are.
func TestLinesAreImpairedAsAsked(t *testing.T) {
	clean, lossy := &Truth{Width: time.Second}, &Truth{Width: time.Second}
	c := Config{Kind: ITCH, Count: 100_000, Keys: 50, Channels: 2, Truth: clean}
	whole := map[string]int{} // packets, by session and sequence number
	for _, p := range drain(t, source(t, c)) {
		if session, seq, n, _ := mold(t, p.payload); n > 0 && n != moldEndOfSession {
			whole[fmt.Sprint(session, seq)] = n
		}
	}
	c.Lines, c.Loss, c.Duplicate, c.Truth = 2, 0.05, 0.02, lossy
	s := source(t, c)
	seen := [2]map[string]int{{}, {}}
	first := 0
	all := drain(t, s)
	for i, p := range all {
		l := strings.Index("239.10.1.1:26400 239.10.2.1:26400", p.line) / len(p.line)
		session, seq, n, _ := mold(t, p.payload)
		if n == 0 || n == moldEndOfSession {
			continue
		}
		key := fmt.Sprint(session, seq)
		if whole[key] != n {
			t.Fatalf("packet %s has %d messages, without loss it has %d", key, n, whole[key])
		}
		if i+1 < len(all) && l == 1 && seen[0][key] == 0 && bytes.Equal(all[i+1].payload, p.payload) && all[i+1].line != p.line {
			first++
		}
		seen[l][key]++
	}
	near := func(what string, got int, of int, p float64) {
		t.Helper()
		sigma := math.Sqrt(float64(of) * p * (1 - p))
		if d := math.Abs(float64(got) - float64(of)*p); d > 5*sigma {
			t.Errorf("%s: %d of %d, want about %.0f", what, got, of, float64(of)*p)
		}
	}
	both, twice, lost := 0, 0, uint64(0)
	for key, n := range whole {
		a, b := seen[0][key], seen[1][key]
		if a+b == 0 {
			both++
			lost += uint64(n)
		}
		twice += max(a-1, 0) + max(b-1, 0)
	}
	near("lost on A", len(whole)-len(seen[0]), len(whole), 0.05)
	near("lost on B", len(whole)-len(seen[1]), len(whole), 0.05)
	near("lost on both", both, len(whole), 0.05*0.05)
	near("sent twice", twice, len(seen[0])+len(seen[1]), 0.02)
	near("B first", first, len(whole), 0.5*0.95*0.95)
	if got := s.Summary(); got.LostMessages != lost || len(lossy.Lost) != both || got.Duplicates < uint64(twice) || got.Frames != uint64(len(all)) {
		t.Errorf("%+v, %d losses told; want %d messages in %d packets", got, len(lossy.Lost), lost, both)
	}
	for _, l := range lossy.Lost {
		if key := fmt.Sprint(l.Session, l.Seq); seen[0][key]+seen[1][key] > 0 || whole[key] != l.Count {
			t.Fatalf("%+v is told as lost, and arrived", l)
		}
	}
	if !slices.Equal(clean.Bars(), lossy.Bars()) {
		t.Error("loss changed what was generated")
	}
}

func TestSwappedPacketsStayWithinTheDistance(t *testing.T) {
	for _, distance := range []int{1, 3, 50} {
		c := Config{Kind: ITCH, Count: 20_000, Channels: 1, Lines: 2}
		number := map[uint64]int{}
		straight := drain(t, source(t, c))
		for _, p := range straight {
			if _, seq, n, _ := mold(t, p.payload); n > 0 && n != moldEndOfSession {
				if _, ok := number[seq]; !ok {
					number[seq] = len(number)
				}
			}
		}
		c.Reorder = distance
		at, moved, far := map[string]int{}, 0, 0
		crooked := drain(t, source(t, c))
		for i, p := range crooked {
			if p.at != straight[i].at {
				t.Fatalf("frame %d is sent at %d, want %d as without swaps", i, p.at, straight[i].at)
			}
			_, seq, n, _ := mold(t, p.payload)
			if n == 0 || n == moldEndOfSession {
				continue
			}
			d := at[p.line] - number[seq]
			at[p.line]++
			if d != 0 {
				moved++
			}
			far = max(far, d, -d)
		}
		if far > distance || far < min(distance, 40) || moved == 0 || len(crooked) != len(straight) {
			t.Errorf("distance %d: %d packets moved, by up to %d; %d frames of %d", distance, moved, far, len(crooked), len(straight))
		}
	}
}

func TestTheDayEndsTheStream(t *testing.T) {
	end := DefaultStart.Add(14*time.Hour + 30*time.Minute) // midnight
	s := source(t, Config{Kind: ITCH, Start: end.Add(-time.Second), Rate: 1000, Keys: 5})
	all := drain(t, s)
	if n := s.Summary().Messages; n != 1000 {
		t.Errorf("%d messages in the last second, want 1000", n)
	}
	if _, seq, count, _ := mold(t, all[len(all)-1].payload); count != moldEndOfSession || seq != 1001 {
		t.Errorf("the last packet is of %d messages, next %d", count, seq)
	}
}

func TestAStreamCanBeEnded(t *testing.T) {
	s := source(t, Config{Kind: ITCH, Lines: 2, Reorder: 9})
	for range 1000 {
		if _, _, ok := s.Next(); !ok {
			t.Fatal("a stream without a count ended")
		}
	}
	s.End()
	rest := drain(t, s)
	_, seq, count, _ := mold(t, rest[len(rest)-1].payload)
	if len(rest) > 2*(9+1+endsOfSession) || count != moldEndOfSession || seq != s.Summary().Messages+1 {
		t.Errorf("%d more frames, the last of count %d, next %d of %d", len(rest), count, seq, s.Summary().Messages)
	}
}

func TestObjectsSayTheSameInEveryForm(t *testing.T) {
	type object struct {
		Type      string `json:"event_type"`
		Driver    uint64 `json:"driver_id"`
		Fare      json.Number
		Timestamp string
		Telemetry struct{ Speed json.Number }
	}
	c := Config{Count: 3000, Rate: 3, Keys: 40, Seed: 9}
	form := func(kind string) []sent {
		c.Kind = kind
		return drain(t, source(t, c))
	}
	asCSV, raw := form(CSV), form(Raw)
	drivers, fares, speeds := map[uint64]bool{}, 0, 0
	for i, p := range form(JSON) {
		var o object
		if err := json.Unmarshal(p.payload, &o); err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339Nano, o.Timestamp)
		if want := DefaultStart + event.Nanos(i)*1e9/3; err != nil || event.Nanos(at.UnixNano()) != want || p.at != want {
			t.Fatalf("record %d is of %s, %v; sent at %d", i, o.Timestamp, err, p.at)
		}
		if line := fmt.Sprintf("%s,%d,%s,%s,%s\n", o.Type, o.Driver, o.Fare, o.Timestamp, o.Telemetry.Speed); string(asCSV[i].payload) != line {
			t.Fatalf("csv has %q, json %q", asCSV[i].payload, line)
		}
		b := raw[i].payload
		u := binary.LittleEndian.Uint64
		speed, _ := o.Telemetry.Speed.Float64()
		fare, _ := o.Fare.Float64()
		if len(b) != 40 || u(b) != o.Driver || int64(u(b[8:])) != int64(math.Round(fare*100)) || int64(u(b[16:])) != int64(p.at) ||
			math.Float64frombits(u(b[24:])) != speed || strings.TrimRight(string(b[32:]), "\x00") != o.Type {
			t.Fatalf("raw has % x, json %s", b, p.payload)
		}
		if p.line != "239.1.1.1:9000" || p.port != uint16(20000+o.Driver%16384) {
			t.Fatalf("record of driver %d to %s from port %d", o.Driver, p.line, p.port)
		}
		drivers[o.Driver] = true
		if o.Fare != "" {
			fares++
		}
		if o.Telemetry.Speed != "" {
			speeds++
		}
	}
	if len(drivers) != 40 || fares < 900 || fares > 1100 || speeds < 2700 || speeds == 3000 {
		t.Errorf("%d drivers, %d fares, %d speeds", len(drivers), fares, speeds)
	}
}

func TestConfigsAreChecked(t *testing.T) {
	for want, c := range map[string]Config{
		`kind "avro"`:   {Kind: "avro"},
		"--keys: 65536": {Kind: ITCH, Keys: 65_536},
		"--keys: -1":    {Kind: JSON, Keys: -1},
		"--rate: -5":    {Kind: JSON, Rate: -5},
		"--start":       {Kind: JSON, Start: -1},
		"--lines: 3":    {Kind: ITCH, Lines: 3},
		"--lines: csv":  {Kind: CSV, Lines: 2},
		"--loss: NaN":   {Kind: CSV, Loss: math.NaN()},
		"--loss: 1.5":   {Kind: CSV, Loss: 1.5},
		"--duplicate":   {Kind: CSV, Duplicate: -0.1},
		"--reorder":     {Kind: CSV, Reorder: -1},
		"--channels: 9": {Kind: ITCH, Channels: 9, Keys: 8},
		"only itch has": {Kind: Raw, Session: "S"},
		"than the 9":    {Kind: ITCH, Session: "ABCDEFGHIJ", Channels: 2},
		"printable":     {Kind: ITCH, Session: "ABC\n"},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}

func command(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := Command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestTheCommandChecksItsFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                                       "itch, json, csv, raw",
		"itch":                                   "--interface or --out",
		"itch -i a -o b":                         "--interface or --out",
		"avro -o x":                              `kind "avro"`,
		"itch -o x --start yesterday":            "--start",
		"itch -o x --start 1066-10-14T09:00:00Z": "1970 to 2105",
		"itch -o x --keys 0":                     "--keys: 0",
		"itch -o x --rate fast":                  "invalid argument",
		"csv -o x --session S":                   "--session",
	} {
		_, _, err := command(t, strings.Fields(args)...)
		var u *usage.Error
		if !errors.As(err, &u) || !strings.Contains(err.Error(), want) {
			t.Errorf("generate %s: %v, want a usage error with %q", args, err, want)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("a wrong command line has made a file")
	}
}

func TestTheCommandWritesTheStreamAsACapture(t *testing.T) {
	dir := t.TempDir()
	plain, packed := filepath.Join(dir, "a.pcap"), filepath.Join(dir, "b.pcap.zst")
	args := []string{"itch", "--count", "5000", "--lines", "2", "--loss", "0.1", "--json", "--out"}
	for _, path := range []string{plain, packed, "-"} {
		stdout, stderr, err := command(t, append(slices.Clone(args), path)...)
		if err != nil || !strings.Contains(stderr, `{"messages":5000,`) {
			t.Fatalf("%s: %v, %q", path, err, stderr)
		}
		if b, _ := os.ReadFile(plain); path == "-" && stdout != string(b) {
			t.Error("standard output holds other bytes than the file")
		}
	}
	s := source(t, Config{Kind: ITCH, Count: 5000, Lines: 2, Loss: 0.1})
	var want []sent
	for _, path := range []string{plain, packed} {
		r, err := capture.Open([]string{path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = drain(t, s)
		}
		n := 0
		var rec capture.Record
		for ; r.Next(&rec) == nil; n++ {
			if rec.Stamp != want[n].at || !bytes.HasSuffix(rec.Data, want[n].payload) {
				t.Fatalf("%s: record %d is not frame %d of the source", path, n, n)
			}
		}
		if n != len(want) {
			t.Errorf("%s: %d records, want %d", path, n, len(want))
		}
		r.Close()
	}
}

func TestAStoppedFileIsWhole(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b bytes.Buffer
	r, err := Run(ctx, Config{Kind: ITCH}, Output{Writer: &b})
	if err != nil || r.Frames < endsOfSession {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Run(t.Context(), Config{Kind: JSON, Count: 100_000}, Output{Writer: failing{}}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer that fails: %v, want its error", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func BenchmarkNext(b *testing.B) {
	for _, c := range []Config{{Kind: ITCH, Keys: 5000, Lines: 2, Loss: 0.001}, {Kind: JSON}, {Kind: Raw}} {
		b.Run("kind="+c.Kind, func(b *testing.B) {
			s := source(b, c)
			b.ReportAllocs()
			for b.Loop() {
				s.Next()
			}
			b.ReportMetric(float64(s.Summary().Messages)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
