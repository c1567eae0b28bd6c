package value

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// Instant reads an instant written in the given unit: RFC 3339 text, or a number of
// seconds, milliseconds, microseconds or nanoseconds since the epoch, which may
// have a fraction. What is finer than a nanosecond is rounded half-even. Anything
// else, and what lies outside the years that [event.Nanos] holds, is
// [event.DropNoTime].
func Instant(b []byte, unit plan.TimeUnit) (event.Nanos, event.Drop) {
	switch unit {
	case plan.UnitRFC3339:
		return RFC3339(b)
	case plan.UnitS:
		return numeric(b, 9)
	case plan.UnitMS:
		return numeric(b, 6)
	case plan.UnitUS:
		return numeric(b, 3)
	case plan.UnitNS:
		return numeric(b, 0)
	}
	return 0, event.DropNoTime
}

func numeric(b []byte, scale uint8) (event.Nanos, event.Drop) {
	v, d := Decimal(b, scale)
	if d != event.Kept {
		return 0, event.DropNoTime
	}
	return instant(v)
}

// instant refuses the two ends of time, which mean "nothing yet" and "never".
func instant(v int64) (event.Nanos, event.Drop) {
	if t := event.Nanos(v); t != event.MinNanos && t != event.MaxNanos {
		return t, event.Kept
	}
	return 0, event.DropNoTime
}

// InstantInt turns a count of units since the epoch into an instant.
func InstantInt(v int64, unit plan.TimeUnit) (event.Nanos, event.Drop) {
	scale := 0
	switch unit {
	case plan.UnitS:
		scale = 9
	case plan.UnitMS:
		scale = 6
	case plan.UnitUS:
		scale = 3
	case plan.UnitNS:
	default:
		return 0, event.DropNoTime
	}
	n, ok := scaleInt(v, scale)
	if !ok {
		return 0, event.DropNoTime
	}
	return instant(n)
}

// RFC3339 reads date, time and offset as RFC 3339 section 5.6 writes them:
// 2023-09-18T14:23:10.25+02:00. T may be t or a space, Z may be z. A leap second,
// 23:59:60 UTC, is the first instant of the next day. A fraction finer than a
// nanosecond is rounded half-even. Text without an offset is no instant.
func RFC3339(b []byte) (event.Nanos, event.Drop) {
	if len(b) < len("2006-01-02T15:04:05Z") || len(b) > NumberMax {
		return 0, event.DropNoTime
	}
	bad := (b[4] ^ '-') | (b[7] ^ '-') | (b[13] ^ ':') | (b[16] ^ ':')
	if b[10] != 'T' && b[10] != 't' && b[10] != ' ' {
		bad = 1
	}
	century, e0 := two(b[0:2])
	year, e1 := two(b[2:4])
	month, e2 := two(b[5:7])
	day, e3 := two(b[8:10])
	hour, e4 := two(b[11:13])
	minute, e5 := two(b[14:16])
	second, e6 := two(b[17:19])
	year += 100 * century
	if bad|e0|e1|e2|e3|e4|e5|e6 != 0 || month-1 > 11 || month == 0 || hour > 23 || minute > 59 || second > 60 || day == 0 || day > monthDays(year, month) {
		return 0, event.DropNoTime
	}
	fraction, rest, ok := readFraction(b[19:])
	if !ok {
		return 0, event.DropNoTime
	}
	offset, ok := readOffset(rest)
	if !ok {
		return 0, event.DropNoTime
	}
	s := daysSinceEpoch(year, month, day)*86400 + int64(hour*3600+minute*60+second) - offset
	if second == 60 && s%86400 != 0 {
		return 0, event.DropNoTime
	}
	const edge = 1<<63/1_000_000_000 - 1 // whole seconds that surely fit
	if s > edge || s < -edge {
		return 0, event.DropNoTime
	}
	return event.Nanos(s*1_000_000_000 + fraction), event.Kept
}

// two reads two digits; bad is not 0 if they are none.
func two(b []byte) (v int, bad byte) {
	hi, lo := b[0]-'0', b[1]-'0'
	if hi > 9 || lo > 9 {
		return 0, 1
	}
	return int(hi)*10 + int(lo), 0
}

// readFraction reads .digits, or nothing, as nanoseconds; up to a whole second by
// rounding.
func readFraction(b []byte) (nanos int64, rest []byte, ok bool) {
	if b[0] != '.' {
		return 0, b, true
	}
	i, half, sticky := 1, byte(0), false
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		switch c := b[i] - '0'; {
		case i <= 9:
			nanos = nanos*10 + int64(c)
		case i == 10:
			half = c
		default:
			sticky = sticky || c != 0
		}
	}
	if i == 1 || i == len(b) {
		return 0, nil, false
	}
	if i < 10 {
		nanos *= int64(powers[10-i])
	}
	if half > 5 || half == 5 && (sticky || nanos&1 == 1) {
		nanos++
	}
	return nanos, b[i:], true
}

// readOffset reads Z or ±hh:mm, in seconds east of UTC.
func readOffset(b []byte) (seconds int64, ok bool) {
	if len(b) == 1 {
		return 0, b[0]|0x20 == 'z'
	}
	if len(b) != 6 || b[3] != ':' || b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	h, e0 := two(b[1:3])
	m, e1 := two(b[4:6])
	if e0|e1 != 0 || h > 23 || m > 59 {
		return 0, false
	}
	seconds = int64(h*3600 + m*60)
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

func monthDays(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysSinceEpoch counts the days from 1970-01-01 in the Gregorian calendar. Years
// begin in March here, so that the leap day is a year's last.
func daysSinceEpoch(year, month, day int) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	const epoch = 719468 // 1970-01-01, counted from 0000-03-01
	cycle := year / 400  // 0 or more, but for -1 in January and February of year 0
	if year < 0 {
		cycle = -1
	}
	y := year - 400*cycle
	inYear := (153*(month-3)+2)/5 + day - 1
	inCycle := y*365 + y/4 - y/100 + inYear
	return int64(cycle)*146097 + int64(inCycle) - epoch
}
