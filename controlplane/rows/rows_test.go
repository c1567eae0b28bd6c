package rows

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// fakeValues has one word a value: 0 is an overflow, 1 panics, others are numbers.
type fakeValues int

func (v fakeValues) Words() int { return int(v) }

func (v fakeValues) AppendJSON(dst []byte, i int, state []uint64) ([]byte, string) {
	switch state[i] {
	case 0:
		return append(dst, "rubbish"...), "overflow"
	case 1:
		panic("a state that cannot be")
	}
	return strconv.AppendUint(dst, state[i], 10), ""
}

// testPlan has a query for each shape of key.
func testPlan() *plan.Plan {
	columns := []plan.Column{
		{Name: "symbol", Type: event.Text}, {Name: "id", Type: event.Int64}, {Name: "price", Type: event.Decimal, Scale: 4}, {Name: "x", Type: event.Float64},
	}
	two := []plan.Aggregate{{Name: "open", Kind: plan.First}, {Name: "volume", Kind: plan.Sum}}
	return &plan.Plan{
		Workers: 2,
		Feeds:   []plan.Feed{{Name: "f", Columns: columns}},
		Streams: []plan.Stream{{Key: []int{0}}, {Key: []int{1}}, {Key: []int{2}}, {Key: []int{0, 1, 2}}, {Key: nil}},
		Queries: []plan.Query{
			{Name: "bars", Stream: 0, Aggregates: two},
			{Name: "ids", Stream: 1, Aggregates: two},
			{Name: "a", Stream: 2, Aggregates: two},
			{Name: "three", Stream: 3, Aggregates: two},
			{Name: "all", Stream: 4, Aggregates: two},
		},
	}
}

func testFormer() *Former {
	return New(testPlan(), []Values{fakeValues(2), fakeValues(2), fakeValues(2), fakeValues(2), fakeValues(2)})
}

func partial(query uint16, key string, state ...uint64) *outbox.Partial {
	return &outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: query, Key: []byte(key), State: state, Start: 1493132700e9, End: 1493132760e9}
}

func several(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = append(b, byte(len(p)>>8), byte(len(p)))
		b = append(b, p...)
	}
	return string(b)
}

func i64(v int64) string          { return string(event.AppendInt64(nil, v)) }
func dec(v int64, s uint8) string { return string(event.AppendDecimal(nil, v, s)) }

func TestARowIsTheseBytes(t *testing.T) {
	for _, c := range []struct {
		name   string
		part   *outbox.Partial
		change func(p *outbox.Partial)
		want   string
	}{
		{
			"a text key of a sequenced feed", partial(0, "MSFT", 36, 14196), func(p *outbox.Partial) { p.Flags = outbox.FlagSequenced },
			`{"query":"bars","key":{"symbol":"MSFT"},"window_start":"2017-04-25T15:05:00Z","window_end":"2017-04-25T15:06:00Z","firing":"on_time","revision":0,"values":{"open":36,"volume":14196},"completeness":{"complete":true,"missing":0},"row_id":"ROWID"}`,
		},
		{
			"a value that overflowed, flushed, with decimals in its times", partial(1, i64(-5), 7, 0),
			func(p *outbox.Partial) {
				p.Firing, p.Revision, p.Start, p.End = outbox.Flush, 3, 1500000000, 2000000001
			},
			`{"query":"ids","key":{"id":-5},"window_start":"1970-01-01T00:00:01.5Z","window_end":"1970-01-01T00:00:02.000000001Z","firing":"flush","revision":3,"values":{"open":7,"volume":null},"errors":{"volume":"overflow"},"completeness":{"complete":null,"missing":0},"row_id":"ROWID"}`,
		},
		{
			"two nulls, and messages missing", partial(2, dec(-367000, 4), 0, 0), func(p *outbox.Partial) { p.Missing, p.Flags = 12, outbox.FlagSequenced },
			`{"query":"a","key":{"price":-36.7000},"window_start":"2017-04-25T15:05:00Z","window_end":"2017-04-25T15:06:00Z","firing":"on_time","revision":0,"values":{"open":null,"volume":null},"errors":{"open":"overflow","volume":"overflow"},"completeness":{"complete":false,"missing":12},"row_id":"ROWID"}`,
		},
		{
			"three key columns, and a limit that hit", partial(3, several("a\"b", i64(9), dec(5, 4)), 2, 3), func(p *outbox.Partial) { p.Flags = outbox.FlagIncomplete },
			`{"query":"three","key":{"symbol":"a\"b","id":9,"price":0.0005},"window_start":"2017-04-25T15:05:00Z","window_end":"2017-04-25T15:06:00Z","firing":"on_time","revision":0,"values":{"open":2,"volume":3},"completeness":{"complete":false,"missing":0},"row_id":"ROWID"}`,
		},
		{
			"no key at all", partial(4, "", 2, 3), func(*outbox.Partial) {},
			`{"query":"all","key":{},"window_start":"2017-04-25T15:05:00Z","window_end":"2017-04-25T15:06:00Z","firing":"on_time","revision":0,"values":{"open":2,"volume":3},"completeness":{"complete":null,"missing":0},"row_id":"ROWID"}`,
		},
	} {
		c.change(c.part)
		got, err := testFormer().Append([]byte("before\n"), c.part)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		row := strings.TrimPrefix(string(got), "before\n")
		if !json.Valid([]byte(row)) {
			t.Errorf("%s: not JSON: %s", c.name, row)
		}
		at := strings.Index(row, `"row_id":"`) + len(`"row_id":"`)
		if id := row[at : at+32]; row != strings.Replace(c.want, "ROWID", id, 1)+"\n" {
			t.Errorf("%s:\n got %swant %s", c.name, row, c.want)
		}
	}
}

const (
	window = `"window_start":"2017-04-25T15:05:00Z","window_end":"2017-04-25T15:06:00Z"`
	opened = `"firing":"on_time","revision":0,"values":{"open":36,"volume":14196}`
)

func TestARowOfAGroupSaysWhoseItIs(t *testing.T) {
	p := testPlan()
	p.Group = &plan.Group{Me: "a", Peers: []string{"a", "b", "c"}}
	f := New(p, []Values{fakeValues(2), fakeValues(2), fakeValues(2), fakeValues(2), fakeValues(2)})
	all, two := []string{"a", "b", "c"}, []string{"a", "c"}
	for _, c := range []struct {
		name    string
		global  *GroupInfo
		flags   uint8
		missing uint64
		want    string
	}{
		{"of this box alone", nil, outbox.FlagSequenced, 0, `{"query":"bars","scope":"local:a","key":{"symbol":"MSFT"},` + window + `,` + opened + `,"completeness":{"complete":true,"missing":0},"row_id":"ROWID"}`},
		{"of everybody, sequenced", &GroupInfo{all, all, 7}, outbox.FlagSequenced, 0, `{"query":"bars","scope":"global","key":{"symbol":"MSFT"},` + window + `,` + opened + `,"completeness":{"complete":true,"missing":0,"merged":["a","b","c"],"known":["a","b","c"],"epoch":7},"row_id":"ROWID"}`},
		{"of everybody, not sequenced", &GroupInfo{all, all, 1<<64 - 1}, 0, 0, `{"query":"bars","scope":"global","key":{"symbol":"MSFT"},` + window + `,` + opened + `,"completeness":{"complete":null,"missing":0,"merged":["a","b","c"],"known":["a","b","c"],"epoch":18446744073709551615},"row_id":"ROWID"}`},
		{"without b", &GroupInfo{two, all, 8}, outbox.FlagSequenced, 0, `{"query":"bars","scope":"global","key":{"symbol":"MSFT"},` + window + `,` + opened + `,"completeness":{"complete":false,"missing":0,"merged":["a","c"],"known":["a","b","c"],"epoch":8},"row_id":"ROWID"}`},
		{"of everybody, with messages missing", &GroupInfo{all, all, 7}, outbox.FlagSequenced, 3, `{"query":"bars","scope":"global","key":{"symbol":"MSFT"},` + window + `,` + opened + `,"completeness":{"complete":false,"missing":3,"merged":["a","b","c"],"known":["a","b","c"],"epoch":7},"row_id":"ROWID"}`},
		{"of everybody, one of whom lost something", &GroupInfo{all, all, 7}, outbox.FlagIncomplete, 0, `{"query":"bars","scope":"global","key":{"symbol":"MSFT"},` + window + `,` + opened + `,"completeness":{"complete":false,"missing":0,"merged":["a","b","c"],"known":["a","b","c"],"epoch":7},"row_id":"ROWID"}`},
	} {
		part := partial(0, "MSFT", 36, 14196)
		part.Flags, part.Missing = c.flags, c.missing
		add := f.Append
		if c.global != nil {
			add = func(dst []byte, p *outbox.Partial) ([]byte, error) { return f.AppendGlobal(dst, p, c.global) }
		}
		got, err := add(nil, part)
		if err != nil || !json.Valid(got) {
			t.Errorf("%s: %s, %v", c.name, got, err)
			continue
		}
		scope := GlobalScope
		if c.global == nil {
			scope = "local:a"
		}
		q := query{name: "bars"}
		if want := strings.Replace(c.want, "ROWID", string(q.appendID(nil, scope, part)), 1) + "\n"; string(got) != want {
			t.Errorf("%s:\n got %swant %s", c.name, got, want)
		}
		if again, err := add([]byte("x"), partial(0, "MSFT", 1)); !errors.Is(err, ErrBadPartial) || string(again) != "x" {
			t.Errorf("%s: of too few words: %q, %v", c.name, again, err)
		}
	}
}

// The vectors are made by testdata/row_id.py.
func TestRowIDsAreTheVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/row_id.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Scope, Query, Key string
		Start, End        event.Nanos
		RowID             string `json:"row_id"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		key, err := hex.DecodeString(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		q := query{name: v.Query}
		if got := string(q.appendID(nil, v.Scope, &outbox.Partial{Key: key, Start: v.Start, End: v.End})); got != v.RowID {
			t.Errorf("%s %s %s: row_id %s, want %s", v.Scope, v.Query, v.Key, got, v.RowID)
		}
	}
	if len(vectors) < 36 {
		t.Errorf("%d vectors", len(vectors))
	}
}

func TestAPartialThatCannotBeIsAnErrorAndLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		part *outbox.Partial
	}{
		{"a query that the plan lacks", partial(9, "", 2, 2)},
		{"a mark", &outbox.Partial{Kind: outbox.KindDone}},
		{"too few state words", partial(0, "a", 2)},
		{"an integer key of 7 bytes", partial(1, "1234567", 2, 2)},
		{"a decimal key of another scale", partial(2, dec(1, 3), 2, 2)},
		{"a text longer than texts are", partial(0, strings.Repeat("x", 65), 2, 2)},
		{"a key that ends within a column", partial(3, several("a", i64(1))+"\x00\x09", 2, 2)},
		{"a key with a column too few", partial(3, several("a", i64(1)), 2, 2)},
		{"a key with a column too many", partial(3, several("a", i64(1), dec(1, 4), "b"), 2, 2)},
		{"a state over which the aggregate stumbles", partial(0, "a", 1, 2)},
		{"no firing", func() *outbox.Partial { p := partial(0, "a", 2, 2); p.Firing = 0; return p }()},
	} {
		got, err := testFormer().Append([]byte("x"), c.part)
		if !errors.Is(err, ErrBadPartial) || string(got) != "x" {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestStringsAreJSONAndKeepWhatIsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		var got string
		out := AppendString(nil, s)
		if err := json.Unmarshal(out, &got); err != nil || !utf8.Valid(out) {
			t.Fatalf("%q: %s: %v", s, out, err)
		}
		if want := strings.ToValidUTF8(string(s), "\x00"); utf8.Valid(s) && got != want {
			t.Fatalf("%q came back as %q", s, got)
		}
		var twin string // what encoding/json makes of the same bytes
		b, err := json.Marshal(string(s))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &twin); err != nil || got != twin {
			t.Fatalf("%q came back as %q, want %q", s, got, twin)
		}
	})
}

func TestDecimalsHaveExactlyTheirDigits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, scale := rapid.Int64().Draw(t, "v"), rapid.Uint8Range(0, event.ScaleMax).Draw(t, "scale")
		got := string(AppendDecimal(nil, v, scale))
		ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)
		if want := new(big.Rat).SetFrac(big.NewInt(v), ten).FloatString(int(scale)); got != want {
			t.Fatalf("%d·10^-%d = %s, want %s", v, scale, got, want)
		}
	})
}

func TestTimesReadBackAsThemselves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64().Draw(t, "nanos")
		text := string(appendTime(nil, event.Nanos(n)))
		back, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || back.UnixNano() != n || !strings.HasSuffix(text, "Z") {
			t.Fatalf("%d: %s: %v", n, text, err)
		}
	})
}

func TestFormingARowDoesNotAllocate(t *testing.T) {
	f, p, dst := testFormer(), partial(3, several("MSFT", i64(9), dec(5, 4)), 2, 0), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := f.Append(dst[:0], p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	g := &GroupInfo{Merged: []string{"a", "a-box-with-a-name-of-32-letters-"}, Known: []string{"a", "a-box-with-a-name-of-32-letters-"}, Epoch: 1}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := f.AppendGlobal(dst[:0], p, g); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations of a global row", n)
	}
}

type held struct {
	part outbox.Partial
	row  string
}

// The sorter's output is the stable sort of its input, whatever the workers say
// and when, as long as what they say is true.
func TestTheSorterGivesWhatSortingEverythingGives(t *testing.T) {
	p := testPlan()
	rapid.Check(t, func(t *rapid.T) {
		s := NewSorter(p)
		var all []held
		var got []string
		give := func(_ uint16, row []byte) error { got = append(got, string(row)); return nil }
		through := map[[2]int]event.Nanos{}
		for i := range rapid.IntRange(0, 200).Draw(t, "steps") {
			w, q := rapid.IntRange(0, 1).Draw(t, "worker"), rapid.IntRange(0, 4).Draw(t, "query")
			at := through[[2]int{w, q}]
			if rapid.Bool().Draw(t, "mark") {
				at += event.Nanos(rapid.IntRange(0, 3).Draw(t, "advance"))
				through[[2]int{w, q}] = at
				s.Done(w, uint16(q), at)
			} else {
				end := at + event.Nanos(rapid.IntRange(1, 5).Draw(t, "end"))
				part := outbox.Partial{Kind: outbox.KindPartial, Query: uint16(q), End: end, Start: end - 1, Key: []byte(rapid.StringMatching(`[a-c]{0,2}`).Draw(t, "key")), Revision: uint32(i)}
				h := held{part, fmt.Sprint(i)}
				all = append(all, h)
				if err := s.Add(&part, []byte(h.row)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Flush(give); err != nil {
				t.Fatal(err)
			}
		}
		s.Finished(0)
		s.Finished(1)
		if err := s.Flush(give); err != nil {
			t.Fatal(err)
		}
		sort.SliceStable(all, func(i, j int) bool {
			a, b := &all[i].part, &all[j].part
			if a.End != b.End {
				return a.End < b.End
			}
			if x, y := p.Queries[a.Query].Name, p.Queries[b.Query].Name; x != y {
				return x < y
			}
			return bytes.Compare(a.Key, b.Key) < 0
		})
		var want []string
		for _, h := range all {
			want = append(want, h.row)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		if rows, size := s.Held(); rows != 0 || size != 0 {
			t.Fatalf("%d rows are still held", rows)
		}
	})
}

func TestTheSorterGivesAWindowAsSoonAsAllAreDoneWithIt(t *testing.T) {
	s := NewSorter(testPlan())
	part := partial(0, "a")
	if err := s.Add(part, []byte("row")); err != nil {
		t.Fatal(err)
	}
	given := 0
	flush := func() {
		t.Helper()
		if err := s.Flush(func(uint16, []byte) error { given++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for w := range 2 {
		for q := range uint16(5) {
			flush()
			if given != 0 {
				t.Fatalf("given before worker %d was done with query %d", w, q)
			}
			s.Done(w, q, part.End)
		}
	}
	flush()
	if given != 1 {
		t.Errorf("%d rows given, want 1", given)
	}
	if err := s.Add(part, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a row after its window: %v, want %v", err, ErrClosed)
	}
}

// FuzzAppend checks that no key and no state makes anything but an error or one
// line of JSON.
func FuzzAppend(f *testing.F) {
	f.Add(uint16(0), []byte("MSFT"), uint64(2))
	f.Add(uint16(3), []byte(several("x", i64(1), dec(2, 4))), uint64(0))
	former := testFormer()
	f.Fuzz(func(t *testing.T, q uint16, key []byte, state uint64) {
		row, err := former.Append(nil, partial(q, string(key), state, 5))
		if err != nil {
			if len(row) != 0 {
				t.Errorf("an error and %q", row)
			}
			return
		}
		if !json.Valid(row) || bytes.Count(row, []byte("\n")) != 1 || !utf8.Valid(row) {
			t.Errorf("%q", row)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	f, p, dst := testFormer(), partial(0, "MSFT", 2, 3), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Append(dst[:0], p); err != nil {
			b.Fatal(err)
		}
	}
}
