package profile

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

func files(pairs ...string) Sources {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]+".profile"] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return Sources{m}
}

func TestTheProfilesOfTheBinary(t *testing.T) {
	names := Sources{}.Names()
	if strings.Join(names, " ") != "latency latency-best safe throughput" {
		t.Errorf("profiles %v", names)
	}
	for _, name := range names {
		p, err := Sources{}.Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, s := range p.Settings {
			if s.Reason == "" || s.At == "" {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
}

// TestSafeTouchesNothing is the promise of the profile's name: nothing of it is written
// anywhere.
func TestSafeTouchesNothing(t *testing.T) {
	p, err := Sources{}.Load("safe")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Settings {
		if !strings.HasPrefix(s.Key, "hold.") {
			t.Errorf("%s: %s changes the host", s.At, s.Key)
		}
	}
}

func TestALaterLineWins(t *testing.T) {
	p, err := Sources{}.Load("latency-best")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"cstate": "0", "poll": "busy", "thp": "madvise", "sysctl.vm.stat_interval": "120", "rss": "equal"} {
		if s, ok := p.Get(key); !ok || s.Value != want {
			t.Errorf("%s is %q from %s, want %s", key, s.Value, s.At, want)
		}
	}
	if n, s, ok := p.Number("cstate"); !ok || n != 0 || !strings.HasPrefix(s.At, "latency-best.profile:") {
		t.Errorf("cstate %d from %s", n, s.At)
	}
}

func TestKeepTakesAWishBack(t *testing.T) {
	p, err := files("mine", "include: latency\nirq: keep  # irqs are placed by hand here\nsysctl.vm.swappiness: 1 # why not\n").Load("mine")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := p.Get("irq"); ok {
		t.Errorf("irq is still %q", s.Value)
	}
	found := false
	for _, s := range p.With("sysctl.") {
		found = found || s.Key == "vm.swappiness" && s.Value == "1"
	}
	if !found {
		t.Errorf("sysctls %v", p.With("sysctl."))
	}
}

func TestADirectoryReplacesAProfile(t *testing.T) {
	p, err := files("safe", "# empty\n", "fast", "include: safe\n").Load("fast")
	if err != nil || len(p.Settings) != 0 {
		t.Errorf("%v, %v", p, err)
	}
}

func TestMistakesStandWhereTheyAre(t *testing.T) {
	for _, c := range []struct {
		name, text, at string
		want           error
	}{
		{"an unknown key", "\nirqs: away # x\n", `a.profile:2: unknown key "irqs"; is it irq?`, ErrUnknownKey},
		{"an unknown parameter", "cmdline.quiet: want # x", "a.profile:1", ErrUnknownKey},
		{"a prefix alone", "sysctl.: 1 # x", "a.profile:1", ErrUnknownKey},
		{"a bad value", "poll: fast # x", "it takes irq, busy, threaded", ErrBadValue},
		{"a number too large", "cstate: 99999999 # x", "a.profile:1", ErrBadValue},
		{"an octal number", "cstate: 010 # x", "a.profile:1", ErrBadValue},
		{"no reason", "poll: irq", "poll has no reason", ErrForm},
		{"no colon", "poll irq # x", "a.profile:1", ErrForm},
		{"no value", "poll: # x", "a.profile:1", ErrForm},
		{"itself", "include: a", "a → a", ErrCycle},
		{"a circle", "include: b", "a → b → a", ErrCycle},
		{"nothing there", "include: nix", "there are a, b, latency", ErrNoProfile},
		{"a path", "include: ../etc/passwd", "a.profile:1", ErrNoProfile},
		{"a shell in a sysctl", "sysctl.vm.x: 1; rm # x", "a.profile:1", ErrBadValue},
	} {
		_, err := files("a", c.text, "b", "include: a").Load("a")
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.at) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.want, c.at)
		}
	}
}

func TestAllMistakesAreNamedAtOnce(t *testing.T) {
	_, err := files("a", "x: 1 # r\nirq: b # r\n").Load("a")
	if err == nil || !strings.Contains(err.Error(), "a.profile:1") || !strings.Contains(err.Error(), "a.profile:2") {
		t.Error(err)
	}
}

// FuzzLoad checks that no text makes Load do anything but return a profile or an error.
func FuzzLoad(f *testing.F) {
	own, err := fs.Glob(embedded, "profiles/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range own {
		b, err := embedded.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := files("a", text).Load("a")
		if err != nil {
			return
		}
		for _, s := range p.Settings {
			if err := check(s.Key, s.Value); err != nil || s.Reason == "" {
				t.Fatalf("%+v: %v", s, err)
			}
		}
	})
}
