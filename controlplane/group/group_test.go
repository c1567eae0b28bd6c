package group

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/goleak"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// net127 is a loopback network of this test's own.
func net127() func(host int) string {
	a, b := rand.N(250)+2, rand.N(256)
	return func(host int) string { return fmt.Sprintf("127.%d.%d.%d:9200", a, b, host) }
}

func first(t *testing.T, address string) *Dir {
	t.Helper()
	d, err := Init(filepath.Join(t.TempDir(), "a"), "a", address)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// inviting lets newcomers in until the test ends.
func inviting(t *testing.T, d *Dir) *boot.Mesh {
	t.Helper()
	m, err := d.wait("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func issue(t *testing.T, d *Dir, id string, life time.Duration) string {
	t.Helper()
	text, _, _, err := d.Issue(id, life)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func pinOf(t *testing.T, d *Dir) string {
	t.Helper()
	pin, err := d.Pin()
	if err != nil {
		t.Fatal(err)
	}
	return pin
}

func TestOnlyTheOwnerReadsTheFiles(t *testing.T) {
	d := first(t, "10.0.0.1:9200")
	issue(t, d, "b", time.Minute)
	err := filepath.Walk(d.Path(), func(path string, is os.FileInfo, err error) error {
		if err == nil && is.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %#o", path, is.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(d.Path(), "a", "10.0.0.1:9200"); !errors.Is(err, ErrExists) {
		t.Errorf("a second init: %v", err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(open, "a", "h:1"); err == nil || !strings.Contains(err.Error(), "others may write into it") {
		t.Errorf("a directory of everybody: %v", err)
	}
	if err := os.Chmod(d.at(fileKey), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.Path()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
}

func TestAFileThatIsNotGoodIsRefusedAndSaysWhy(t *testing.T) {
	good, other := pinOf(t, first(t, "h:1")), pinOf(t, first(t, "h:1"))
	for want, text := range map[string]string{
		"not among the peers": "me: z\npeers: [{id: a, address: 'h:1', pin: '" + good + "'}]",
		"base64":              "me: a\npeers: [{id: a, pin: 'sha256:abc'}]",
		"there twice":         "me: a\npeers: [{id: a}, {id: a}]",
		"the same pin":        "me: a\npeers: [{id: a, pin: '" + good + "'}, {id: b, pin: ['" + other + "', '" + good + "']}]",
		"unknown field":       "me: a\npeers: [{id: a}]\nsecret: x",
		"other characters":    "me: a\npeers: [{id: a}, {id: 'b c'}]",
		"peers.yaml":          "me: [",
	} {
		d := first(t, "h:1")
		if err := os.WriteFile(d.at(filePeers), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(d.Path()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
		// A box that runs keeps what it had, and says so once.
		var log bytes.Buffer
		d.Log = slog.New(slog.NewTextHandler(&log, nil))
		for range 3 {
			if pins := d.Pins(nil)("a"); len(pins) != 1 {
				t.Errorf("%s: pins of a are %v", want, pins)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%s: said %d times:\n%s", want, n, &log)
		}
	}
}

func TestBoxesJoinAndThenHearEachOther(t *testing.T) {
	at := net127()
	a := first(t, at(1))
	m := inviting(t, a)
	dirs := []*Dir{a}
	for i, id := range []string{"b", "c"} {
		d, err := Join(t.Context(), filepath.Join(t.TempDir(), id), id, at(i+2), at(1), issue(t, a, id, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
	}
	if known, err := dirs[2].Peers(); err != nil || len(known) != 3 {
		t.Errorf("c knows %v, %v", known, err)
	}
	if known, err := dirs[1].Peers(); err != nil || len(known) != 2 { // it joined before c
		t.Errorf("b knows %v, %v", known, err)
	}
	m.Close()

	// All run with what a shows.
	configured, err := a.Peers()
	if err != nil {
		t.Fatal(err)
	}
	var ms []*boot.Mesh
	for i, d := range dirs {
		me, _ := d.Me()
		m, err := boot.New(boot.Config{
			Me: me, Peers: configured, Certificate: d.Certificate, Pins: d.Pins(configured), Join: d.Admit,
			Beat: 20 * time.Millisecond, Silence: time.Second,
		})
		if err != nil {
			t.Fatal(i, err)
		}
		defer m.Close()
		ms = append(ms, m)
	}
	hear := func() bool {
		for _, m := range ms {
			h := make([]collective.Set, 3)
			m.Hears(h)
			if !slices.Equal(h, []collective.Set{7, 7, 7}) {
				return false
			}
		}
		return true
	}
	await(t, "everybody hears everybody", hear)

	// b's key changes while they run.
	b := dirs[1]
	old := pinOf(t, b)
	next, err := b.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Rotate(); err != nil || again != next {
		t.Errorf("Rotate again = %s, %v, want %s", again, err, next)
	}
	for _, d := range []*Dir{a, dirs[2]} {
		if err := d.Trust("b", next); err != nil {
			t.Fatal(err)
		}
	}
	if pin, retired, err := b.Retire(); err != nil || pin != next || !slices.Equal(retired, []string{old}) {
		t.Fatalf("Retire = %s, %v, %v", pin, retired, err)
	}
	if _, _, err := b.Retire(); err == nil {
		t.Error("retired twice")
	}
	if n := ms[0].Peers()[1].Connections; n != 1 || !hear() {
		t.Errorf("b's connection did not go on: %d", n)
	}
	for _, d := range []*Dir{a, dirs[2]} {
		if retired, err := d.Distrust("b", ""); err != nil || !slices.Equal(retired, []string{old}) {
			t.Fatalf("Distrust = %v, %v", retired, err)
		}
	}
	await(t, "b is connected with its new key", func() bool {
		return ms[0].Peers()[1].Connections == 2 && ms[2].Peers()[1].Connections == 2 && hear()
	})
	if pins := a.Pins(configured)("b"); !slices.Equal(pins, []string{next}) {
		t.Errorf("the config brings the old pin back: %v", pins)
	}

	// A running box lets a newcomer in too.
	if _, err := Join(t.Context(), filepath.Join(t.TempDir(), "d"), "d", at(4), at(1), issue(t, a, "d", time.Minute)); err != nil {
		t.Error(err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func TestATokenThatIsNotGoodIsRefusedWithAReasonAndCounted(t *testing.T) {
	at := net127()
	a := first(t, at(1))
	m := inviting(t, a)
	stranger := first(t, at(1)) // has a's name and address, but another secret and key
	used := issue(t, a, "b", time.Minute)
	b := filepath.Join(t.TempDir(), "b")
	if _, err := Join(t.Context(), b, "b", at(2), at(1), used); err != nil {
		t.Fatal(err)
	}
	expired := issue(t, a, "b", 30*time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	withdrawn := issue(t, a, "b", time.Minute)
	tok, err := ParseToken(withdrawn)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(a.Path(), dirTokens, tok.Nonce)); err != nil {
		t.Fatal(err)
	}
	good := issue(t, a, "b", time.Minute)
	payload, mac, _ := strings.Cut(strings.TrimPrefix(good, tokenPrefix), ".")
	changed := []byte(mac)
	if changed[3] = 'A'; mac[3] == 'A' {
		changed[3] = 'B' // another one, and base64 still
	}
	var counted uint64
	for _, c := range []struct {
		name, token, want string
		local             bool // no listener is asked, or not for its token
	}{
		{"used", used, "it has been used", false},
		{"expired", expired, "it expired at", false},
		{"withdrawn", withdrawn, "was withdrawn", false},
		{"for another", issue(t, a, "z", time.Minute), "it is for z, not for b", false},
		{"changed", tokenPrefix + payload + "." + string(changed), "was changed", false},
		{"of another secret", forged(t, stranger, pinOf(t, a)), "not made here", false},
		{"of another box", issue(t, stranger, "b", time.Minute), "bad_certificate", true},
		{"no token", "hello", "not of the form", true},
		{"half a token", tokenPrefix + payload, "not of the form", true},
	} {
		_, err := Join(t.Context(), b, "b", at(2), at(1), c.token)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if !c.local {
			counted++
		}
		if n := m.Refused()[boot.Token]; n != counted {
			t.Errorf("%s: %d are counted, want %d", c.name, n, counted)
			counted = n
		}
	}
	if peers, err := a.Peers(); err != nil || len(peers) != 2 {
		t.Errorf("a knows %v, %v", peers, err)
	}
	// It replaces the box of that name, whose key is good no more.
	old, err := Open(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), filepath.Join(t.TempDir(), "b2"), "b", at(3), at(1), good); err != nil {
		t.Fatal(err)
	}
	if pins := a.Pins([]boot.Peer{{ID: "b", Pins: []string{pinOf(t, old)}}})("b"); len(pins) != 1 || pins[0] == pinOf(t, old) {
		t.Errorf("pins of b are %v", pins)
	}
}

// forged makes a token as d does, with another's pin.
func forged(t *testing.T, d *Dir, pin string) string {
	t.Helper()
	text := issue(t, d, "b", time.Minute)
	payload, _, err := splitToken(text)
	if err != nil {
		t.Fatal(err)
	}
	payload = bytes.Replace(payload, []byte(pinOf(t, d)), []byte(pin), 1)
	mac, err := d.sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	return tokenPrefix + encode(payload) + "." + encode(mac)
}

func TestOfManyWithOneTokenOneJoins(t *testing.T) {
	a := first(t, "10.0.0.1:9200")
	token := issue(t, a, "b", time.Minute)
	var wg sync.WaitGroup
	joined := make(chan string, 16)
	for range 16 {
		wg.Go(func() {
			pin := pinOf(t, first(t, "h:1"))
			if _, err := a.Admit(boot.Request{ID: "b", Address: "10.0.0.2:9200", Pin: pin, Token: token}); err == nil {
				joined <- pin
			} else if !errors.Is(err, ErrToken) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(joined)
	if len(joined) != 1 {
		t.Fatalf("%d joined", len(joined))
	}
	if pins := a.Pins(nil)("b"); !slices.Equal(pins, []string{<-joined}) {
		t.Errorf("pins of b are %v", pins)
	}
	all, err := os.ReadDir(a.at(dirTokens))
	if err != nil || len(all) != 0 {
		t.Errorf("tokens are left: %v, %v", all, err)
	}
}

func TestAMissedRetireIsMadeUpFor(t *testing.T) {
	d := first(t, "h:1")
	next, err := d.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	// As if it had been interrupted between its two changes.
	if err := os.Rename(d.at(fileNext), d.at(fileKey)); err != nil {
		t.Fatal(err)
	}
	if pin, retired, err := d.Retire(); err != nil || pin != next || len(retired) != 1 {
		t.Errorf("Retire = %s, %v, %v", pin, retired, err)
	}
	if pins := d.Pins(nil)("a"); !slices.Equal(pins, []string{next}) {
		t.Errorf("pins are %v", pins)
	}
}

// run runs a command line and returns what it printed.
func run(ctx context.Context, errs io.Writer, args ...string) (string, error) {
	c := Command()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(errs)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

func TestTheCommandsMakeAGroup(t *testing.T) {
	at := net127()
	dir := t.TempDir()
	ad, bd := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must := func(args ...string) string {
		t.Helper()
		out, err := run(t.Context(), io.Discard, args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	must("init", "--dir", ad, "--me", "a", "--address", at(1))
	pr, pw := io.Pipe()
	go func() {
		c := Command()
		c.SetOut(pw)
		c.SetErr(io.Discard)
		c.SetArgs([]string{"token", "--dir", ad, "--for", "b", "--wait"})
		pw.CloseWithError(c.ExecuteContext(t.Context()))
	}()
	line := make([]byte, 2048)
	n, err := pr.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(line[:n]))
	must("join", "--dir", bd, "--address", at(2), "--token", token)
	if _, err := io.Copy(io.Discard, pr); err != nil { // it ends when b is in
		t.Errorf("token --wait: %v", err)
	}
	var section struct {
		Group struct {
			Me, Dir string
			Peers   []struct {
				ID, Address string
				Pin         any
			}
		}
	}
	show := func(args ...string) {
		t.Helper()
		out := must(append([]string{"show"}, args...)...)
		section.Group.Peers = nil
		if err := yaml.UnmarshalWithOptions([]byte(out), &section, yaml.Strict()); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	show("--dir", ad)
	if g := section.Group; g.Me != "a" || g.Dir != ad || len(g.Peers) != 2 || g.Peers[1].ID != "b" || g.Peers[1].Address != at(2) {
		t.Errorf("show: %+v", g)
	}
	show("--dir", ad, "--me", "b")
	if section.Group.Me != "b" {
		t.Errorf("show --me b: %+v", section.Group)
	}
	out := must("rotate", "--dir", bd)
	pin := strings.Fields(out)[2]
	must("rotate", "--dir", ad, "--peer", "b", "--pin", pin)
	show("--dir", ad)
	if two, ok := section.Group.Peers[1].Pin.([]any); !ok || len(two) != 2 || two[1] != pin {
		t.Errorf("two pins are shown as %v", section.Group.Peers[1].Pin)
	}
	must("rotate", "--dir", bd, "--retire")
	must("rotate", "--dir", ad, "--peer", "b", "--retire")
	show("--dir", ad)
	if section.Group.Peers[1].Pin != pin {
		t.Errorf("one pin is shown as %v", section.Group.Peers[1].Pin)
	}
	must("rotate", "--dir", ad, "--peer", "b", "--retire", "--pin", pin)
	if d, err := Open(ad); err != nil || len(d.Pins([]boot.Peer{{ID: "b", Pins: []string{pin}}})("b")) != 0 {
		t.Errorf("a pin that is retired by name is good: %v", err)
	}
	if _, err := run(t.Context(), io.Discard, "join", "--dir", bd, "--address", at(2), "--token", token, "--to", at(1)); err == nil {
		t.Error("nobody is there, but b has joined")
	}
	if _, err := run(t.Context(), io.Discard, "token", "--dir", ad, "--for", "c", "--life", "100ms", "--wait"); err == nil || !strings.Contains(err.Error(), "expired unused") {
		t.Errorf("a token that nobody uses: %v", err)
	}
}

func TestMistakesOnTheCommandLineAreErrorsOfUsage(t *testing.T) {
	for _, args := range [][]string{
		{"init", "--me", "a"},
		{"init", "--address", "h:1"},
		{"init", "--me", "a/b", "--address", "h:1"},
		{"init", "--me", "a", "--address", "10.0.0.1"},
		{"init", "--me", "a", "--address", "0.0.0.0:9200"},
		{"init", "--me", "a", "--address", "h:0"},
		{"token"},
		{"token", "--for", "b", "--life", "-1s"},
		{"token", "--for", "b", "--life", "1000h"},
		{"token", "--for", "b", "--listen", "h:1"},
		{"join", "--address", "h:1"},
		{"join", "--address", "h:1", "--token", "nonsense"},
		{"rotate", "--pin", "sha256:x"},
		{"rotate", "--peer", "b"},
	} {
		_, err := run(t.Context(), io.Discard, append(args, "--dir", filepath.Join(t.TempDir(), "x"))...)
		var u *usage.Error
		if !errors.As(err, &u) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := run(t.Context(), io.Discard, "show", "--dir", filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "headrace group init") {
		t.Errorf("show without a directory: %v", err)
	}
}

// FuzzToken checks that nothing but the very text that was issued is a token.
func FuzzToken(f *testing.F) {
	d, err := Init(filepath.Join(f.TempDir(), "a"), "a", "10.0.0.1:9200")
	if err != nil {
		f.Fatal(err)
	}
	text, _, _, err := d.Issue("b", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	_, pin, err := newKey("b")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(tokenPrefix + "e30.e30")
	f.Fuzz(func(t *testing.T, in string) {
		if strings.TrimSpace(in) == text {
			return
		}
		if _, err := d.Admit(boot.Request{ID: "b", Address: "10.0.0.2:9200", Pin: pin, Token: in}); err == nil {
			t.Errorf("%q is a token", in)
		}
	})
}

// What init and join take, the config must take too.
func TestNamesThatNoConfigTakesAreRefusedAtOnce(t *testing.T) {
	for _, c := range []struct{ id, address string }{
		{"Box", "h:1"},
		{"a_b", "h:1"},
		{strings.Repeat("a", 33), "h:1"},
		{"a", "h:http"},
		{"a", "fd00::1:9200"},
		{"a", "[ff02::1]:9200"},
	} {
		if _, err := Init(filepath.Join(t.TempDir(), "x"), c.id, c.address); err == nil {
			t.Errorf("%q at %q is taken", c.id, c.address)
		}
	}
	d, err := Init(filepath.Join(t.TempDir(), "a"), "a", "[fd00::1]:9200")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.Issue("Box", time.Minute); err == nil {
		t.Error("a token for Box is made")
	}
}

// Boxes whose pins are in the config alone know one pin of a in their directory: the
// next one.
func TestTheLastStepOfARotationIsPrintedSoThatItWorksEverywhere(t *testing.T) {
	ad, bd := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	must := func(args ...string) string {
		t.Helper()
		out, err := run(t.Context(), io.Discard, args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	must("init", "--dir", ad, "--me", "a", "--address", "10.0.0.1:9200")
	must("init", "--dir", bd, "--me", "b", "--address", "10.0.0.2:9200")
	a, err := Open(ad)
	if err != nil {
		t.Fatal(err)
	}
	old, err := a.Pin()
	if err != nil {
		t.Fatal(err)
	}
	next := strings.Fields(must("rotate", "--dir", ad))[2]
	must("rotate", "--dir", bd, "--peer", "a", "--pin", next)
	lines := strings.Split(strings.TrimSpace(must("rotate", "--dir", ad, "--retire")), "\n")
	must(append(strings.Fields(lines[len(lines)-1])[2:], "--dir", bd)...)
	b, err := Open(bd)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Pins([]boot.Peer{{ID: "a", Pins: []string{old}}})("a"); !slices.Equal(got, []string{next}) {
		t.Errorf("b takes %v of a, want %s alone", got, next)
	}
}
