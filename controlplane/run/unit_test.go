package run

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/plan"
)

func TestRestartsComeSlowerAndEndForAWhile(t *testing.T) {
	p := policy{most: restartsMax}
	now := time.Unix(1_000_000, 0)
	var pauses []time.Duration
	for {
		pause, may := p.next(now)
		if !may {
			break
		}
		pauses = append(pauses, pause)
		now = now.Add(time.Second)
	}
	if want := []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	// The first of them is a minute ago.
	if _, may := p.next(now.Add(restartWindow - 5*time.Second)); !may {
		t.Error("a minute after the first there may be another")
	}
	if pause, may := p.next(now.Add(time.Hour)); !may || pause != 0 {
		t.Errorf("after an hour: %v, %v", pause, may)
	}
}

func TestOnlySingleGroupsAreJoinedOnce(t *testing.T) {
	rule := func(destination string) plan.Rule {
		r := plan.Rule{Protocol: 17}
		if destination != "" {
			r.Destination = netip.MustParsePrefix(destination)
		}
		return r
	}
	p := &plan.Plan{Feeds: []plan.Feed{
		{Rules: []plan.Rule{rule("224.2.3.10/32"), rule("239.1.0.0/16"), rule("")}},
		{Rules: []plan.Rule{rule("224.2.3.10/32"), rule("10.1.2.3/32"), rule("ff05::1/128"), rule("fd00::1/128")}},
	}}
	list, wide := groups(p)
	if want := []netip.Addr{netip.MustParseAddr("224.2.3.10"), netip.MustParseAddr("ff05::1")}; !slices.Equal(list, want) {
		t.Errorf("groups %v, want %v", list, want)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("239.1.0.0/16")}; !slices.Equal(wide, want) {
		t.Errorf("too many to join: %v, want %v", wide, want)
	}
}

func TestMissingPrivilegesAreNamed(t *testing.T) {
	only := func(bits ...int) func(int) bool { return func(bit int) bool { return slices.Contains(bits, bit) } }
	for _, c := range []struct {
		name string
		has  func(int) bool
		want string
	}{
		{"all of them", only(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF, unix.CAP_PERFMON), ""},
		{"the older one for two", only(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN), ""},
		{"none", only(), "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON"},
		{"all but one", only(unix.CAP_NET_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON), ": CAP_NET_RAW"},
	} {
		err := missing(c.has)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrPrivileges) || !strings.Contains(err.Error(), c.want+": run as root")) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAnInterfaceThatIsNotHereIsNamedBesideThoseThatAre(t *testing.T) {
	if _, err := interfaceNamed("nope0"); err == nil || !strings.Contains(err.Error(), "nope0") || !strings.Contains(err.Error(), "lo") {
		t.Errorf("interfaceNamed = %v", err)
	}
}

func TestALockIsHeldByOneAndFreeAgainAfterIt(t *testing.T) {
	f := &folder{path: t.TempDir()}
	first, err := f.lock("x", unix.LOCK_EX, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.lock("x", unix.LOCK_EX, 20*time.Millisecond); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second lock: %v, want EWOULDBLOCK", err)
	}
	// It goes with the last descriptor, wherever that is.
	other, err := unix.Dup(int(first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err := f.lock("x", unix.LOCK_EX, 0); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a lock while another descriptor is open: %v, want EWOULDBLOCK", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { unix.Close(other) })
	second, err := f.lock("x", unix.LOCK_EX, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	if _, err := os.Stat(filepath.Join(f.path, "x")); err != nil {
		t.Error(err)
	}
}

func TestTheOffsetToUTCIsThatOfNow(t *testing.T) {
	now, offset := clocks()
	utc := time.Unix(0, int64(now)+int64(offset))
	if d := time.Since(utc); d < -10*time.Millisecond || d > time.Second {
		t.Errorf("monotonic %d and offset %v make %v, which is %v ago", now, offset, utc, d)
	}
}

func TestNonsenseInAHandoverIsAnError(t *testing.T) {
	for _, text := range []string{"", "{", `{"BPFs":-1}`, `{"BPFs":1}`, `{"BPFs":0,"Joins":[null]}`, `{"BPFs":0,"BPF":"e30="}`, `{"BPF":{"Version":1}}`} {
		fd, err := unix.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		var d description
		if json.Unmarshal([]byte(text), &d) != nil {
			_ = unix.Close(fd)
			continue
		}
		if _, _, err := adoptNetwork(&plan.Plan{}, nil, &d, []int{fd}); err == nil {
			t.Errorf("%q was taken", text)
		}
		if err := unix.Close(fd); !errors.Is(err, unix.EBADF) {
			t.Errorf("%q: the descriptor was not closed: %v", text, err)
		}
	}
}

func TestFramesAreGivenUpAboutWhenASilentPeerIs(t *testing.T) {
	for _, c := range []struct {
		period   time.Duration
		exponent int
	}{{10 * time.Millisecond, 8}, {500 * time.Millisecond, 14}, {time.Second, 15}, {5 * time.Second, 17}, {time.Minute, 20}} {
		if got := verbsTimeout(c.period); got != c.exponent {
			t.Errorf("period %v: %d, want %d", c.period, got, c.exponent)
		}
	}
}
