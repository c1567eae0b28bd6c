package acceptance

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// feedOf is a config of one feed and one query.
func feedOf(feed, query string) string {
	indent := func(s, by string) string {
		return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by) + "\n"
	}
	return "feeds:\n  f:\n    match: {protocol: udp, destination: 239.1.1.1, port: 9000}\n" + indent(feed, "    ") +
		"queries:\n  q:\n    from: f\n" + indent(query, "    ") + "    sinks: [rows]\nsinks:\n  rows: {jsonl: {path: rows.jsonl}}\n"
}

func instant(tb testing.TB, s string) int64 {
	tb.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		tb.Fatal(err)
	}
	return v.UnixNano()
}

// A want is a row written by hand: window start, key, its canonical bytes, values,
// and errors where values are null.
type want struct{ start, key, canonical, values, errors string }

type byHand struct {
	name        string
	feed, query string
	width       time.Duration
	payloads    []string
	rows        []want
	counts      map[string]uint64
	incomplete  bool // something was dropped that a row could miss
}

func (c *byHand) check(t *testing.T) {
	t.Helper()
	var lines []line
	for _, w := range c.rows {
		start := instant(t, w.start)
		complete := ""
		if c.incomplete {
			complete = "false"
		}
		lines = append(lines, line{
			query: "q", key: w.key, canonical: w.canonical, start: start, end: start + int64(c.width),
			firing: "flush", values: w.values, errors: w.errors, complete: complete,
		})
	}
	expected := text(lines)
	var payloads [][]byte
	for _, p := range c.payloads {
		payloads = append(payloads, []byte(p))
	}
	path := writePcap(t, "hand.pcap", packets(payloads))
	for _, n := range []int{1, 3} {
		r := replay(t, feedOf(c.feed, c.query), append(flag("workers", n), path)...)
		what := fmt.Sprintf("%s, %d workers", c.name, n)
		same(t, what, r.rows, expected)
		r.balance(t, what)
		r.counts(t, c.counts)
		dropped, want := uint64(0), uint64(0)
		for _, n := range r.summary.Drops {
			dropped += n
		}
		for name, n := range c.counts {
			switch name {
			case "messages", "events", "applied", "filtered":
			default:
				want += n
			}
		}
		if dropped != want {
			t.Errorf("%s: drops %v, want %v", what, r.summary.Drops, c.counts)
		}
	}
}

const jsonFeed = `format: json
columns: {name: text, id: int64, price: decimal(2), x: {type: float64, path: deep.x}, big: int64}
time: {column: t, unit: s}`

// seconds makes JSON objects of the second 1.5e9, one a payload.
func seconds(members ...string) []string {
	for i := range members {
		members[i] = `{"t":1500000000,` + members[i] + `}`
	}
	return members
}

const (
	day     = 24 * time.Hour
	someDay = "2017-07-14T00:00:00Z" // of second 1.5e9
)

const perDay = "key: [name]\nwindow: {tumbling: 1d}\nwatermark: {delay: 1h}\n"

var valueCases = []byHand{
	{
		name: "decimals are rounded half-even when they are read", feed: jsonFeed, width: day,
		query: perDay + "select: {sum: sum(price)}",
		payloads: seconds(`"name":"a","price":1.005`, `"name":"b","price":1.015`, `"name":"c","price":-1.005`, `"name":"d","price":-0.005`,
			`"name":"e","price":1.0150000000000000000001`, `"name":"f","price":25e-3`, `"name":"g","price":"12.345"`, `"name":"h","price":1e3`,
			`"name":"i","price":-7`, `"name":"j","price":92233720368547758.07`),
		rows: []want{
			{someDay, `"name":"a"`, "a", `"sum":1.00`, ""},
			{someDay, `"name":"b"`, "b", `"sum":1.02`, ""},
			{someDay, `"name":"c"`, "c", `"sum":-1.00`, ""},
			{someDay, `"name":"d"`, "d", `"sum":0.00`, ""},
			{someDay, `"name":"e"`, "e", `"sum":1.02`, ""},
			{someDay, `"name":"f"`, "f", `"sum":0.02`, ""},
			{someDay, `"name":"g"`, "g", `"sum":12.34`, ""},
			{someDay, `"name":"h"`, "h", `"sum":1000.00`, ""},
			{someDay, `"name":"i"`, "i", `"sum":-7.00`, ""},
			{someDay, `"name":"j"`, "j", `"sum":92233720368547758.07`, ""},
		},
		counts: map[string]uint64{"messages": 10, "events": 10, "applied": 10},
	},
	{
		name: "nulls are skipped, and nothing at all is null", feed: jsonFeed, width: day,
		query: perDay + `select:
  n: count()
  of: count(price)
  sum: sum(price)
  min: min(price)
  max: max(id)
  first: first(price)
  last: last(x)
  mean: mean(price)
  var: variance(price)
  vwap: "vwap(price, id)"
  half: "vwap(price, id) "
  calc: sum(price * id)`,
		payloads: seconds(`"name":"a","price":null`, `"name":"a"`, `"name":"b","price":2.50,"id":null`, `"name":"b","price":1.25,"id":3`),
		rows: []want{
			{
				someDay, `"name":"a"`, "a",
				`"n":2,"of":0,"sum":null,"min":null,"max":null,"first":null,"last":null,"mean":null,"var":null,"vwap":null,"half":null,"calc":null`,
				`"sum":"empty","min":"empty","max":"empty","first":"empty","last":"empty","mean":"empty","var":"empty","vwap":"empty","half":"empty","calc":"empty"`,
			},
			{
				// mean 1.875; deviations ±0.625, so variance 0.390625; first: of equal times the least value, since arrival orders nothing
				someDay, `"name":"b"`, "b",
				`"n":2,"of":2,"sum":3.75,"min":1.25,"max":3,"first":1.25,"last":null,"mean":1.87500000,"var":0.390625,"vwap":1.25000000,"half":1.25000000,"calc":3.75`,
				`"last":"empty"`,
			},
		},
		counts: map[string]uint64{"messages": 4, "applied": 4},
	},
	{
		name: "a null key is dropped and counted, a null in where is not true", feed: jsonFeed, width: day,
		query: "key: [name, id]\nwindow: {tumbling: 1d}\nwhere: price > 1 or x < 0\nselect: {n: count()}",
		payloads: seconds(`"name":"a","id":1,"price":2`, `"name":"a","id":1,"price":1`, `"name":"a","id":1`, `"name":"a","price":2`, `"id":1,"price":2`,
			`"name":"a","id":1,"deep":{"x":-1}`, `"name":null,"id":null,"price":0`, `"name":"","id":1,"price":9`),
		rows: []want{
			{someDay, `"name":"","id":1`, composite("", canonicalInt(1)), `"n":1`, ""},
			{someDay, `"name":"a","id":1`, composite("a", canonicalInt(1)), `"n":2`, ""},
		},
		counts: map[string]uint64{"messages": 8, "applied": 3, "filtered": 3, "null_key": 2},
	},
	{
		name: "sums have 128 bits, and an overflow is null with its reason", feed: jsonFeed, width: day,
		query: perDay + `select: {sum: sum(big), square: sum(big * big), cube: sum(big * big * big), next: max(big + 1), less: min(big - 1), neg: sum(-big), mean: mean(big)}`,
		payloads: seconds(`"name":"a","big":9223372036854775807`, `"name":"a","big":9223372036854775807`, `"name":"b","big":9223372036854775807`,
			`"name":"b","big":9223372036854775807`, `"name":"b","big":9223372036854775807`, `"name":"c","big":-9223372036854775808`),
		rows: []want{
			{
				someDay, `"name":"a"`, "a",
				`"sum":18446744073709551614,"square":170141183460469231694793815568465002498,"cube":null,"next":null,"less":9223372036854775806,"neg":-18446744073709551614,"mean":9223372036854775807.00000000`,
				`"cube":"overflow","next":"overflow"`,
			},
			{
				someDay, `"name":"b"`, "b",
				`"sum":27670116110564327421,"square":null,"cube":null,"next":null,"less":9223372036854775806,"neg":-27670116110564327421,"mean":9223372036854775807.00000000`,
				`"square":"overflow","cube":"overflow","next":"overflow"`,
			},
			{
				someDay, `"name":"c"`, "c",
				`"sum":-9223372036854775808,"square":85070591730234615865843651857942052864,"cube":null,"next":-9223372036854775807,"less":null,"neg":9223372036854775808,"mean":-9223372036854775808.00000000`,
				`"cube":"overflow","less":"overflow"`,
			},
		},
		counts: map[string]uint64{"messages": 6, "applied": 6},
	},
	{
		name: "floats are exact to the last bit, shortest, without −0", feed: jsonFeed, width: day,
		query: perDay + `select: {sum: sum(x), min: min(x), max: max(x), mean: mean(x), var: variance(x), first: first(x)}`,
		payloads: seconds(`"name":"a","deep":{"x":1e16}`, `"name":"a","deep":{"x":1}`, `"name":"a","deep":{"x":-1e16}`,
			`"name":"b","deep":{"x":0.1}`, `"name":"b","deep":{"x":0.2}`, `"name":"c","deep":{"x":-0.0}`, `"name":"d","deep":{"x":1e21}`,
			`"name":"e","deep":{"x":1.5e-7}`, `"name":"f","deep":{"x":123456789012345680000}`, `"name":"g","deep":{"x":5e-324}`,
			`"name":"h","deep":{"x":1.7976931348623157e308}`, `"name":"h","deep":{"x":1.7976931348623157e308}`),
		rows: []want{
			// Variance of 1e16, 1, -1e16: (2e32+1)/3 - 1/9, which is 6.666…e31 in double.
			{someDay, `"name":"a"`, "a", `"sum":1,"min":-10000000000000000,"max":10000000000000000,"mean":0.3333333333333333,"var":6.666666666666667e+31,"first":-10000000000000000`, ""},
			{someDay, `"name":"b"`, "b", `"sum":0.30000000000000004,"min":0.1,"max":0.2,"mean":0.15000000000000002,"var":0.0025000000000000005,"first":0.1`, ""},
			{someDay, `"name":"c"`, "c", `"sum":0,"min":0,"max":0,"mean":0,"var":0,"first":0`, ""},
			{someDay, `"name":"d"`, "d", `"sum":1e+21,"min":1e+21,"max":1e+21,"mean":1e+21,"var":0,"first":1e+21`, ""},
			{someDay, `"name":"e"`, "e", `"sum":1.5e-7,"min":1.5e-7,"max":1.5e-7,"mean":1.5e-7,"var":0,"first":1.5e-7`, ""},
			{someDay, `"name":"f"`, "f", `"sum":123456789012345680000,"min":123456789012345680000,"max":123456789012345680000,"mean":123456789012345680000,"var":0,"first":123456789012345680000`, ""},
			{someDay, `"name":"g"`, "g", `"sum":5e-324,"min":5e-324,"max":5e-324,"mean":5e-324,"var":0,"first":5e-324`, ""},
			{someDay, `"name":"h"`, "h", `"sum":null,"min":1.7976931348623157e+308,"max":1.7976931348623157e+308,"mean":1.7976931348623157e+308,"var":0,"first":1.7976931348623157e+308`, `"sum":"overflow"`},
		},
		counts: map[string]uint64{"messages": 12, "applied": 12},
	},
	{
		name: "what is not finite, no number or no JSON is counted", feed: jsonFeed, width: day, incomplete: true,
		query: perDay + `select: {n: count(), sum: sum(x), p: sum(price), i: sum(id)}`,
		payloads: append(seconds(`"name":"a","deep":{"x":NaN}`, `"name":"a","deep":{"x":-Infinity}`, `"name":"a","deep":{"x":1e400}`, `"name":"a","deep":{"x":2}`,
			`"name":"a","price":"dear"`, `"name":"a","id":1.5`, `"name":"a","id":9223372036854775808`, `"name":"a","price":true`, `"name":7`,
			`"name":"`+strings.Repeat("x", 65)+`"`, `"name":"a","id":4.0,"id":5`),
			`{"name":"a"}`, `{"t":"soon","name":"a"}`, `{"t":null,"name":"a"}`, `{"t":1500000000,"name":"a"`, `not json`, `{"t":1500000000,"name":"a"}{}`,
			strings.Repeat(`{"deep":`, 200)+"1"+strings.Repeat("}", 200)),
		rows:   []want{{someDay, `"name":"a"`, "a", `"n":2,"sum":2,"p":null,"i":5`, `"p":"empty"`}},
		counts: map[string]uint64{"messages": 18, "applied": 2, "not_finite": 3, "bad_value": 5, "too_long": 1, "no_time": 3, "syntax": 3, "depth": 1},
	},
	{
		name: "key text is written as JSON, whatever is in it", feed: jsonFeed, width: day,
		query: perDay + "select: {n: count()}",
		payloads: seconds(`"name":"say \"hi\"\\\n\t\u0001\/"`, `"name":"\u00e9\ud83d\ude00"`, `"name":"é😀"`, `"name":" padded "`, `"name":"\u0000"`,
			`"name":"\u2028<&>\u007f"`),
		rows: []want{
			{someDay, `"name":"\u0000"`, "\x00", `"n":1`, ""},
			{someDay, `"name":" padded "`, " padded ", `"n":1`, ""},
			{someDay, `"name":"say \"hi\"\\\n\t\u0001/"`, "say \"hi\"\\\n\t\x01/", `"n":1`, ""},
			{someDay, `"name":"é😀"`, "é😀", `"n":2`, ""},
			{someDay, "\"name\":\"\u2028<&>\u007f\"", "\u2028<&>\u007f", `"n":1`, ""},
		},
		counts: map[string]uint64{"messages": 6, "applied": 6},
	},
	{
		name: "keys of several columns, in the order of the list and of their canonical form", feed: jsonFeed, width: day,
		query: "key: [id, price, name]\nwindow: {tumbling: 1d}\nselect: {n: count()}",
		payloads: seconds(`"name":"b","id":1,"price":1`, `"name":"a","id":-1,"price":1`, `"name":"ab","id":1,"price":-1.5`, `"name":"a","id":1,"price":1`,
			`"name":"ab","id":1,"price":1`, `"name":"a","id":256,"price":1`),
		rows: []want{
			{someDay, `"id":-1,"price":1.00,"name":"a"`, composite(canonicalInt(-1), "\x02"+canonicalInt(100), "a"), `"n":1`, ""},
			{someDay, `"id":1,"price":-1.50,"name":"ab"`, composite(canonicalInt(1), "\x02"+canonicalInt(-150), "ab"), `"n":1`, ""},
			{someDay, `"id":1,"price":1.00,"name":"a"`, composite(canonicalInt(1), "\x02"+canonicalInt(100), "a"), `"n":1`, ""},
			{someDay, `"id":1,"price":1.00,"name":"b"`, composite(canonicalInt(1), "\x02"+canonicalInt(100), "b"), `"n":1`, ""},
			{someDay, `"id":1,"price":1.00,"name":"ab"`, composite(canonicalInt(1), "\x02"+canonicalInt(100), "ab"), `"n":1`, ""},
			{someDay, `"id":256,"price":1.00,"name":"a"`, composite(canonicalInt(256), "\x02"+canonicalInt(100), "a"), `"n":1`, ""},
		},
		counts: map[string]uint64{"messages": 6, "applied": 6},
	},
	{
		name: "means and vwap are rounded half-even to eight digits", feed: jsonFeed, width: day,
		query: perDay + `select: {mean: mean(id), vwap: "vwap(price, id)", ratio: sum(price / id)}`,
		payloads: seconds(
			`"name":"a","id":1,"price":0`, `"name":"a","id":2,"price":0`, `"name":"a","id":2,"price":0`, // mean 5/3
			`"name":"b","id":511,"price":0`, `"name":"b","id":1,"price":1`, // 1/512 = 0.001953125
			`"name":"c","id":509,"price":0`, `"name":"c","id":3,"price":1`, // 3/512 = 0.005859375
			`"name":"d","id":-509,"price":0`, `"name":"d","id":-3,"price":-1`, // 3/-512
			`"name":"e","id":0,"price":1`,
			`"name":"f","id":-2,"price":3.33`, `"name":"f","id":2,"price":1`),
		rows: []want{
			{someDay, `"name":"a"`, "a", `"mean":1.66666667,"vwap":0.00000000,"ratio":0`, ""},
			{someDay, `"name":"b"`, "b", `"mean":256.00000000,"vwap":0.00195312,"ratio":1`, ""},
			{someDay, `"name":"c"`, "c", `"mean":256.00000000,"vwap":0.00585938,"ratio":0.3333333333333333`, ""},
			{someDay, `"name":"d"`, "d", `"mean":-256.00000000,"vwap":-0.00585938,"ratio":0.3333333333333333`, ""},
			{someDay, `"name":"e"`, "e", `"mean":0.00000000,"vwap":null,"ratio":null`, `"vwap":"zero_volume","ratio":"empty"`},
			{someDay, `"name":"f"`, "f", `"mean":0.00000000,"vwap":null,"ratio":-1.165`, `"vwap":"zero_volume"`},
		},
		counts: map[string]uint64{"messages": 12, "applied": 12},
	},
	{
		name: "windows with an offset, before 1970, of fractions of a second", width: 2500 * time.Millisecond,
		feed:  "format: json\ncolumns: {k: int64}\ntime: {column: when, unit: rfc3339}",
		query: "key: [k]\nwindow: {tumbling: 2500ms, offset: 300ms}\nwatermark: {delay: 1m}\nselect: {n: count()}",
		payloads: []string{
			// Windows begin at 0.3 + 2.5n seconds.
			`{"when":"1970-01-01T00:00:00.3Z","k":-1}`, `{"when":"1970-01-01T00:00:00.299999999Z","k":-1}`, `{"when":"1969-12-31T23:59:57.8Z","k":-1}`,
			`{"when":"1969-12-31T23:59:57.799999999Z","k":-1}`, `{"when":"1970-01-01T01:00:02.8+01:00","k":-1}`,
		},
		rows: []want{
			{"1969-12-31T23:59:55.3Z", `"k":-1`, canonicalInt(-1), `"n":1`, ""},
			{"1969-12-31T23:59:57.8Z", `"k":-1`, canonicalInt(-1), `"n":2`, ""},
			{"1970-01-01T00:00:00.3Z", `"k":-1`, canonicalInt(-1), `"n":1`, ""},
			{"1970-01-01T00:00:02.8Z", `"k":-1`, canonicalInt(-1), `"n":1`, ""},
		},
		counts: map[string]uint64{"messages": 5, "applied": 5},
	},
	{
		name: "csv: quotes, empty fields, bytes that are no UTF-8", width: time.Minute, incomplete: true,
		feed:  "format: {csv: {delimiter: \";\"}}\ncolumns:\n  key: text\n  n: int64\n  at: int64\n  price: {type: decimal(3), index: 4}\n  x: {type: float64, index: 3}\ntime: {column: at, unit: ms}",
		query: "key: [key]\nwindow: {tumbling: 1m}\nwatermark: {delay: 1m}\nselect: {c: count(), n: sum(n), p: sum(price), x: sum(x)}",
		payloads: []string{
			"a;1;60000.5;2.5;1.2345\r\n\"say \"\"hi;\"\"\";2;61000\na;;62000;;\n;9;62000\n",
			"\xff\xfe;1;63000;;0.0005\n\xff\xfd;1;63000;;0.0015\n caf\xc3\xa9 ;-9223372036854775808;119999.999999",
			"a;x;60000\nb\"c;1;60000\na;1;never\na;1;60000;inf\na;1;60000;-NaN\nkey;n;at;x;price",
		},
		rows: []want{
			{"1970-01-01T00:01:00Z", "\"key\":\" café \"", " café ", `"c":1,"n":-9223372036854775808,"p":null,"x":null`, `"p":"empty","x":"empty"`},
			{"1970-01-01T00:01:00Z", `"key":"a"`, "a", `"c":2,"n":1,"p":1.234,"x":2.5`, ""},
			{"1970-01-01T00:01:00Z", `"key":"say \"hi;\""`, `say "hi;"`, `"c":1,"n":2,"p":null,"x":null`, `"p":"empty","x":"empty"`},
			{"1970-01-01T00:01:00Z", "\"key\":\"\ufffd\ufffd\"", "\xff\xfd", `"c":1,"n":1,"p":0.002,"x":null`, `"x":"empty"`},
			{"1970-01-01T00:01:00Z", "\"key\":\"\ufffd\ufffd\"", "\xff\xfe", `"c":1,"n":1,"p":0.000,"x":null`, `"x":"empty"`},
		},
		counts: map[string]uint64{"messages": 13, "applied": 6, "null_key": 1, "bad_value": 1, "syntax": 1, "no_time": 2, "not_finite": 2},
	},
}

func TestValuesWrittenByHand(t *testing.T) {
	for i := range valueCases {
		valueCases[i].check(t)
	}
}

// Fixed layouts in either byte order, several records a packet, a rest that is none.
func TestRawWrittenByHand(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		name := "little"
		if order == binary.AppendByteOrder(binary.BigEndian) {
			name = "big"
		}
		rec := func(sec int64, tiny int8, short int16, word int32, cents int64, f float32, d float64, text string) string {
			b := order.AppendUint64(nil, uint64(sec))
			b = append(b, byte(tiny))
			b = order.AppendUint16(b, uint16(short))
			b = order.AppendUint32(b, uint32(word))
			b = order.AppendUint64(b, uint64(cents))
			b = order.AppendUint32(b, math.Float32bits(f))
			b = order.AppendUint64(b, math.Float64bits(d))
			return string(append(b, text...))
		}
		c := byHand{
			name: name, width: time.Hour, incomplete: true,
			feed: "format: {raw: {order: " + name + ", stride: 40}}\ncolumns:\n  tiny: {type: int64, offset: 8, width: 1}\n  short: {type: int64, offset: 9, width: 2}\n" +
				"  word: {type: int64, offset: 11, width: 4}\n  cents: {type: decimal(2), offset: 15}\n  f: {type: float64, offset: 23, width: 4}\n  d: {type: float64, offset: 27}\n" +
				"  text: {type: text, offset: 35, width: 5}\n  at: {type: int64, offset: 0}\ntime: {column: at, unit: s}",
			query: "key: [text]\nwindow: {tumbling: 1h}\nwatermark: {delay: 1h}\nselect: {n: count(), tiny: sum(tiny), short: min(short), word: max(word), cents: sum(cents), f: sum(f), d: sum(d), m: min(d)}",
			payloads: []string{
				rec(-3600, -128, -2, math.MinInt32, -7, 0.1, 1e300, "AB \x00 ") + rec(-1, 127, 32767, math.MaxInt32, 1, 2.5, -1e300, "AB\x00\x00\x00") + "rest",
				rec(0, 1, 1, 1, 1, float32(math.NaN()), 0, "AB   ") + rec(0, 1, 1, 1, 1, 0, math.Inf(-1), "AB   "),
				rec(0, -1, -1, -1, math.MinInt64, 0, math.Copysign(0, -1), "     "),
				"short",
			},
			rows: []want{
				// 0.1 as a float32 is 0.10000000149011612; with 2.5 that is 2.600000001490116
				{"1969-12-31T23:00:00Z", `"text":"AB"`, "AB", `"n":2,"tiny":-1,"short":-2,"word":2147483647,"cents":-0.06,"f":2.600000001490116,"d":0,"m":-1e+300`, ""},
				{"1970-01-01T00:00:00Z", `"text":""`, "", `"n":1,"tiny":-1,"short":-1,"word":-1,"cents":-92233720368547758.08,"f":0,"d":0,"m":0`, ""},
			},
			counts: map[string]uint64{"applied": 3, "not_finite": 2, "bad_message": 2, "messages": 7},
		}
		c.check(t)
	}
}
