package generate

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // New York, on machines without a zone database

	"github.com/headrace/headrace/dataplane/event"
)

// The kinds of stream.
const (
	ITCH = "itch"
	JSON = "json"
	CSV  = "csv"
	Raw  = "raw"
)

// Kinds are the kinds of stream, in the order of the documentation.
var Kinds = []string{ITCH, JSON, CSV, Raw}

// Defaults of a [Config].
const (
	// DefaultStart is Monday 2026-03-02, 09:30 in New York: 14:30 UTC.
	DefaultStart   event.Nanos = 1772461800 * 1e9
	DefaultRate                = 10_000
	DefaultKeys                = 100
	DefaultSession             = "HEADRACE"
)

// Limits of a [Config].
const (
	RateMax     = 1_000_000_000 // one message a nanosecond: no two have the same time
	KeysMaxITCH = 65_535        // stock locate has 16 bits
	KeysMax     = 10_000_000
	ChannelsMax = 1024
	ReorderMax  = 4096
	sessionMax  = 10
)

// Config says what to generate. Its zero value but for Kind is useful.
type Config struct {
	// Kind is ITCH, JSON, CSV or Raw. Required.
	Kind string
	// Seed chooses the stream. Every value is as good as every other.
	Seed uint64
	// Start is the time of the first message. Zero means DefaultStart.
	Start event.Nanos
	// Rate is the number of messages in a second of event time, 1 to RateMax; each
	// message is 1/Rate later than the one before. Zero means DefaultRate.
	Rate int64
	// Count is the number of messages to end after. Zero means no end (ITCH: the
	// end of the day).
	Count uint64
	// Keys is the number of symbols (ITCH, up to KeysMaxITCH) or drivers (up to
	// KeysMax). Zero means DefaultKeys.
	Keys int
	// Lines is 1 or, ITCH only, 2: every packet is sent on both. Zero means 1.
	Lines int
	// Loss is the probability that a packet is lost on a line, for each line anew.
	Loss float64
	// Reorder lets packets of a line change places over at most that distance:
	// in every Reorder+1 packets that follow each other, two are swapped (or, as
	// chance will have it, one with itself). The times of sending stay.
	Reorder int
	// Duplicate is the probability that a packet that was not lost on a line is
	// sent on it twice.
	Duplicate float64
	// Channels is the number of MoldUDP64 sessions, ITCH only, at most Keys. Zero
	// means 1.
	Channels int
	// Session names the MoldUDP64 session, ITCH only: printable ASCII. It is padded
	// with spaces to 10 bytes; with more than one channel the channel's number comes
	// behind it, with leading zeros. Empty means DefaultSession.
	Session string
	// Truth, if not nil, learns what was generated, and what of it was lost.
	Truth *Truth
}

// A FieldError says which field of a Config is wrong, by the name of its flag.
type FieldError struct {
	Field string
	Err   error
}

// Error returns the flag and what it should be.
func (e *FieldError) Error() string { return "--" + e.Field + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

func wrong(field, format string, args ...any) error {
	return &FieldError{field, fmt.Errorf(format, args...)}
}

// complete replaces c's zero values by the defaults, or returns a FieldError.
func (c *Config) complete() error {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Keys, DefaultKeys)
	set(&c.Lines, 1)
	set(&c.Channels, 1)
	if c.Rate == 0 {
		c.Rate = DefaultRate
	}
	if c.Start == 0 {
		c.Start = DefaultStart
	}
	if c.Kind == ITCH && c.Session == "" {
		c.Session = DefaultSession
	}
	return c.check()
}

func (c *Config) check() error {
	keysMax := KeysMax
	switch c.Kind {
	case ITCH:
		keysMax = KeysMaxITCH
	case JSON, CSV, Raw:
		switch {
		case c.Lines != 1:
			return wrong("lines", "%s has no sequence numbers, so a second line would double its records", c.Kind)
		case c.Channels != 1:
			return wrong("channels", "only itch has channels, not %s", c.Kind)
		case c.Session != "":
			return wrong("session", "only itch has sessions, not %s", c.Kind)
		}
	default:
		return fmt.Errorf("kind %q is not one of %s", c.Kind, strings.Join(Kinds, ", "))
	}
	switch {
	case c.Keys < 1 || c.Keys > keysMax:
		return wrong("keys", "%d is not in 1 to %d", c.Keys, keysMax)
	case c.Rate < 1 || c.Rate > RateMax:
		return wrong("rate", "%d is not in 1 to %d messages a second", c.Rate, RateMax)
	case c.Start < 0 || c.Start > 1<<32*1e9:
		return wrong("start", "%s is not in the years 1970 to 2105", time.Unix(0, int64(c.Start)).UTC().Format(time.RFC3339))
	case c.Lines < 1 || c.Lines > 2:
		return wrong("lines", "%d is not 1 or 2", c.Lines)
	case !(c.Loss >= 0 && c.Loss <= 1):
		return wrong("loss", "%v is not a probability, 0 to 1", c.Loss)
	case !(c.Duplicate >= 0 && c.Duplicate <= 1):
		return wrong("duplicate", "%v is not a probability, 0 to 1", c.Duplicate)
	case c.Reorder < 0 || c.Reorder > ReorderMax:
		return wrong("reorder", "%d is not in 0 to %d", c.Reorder, ReorderMax)
	case c.Channels < 1 || c.Channels > ChannelsMax || c.Channels > c.Keys:
		return wrong("channels", "%d is not in 1 to %d, the lesser of %d and the number of keys", c.Channels, min(ChannelsMax, c.Keys), ChannelsMax)
	}
	return c.checkSession()
}

func (c *Config) checkSession() error {
	if room := sessionMax - c.digits(); len(c.Session) > room {
		return wrong("session", "%q is longer than the %d bytes that %d channels leave", c.Session, room, c.Channels)
	}
	for _, b := range []byte(c.Session) {
		if b < 0x20 || b > 0x7e {
			return wrong("session", "%q is not printable ASCII", c.Session)
		}
	}
	return nil
}

// digits returns how many digits tell the channels apart.
func (c *Config) digits() int {
	if c.Channels == 1 {
		return 0
	}
	return len(strconv.Itoa(c.Channels - 1))
}

// session returns the MoldUDP64 session of channel k.
func (c *Config) session(k int) (s [sessionMax]byte) {
	name := c.Session
	if d := c.digits(); d > 0 {
		name += fmt.Sprintf("%0*d", d, k)
	}
	copy(s[:], name+strings.Repeat(" ", sessionMax))
	return s
}

// at returns the time of message i, from 0.
func (c *Config) at(i uint64) event.Nanos {
	rate := uint64(c.Rate)
	return c.Start + event.Nanos(i/rate*1e9+i%rate*1e9/rate)
}

// midnight returns the beginning of Start's day in New York.
func (c *Config) midnight() (begin, end event.Nanos, err error) {
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		return 0, 0, err
	}
	y, m, d := time.Unix(0, int64(c.Start)).In(zone).Date()
	day := func(add int) event.Nanos { return event.Nanos(time.Date(y, m, d+add, 0, 0, 0, 0, zone).UnixNano()) }
	return day(0), day(1), nil
}
