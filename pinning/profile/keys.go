package profile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Key is a key of profiles.
type Key struct {
	// Name is the whole key; one that ends in "." takes a name after it.
	Name string
	// Values says in words what it takes.
	Values string
	// What says what it does.
	What string

	ok func(value string) bool
}

var (
	sysctlName  = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)+$`)
	featureName = regexp.MustCompile(`^[a-z0-9-]+$`)
	plainValue  = regexp.MustCompile(`^[A-Za-z0-9_./ ${}-]+$`)
	coalesceOne = regexp.MustCompile(`^[a-z-]+=[0-9]+$`)
)

func oneOf(words ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(words, v) }
}

func between(low, high int) func(string) bool {
	return func(v string) bool {
		n, err := strconv.Atoi(v)
		return err == nil && low <= n && n <= high && strconv.Itoa(n) == v
	}
}

func either(a, b func(string) bool) func(string) bool {
	return func(v string) bool { return a(v) || b(v) }
}

func coalesce(v string) bool {
	for part := range strings.FieldsSeq(v) {
		if !coalesceOne.MatchString(part) {
			return false
		}
	}
	return v != ""
}

// Keys are all keys, in the order in which their stages come. Each takes [Keep] too.
var Keys = []Key{
	{"poll", "irq, busy, threaded", "who calls the card's poll function: an interrupt on a neighbor core, the worker itself, or a kernel thread on a neighbor core", oneOf("irq", "busy", "threaded")},
	{"cmdline.", "want", "a parameter that the kernel's command line should have for the worker cores: isolcpus, nohz_full, rcu_nocbs, irqaffinity; only checked", oneOf("want")},
	{"partition", "isolated, root", "a cpuset of the worker cores that nothing else runs in; isolated ones have no scheduler balancing", oneOf("isolated", "root")},
	{"irqbalance", "ban", "tells irqbalance to leave the worker cores alone", oneOf("ban")},
	{"channels", "workers, or a number", "queues of the cards", either(oneOf("workers"), between(1, 1024))},
	{"rings", "max, or a number", "length of the cards' RX and TX rings", either(oneOf("max"), between(16, 1<<17))},
	{"coalesce", "rx-usecs=0 adaptive-rx=0 …", "when the cards interrupt, by ethtool's names", coalesce},
	{"feature.", "on, off", "an offload of the cards, by ethtool's short name or the kernel's", oneOf("on", "off")},
	{"rss", "equal", "spreads flows evenly over the queues in use", oneOf("equal")},
	{"rss-key", "symmetric", "gives both directions of a flow the same queue", oneOf("symmetric")},
	{"irq", "away", "moves interrupts, and new ones, off the worker cores", oneOf("away")},
	{"rps", "off", "the kernel hands no packets of the cards to other cores", oneOf("off")},
	{"xps", "owner", "queue N sends for the core of worker N", oneOf("owner")},
	{"napi.defer-hard-irqs", "a number", "polls without packets before the interrupt comes back", between(0, 1<<20)},
	{"napi.gro-flush-timeout", "nanoseconds", "how long the interrupt stays away", between(0, 1<<30)},
	{"napi.irq-suspend-timeout", "nanoseconds", "how long a busy application keeps the interrupt away", between(0, 1<<30)},
	{"workqueue", "away", "moves the kernel's unbound work off the worker cores", oneOf("away")},
	{"cstate", "microseconds", "how long a worker core may take to wake up; 0 allows no sleep state", between(0, 1<<20)},
	{"governor", "performance, powersave, schedutil", "the frequency governor of the worker cores", oneOf("performance", "powersave", "schedutil")},
	{"epp", "performance, balance_performance, balance_power, power, default", "the energy preference of the worker cores", oneOf("performance", "balance_performance", "balance_power", "power", "default")},
	{"hugepages.2M", "pages", "pages of 2 MiB on each node with workers, at least", between(0, 1<<20)},
	{"hugepages.1G", "pages", "pages of 1 GiB on each node with workers, at least", between(0, 1<<12)},
	{"sysctl.", "a value", "a sysctl; ${housekeeping} and ${housekeeping-mask} are the CPUs without workers", plainValue.MatchString},
	{"thp", "always, madvise, never", "transparent huge pages", oneOf("always", "madvise", "never")},
	{"hold.dma-latency", "on", "while something is held: /dev/cpu_dma_latency open with 0, where cores have no limit of their own", oneOf("on")},
	{"hold.timestamping", "on", "while something is held: a socket with time stamps, so that the kernel does not patch itself when the first one comes", oneOf("on")},
}

// lookup finds a key by its whole name.
func lookup(name string) (Key, bool) {
	for _, k := range Keys {
		if k.Name == name {
			return k, !strings.HasSuffix(name, ".")
		}
		rest, under := strings.CutPrefix(name, k.Name)
		if !under || !strings.HasSuffix(k.Name, ".") {
			continue
		}
		switch k.Name {
		case "sysctl.":
			return k, sysctlName.MatchString(rest)
		case "feature.":
			return k, featureName.MatchString(rest)
		case "cmdline.":
			return k, slices.Contains([]string{"isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity"}, rest)
		}
	}
	return Key{}, false
}

// check reports what is wrong with a key and its value.
func check(key, value string) error {
	k, ok := lookup(key)
	if !ok {
		return fmt.Errorf("%w %q%s", ErrUnknownKey, key, suggestion(key))
	}
	if value != Keep && !k.ok(value) {
		return fmt.Errorf("%w: %s: %q; it takes %s, or keep", ErrBadValue, key, value, k.Values)
	}
	return nil
}

// suggestion names the key that begins most alike.
func suggestion(key string) string {
	best, length := "", 1
	for _, k := range Keys {
		n := 0
		for n < min(len(key), len(k.Name)) && key[n] == k.Name[n] {
			n++
		}
		if n > length || n == length && best != "" && len(k.Name) < len(best) {
			best, length = k.Name, n
		}
	}
	if best == "" {
		return ""
	}
	if strings.HasSuffix(best, ".") {
		best += "NAME"
	}
	return "; is it " + best + "?"
}
