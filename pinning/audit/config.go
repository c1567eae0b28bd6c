package audit

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// checkConfig looks at what the config asks of the host, but for memory.
func checkConfig(f *Facts) []Finding {
	if f.Config == nil {
		return nil
	}
	return slices.Concat(checkWorkers(f), checkIdle(f), checkBudget(f), checkGroups(f))
}

func checkWorkers(f *Facts) []Finding {
	var together []string
	for _, w := range f.Place.Workers {
		if !w.Alone {
			together = append(together, fmt.Sprintf("worker %d on %d", w.Worker, w.CPU))
		}
	}
	out := Finding{
		ID: "config.workers", Subject: f.Config.File, What: "each worker has a core of its own", Measured: fmt.Sprintf("%d workers on cores %s", len(f.Place.Workers), f.Workers),
		Why: "workers that share a core, or share one with the rest of the system, wait for each other: turns of about 3 ms",
		Fix: fmt.Sprintf("workers: %d in the config, or --cores", max(len(f.Machine.Cores)-1, 1)),
	}
	if len(together) > 0 {
		out.Severity, out.Best, out.What = Warn, ClassC, "workers do not have cores of their own: "+few(together)
	}
	return []Finding{quiet(out)}
}

func checkIdle(f *Facts) []Finding {
	shared := f.Workers.Minus(f.Isolated)
	var all []Finding
	for _, i := range f.Config.Interfaces {
		if !i.Spin {
			continue
		}
		out := Finding{
			ID: "config.idle", Subject: i.Name, What: "workers that spin have isolated cores", Measured: "idle: spin, isolated: " + orNone(f.Isolated),
			Why: "a spinning worker never gives its core up: what else is bound to it starves, and the scheduler takes turns of about 3 ms from it",
			Fix: tune(f, "partition") + ", or idle: adaptive",
		}
		if !shared.Empty() {
			out.Severity, out.What = Warn, fmt.Sprintf("workers spin on cores %s, which are not isolated", shared)
		}
		all = append(all, quiet(out))
	}
	return all
}

// checkBudget compares the rings with the rate: how long may a worker be away.
func checkBudget(f *Facts) []Finding {
	rate, from := float64(f.Config.Rate), "as given"
	if rate == 0 {
		rate, from = f.rate(), "as measured"
	}
	if rate < 1 {
		return []Finding{{
			ID: "config.rings", Severity: Unknown, What: "how long the rings last is not known", Measured: "no packets come now",
			Fix: "headrace doctor --rate PACKETS_A_SECOND",
		}}
	}
	// A turn of the scheduler, or what was measured.
	away := 4 * time.Millisecond
	if f.Noise != nil {
		away = max(away, f.Noise.Worst().Max)
	}
	var all []Finding
	for _, i := range f.Config.Interfaces {
		lasts := time.Duration(float64(i.RxRing) * float64(len(f.Place.Workers)) / rate * float64(time.Second))
		out := Finding{
			ID: "config.rings", Subject: i.Name, What: "rings outlast the longest absence of a worker",
			Measured: fmt.Sprintf("rx_ring %d lasts %v at %.0f packets a second (%s), evenly spread; an absence of %v", i.RxRing, Round(lasts), rate, from, Round(away)),
			Why:      "what comes when a ring is full is lost, and counted as xsk_lost",
			Fix:      fmt.Sprintf("interfaces: {%s: {rx_ring: %d}}", i.Name, powerAbove(int(rate*away.Seconds()*2/float64(len(f.Place.Workers))))),
		}
		if lasts < away {
			out.Severity, out.What = Warn, "a worker that is away for as long as it may be loses packets"
		}
		all = append(all, quiet(out))
	}
	return all
}

func powerAbove(n int) int {
	p := 2048
	for p < n && p < 1<<20 {
		p *= 2
	}
	return p
}

// checkGroups looks for multicast groups that nobody has joined.
func checkGroups(f *Facts) []Finding {
	joined := memberships(f)
	var all []Finding
	for _, feed := range slices.Sorted(maps.Keys(f.Config.Wide)) {
		all = append(all, Finding{
			ID: "config.groups", Subject: feed, Severity: Warn, What: "a prefix of multicast groups is not joined by `run`", Measured: fmt.Sprint(f.Config.Wide[feed]),
			Why: "a switch that snoops sends only groups that somebody has joined",
			Fix: "a rule for each group, or something else that joins them",
		})
	}
	for _, feed := range slices.Sorted(maps.Keys(f.Config.Groups)) {
		var missing []string
		for _, g := range f.Config.Groups[feed] {
			for i := range f.NICs {
				if !joined[membership{f.NICs[i].Name, g}] {
					missing = append(missing, fmt.Sprintf("%v on %s", g, f.NICs[i].Name))
				}
			}
		}
		out := Finding{
			ID: "config.groups", Subject: feed, What: "the feed's multicast groups are joined", Measured: fmt.Sprint(f.Config.Groups[feed]),
			Why: "a switch that snoops sends only groups that somebody has joined; `run` joins these when it starts",
			Fix: "headrace run -c " + f.Config.File,
		}
		if len(missing) > 0 {
			out.Severity, out.What, out.Measured = Note, "multicast groups of the feed are not joined now", few(missing)
		}
		all = append(all, quiet(out))
	}
	return all
}

type membership struct {
	nic   string
	group netip.Addr
}

// memberships reads who has joined what from /proc/net.
func memberships(f *Facts) map[membership]bool {
	all := map[membership]bool{}
	v4, _ := text(f.Root, "proc/net/igmp")
	nic := ""
	for line := range strings.Lines(v4) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] == "Idx":
		case line[0] != ' ' && line[0] != '\t' && len(fields) > 1: // "2  eth0  : 1 V3"
			nic = strings.TrimSuffix(fields[1], ":")
		default: // "010000E0 1 0:00000000 0": the address in the machine's byte order
			if b, err := hex.DecodeString(fields[0]); err == nil && len(b) == 4 {
				var a [4]byte
				binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
				all[membership{nic, netip.AddrFrom4(a)}] = true
			}
		}
	}
	v6, _ := text(f.Root, "proc/net/igmp6")
	for line := range strings.Lines(v6) {
		if fields := strings.Fields(line); len(fields) > 2 {
			if b, err := hex.DecodeString(fields[2]); err == nil && len(b) == 16 {
				all[membership{fields[1], netip.AddrFrom16([16]byte(b))}] = true
			}
		}
	}
	return all
}
