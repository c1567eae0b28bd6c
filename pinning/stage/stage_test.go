package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/pinning/card"
	"github.com/headrace/headrace/pinning/profile"
	"github.com/headrace/headrace/pinning/topology"
	"github.com/headrace/headrace/pinning/treetest"
)

// fakeCards keeps the settings of cards in a file, so that they outlive a process.
type fakeCards struct{ path string }

func newCards(t *testing.T) *fakeCards {
	t.Helper()
	c := &fakeCards{filepath.Join(treetest.Memory(t), "cards")}
	c.save(map[string]string{
		"eth0 channels": "rx=0 tx=0 other=1 combined=8", "eth0 channels-max": "rx=0 tx=0 other=1 combined=8",
		"eth0 rings": "rx=256 rx-mini=0 rx-jumbo=0 tx=256", "eth0 rings-max": "rx=4096 rx-mini=0 rx-jumbo=0 tx=4096",
		"eth0 coalesce": "adaptive-rx=1 adaptive-tx=1 rx-usecs=50 rx-frames=0", "eth0 feature lro": "on", "eth0 feature gro": "on",
		"eth0 feature ntuple": "off", "eth0 rss-table": "0,1,2,3,4,5,6,7", "eth0 rss-key": "01:02:03:04",
		"eth0 napi rx-0 threaded": "0", "eth0 napi rx-0 defer-hard-irqs": "0", "eth0 napi rx-0 gro-flush-timeout": "0",
		"eth0 napi rx-1 threaded": "0", "eth0 napi rx-1 defer-hard-irqs": "0", "eth0 napi rx-1 gro-flush-timeout": "0",
		"eth0 flow udp 239.1.1.1:5000": "none",
	})
	return c
}

func (c *fakeCards) load() map[string]string {
	m := map[string]string{}
	b, err := os.ReadFile(c.path)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		panic(err)
	}
	return m
}

func (c *fakeCards) save(m map[string]string) {
	b, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(c.path, b, 0o644)
	}
	if err != nil {
		panic(err)
	}
}

func (c *fakeCards) Get(nic, name string) (string, error) {
	if v, ok := c.load()[nic+" "+name]; ok {
		return v, nil
	}
	return "", fmt.Errorf("%s %s: %w", nic, name, card.ErrUnsupported)
}

func (c *fakeCards) Set(nic, name, value string) error {
	m := c.load()
	m[nic+" "+name] = value
	c.save(m)
	return nil
}

func (c *fakeCards) Shell(nic, name, value string) string {
	return card.Kernel{}.Shell(nic, name, value)
}

// A lab is a tree, its cards and a directory for records.
type lab struct {
	t     *testing.T
	tree  *treetest.Tree
	cards *fakeCards
	state string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	return &lab{t, treetest.Host(t), newCards(t), filepath.Join(treetest.Memory(t), "state")}
}

func load(t *testing.T, name string) *profile.Profile {
	t.Helper()
	p, err := profile.Sources{}.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (l *lab) options(name string) Options {
	return Options{Root: l.tree.Dir, Cards: l.cards, Profile: load(l.t, name), Interfaces: []string{"eth0"}, Workers: 2}
}

// tuner opens everything for one use; only a writer takes the lock.
func (l *lab) tuner(o Options, writes bool, only ...string) *Tuner {
	l.t.Helper()
	h, err := Open(o)
	if err != nil {
		l.t.Fatal(err)
	}
	open := ReadJournal
	if writes {
		open = OpenJournal
	}
	j, err := open(l.state)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _, _ = h.Close(), j.Close() })
	tuner, err := New(h, j, only...)
	if err != nil {
		l.t.Fatal(err)
	}
	return tuner
}

func (l *lab) apply(o Options, only ...string) []Outcome {
	l.t.Helper()
	tuner := l.tuner(o, true, only...)
	outcomes, _, err := tuner.Apply(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	if err := tuner.journal.Close(); err != nil {
		l.t.Fatal(err)
	}
	return outcomes
}

func (l *lab) revert() []Outcome {
	l.t.Helper()
	j, err := OpenJournal(l.state)
	if err != nil {
		l.t.Fatal(err)
	}
	defer j.Close()
	outcomes, err := Revert(l.t.Context(), l.tree.Dir, l.cards, j, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return outcomes
}

// all is everything that could have been changed.
func (l *lab) all() map[string]string {
	all := l.tree.All()
	for k, v := range l.cards.load() {
		all["card "+k] = v
	}
	return all
}

func (l *lab) sameAs(before map[string]string) {
	l.t.Helper()
	if diff := cmp.Diff(before, l.all()); diff != "" {
		l.t.Errorf("not as before (-before +now):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(l.state, journalName)); !errors.Is(err, os.ErrNotExist) {
		l.t.Errorf("the records are still there: %v", err)
	}
}

func (l *lab) read(name string) string {
	b, err := os.ReadFile(filepath.Join(l.tree.Dir, name))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// groups makes plain files of a cgroup as the kernel would, when it is made.
func (l *lab) groups() {
	l.tree.File("sys/fs/cgroup/headrace.slice/cpuset.cpus", "")
	l.tree.File("sys/fs/cgroup/headrace.slice/cpuset.cpus.partition", "member")
}

func failures(outcomes []Outcome) []Outcome {
	return slices.DeleteFunc(slices.Clone(outcomes), func(o Outcome) bool { return o.State != Failed })
}

func TestApplyThenRevertIsAsBefore(t *testing.T) {
	for _, name := range []string{"throughput", "latency", "latency-best"} {
		l := newLab(t)
		l.groups()
		before := l.all()
		outcomes := l.apply(l.options(name))
		for _, o := range failures(outcomes) {
			// A tree gives no huge pages: every other step must do.
			t.Errorf("%s: %s: %s", name, o.Setting, o.Text)
		}
		if cmp.Equal(before, l.all()) {
			t.Fatalf("%s changed nothing", name)
		}
		for _, o := range l.revert() {
			if o.State != Done {
				t.Errorf("%s: %s: %s %s", name, o.Setting, o.State, o.Text)
			}
		}
		l.sameAs(before)
	}
}

func TestEveryStageOfLatencyBest(t *testing.T) {
	l := newLab(t)
	l.groups()
	o := l.options("latency-best")
	o.Flows = []Flow{{"eth0", "udp 239.1.1.1:5000", 1}}
	l.apply(o)
	// Workers are on 5 and 6 of node 1, their siblings 13 and 14 are idle.
	for name, want := range map[string]string{
		"proc/irq/30/smp_affinity_list":                                         "4,7,12,15",
		"proc/irq/31/smp_affinity_list":                                         "4,7,12,15",
		"proc/irq/40/smp_affinity_list":                                         "0-3",
		"proc/irq/41/smp_affinity_list":                                         "0-4,7-12,15",
		"proc/irq/default_smp_affinity":                                         "9f9f",
		"sys/devices/virtual/workqueue/cpumask":                                 "9f9f",
		"sys/devices/virtual/workqueue/writeback/cpumask":                       "9f9f",
		"sys/fs/cgroup/cgroup.subtree_control":                                  "cpuset cpu memory",
		"sys/fs/cgroup/headrace.slice/cpuset.cpus":                              "5-6,13-14",
		"sys/fs/cgroup/headrace.slice/cpuset.cpus.partition":                    "isolated",
		"sys/class/net/eth0/queues/rx-0/rps_cpus":                               "0",
		"sys/class/net/eth0/queues/tx-1/xps_cpus":                               "40",
		"sys/devices/system/cpu/cpu5/power/pm_qos_resume_latency_us":            "n/a",
		"sys/devices/system/cpu/cpu4/power/pm_qos_resume_latency_us":            "0",
		"sys/devices/system/cpu/cpu6/cpufreq/scaling_governor":                  "performance",
		"sys/devices/system/cpu/cpu6/cpufreq/energy_performance_preference":     "performance",
		"sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages": "128",
		"sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages": "512",
		"proc/sys/vm/stat_interval":                                             "120",
		"proc/sys/kernel/watchdog_cpumask":                                      "0-4,7-12,15",
	} {
		if got := l.read(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"channels": "rx=0 tx=0 other=1 combined=2", "rings": "rx=4096 rx-mini=0 rx-jumbo=0 tx=4096",
		"coalesce": "adaptive-rx=0 adaptive-tx=1 rx-usecs=0 rx-frames=0", "feature ntuple": "on", "rss-table": "0,1,0,1,0,1,0,1",
		"napi rx-1 defer-hard-irqs": "100", "flow udp 239.1.1.1:5000": "1",
	} {
		if got := l.cards.load()["eth0 "+name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestApplyAfterApplyChangesNothing(t *testing.T) {
	l := newLab(t)
	l.groups()
	before := l.all()
	l.apply(l.options("latency-best"))
	after, records := l.all(), l.tuner(l.options("latency-best"), false).journal.Records()
	for range 2 {
		for _, o := range l.apply(l.options("latency-best")) {
			if o.State != Already {
				t.Errorf("%s: %s %s", o.Setting, o.State, o.Text)
			}
		}
	}
	if diff := cmp.Diff(after, l.all()); diff != "" {
		t.Error(diff)
	}
	again := l.tuner(l.options("latency-best"), false).journal.Records()
	if diff := cmp.Diff(records, again); diff != "" {
		t.Errorf("records changed:\n%s", diff)
	}
	l.revert()
	l.sameAs(before)
}

func TestAnotherProfilePutsBackWhatItDoesNotWant(t *testing.T) {
	l := newLab(t)
	l.groups()
	before := l.all()
	l.apply(l.options("latency-best"))
	l.apply(l.options("throughput"))
	if got := l.read("proc/sys/vm/stat_interval"); got != "1" {
		t.Errorf("vm.stat_interval is %s, and throughput has no wish for it", got)
	}
	if got := l.read("sys/fs/cgroup/headrace.slice/cpuset.cpus.partition"); got != "member" {
		t.Errorf("the partition is %s", got)
	}
	if got := l.read("sys/devices/system/cpu/cpu5/cpufreq/scaling_governor"); got != "performance" {
		t.Errorf("the governor is %s, and throughput wants it", got)
	}
	l.apply(l.options("safe"))
	if diff := cmp.Diff(before, l.all()); diff != "" {
		t.Errorf("safe left something:\n%s", diff)
	}
	l.revert()
	l.sameAs(before)
}

func TestRevertSaysWhatSomebodyElseChanged(t *testing.T) {
	l := newLab(t)
	l.groups()
	before := l.all()
	l.apply(l.options("latency"))
	l.tree.File("proc/sys/vm/stat_interval", "30")
	if err := os.RemoveAll(filepath.Join(l.tree.Dir, "proc/irq/41")); err != nil {
		t.Fatal(err)
	}
	states := map[string]Outcome{}
	for _, o := range l.revert() {
		states[o.Setting.Name] = o
	}
	if o := states["proc/sys/vm/stat_interval"]; o.State != Changed || !strings.Contains(o.Text, "made it 30") {
		t.Errorf("%+v", o)
	}
	if o := states["proc/irq/41/smp_affinity_list"]; o.State != Gone {
		t.Errorf("%+v", o)
	}
	maps.DeleteFunc(before, func(name, _ string) bool { return strings.HasPrefix(name, "proc/irq/41/") })
	l.sameAs(before)
}

func TestASlowKernelAndARefusingOne(t *testing.T) {
	l := newLab(t)
	l.groups()
	before := l.all()
	// A directory in place of a file: it can be neither read nor written.
	gone := filepath.Join(l.tree.Dir, "proc/sys/vm/stat_interval")
	if err := errors.Join(os.Remove(gone), os.Mkdir(gone, 0o755)); err != nil {
		t.Fatal(err)
	}
	tuner := l.tuner(l.options("latency"), true)
	outcomes, notes, err := tuner.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(notes, func(n Note) bool { return n.Wanted && strings.Contains(n.Text, "vm/stat_interval") }) {
		t.Errorf("notes %v", notes)
	}
	if n := len(outcomes); n < 20 {
		t.Errorf("the others did not go on: %d", n)
	}
	tuner.journal.Close()
	l.revert()
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	l.tree.File("proc/sys/vm/stat_interval", "1")
	l.sameAs(before)
}

// refuser is a card that takes no channels and fewer ring entries than asked for.
type refuser struct{ *fakeCards }

func (r refuser) Set(nic, name, value string) error {
	switch name {
	case "channels":
		return fmt.Errorf("busy: %w", syscall.EBUSY)
	case "rings":
		value = "rx=512 rx-mini=0 rx-jumbo=0 tx=512"
	}
	return r.fakeCards.Set(nic, name, value)
}

func TestWhatCannotBeDoneIsNamedAndTheRestGoesOn(t *testing.T) {
	l := newLab(t)
	l.groups()
	before := l.all()
	o := l.options("latency")
	o.Cards = refuser{l.cards}
	failed := failures(l.apply(o))
	if len(failed) != 2 || failed[0].Setting.Name != "eth0 channels" || failed[1].Setting.Name != "eth0 rings" ||
		!strings.Contains(failed[1].Text, "it is rx=512") {
		t.Errorf("failed: %+v", failed)
	}
	for _, r := range l.tuner(o, false).journal.Records() {
		if r.Setting.Name == "eth0 channels" {
			t.Error("what was not changed is recorded")
		}
	}
	l.revert()
	l.sameAs(before)
}

func TestCheckAndPlanChangeNothing(t *testing.T) {
	l := newLab(t)
	before := l.all()
	tuner := l.tuner(l.options("latency-best"), false)
	steps, notes := tuner.Check()
	if len(steps) < 30 {
		t.Errorf("%d steps", len(steps))
	}
	for _, s := range steps {
		if s.Shell == "" || s.Why == "" || s.Met {
			t.Errorf("step %+v", s)
		}
	}
	fix := ""
	for _, n := range notes {
		if n.Stage == "cmdline" && n.Wanted {
			fix = n.Fix
		}
	}
	if want := "isolcpus=managed_irq,5-6,13-14 nohz_full=5-6,13-14 rcu_nocbs=5-6,13-14 irqaffinity=0-4,7-12,15"; !strings.Contains(fix, want) {
		t.Errorf("the command line's fix is %q, want %q in it", fix, want)
	}
	if diff := cmp.Diff(before, l.all()); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(l.state); err == nil {
		t.Error("the state directory was made")
	}
}

func TestANumberThatNoCardHasIsSaid(t *testing.T) {
	l := newLab(t)
	o := l.options("latency")
	o.Profile = wishes(t, "coalesce: rx-usec=0")
	steps, notes := l.tuner(o, false, "coalesce").Check()
	if len(steps) != 0 || len(notes) != 1 || !notes[0].Wanted || !strings.Contains(notes[0].Text, "no rx-usec (test.profile:1)") {
		t.Errorf("%+v, %+v", steps, notes)
	}
}

func TestTheCommandLineIsRead(t *testing.T) {
	for _, c := range []struct {
		name, line, lacks string
	}{
		{"all of it", "isolcpus=managed_irq,domain,5-6,13-14 nohz_full=4-15 rcu_nocbs=5,6,13,14 irqaffinity=0-4", ""},
		{"isolcpus without managed_irq", "isolcpus=5-6,13-14 nohz_full=4-15 rcu_nocbs=5,6,13,14 irqaffinity=0-4", "isolcpus"},
		{"a core too few", "isolcpus=managed_irq,5-6,13-14 nohz_full=5-6,13 rcu_nocbs=5,6,13,14 irqaffinity=0-4", "nohz_full"},
		{"interrupts on a worker core", "isolcpus=managed_irq,5-6,13-14 nohz_full=5-6,13-14 rcu_nocbs=5,6,13,14 irqaffinity=0-5", "irqaffinity"},
	} {
		l := newLab(t)
		l.tree.File("proc/cmdline", c.line)
		_, notes := l.tuner(l.options("latency-best"), false, "cmdline").Plan()
		text := ""
		for _, n := range notes {
			text += n.Text
		}
		if c.lacks == "" && text != "" || !strings.Contains(text, c.lacks) {
			t.Errorf("%s: %q", c.name, text)
		}
	}
}

func TestPollModes(t *testing.T) {
	l := newLab(t)
	p := load(t, "latency")
	with := func(mode string) map[string]string {
		o := l.options("latency")
		o.Profile = &profile.Profile{Name: mode, Settings: slices.Clone(p.Settings)}
		for i := range o.Profile.Settings {
			if o.Profile.Settings[i].Key == "poll" {
				o.Profile.Settings[i].Value = mode
			}
		}
		steps, _ := l.tuner(o, false, "napi").Plan()
		values := map[string]string{}
		for _, s := range steps {
			values[s.Setting.Name] = s.New
		}
		return values
	}
	for mode, want := range map[string]map[string]string{
		"irq":      {"eth0 napi rx-0 threaded": "0", "eth0 napi rx-0 defer-hard-irqs": "0"},
		"busy":     {"eth0 napi rx-0 threaded": "0", "eth0 napi rx-0 defer-hard-irqs": "100"},
		"threaded": {"eth0 napi rx-0 threaded": "1", "eth0 napi-thread rx-0": "4", "eth0 napi-thread rx-1": "7"},
	} {
		got := with(mode)
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s: %s is %q, want %q", mode, name, got[name], value)
			}
		}
	}
}

func TestIRQBalanceIsTold(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.tree.Dir, "run/irqbalance")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir) // a path of a socket is short
	listener, err := net.Listen("unix", "irqbalance7.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	said := make(chan string, 64)
	go func() {
		mask := "00008000" // CPU 15 is somebody's already
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 256)
			n, _ := c.Read(b)
			switch request := string(b[:n]); request {
			case "setup":
				_, _ = io.WriteString(c, "SLEEP 10 IRQ 30 LOAD 5 BANNED "+mask)
			default:
				said <- request
				if s, err := topology.ParseCPUs(strings.TrimPrefix(request, "settings cpus ")); err == nil {
					mask = s.Mask()
				}
			}
			c.Close()
		}
	}()
	for _, o := range l.apply(l.options("throughput"), "irqbalance") {
		if o.State != Done {
			t.Errorf("%+v", o)
		}
	}
	if got := <-said; got != "settings cpus 5-6,13-15" {
		t.Errorf("it was told %q", got)
	}
	l.revert()
	if got := <-said; got != "settings cpus 15" {
		t.Errorf("it was told %q", got)
	}
}

func TestNothingCanBeIsolatedOnOneCPU(t *testing.T) {
	b := treetest.New(t)
	b.Sets("0", "0", "0")
	b.CPU(0, 0, 0, "0")
	b.File("proc/interrupts", "  CPU0\n 1: 2 x")
	b.IRQ(1, "0", "0", "x")
	b.File("proc/irq/default_smp_affinity", "1")
	b.File("sys/fs/cgroup/cgroup.controllers", "cpuset")
	b.File("sys/fs/cgroup/cgroup.subtree_control", "")
	h, err := Open(Options{Root: b.Dir, Profile: load(t, "latency-best"), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	tuner, err := New(h, &Journal{})
	if err != nil {
		t.Fatal(err)
	}
	steps, notes := tuner.Plan()
	for _, s := range steps {
		if s.Stage == "irq" || s.Stage == "partition" || s.Stage == "workqueue" {
			t.Errorf("%+v", s)
		}
	}
	if !slices.ContainsFunc(notes, func(n Note) bool { return n.Stage == "partition" && n.Wanted }) {
		t.Errorf("notes %+v", notes)
	}
}

func TestRecordsOfAnotherBootAreDropped(t *testing.T) {
	l := newLab(t)
	l.groups()
	l.apply(l.options("latency"))
	l.tree.File("proc/sys/kernel/random/boot_id", "beef")
	applied := l.all()
	if got := l.revert(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	l.sameAs(applied)
}

func TestTwoTunersAtOnce(t *testing.T) {
	l := newLab(t)
	l.tuner(l.options("safe"), true)
	if _, err := OpenJournal(l.state); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Error(err)
	}
}

func TestVerifySeesWhatChanged(t *testing.T) {
	l := newLab(t)
	l.groups()
	l.apply(l.options("latency"))
	for irq := range 2 { // where interrupts go follows where they may
		l.tree.File(fmt.Sprintf("proc/irq/%d/effective_affinity_list", 30+irq), "4")
	}
	l.tree.File("proc/sys/kernel/nmi_watchdog", "1")
	wrong := map[string]string{}
	outcomes, err := Verify(l.tree.Dir, l.cards, l.tuner(l.options("latency"), false).journal)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.State != Done {
			wrong[o.Setting.Name] = o.Text
		}
	}
	if len(wrong) != 3 || wrong["proc/sys/kernel/nmi_watchdog"] != "it is 1" ||
		!strings.Contains(wrong["proc/irq/41/smp_affinity_list"], "still goes to 5") || wrong["proc/irq/32/smp_affinity_list"] == "" {
		t.Errorf("wrong: %v", wrong)
	}
}

// TestKilledAtEveryMoment applies in a process that kills itself at one moment after the
// other, and reverts in another one.
func TestKilledAtEveryMoment(t *testing.T) {
	if os.Getenv(killAt) != "" {
		killedChild(t)
		return
	}
	l := newLab(t)
	l.groups()
	before := l.all()
	changes := l.kill("apply", func() {
		l.revert()
		l.sameAs(before)
	})
	if changes < 2 {
		t.Errorf("%d moments changed something", changes)
	}
}

// TestKilledWhileReverting is the same for a revert that does not come to its end.
func TestKilledWhileReverting(t *testing.T) {
	l := newLab(t)
	l.groups()
	before := l.all()
	l.apply(l.options("latency-best"))
	changes := l.kill("revert", func() {
		l.revert()
		l.sameAs(before)
		l.apply(l.options("latency-best"))
	})
	if changes < 2 {
		t.Errorf("%d moments changed something", changes)
	}
	l.revert()
	l.sameAs(before)
}

const killAt = "HEADRACE_STAGE_KILL_AT"

// kill runs processes that kill themselves at one moment after the other, calls f after
// each, and returns how many of them had changed something.
func (l *lab) kill(verb string, f func()) (changes int) {
	l.t.Helper()
	step := 29 // all moments take a minute
	if os.Getenv("HEADRACE_LONG") != "" {
		step = 1
	}
	for at := 1; ; at += step {
		changed, ended := l.child(verb, at)
		if changed {
			changes++
		}
		f()
		if l.t.Failed() {
			l.t.Fatalf("%s: at moment %d", verb, at)
		}
		if ended {
			return changes
		}
	}
}

// child runs TestKilledAtEveryMoment as the one that is killed at a moment. It reports
// whether anything differs since, and whether it came to its end instead.
func (l *lab) child(verb string, at int) (changed, ended bool) {
	l.t.Helper()
	before := l.all()
	cmd := exec.CommandContext(l.t.Context(), os.Args[0], "-test.run=^TestKilledAtEveryMoment$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s %s %s", killAt, verb, at, l.tree.Dir, l.cards.path, l.state))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false, true
	case !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL:
		l.t.Fatalf("%v\n%s", err, out)
	}
	return !cmp.Equal(before, l.all()), false
}

func killedChild(t *testing.T) {
	t.Helper()
	fields := strings.Fields(os.Getenv(killAt))
	at, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t, &treetest.Tree{Dir: fields[2]}, &fakeCards{fields[3]}, fields[4]}
	tuner := l.tuner(l.options("latency-best"), true)
	tuner.between = func(string) {
		if at--; at == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if fields[0] == "revert" {
		_, err = tuner.revert(t.Context())
	} else {
		_, _, err = tuner.Apply(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestALineThatIsNotWholeDidNotHappen(t *testing.T) {
	dir := t.TempDir()
	j, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	one := Record{Stage: "sysctl", Setting: Setting{kindFile, "a"}, Old: "1\n", New: "2"}
	if err := errors.Join(j.append(entry{Boot: "b", Profile: "p"}), j.append(entry{Applied: &one}), j.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(j.path(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"applied":{"stage":"sys`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if j, err = OpenJournal(dir); err != nil || len(j.Records()) != 1 {
		t.Fatalf("%v, %v", j, err)
	}
	two := Record{Stage: "sysctl", Setting: Setting{kindFile, "b"}, Old: "3\n", New: "4"}
	if err := errors.Join(j.append(entry{Applied: &two}), j.Close()); err != nil {
		t.Fatal(err)
	}
	if j, err = ReadJournal(dir); err != nil || !cmp.Equal(j.Records(), []Record{one, two}) || j.Profile() != "p" {
		t.Errorf("%+v, %v", j, err)
	}
}
