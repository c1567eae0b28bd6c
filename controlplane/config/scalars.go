package config

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/pinning/topology"
)

// A problem is why a scalar's text is not what its type wants.
type problem struct {
	message, allowed, fix string
}

// A scalar is a type that is read from one scalar's text. parse leaves the receiver
// alone if it returns a problem.
type scalar interface {
	parse(text string) *problem
}

// A ShortForm describes a form of a value that is not the type's own map: it is
// what the decoder accepts, for the schema and the reference.
type ShortForm struct {
	Type    string // JSON Schema's: string, integer or array
	Enum    []string
	Pattern string
	Doc     string
}

// Duration is a length of time: numbers with units, as in 500ms, 1m, 1h30m or 1d.
// The units are ns, us, ms, s, m, h and d; a number may have a fraction that is a
// whole number of nanoseconds. It is never negative. A bare 0 is accepted.
type Duration time.Duration

// D returns d as Go's type.
func (d *Duration) D() time.Duration { return time.Duration(*d) }

// FormatDuration writes d as a config would: without the parts that are zero.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ShortForms says how a duration is written.
func (*Duration) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d))+$`, Doc: "a duration such as 500ms, 1m, 1h30m"}}
}

const durationAllowed = "write numbers with units ns, us, ms, s, m, h or d, such as 500ms, 1m or 1h30m"

var (
	durationPart  = regexp.MustCompile(`^([0-9]+)(?:\.([0-9]+))?(ns|us|µs|ms|s|m|h|d)`)
	durationUnits = map[string]int64{
		"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9, "d": 86400e9,
	}
	bareDecimal = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	bareNumber  = regexp.MustCompile(`^[0-9]+$`)
)

func (d *Duration) parse(text string) *problem {
	if text == "0" {
		*d = 0
		return nil
	}
	if strings.HasPrefix(text, "-") {
		return &problem{fmt.Sprintf("duration %q is negative", text), durationAllowed, ""}
	}
	if bareDecimal.MatchString(text) {
		return &problem{fmt.Sprintf("duration %s has no unit", text), durationAllowed, text + "s"}
	}
	total, rest := int64(0), text
	for rest != "" {
		part := durationPart.FindStringSubmatch(rest)
		if part == nil {
			fix := ""
			if m := strings.ReplaceAll(strings.ToLower(text), " ", ""); m != text && new(Duration).parse(m) == nil {
				fix = m
			}
			return &problem{fmt.Sprintf("%q is not a duration", text), durationAllowed, fix}
		}
		n, ok := scaled(part[1], part[2], durationUnits[part[3]])
		if !ok || total > math.MaxInt64-n {
			return &problem{fmt.Sprintf("duration %q is too long, or finer than a nanosecond", text), durationAllowed, ""}
		}
		total, rest = total+n, rest[len(part[0]):]
	}
	if text == "" {
		return &problem{"the duration is empty", durationAllowed, ""}
	}
	*d = Duration(total)
	return nil
}

// scaled returns whole.fraction · unit if it is a whole number that fits.
func scaled(whole, fraction string, unit int64) (int64, bool) {
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return 0, false
	}
	n *= unit
	fraction = strings.TrimRight(fraction, "0")
	for i := range fraction {
		if unit%10 != 0 {
			// 0.05m is 3 s: the unit need not be a power of ten.
			f, err := strconv.ParseInt(fraction[i:], 10, 64)
			p := int64(math.Pow10(len(fraction) - i))
			if err != nil || len(fraction)-i > 9 || f*unit%p != 0 {
				return 0, false
			}
			return n + f*unit/p, true
		}
		unit /= 10
		if n > math.MaxInt64-9*unit {
			return 0, false
		}
		n += int64(fraction[i]-'0') * unit
	}
	return n, true
}

// Size is a number of bytes: 4096, 128KiB, 1MiB.
type Size int

// ShortForms says how a size is written.
func (*Size) ShortForms() []ShortForm {
	return []ShortForm{
		{Type: "string", Pattern: `^[0-9]+(B|KiB|MiB|GiB)$`, Doc: "a size such as 128KiB"},
		{Type: "integer", Doc: "bytes"},
	}
}

const sizeAllowed = "write a number of bytes, or one with B, KiB, MiB or GiB, such as 128KiB"

var sizeForm = regexp.MustCompile(`^([0-9]+)(B|KiB|MiB|GiB|)$`)

func (s *Size) parse(text string) *problem {
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		fix := ""
		if w := regexp.MustCompile(`(?i)^([0-9]+) *([kmg])(i?b)?$`).FindStringSubmatch(text); w != nil {
			fix = w[1] + strings.ToUpper(w[2]) + "iB"
		}
		return &problem{fmt.Sprintf("%q is not a size", text), sizeAllowed, fix}
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if err != nil || n > 1<<40>>shift {
		return &problem{fmt.Sprintf("size %s is too large", text), "at most 1024GiB", ""}
	}
	if n == 0 {
		return &problem{"the size is 0", "at least 1 byte", ""}
	}
	*s = Size(n << shift)
	return nil
}

// Ring is a number of descriptors or frames: a power of two from 64 to 4194304.
type Ring int

// ShortForms says how a ring size is written.
func (*Ring) ShortForms() []ShortForm {
	return []ShortForm{{Type: "integer", Doc: "a power of two from 64 to 4194304"}}
}

func (r *Ring) parse(text string) *problem {
	const allowed = "write a power of two from 64 to 4194304"
	n, err := strconv.Atoi(text)
	if err != nil {
		return &problem{fmt.Sprintf("%q is not a number", text), allowed, ""}
	}
	if n < 64 || n > 1<<22 || n&(n-1) != 0 {
		fix := 64
		for fix < n && fix < 1<<22 {
			fix *= 2
		}
		return &problem{fmt.Sprintf("%d is not a size of ring", n), allowed, strconv.Itoa(fix)}
	}
	*r = Ring(n)
	return nil
}

// Queues is a number of RX queues, 1 to 64, or all of them (0).
type Queues int

// ShortForms says how a number of queues is written.
func (*Queues) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Enum: []string{"all"}, Doc: "`all`"}, {Type: "integer", Doc: "1 to 64"}}
}

func (q *Queues) parse(text string) *problem {
	if text == "all" {
		*q = 0
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 64 {
		return &problem{fmt.Sprintf("queues is %q", text), "write all, or a number from 1 to 64", Nearest(text, []string{"all"})}
	}
	*q = Queues(n)
	return nil
}

// Prefix is an IP address or prefix, such as 239.1.1.1, 10.0.0.0/8 or ff05::/16. An
// address is a prefix of full length.
type Prefix struct{ netip.Prefix }

// ShortForms says how a prefix is written.
func (*Prefix) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Doc: "an address such as 239.1.1.1, or a prefix such as 10.0.0.0/8 or ff05::/16"}}
}

func (p *Prefix) parse(text string) *problem {
	const allowed = "write an IPv4 or IPv6 address such as 239.1.1.1, or a prefix such as 10.0.0.0/8"
	bad := &problem{fmt.Sprintf("%q is not an address or prefix", text), allowed, ""}
	var got netip.Prefix
	if strings.Contains(text, "/") {
		var err error
		if got, err = netip.ParsePrefix(text); err != nil {
			if addr, _, _ := strings.Cut(text, "/"); validAddr(addr) {
				bad.allowed = "the length after / is 0 to 32 for IPv4, 0 to 128 for IPv6"
			}
			return bad
		}
	} else {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			if host, port, ok := strings.Cut(text, ":"); ok && validAddr(host) && bareNumber.MatchString(port) {
				bad.allowed, bad.fix = "the port is a field of its own, port: "+port, host
			}
			return bad
		}
		if addr.Zone() != "" {
			return &problem{fmt.Sprintf("address %s has a zone", text), "a packet carries none: leave it out", addr.WithZone("").String()}
		}
		got = netip.PrefixFrom(addr, addr.BitLen())
	}
	if got.Addr().Is4In6() {
		return &problem{fmt.Sprintf("%s is an IPv4 address in IPv6 form", text), "write it as IPv4", got.Addr().Unmap().String()}
	}
	if got.Masked() != got {
		return &problem{fmt.Sprintf("prefix %s has bits set behind its length", text), "clear them, or write /" + strconv.Itoa(got.Addr().BitLen()), got.Masked().String()}
	}
	if got.IsSingleIP() && got.Addr().IsUnspecified() {
		return &problem{fmt.Sprintf("no packet is sent to %s", text), "leave destination out to match any address", ""}
	}
	p.Prefix = got
	return nil
}

func validAddr(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// ColumnType is a column's type: int64, decimal(N), float64 or text.
type ColumnType struct {
	Type  event.Type
	Scale uint8
}

// TypeName returns a type as the config writes it.
func TypeName(t event.Type, scale uint8) string {
	if t == event.Decimal {
		return fmt.Sprintf("decimal(%d)", scale)
	}
	return t.String()
}

// ShortForms says how a type is written.
func (*ColumnType) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Pattern: `^(int64|float64|text|decimal\((0|[1-9]|1[0-8])\))$`, Doc: "`int64`, `decimal(N)`, `float64` or `text`"}}
}

var decimalForm = regexp.MustCompile(`^decimal\( *([0-9]{1,9}) *\)$`)

func (t *ColumnType) parse(text string) *problem {
	const allowed = "the types are int64, decimal(N) with N digits after the point, float64 and text"
	switch text {
	case "int64":
		*t = ColumnType{Type: event.Int64}
		return nil
	case "float64":
		*t = ColumnType{Type: event.Float64}
		return nil
	case "text":
		*t = ColumnType{Type: event.Text}
		return nil
	case "decimal":
		return &problem{"decimal without its scale", "write how many digits follow the point, at most 18", "decimal(2)"}
	}
	if m := decimalForm.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // at most nine digits
		if n > event.ScaleMax {
			return &problem{fmt.Sprintf("decimal(%d) has too many digits after the point", n), "at most 18", "decimal(18)"}
		}
		*t = ColumnType{Type: event.Decimal, Scale: uint8(n)}
		return nil
	}
	fix, known := map[string]string{
		"string": "text", "str": "text", "varchar": "text", "symbol": "text", "bytes": "text", "char": "text",
		"int": "int64", "integer": "int64", "long": "int64", "int32": "int64", "int16": "int64", "int8": "int64",
		"uint64": "int64", "uint32": "int64", "uint16": "int64", "uint8": "int64", "bool": "int64", "boolean": "int64",
		"float": "float64", "double": "float64", "float32": "float64", "number": "float64",
		"numeric": "decimal(2)", "price": "decimal(4)",
	}[strings.ToLower(text)]
	if !known {
		fix = Nearest(text, []string{"int64", "float64", "text", "decimal(2)"})
	}
	return &problem{fmt.Sprintf("%q is not a column type", text), allowed, fix}
}

// Delimiter is one byte of ASCII.
type Delimiter byte

// ShortForms says how a delimiter is written.
func (*Delimiter) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Doc: `one ASCII character, such as "," or "\t"`}}
}

func (b *Delimiter) parse(text string) *problem {
	if len(text) != 1 || text[0] >= 0x80 {
		p := &problem{fmt.Sprintf("delimiter %q is not one ASCII character", text), `write one, in quotes: ",", ";", "|" or "\t"`, ""}
		if text == `\t` || strings.EqualFold(text, "tab") {
			p.allowed = `a tab is written in double quotes: "\t"`
		}
		return p
	}
	*b = Delimiter(text[0])
	return nil
}

// Expression is the text of an expression, at most 4096 bytes.
type Expression string

// ShortForms says how an expression is written.
func (*Expression) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Doc: "an expression"}}
}

const expressionMax = 4096 // bytes; parsing recurses, so its depth must be bounded

func (e *Expression) parse(text string) *problem {
	if strings.TrimSpace(text) == "" {
		return &problem{"the expression is empty", "leave the field out, or write an expression", ""}
	}
	if len(text) > expressionMax {
		return &problem{fmt.Sprintf("the expression has %d bytes", len(text)), fmt.Sprintf("at most %d", expressionMax), ""}
	}
	*e = Expression(text)
	return nil
}

// Pins are what a peer may show: each "sha256:" and the base64 of the SHA-256 over
// the public key of a certificate.
type Pins []string

const pinPrefix = "sha256:"

// pinProblem says what is wrong with a pin; nil if nothing is.
func pinProblem(text string) *problem {
	const allowed = `write "sha256:" and 44 characters of base64, as headrace group init prints it`
	digest, ok := strings.CutPrefix(text, pinPrefix)
	raw, err := base64.StdEncoding.Strict().DecodeString(digest)
	switch {
	case ok && err == nil && len(raw) == sha256.Size:
		return nil
	case !ok:
		fix := ""
		if n := len(pinPrefix); len(text) > n && strings.EqualFold(text[:n], pinPrefix) && pinProblem(pinPrefix+text[n:]) == nil {
			fix = pinPrefix + text[n:]
		} else if raw, err := base64.StdEncoding.Strict().DecodeString(text); err == nil && len(raw) == sha256.Size {
			fix = pinPrefix + text
		} else if raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", "")); err == nil && len(raw) == sha256.Size {
			fix = pinPrefix + base64.StdEncoding.EncodeToString(raw)
		}
		return &problem{fmt.Sprintf("pin %q does not begin with sha256:", clip(text)), allowed, fix}
	}
	if raw, err := hex.DecodeString(digest); err == nil && len(raw) == sha256.Size {
		return &problem{"the pin is written in hexadecimal", allowed, pinPrefix + base64.StdEncoding.EncodeToString(raw)}
	}
	return &problem{fmt.Sprintf("pin %q is not the base64 of 32 bytes", clip(text)), allowed, ""}
}

// Reserved is a field that a later version will have. It accepts nothing.
type Reserved struct{}

// ParseSize reads a size as a config has it: bytes, or with B, KiB, MiB or GiB.
func ParseSize(text string) (Size, error) {
	var s Size
	if p := s.parse(text); p != nil {
		return 0, fmt.Errorf("%s: %s", p.message, p.allowed)
	}
	return s, nil
}

// CPUs say which CPUs something is bound to: auto, none, or a list such as 2-5,8.
type CPUs string

// What CPUs may be instead of a list.
const (
	CPUsAuto CPUs = "auto"
	CPUsNone CPUs = "none"
)

// ShortForms says how CPUs are written.
func (*CPUs) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Doc: "`auto`, `none`, or a list such as `2-5,8`"}, {Type: "integer", Doc: "one CPU"}}
}

func (c *CPUs) parse(text string) *problem {
	if got := CPUs(text); got != CPUsAuto && got != CPUsNone {
		if set, err := topology.ParseCPUs(text); err != nil || set.Empty() {
			return &problem{fmt.Sprintf("%q names no CPUs", text), "write auto, none, or a list such as 2-5,8", ""}
		}
	}
	*c = CPUs(text)
	return nil
}
