package profile

import (
	"slices"
	"strconv"
	"strings"
)

// Keep is the value that leaves things as they are.
const Keep = "keep"

// A Setting is one wish.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
	// At is the file and line of it.
	At string `json:"at"`
}

// A Profile is what a set of files asks for.
type Profile struct {
	Name string
	// Settings are in the order in which their keys came first.
	Settings []Setting
}

// Get returns the wish for a key; ok is false if there is none or it is [Keep].
func (p *Profile) Get(key string) (s Setting, ok bool) {
	for _, s := range p.Settings {
		if s.Key == key {
			return s, s.Value != Keep
		}
	}
	return Setting{}, false
}

// Number returns a wish that is a number.
func (p *Profile) Number(key string) (n int, s Setting, ok bool) {
	if s, ok = p.Get(key); !ok {
		return 0, s, false
	}
	n, err := strconv.Atoi(s.Value)
	return n, s, err == nil
}

// With returns the wishes whose keys begin with a prefix, the prefix cut off.
func (p *Profile) With(prefix string) []Setting {
	var out []Setting
	for _, s := range p.Settings {
		if rest, ok := strings.CutPrefix(s.Key, prefix); ok && s.Value != Keep {
			s.Key = rest
			out = append(out, s)
		}
	}
	return out
}

// put replaces the wish for a key, or adds one.
func (p *Profile) put(s Setting) {
	at := slices.IndexFunc(p.Settings, func(o Setting) bool { return o.Key == s.Key })
	if at >= 0 {
		p.Settings[at] = s
		return
	}
	p.Settings = append(p.Settings, s)
}
