package bpf

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
)

var bothModes = []plan.Mode{plan.Native, plan.Generic}

// attached returns tables with rules, an instance attached to one end of a veth and
// a function that sends from the other.
func attached(t *testing.T, feeds []plan.Feed, mode plan.Mode) (*Tables, *Instance, func([]byte) error) {
	t.Helper()
	tables := load(t, 4)
	near, far := addVeth(t)
	if err := tables.SetFeeds(feeds); err != nil {
		t.Fatal(err)
	}
	instance, err := tables.Program(Interface{Name: near})
	if err != nil {
		t.Fatal(err)
	}
	got, warning, err := instance.Attach(mode)
	if err != nil || warning != "" || mode != plan.Auto && got != mode {
		t.Fatalf("attach in mode %s: %s, %q, %v", mode, got, warning, err)
	}
	return tables, instance, sender(t, far)
}

func setAllSockets(t *testing.T, i *Instance) {
	t.Helper()
	fd := xskSocket(t)
	for queue := range 8 {
		for worker := range 4 {
			if err := i.SetSocket(queue, worker, fd); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func counters(t *testing.T, tables *Tables, n int) []FeedCounters {
	t.Helper()
	feeds := make([]FeedCounters, n)
	if _, err := tables.Counters(feeds); err != nil {
		t.Fatal(err)
	}
	return feeds
}

// eventually waits for frames that are under way.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("after 2 s: %s", what)
}

// While rules come and go, no packet of a feed whose rule stays is missed or
// steered by another rule, in either mode.
func TestRulesAreEditedUnderTraffic(t *testing.T) {
	for _, mode := range bothModes {
		t.Run(string(mode), func(t *testing.T) { editUnderTraffic(t, mode) })
	}
}

func editUnderTraffic(t *testing.T, mode plan.Mode) {
	t.Helper()
	stays := plan.Feed{Name: "stays", Place: plan.Placement{Kind: plan.PlaceBytes, Length: 8}, Rules: []plan.Rule{rule(17, "10.0.0.1/32", 7000, 0, 0)}}
	comes := plan.Feed{Name: "comes", Place: plan.Placement{Kind: plan.PlaceTuple, Fields: 31}, Rules: []plan.Rule{rule(17, "10.0.0.0/24", 0, 0, 0), rule(17, "10.0.0.2/32", 7000, 0, 0)}}
	tables, instance, send := attached(t, []plan.Feed{stays}, mode)
	setAllSockets(t, instance)

	var sent [2]atomic.Uint64
	stop := make(chan struct{})
	stopped := make(chan error, 1)
	go func() {
		frames := [2][]byte{udp("10.0.0.9:1", "10.0.0.1:7000", "constant key"), udp("10.0.0.9:1", "10.0.0.2:7000", "constant key")}
		for n := 0; ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := send(frames[n%2]); err != nil && !errors.Is(err, unix.ENOBUFS) {
				stopped <- err
				return
			} else if err == nil {
				sent[n%2].Add(1)
			}
			if n%64 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for n := range 16 {
		feeds := []plan.Feed{stays, comes}[:1+n%2]
		if err := tables.SetFeeds(feeds); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := instance.Update(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	eventually(t, "not every frame of the feed that stays was steered", func() bool {
		return counters(t, tables, 1)[0].Frames[steer.Steered] == sent[0].Load()
	})
	c := counters(t, tables, 2)
	if c[0].Received() != sent[0].Load() {
		t.Errorf("%s: the feed that stays received %d frames, %d were sent: %v", mode, c[0].Received(), sent[0].Load(), c[0].Frames)
	}
	if n := c[1].Frames[steer.Steered]; n == 0 || n >= sent[1].Load() {
		t.Errorf("%s: the feed that comes and goes got %d of %d frames, want some and not all", mode, n, sent[1].Load())
	}
}

// ARP, neighbor discovery, ping and TCP go through an interface whose feeds take
// every UDP packet and TCP port 8080, and the UDP packets for which there is no
// socket reach their listener.
func TestTheStackKeepsWhatIsNotSteered(t *testing.T) {
	for _, mode := range bothModes {
		t.Run(string(mode), func(t *testing.T) { talk(t, mode) })
	}
}

func talk(t *testing.T, mode plan.Mode) {
	t.Helper()
	tables := load(t, 4)
	near, far := addVeth(t)
	peer := exec.Command("unshare", "--net", "sleep", "60")
	if err := peer.Start(); err != nil {
		t.Skipf("missing unshare: %v", err)
	}
	t.Cleanup(func() {
		_ = peer.Process.Kill()
		_ = peer.Wait()
	})
	pid := strconv.Itoa(peer.Process.Pid)
	inPeer := func(command string) (string, error) {
		out, err := exec.Command("nsenter", "--net=/proc/"+pid+"/ns/net", "bash", "-c", command).CombinedOutput()
		return string(out), err
	}
	eventually(t, "the peer has no namespace of its own", func() bool {
		mine, _ := os.Readlink(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
		root, _ := os.Readlink("/proc/self/ns/net")
		theirs, _ := os.Readlink("/proc/" + pid + "/ns/net")
		return theirs != "" && theirs != mine && theirs != root
	})
	ip(t, "link", "set", far, "netns", pid)
	ip(t, "address", "add", "10.77.0.1/24", "dev", near)
	ip(t, "address", "add", "fd77::1/64", "dev", near, "nodad")
	if out, err := inPeer("ip link set " + far + " up && ip address add 10.77.0.2/24 dev " + far + " && ip address add fd77::2/64 dev " + far + " nodad"); err != nil {
		t.Fatalf("set the peer up: %v: %s", err, out)
	}

	feeds := []plan.Feed{{Name: "all", Place: plan.Placement{Kind: plan.PlaceTuple, Fields: 31}, Rules: []plan.Rule{rule(17, "", 0, 0, 0), rule(6, "", 8080, 0, 0)}}}
	if err := tables.SetFeeds(feeds); err != nil {
		t.Fatal(err)
	}
	instance, err := tables.Program(Interface{Name: near})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := instance.Attach(mode); err != nil {
		t.Fatal(err)
	}

	for _, address := range []string{"10.77.0.1", "[fd77::1]"} {
		listener, err := net.Listen("tcp", address+":2222")
		if err != nil {
			t.Fatal(err)
		}
		said := make(chan string, 1)
		go func() {
			c, err := listener.Accept()
			if err != nil {
				said <- err.Error()
				return
			}
			b := make([]byte, 64)
			n, _ := c.Read(b)
			_ = c.Close()
			said <- string(b[:n])
		}()
		if out, err := inPeer("echo ssh > /dev/tcp/" + strings.Trim(address, "[]") + "/2222"); err != nil {
			t.Fatalf("%s: TCP to %s: %v: %s", mode, address, err, out)
		}
		select {
		case got := <-said:
			if got != "ssh\n" {
				t.Errorf("%s: over TCP from %s came %q", mode, address, got)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: nothing came over TCP from %s", mode, address)
		}
		_ = listener.Close()

		at, err := net.ListenPacket("udp", address+":3333")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := inPeer("echo -n hello > /dev/udp/" + strings.Trim(address, "[]") + "/3333"); err != nil {
			t.Fatalf("%s: UDP to %s: %v: %s", mode, address, err, out)
		}
		b := make([]byte, 64)
		_ = at.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, _, err := at.ReadFrom(b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("%s: over UDP from %s came %q, %v", mode, address, b[:n], err)
		}
		_ = at.Close()
	}
	feedCounts := make([]FeedCounters, 1)
	other, err := tables.Counters(feedCounts)
	if err != nil {
		t.Fatal(err)
	}
	if feedCounts[0].Frames[steer.NoSocket] < 2 || other.Frames[steer.NotIP] == 0 || other.Frames[steer.OtherProtocol] == 0 || other.Frames[steer.NoMatch] == 0 {
		t.Errorf("%s: counters %v and %v, want UDP without socket, ARP, neighbor discovery and TCP", mode, feedCounts[0].Frames, other.Frames)
	}
}

// An interface that already has a program keeps it, and the error says what to do.
func TestAForeignProgramStays(t *testing.T) {
	tables, instance, _ := attached(t, nil, plan.Auto)
	second, err := tables.Program(Interface{Name: instance.Interface().Name})
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []plan.Mode{plan.Auto, plan.Native} {
		if _, _, err := second.Attach(mode); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "bpftool net") {
			t.Errorf("attach in mode %s: %v, want EBUSY and what to do", mode, err)
		}
	}
	if ok, err := instance.Attached(); !ok || err != nil {
		t.Errorf("the first program is attached: %v, %v", ok, err)
	}
	if err := instance.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := second.Attach(plan.Auto); err != nil {
		t.Errorf("after the first program left: %v", err)
	}
}

// Where the driver has no native XDP, auto falls back with a warning that names the
// cost, and native is refused.
func TestFallbackToGenericWarns(t *testing.T) {
	tables := load(t, 1)
	enterNamespace(t)
	instance, err := tables.Program(Interface{Name: "lo"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := instance.Attach(plan.Native); err == nil {
		t.Fatal("the loopback interface took a program in native mode")
	}
	mode, warning, err := instance.Attach(plan.Auto)
	if err != nil || mode != plan.Generic || instance.Mode() != plan.Generic {
		t.Fatalf("mode %s, %v, want generic", mode, err)
	}
	for _, word := range []string{"interface lo", "generic", "copied"} {
		if !strings.Contains(warning, word) {
			t.Errorf("warning %q does not say %q", warning, word)
		}
	}
	if _, _, err := instance.Attach("fast"); err == nil {
		t.Error("mode fast was taken")
	}
}

// An interface that goes away takes the program with it: Attached says so, and
// detaching and closing still work.
func TestInterfaceIsDeleted(t *testing.T) {
	_, instance, _ := attached(t, nil, plan.Native)
	ip(t, "link", "delete", instance.Interface().Name)
	if ok, err := instance.Attached(); ok || err != nil {
		t.Errorf("attached to a deleted interface: %v, %v", ok, err)
	}
	if err := instance.Detach(); err != nil {
		t.Error(err)
	}
}

// Descriptors carry everything to another process: when the first closes all it has,
// the program steers on; the second edits rules, swaps the program under traffic and
// at last detaches.
func TestHandover(t *testing.T) {
	feeds := []plan.Feed{{Name: "f", Place: plan.Placement{Kind: plan.PlaceBytes, Length: 8}, Rules: []plan.Rule{rule(17, "", 7000, 0, 0)}}}
	tables, first, send := attached(t, feeds, plan.Native)
	setAllSockets(t, first)
	frame := udp("10.0.0.9:1", "10.0.0.1:7000", "key")
	sent := uint64(0)
	sendOne := func(tables *Tables, want steer.Verdict) {
		t.Helper()
		before := counters(t, tables, 1)[0].Frames[want]
		if err := send(frame); err != nil {
			t.Fatal(err)
		}
		sent++
		eventually(t, fmt.Sprintf("the frame was not counted %v", want), func() bool { return counters(t, tables, 1)[0].Frames[want] == before+1 })
	}
	sendOne(tables, steer.Steered)

	description, fds, err := tables.Handover()
	if err != nil {
		t.Fatal(err)
	}
	fds = pass(t, fds)
	if err := tables.Close(); err != nil {
		t.Fatal(err)
	}
	tables, instances, err := Adopt(description, fds)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tables.Close() })
	if len(instances) != 1 || instances[0].Interface() != first.Interface() || instances[0].Mode() != plan.Native {
		t.Fatalf("adopted %+v", instances)
	}
	if ok, err := instances[0].Attached(); !ok || err != nil {
		t.Fatalf("the adopted program is attached: %v, %v", ok, err)
	}
	sendOne(tables, steer.Steered)
	if err := instances[0].Update(); err != nil {
		t.Fatal(err)
	}
	sendOne(tables, steer.Steered)
	if err := instances[0].ClearSockets(); err != nil {
		t.Fatal(err)
	}
	sendOne(tables, steer.NoSocket)
	feeds[0].Place.Length = 1
	if err := tables.SetFeeds(feeds); err != nil {
		t.Fatal(err)
	}
	setAllSockets(t, instances[0])
	sendOne(tables, steer.Steered)
	if got := counters(t, tables, 1)[0].Received(); got != sent {
		t.Errorf("%d frames counted over both lives, %d sent", got, sent)
	}
	if err := instances[0].Detach(); err != nil {
		t.Fatal(err)
	}
	if err := send(frame); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if got := counters(t, tables, 1)[0].Received(); got != sent {
		t.Errorf("a frame was counted after the program was detached")
	}
}

// pass sends descriptors over a unix socket and returns what arrives.
func pass(t *testing.T, fds []int) []int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := unix.Sendmsg(pair[0], []byte{1}, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 1024)
	_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	got, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(got) != len(fds) {
		t.Fatalf("%d of %d descriptors arrived: %v", len(got), len(fds), err)
	}
	return got
}

// What is not a handover of this version is refused, and no descriptor is leaked.
func TestAdoptRefusesWhatItDoesNotKnow(t *testing.T) {
	tables := load(t, 1)
	description, fds, err := tables.Handover()
	if err != nil {
		t.Fatal(err)
	}
	before := openDescriptors(t)
	for name, c := range map[string]struct {
		description string
		fds         []int
		version     bool
	}{
		"another version":         {strings.Replace(string(description), `"Version":1`, `"Version":2`, 1), fds, true},
		"no description":          {"", fds, false},
		"a descriptor too few":    {string(description), fds[1:], false},
		"maps in another order":   {string(description), []int{fds[1], fds[0], fds[2], fds[3]}, true},
		"a file in a map's place": {string(description), []int{0, fds[1], fds[2], fds[3]}, false},
	} {
		_, _, err := Adopt([]byte(c.description), pass(t, c.fds))
		if err == nil || errors.Is(err, ErrVersion) != c.version {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Rules that cannot be are refused, and those in use stay.
func TestSetFeedsRefusesAndKeeps(t *testing.T) {
	b := newBench(t, 1, false)
	b.setFeeds(sampleFeeds())
	twice := sampleFeeds()[:1]
	twice[0].Rules = append(twice[0].Rules, twice[0].Rules[0])
	if err := b.tables.SetFeeds(twice); err == nil {
		t.Error("equal rules were taken")
	}
	b.steer(udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123"), 0)
	if c := b.counts(0); c.Frames[steer.Steered] != 1 {
		t.Errorf("counters %v, want the old rules to hold", c.Frames)
	}
}

// The tables hold what the limits promise: 256 feeds and 4096 rules, edited often.
func TestTablesHoldTheirLimits(t *testing.T) {
	b := newBench(t, 64, false)
	feeds := make([]plan.Feed, event.FeedsMax)
	for i := range feeds {
		feeds[i] = plan.Feed{Name: strconv.Itoa(i), Place: plan.Placement{Kind: plan.PlaceBytes, Length: 8}}
		for j := range steer.RulesMax / event.FeedsMax {
			feeds[i].Rules = append(feeds[i].Rules, rule(17, fmt.Sprintf("10.%d.%d.1/32", i, j), 7000, 0, 0))
		}
	}
	for range 3 {
		b.setFeeds(feeds)
		for _, i := range []int{0, 100, 255} {
			if _, m := b.steer(udp("10.0.0.9:1", fmt.Sprintf("10.%d.15.1:7000", i), "key"), 0); int(m.Feed) != i {
				t.Errorf("feed %d, want %d", m.Feed, i)
			}
		}
	}
	for _, bad := range [][2]int{{-1, 0}, {1024, 0}, {0, -1}, {0, 64}} {
		if err := b.tables.SetOwner(bad[0], bad[1]); err == nil {
			t.Errorf("group %d was given to worker %d", bad[0], bad[1])
		}
	}
	if err := b.instance.SetSocket(64, 0, b.socket); err == nil {
		t.Error("a socket of queue 64 was taken")
	}
}
