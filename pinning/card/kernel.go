package card

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrUnsupported reports a setting that the card, its driver or the kernel lacks.
	ErrUnsupported = errors.New("not supported by the card, its driver or the kernel")
	// ErrValue reports a value that the setting cannot have.
	ErrValue = errors.New("no such value")
)

// A Kernel reads and writes the settings of this machine's cards, in the network
// namespace of the calling thread. The zero value is ready.
type Kernel struct{}

// A setting is read and written by functions of the interface and the rest of its name.
type setting struct {
	get   func(nic, rest string) (string, error)
	set   func(nic, rest, value string) error
	shell func(nic, rest, value string) string
}

// settings are the first words of names.
var settings = map[string]setting{
	"channels":     {getChannels, setChannels, shellOf("-L", getChannels)},
	"channels-max": {get: getChannelsMax},
	"rings":        {getRings, setRings, shellOf("-G", getRings)},
	"rings-max":    {get: getRingsMax},
	"coalesce":     {getCoalesce, setCoalesce, shellOf("-C", getCoalesce)},
	"feature":      {getFeature, setFeature, shellFeature},
	"rss-table":    {getTable, setTable, shellTable},
	"rss-key":      {getKey, setKey, shellKey},
	"flow":         {getFlow, setFlow, shellFlow},
	"napi":         {getNAPI, setNAPI, shellNAPI},
	"napi-thread":  {getThread, setThread, shellThread},
}

// Get returns the value of a setting of an interface.
//
// It returns an error wrapping [ErrUnsupported] if there is no such thing on this card.
func (Kernel) Get(nic, name string) (string, error) {
	word, rest, _ := strings.Cut(name, " ")
	s, ok := settings[word]
	if !ok {
		return "", fmt.Errorf("card: %s: setting %q: %w", nic, name, ErrUnsupported)
	}
	value, err := s.get(nic, rest)
	return value, wrap(nic, name, err)
}

// Set gives a setting a value in the form that Get returns.
func (Kernel) Set(nic, name, value string) error {
	word, rest, _ := strings.Cut(name, " ")
	s, ok := settings[word]
	if !ok || s.set == nil {
		return fmt.Errorf("card: %s: setting %q cannot be written: %w", nic, name, ErrUnsupported)
	}
	return wrap(nic, name, s.set(nic, rest, value))
}

// Shell returns the command line that does the same as Set.
func (Kernel) Shell(nic, name, value string) string {
	word, rest, _ := strings.Cut(name, " ")
	if s, ok := settings[word]; ok && s.shell != nil {
		return s.shell(nic, rest, value)
	}
	return ""
}

func wrap(nic, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("card: %s: %s: %w: %w", nic, name, ErrUnsupported, err)
	}
	return fmt.Errorf("card: %s: %s: %w", nic, name, err)
}

// A field is one number of a setting that has several.
type field struct {
	name string
	at   *uint32
}

// format writes fields as "name=number …".
func format(fields []field) string {
	parts := make([]string, len(fields))
	for i, f := range fields {
		parts[i] = fmt.Sprintf("%s=%d", f.name, *f.at)
	}
	return strings.Join(parts, " ")
}

// Number returns one number of a value like "rx=1 tx=2", 0 if it is not there.
func Number(value, name string) int {
	for part := range strings.FieldsSeq(value) {
		if digits, ok := strings.CutPrefix(part, name+"="); ok {
			n, _ := strconv.Atoi(digits) // 0 if it is none
			return n
		}
	}
	return 0
}

// parse sets the fields that value names; the others stay.
func parse(fields []field, value string) error {
	for part := range strings.FieldsSeq(value) {
		name, digits, _ := strings.Cut(part, "=")
		found := false
		for _, f := range fields {
			if f.name == name {
				if _, err := fmt.Sscanf(digits, "%d", f.at); err != nil {
					return fmt.Errorf("%w: %q", ErrValue, part)
				}
				found = true
			}
		}
		if !found {
			return fmt.Errorf("%w: %q", ErrValue, part)
		}
	}
	return nil
}

// shellOf makes the shell line of a setting of several numbers. It names only those that
// change: ethtool(8) refuses numbers that a card does not have, also unchanged.
func shellOf(option string, get func(nic, rest string) (string, error)) func(nic, rest, value string) string {
	return func(nic, rest, value string) string {
		now, err := get(nic, rest)
		changes := strings.Fields(value)
		if has := strings.Fields(now); err == nil {
			changes = slices.DeleteFunc(changes, func(part string) bool { return slices.Contains(has, part) })
		}
		return strings.TrimSpace(fmt.Sprintf("ethtool %s %s %s", option, nic, strings.ReplaceAll(strings.Join(changes, " "), "=", " ")))
	}
}
