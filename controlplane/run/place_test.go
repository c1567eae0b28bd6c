package run

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/headrace/headrace/controlplane/config"
)

// host is a machine of two nodes with two cores each, and a card on node 1.
func host(more map[string]string) fstest.MapFS {
	files := map[string]string{
		"sys/devices/system/cpu/possible":                  "0-3\n",
		"sys/devices/system/cpu/present":                   "0-3\n",
		"sys/devices/system/cpu/online":                    "0-3\n",
		"sys/devices/system/node/online":                   "0-1\n",
		"sys/devices/system/node/node0/cpulist":            "0-1\n",
		"sys/devices/system/node/node0/distance":           "10 20\n",
		"sys/devices/system/node/node1/cpulist":            "2-3\n",
		"sys/devices/system/node/node1/distance":           "20 10\n",
		"sys/class/net/eth1/device/numa_node":              "1\n",
		"sys/class/net/eth1/mtu":                           "1500\n",
		"proc/interrupts":                                  "           CPU0       CPU1       CPU2       CPU3\n",
		"proc/self/cgroup":                                 "0::/system.slice/headrace.service\n",
		"sys/fs/cgroup/system.slice/cpuset.cpus.effective": "0-3\n",
	}
	for cpu, core := range []string{"0", "1", "0", "1"} {
		dir := "sys/devices/system/cpu/cpu" + string(rune('0'+cpu)) + "/topology/"
		files[dir+"physical_package_id"] = string(rune('0' + cpu/2))
		files[dir+"die_id"], files[dir+"core_id"] = "0", core
		files[dir+"thread_siblings_list"] = string(rune('0' + cpu))
	}
	for name, text := range more {
		files[name] = text
	}
	tree := fstest.MapFS{}
	for name, text := range files {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return tree
}

func TestWorkersAreBoundWhereThatHarmsNobody(t *testing.T) {
	isolated := map[string]string{"sys/devices/system/cpu/isolated": "2-3\n"}
	for _, c := range []struct {
		name     string
		host     map[string]string
		wish     wish
		cpus     []int // nil: anywhere
		node     int
		resident bool
		reason   string
	}{
		{"adaptive workers on a shared host", nil, wish{cpus: config.CPUsAuto, workers: 2}, nil, 0, false, "no CPU is isolated"},
		{"adaptive workers where CPUs are isolated", isolated, wish{cpus: config.CPUsAuto, workers: 2}, []int{2, 3}, 1, true, "isolated since boot"},
		{"workers that spin go to the card's node", nil, wish{cpus: config.CPUsAuto, workers: 2, spin: true}, []int{2, 3}, 1, true, "the cards are on node 1"},
		{"more workers that spin than CPUs", nil, wish{cpus: config.CPUsAuto, workers: 4, spin: true}, nil, 0, true, "not a CPU for each"},
		{"the config wants none", isolated, wish{cpus: config.CPUsNone, workers: 2}, nil, 0, false, "cpus: none"},
		{"the config has a list", nil, wish{cpus: "1", workers: 1}, []int{1}, 0, true, "asked for"},
		{
			"CPUs that the control group has not",
			map[string]string{"sys/fs/cgroup/system.slice/cpuset.cpus.effective": "0-1\n"},
			wish{cpus: config.CPUsAuto, workers: 1, spin: true},
			[]int{1},
			0, true, "node 0",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.wish.nics = []string{"eth1", "gone"}
			s, err := seat(host(c.host), c.wish)
			if err != nil {
				t.Fatal(err)
			}
			var cpus []int
			for _, p := range s.places {
				cpus = append(cpus, p.CPU)
				if p.Node != c.node {
					t.Errorf("CPU %d: node %d, want %d", p.CPU, p.Node, c.node)
				}
				if s.others.Has(p.CPU) {
					t.Errorf("CPU %d is everybody's, too", p.CPU)
				}
			}
			if !slices.Equal(cpus, c.cpus) || s.resident != c.resident || !strings.Contains(strings.Join(s.reasons, "\n"), c.reason) {
				t.Errorf("CPUs %v, resident %t, want %v, %t; reasons %q", cpus, s.resident, c.cpus, c.resident, s.reasons)
			}
		})
	}
	for _, w := range []wish{{cpus: "1", workers: 2}, {cpus: "9", workers: 1}, {cpus: "0-3", workers: 4}} {
		if _, err := seat(host(nil), w); err == nil || !strings.Contains(err.Error(), "cpus") {
			t.Errorf("CPUs %s for %d workers: %v", w.cpus, w.workers, err)
		}
	}
}
