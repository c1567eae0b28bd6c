package profile

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

var (
	// ErrUnknownKey reports a key that no stage knows.
	ErrUnknownKey = errors.New("unknown key")
	// ErrBadValue reports a value that its key does not take.
	ErrBadValue = errors.New("no such value")
	// ErrCycle reports profiles that include each other.
	ErrCycle = errors.New("includes itself")
	// ErrNoProfile reports a name without a file.
	ErrNoProfile = errors.New("no such profile")
	// ErrForm reports a line that is none of `key: value  # reason` and `include: name`.
	ErrForm = errors.New("a line is `key: value  # reason` or `include: name`")
)

//go:embed profiles/*.profile
var embedded embed.FS

const suffix = ".profile"

// Sources are where profiles are looked for: the directories in this order, then those
// that come with the binary, so that a file in a directory replaces one of them.
type Sources []fs.FS

// all are s and the binary's own.
func (s Sources) all() []fs.FS {
	own, err := fs.Sub(embedded, "profiles")
	if err != nil {
		panic("profile: " + err.Error())
	}
	return append(slices.Clone(s), own)
}

// Names returns the names of all profiles, sorted.
func (s Sources) Names() []string {
	var names []string
	for _, dir := range s.all() {
		found, _ := fs.Glob(dir, "*"+suffix)
		for _, f := range found {
			names = append(names, strings.TrimSuffix(f, suffix))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Load reads a profile and what it includes. Its error names the file and the line of
// every mistake.
func (s Sources) Load(name string) (*Profile, error) {
	p := &Profile{Name: name}
	if err := s.load(p, name, nil); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return p, nil
}

// load adds the lines of a file to p; path are the profiles that include it.
func (s Sources) load(p *Profile, name string, path []string) error {
	if slices.Contains(path, name) {
		return fmt.Errorf("%w: %s", ErrCycle, strings.Join(append(path, name), " → "))
	}
	text, err := s.read(name)
	if err != nil {
		return err
	}
	var mistakes []error
	line := 0
	for l := range strings.Lines(text) {
		line++
		at := fmt.Sprintf("%s%s:%d", name, suffix, line)
		if err := s.line(p, strings.TrimSpace(l), at, append(path, name)); err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s: %w", at, err))
		}
	}
	return errors.Join(mistakes...)
}

func (s Sources) read(name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return "", fmt.Errorf("%w: %q", ErrNoProfile, name)
	}
	for _, dir := range s.all() {
		switch b, err := fs.ReadFile(dir, name+suffix); {
		case err == nil:
			return string(b), nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	return "", fmt.Errorf("%w: %q; there are %s", ErrNoProfile, name, strings.Join(s.Names(), ", "))
}

func (s Sources) line(p *Profile, l, at string, path []string) error {
	if l == "" || l[0] == '#' {
		return nil
	}
	wish, reason, _ := strings.Cut(l, "#")
	key, value, ok := strings.Cut(wish, ":")
	key, value, reason = strings.TrimSpace(key), strings.TrimSpace(value), strings.TrimSpace(reason)
	switch {
	case !ok || key == "" || value == "":
		return fmt.Errorf("%w: %q", ErrForm, l)
	case key == "include":
		return s.load(p, value, path)
	}
	if err := check(key, value); err != nil {
		return err
	}
	if reason == "" {
		return fmt.Errorf("%w: %s has no reason", ErrForm, key)
	}
	p.put(Setting{Key: key, Value: value, Reason: reason, At: at})
	return nil
}
