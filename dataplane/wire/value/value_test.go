package value

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

func TestInt(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64
		drop event.Drop
	}{
		{"0", 0, event.Kept},
		{"-0", 0, event.Kept},
		{"007", 7, event.Kept},
		{"+5", 5, event.Kept},
		{"1.0", 1, event.Kept},
		{"1e3", 1000, event.Kept},
		{"25e-1", 0, event.DropBadValue},
		{"250e-1", 25, event.Kept},
		{"0e999999999999999999999", 0, event.Kept},
		{"1e-999999999999999999999", 0, event.DropBadValue},
		{"1e999999999999999999999", 0, event.DropBadValue},
		{"9223372036854775807", math.MaxInt64, event.Kept},
		{"9223372036854775808", 0, event.DropBadValue},
		{"-9223372036854775808", math.MinInt64, event.Kept},
		{"-9223372036854775809", 0, event.DropBadValue},
		{"", 0, event.DropBadValue},
		{"-", 0, event.DropBadValue},
		{".", 0, event.DropBadValue},
		{"1.2.3", 0, event.DropBadValue},
		{"1e", 0, event.DropBadValue},
		{"1e+", 0, event.DropBadValue},
		{" 1", 0, event.DropBadValue},
		{"0x10", 0, event.DropBadValue},
		{"1_000", 0, event.DropBadValue},
		{"NaN", 0, event.DropNotFinite},
		{"-inf", 0, event.DropNotFinite},
		{strings.Repeat("0", NumberMax) + "1", 0, event.DropTooLong},
	} {
		if got, drop := Int([]byte(c.in)); got != c.want || drop != c.drop {
			t.Errorf("Int(%q) = %d, %v, want %d, %v", c.in, got, drop, c.want, c.drop)
		}
	}
}

func TestDecimalRoundsHalfEven(t *testing.T) {
	for _, c := range []struct {
		in    string
		scale uint8
		want  int64
	}{
		{"36.7", 4, 367000},
		{"0.5", 0, 0},
		{"1.5", 0, 2},
		{"2.5", 0, 2},
		{"2.5000000000000000000000000000001", 0, 3},
		{"-2.5", 0, -2},
		{"-0.00005", 4, 0},
		{"0.00015", 4, 2},
		{"0.049", 1, 0},
		{"0.051", 1, 1},
		{"0.95", 1, 10},
		{"9.99e-1", 2, 100},
		{"123456789e-5", 2, 123457},
		{".5", 1, 5},
		{"5.", 1, 50},
		{"9.223372036854775807", 18, math.MaxInt64},
	} {
		if got, drop := Decimal([]byte(c.in), c.scale); got != c.want || drop != event.Kept {
			t.Errorf("Decimal(%q, %d) = %d, %v, want %d", c.in, c.scale, got, drop, c.want)
		}
	}
}

// checkFixed holds Int and Decimal against exact rational arithmetic.
func checkFixed(t interface{ Fatalf(string, ...any) }, text string, scale uint8) {
	got, drop := Decimal([]byte(text), scale)
	gotInt, dropInt := Int([]byte(text))
	if len(text) > NumberMax {
		if drop != event.DropTooLong || dropInt != event.DropTooLong {
			t.Fatalf("%d bytes: %v and %v, want too_long", len(text), drop, dropInt)
		}
		return
	}
	r, ok := ratOf(text)
	if !ok {
		if drop == event.Kept || dropInt == event.Kept {
			t.Fatalf("%q is no number, but %d, %v and %d, %v", text, got, drop, gotInt, dropInt)
		}
		return
	}
	scaled := new(big.Rat).Mul(r, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)))
	want := halfEven(scaled)
	if fits := want.IsInt64(); fits != (drop == event.Kept) || fits && want.Int64() != got {
		t.Fatalf("Decimal(%q, %d) = %d, %v, want %v", text, scale, got, drop, want)
	}
	if fits := r.IsInt() && r.Num().IsInt64(); fits != (dropInt == event.Kept) || fits && r.Num().Int64() != gotInt {
		t.Fatalf("Int(%q) = %d, %v, want %v", text, gotInt, dropInt, r)
	}
}

// ratOf reads plain decimal text with an exponent of at most four digits.
func ratOf(text string) (*big.Rat, bool) {
	mantissa, exponent, has := strings.Cut(strings.ToLower(text), "e")
	bare := strings.TrimLeft(mantissa, "+-")
	if len(mantissa)-len(bare) > 1 || strings.Trim(bare, "0123456789.") != "" || strings.Count(bare, ".") > 1 || strings.Trim(bare, ".") == "" {
		return nil, false
	}
	r, ok := new(big.Rat).SetString(mantissa)
	if !ok {
		return nil, false
	}
	if !has {
		return r, true
	}
	e, ok := new(big.Int).SetString(exponent, 10)
	if !ok || strings.Contains(exponent, "_") {
		return nil, false
	}
	n := int64(100000)
	if e.IsInt64() {
		n = max(-n, min(n, e.Int64()))
	} else if e.Sign() < 0 {
		n = -n
	}
	if r.Sign() == 0 {
		return r, true
	}
	n = max(-2000, min(2000, n)) // beyond every type on either side
	p := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(max(n, -n)), nil))
	if n < 0 {
		p.Inv(p)
	}
	return r.Mul(r, p), true
}

func halfEven(r *big.Rat) *big.Int {
	twice := new(big.Rat).Mul(r, big.NewRat(2, 1))
	floor := new(big.Int).Div(r.Num(), r.Denom()) // Euclidean: rounds down, the denominator being positive
	middle := new(big.Int).Add(new(big.Int).Lsh(floor, 1), big.NewInt(1))
	switch c := twice.Cmp(new(big.Rat).SetInt(middle)); {
	case c > 0, c == 0 && floor.Bit(0) == 1:
		return floor.Add(floor, big.NewInt(1))
	}
	return floor
}

var numberText = rapid.OneOf(
	rapid.StringMatching(`[-+]?[0-9]{0,25}\.?[0-9]{0,25}([eE][-+]?[0-9]{1,3})?`),
	rapid.StringMatching(`[-+]?[0-9]{1,19}(\.[0-9]{0,20})?`),
	rapid.StringMatching(`[-+0-9.eE]{0,12}`),
	rapid.Map(rapid.Int64(), func(v int64) string { return strconv.FormatInt(v, 10) }),
)

func TestDecimalIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkFixed(t, numberText.Draw(t, "text"), uint8(rapid.IntRange(0, event.ScaleMax).Draw(t, "scale")))
	})
}

func checkFloat(t interface{ Fatalf(string, ...any) }, text string) {
	got, drop := Float([]byte(text))
	if len(text) > NumberMax {
		if drop != event.DropTooLong {
			t.Fatalf("%d bytes: %v, want too_long", len(text), drop)
		}
		return
	}
	if strings.ContainsAny(text, "_xXpP") { // ParseFloat's own extensions
		if drop == event.Kept {
			t.Fatalf("Float(%q) = %v, want a drop", text, got)
		}
		return
	}
	want, err := strconv.ParseFloat(text, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		if drop != event.DropBadValue {
			t.Fatalf("Float(%q) = %v, %v, want bad_value", text, got, drop)
		}
	case math.IsInf(want, 0) || math.IsNaN(want):
		if drop != event.DropNotFinite {
			t.Fatalf("Float(%q) = %v, %v, want not_finite", text, got, drop)
		}
	default:
		if want == 0 {
			want = 0 // not −0
		}
		if drop != event.Kept || math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("Float(%q) = %v (%x), %v, want %v (%x)", text, got, math.Float64bits(got), drop, want, math.Float64bits(want))
		}
	}
}

func TestFloatEqualsParseFloat(t *testing.T) {
	for _, text := range []string{
		"1.7976931348623157e308", "1.7976931348623158e308", "1.797693134862315807e308", "1.797693134862315808e308",
		"1.79769313486231580793728971405303415079934132710037826936173e308",
		"1.79769313486231580793728971405303415079934132710037826936174e308",
		"4.9406564584124654e-324", "2.4703282292062327208e-324", "2.4703282292062328e-324", "2.47e-324", "1e-330",
		"9007199254740993", "9007199254740992.99999999999999", "9007199254740993.0000000000000000000000000001",
		"0.1000000000000000055511151231257827021181583404541015625",
		"17976931348623157e292", "-0", "-0.0e5", "0.000000000000000000000000000000000001", "1e22", "1e23", "8.5e22",
		"18446744073709551615", "99999999999999999999999",
	} {
		checkFloat(t, text)
		checkFloat(t, "-"+text)
	}
	rapid.Check(t, func(t *rapid.T) { checkFloat(t, numberText.Draw(t, "text")) })
}

// The exact decimal of a midpoint between two neighbours, and its closest
// neighbours of 64 digits, take the wide comparison.
func TestFloatAtMidpoints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := math.Float64frombits(rapid.Uint64Range(1, math.Float64bits(math.MaxFloat64)-1).Draw(t, "bits"))
		mid := new(big.Float).SetPrec(200).SetFloat64(f)
		mid.Add(mid, new(big.Float).SetFloat64(math.Nextafter(f, math.Inf(1))))
		mid.Quo(mid, big.NewFloat(2))
		for digits := 17; digits <= 52; digits += 5 {
			checkFloat(t, mid.Text('e', digits))
		}
		whole := rapid.Uint64Range(1<<53, 1<<62).Draw(t, "whole")
		checkFloat(t, fmt.Sprintf("%d.00000000000000000000%d", whole, rapid.IntRange(0, 9).Draw(t, "tail")))
	})
}

func TestRFC3339(t *testing.T) {
	for _, c := range []struct {
		in, want string // want "" for no instant
	}{
		{"2023-09-18T14:23:10Z", "2023-09-18T14:23:10Z"},
		{"2023-09-18t14:23:10z", "2023-09-18T14:23:10Z"},
		{"2023-09-18 14:23:10Z", "2023-09-18T14:23:10Z"},
		{"2023-10-09T17:13:20.200+00:00", "2023-10-09T17:13:20.2Z"},
		{"2023-09-18T14:23:10.123456789+05:30", "2023-09-18T08:53:10.123456789Z"},
		{"2023-09-18T14:23:10.1234567885-05:30", "2023-09-18T19:53:10.123456788Z"},
		{"2023-09-18T14:23:10.12345678850001-05:30", "2023-09-18T19:53:10.123456789Z"},
		{"2023-12-31T23:59:59.9999999999Z", "2024-01-01T00:00:00Z"},
		{"2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"},
		{"2017-01-01T00:59:60+01:00", "2017-01-01T00:00:00Z"},
		{"2016-12-31T22:59:60Z", ""},
		{"2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"},
		{"2023-02-29T00:00:00Z", ""},
		{"1900-02-29T00:00:00Z", ""},
		{"2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z"},
		{"1700-01-01T00:00:00Z", "1700-01-01T00:00:00Z"},
		{"1600-01-01T00:00:00Z", ""},
		{"2300-01-01T00:00:00Z", ""},
		{"0000-01-01T00:00:00Z", ""},
		{"2023-13-01T00:00:00Z", ""},
		{"2023-00-01T00:00:00Z", ""},
		{"2023-01-00T00:00:00Z", ""},
		{"2023-01-01T24:00:00Z", ""},
		{"2023-01-01T00:60:00Z", ""},
		{"2023-01-01T00:00:00", ""},
		{"2023-01-01T00:00:00.Z", ""},
		{"2023-01-01T00:00:00.5", ""},
		{"2023-01-01T00:00:00+0100", ""},
		{"2023-01-01T00:00:00+24:00", ""},
		{"2023-01-01T00:00:00ZZ", ""},
		{"2023/01/01T00:00:00Z", ""},
		{"", ""},
	} {
		got, drop := RFC3339([]byte(c.in))
		if c.want == "" {
			if drop != event.DropNoTime {
				t.Errorf("RFC3339(%q) = %d, %v, want no_time", c.in, got, drop)
			}
			continue
		}
		want, err := time.Parse(time.RFC3339Nano, c.want)
		if err != nil {
			t.Fatal(err)
		}
		if drop != event.Kept || int64(got) != want.UnixNano() {
			t.Errorf("RFC3339(%q) = %d, %v, want %d", c.in, got, drop, want.UnixNano())
		}
	}
}

func TestRFC3339EqualsTimeParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(0, rapid.Int64Range(-9_223_372_030e9, 9_223_372_030e9).Draw(t, "nanos"))
		zone := time.FixedZone("", 60*rapid.IntRange(-23*60-59, 23*60+59).Draw(t, "minutes"))
		text := at.In(zone).Format(time.RFC3339Nano)
		if got, drop := RFC3339([]byte(text)); drop != event.Kept || int64(got) != at.UnixNano() {
			t.Fatalf("RFC3339(%q) = %d, %v, want %d", text, got, drop, at.UnixNano())
		}
	})
}

func TestInstant(t *testing.T) {
	for _, c := range []struct {
		in   string
		unit plan.TimeUnit
		want event.Nanos
		drop event.Drop
	}{
		{"1695046990.123456789", plan.UnitS, 1695046990123456789, event.Kept},
		{"1695046990", plan.UnitS, 1695046990e9, event.Kept},
		{"1.695046990e9", plan.UnitS, 1695046990e9, event.Kept},
		{"-1.5", plan.UnitS, -1500000000, event.Kept},
		{"1695046990123.25", plan.UnitMS, 1695046990123250000, event.Kept},
		{"1695046990123456", plan.UnitUS, 1695046990123456000, event.Kept},
		{"1695046990123456789", plan.UnitNS, 1695046990123456789, event.Kept},
		{"1695046990123456789.5", plan.UnitNS, 1695046990123456790, event.Kept},
		{"9223372036854775807", plan.UnitNS, 0, event.DropNoTime}, // the end of time
		{"-9223372036854775808", plan.UnitNS, 0, event.DropNoTime},
		{"9223372037", plan.UnitS, 0, event.DropNoTime},
		{"soon", plan.UnitS, 0, event.DropNoTime},
		{"1695046990", plan.UnitRFC3339, 0, event.DropNoTime},
		{"1695046990", plan.UnitReceive, 0, event.DropNoTime},
	} {
		if got, drop := Instant([]byte(c.in), c.unit); got != c.want || drop != c.drop {
			t.Errorf("Instant(%q, %s) = %d, %v, want %d, %v", c.in, c.unit, got, drop, c.want, c.drop)
		}
	}
	for _, c := range []struct {
		in   int64
		unit plan.TimeUnit
		want event.Nanos
		drop event.Drop
	}{
		{1695046990, plan.UnitS, 1695046990e9, event.Kept},
		{-3, plan.UnitMS, -3e6, event.Kept},
		{math.MinInt64, plan.UnitUS, 0, event.DropNoTime},
		{math.MinInt64, plan.UnitNS, 0, event.DropNoTime},
		{math.MaxInt64 / 1000, plan.UnitUS, math.MaxInt64 / 1000 * 1000, event.Kept},
		{5, plan.UnitOwn, 0, event.DropNoTime},
	} {
		if got, drop := InstantInt(c.in, c.unit); got != c.want || drop != c.drop {
			t.Errorf("InstantInt(%d, %s) = %d, %v, want %d, %v", c.in, c.unit, got, drop, c.want, c.drop)
		}
	}
}

// FuzzNumber checks every reader of numbers against exact arithmetic and strconv.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"1", "-1.5e3", "9223372036854775808", ".5", "5.", "1e-400", "nan", "+Inf", "0x1p3", "1_0"} {
		f.Add(s, uint8(4))
	}
	f.Fuzz(func(t *testing.T, text string, scale uint8) {
		checkFixed(t, text, scale%(event.ScaleMax+1))
		checkFloat(t, text)
	})
}

// FuzzRFC3339 checks that what time.Parse reads is read alike.
func FuzzRFC3339(f *testing.F) {
	for _, s := range []string{"2023-09-18T14:23:10Z", "2016-12-31T23:59:60Z", "2023-10-09T17:13:20.200+00:00", "0000-01-01T00:00:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, drop := RFC3339([]byte(text))
		want, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || strings.Contains(text, ",") || len(text) > len("2006-01-02T15:04:05.999999999+07:00") {
			return // read more or less widely: RFC 3339's leap second, t, z; time.Parse's comma, hour 5, long fraction
		}
		if len(text) > 13 && text[13] != ':' {
			return // time.Parse takes an hour of one digit
		}
		if s := want.Unix(); s > 9_223_372_034 || s < -9_223_372_034 {
			return
		}
		if drop != event.Kept || int64(got) != want.UnixNano() {
			t.Fatalf("RFC3339(%q) = %d, %v, want %d", text, got, drop, want.UnixNano())
		}
	})
}

func TestNothingAllocates(t *testing.T) {
	inputs := [][]byte{
		[]byte("123"), []byte("-1.25"), []byte("1.79769313486231580793728971405303415079934132710037826936173e308"),
		[]byte("9007199254740993.0000000000000000000000000001"), []byte("1e999"), []byte("1e-999"), []byte("x"), []byte("nan"),
		[]byte("2023-09-18T14:23:10.5+02:00"), []byte(strings.Repeat("9", 100)), []byte("123456789012345678.125e-200"),
	}
	allocs := testing.AllocsPerRun(100, func() {
		for _, b := range inputs {
			Int(b)
			Decimal(b, 4)
			Float(b)
			RFC3339(b)
			Instant(b, plan.UnitS)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name string
		text string
		f    func([]byte)
	}{
		{"int", "155", func(b []byte) { Int(b) }},
		{"decimal", "36.7000", func(b []byte) { Decimal(b, 4) }},
		{"float/digits=5", "36.75", func(b []byte) { Float(b) }},
		{"float/digits=17", "0.30000000000000004", func(b []byte) { Float(b) }},
		{"rfc3339", "2023-09-18T14:23:10.25Z", func(b []byte) { RFC3339(b) }},
	} {
		b.Run("kind="+c.name, func(b *testing.B) {
			text := []byte(c.text)
			b.ReportAllocs()
			for b.Loop() {
				c.f(text)
			}
		})
	}
}
