package card

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// Commands and attributes of linux/netdev.h.
const (
	netdevQueueGet = 10
	netdevNAPIGet  = 11
	netdevNAPISet  = 14

	queueID, queueIfindex, queueType, queueNAPI = 1, 2, 3, 4
	napiIfindex, napiID, napiPID                = 1, 2, 4
	queueRX                                     = 0
)

// napiAttributes are what can be set of an instance.
var napiAttributes = map[string]uint16{
	"defer-hard-irqs": 5, "gro-flush-timeout": 6, "irq-suspend-timeout": 7, "threaded": 8,
}

// instance returns the attributes of the NAPI instance of a queue, "rx-0". Instances
// get new numbers whenever an interface is brought up, queues do not.
func instance(nic, queue string) (family uint16, attributes map[uint16][]byte, err error) {
	at, err := net.InterfaceByName(nic)
	if err != nil {
		return 0, nil, err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(queue, "rx-"), 10, 16)
	if err != nil || !strings.HasPrefix(queue, "rx-") {
		return 0, nil, fmt.Errorf("%w: queue %q", ErrValue, queue)
	}
	if family, err = familyOf("netdev"); err != nil {
		return 0, nil, err
	}
	ifindex := uint32(at.Index)
	found, err := call(family, netdevQueueGet,
		number32(queueIfindex, ifindex), number32(queueType, queueRX), number32(queueID, uint32(n)))
	if err != nil {
		return 0, nil, fmt.Errorf("queue-get: %w", notThere(err))
	}
	if len(found) == 0 || found[0][queueNAPI] == nil {
		attributes, err = nth(family, ifindex, int(n))
		return family, attributes, err
	}
	got, err := call(family, netdevNAPIGet, number32(napiID, uint32(number(found[0][queueNAPI]))))
	if err != nil || len(got) == 0 {
		return 0, nil, fmt.Errorf("napi-get: %w", notThere(err))
	}
	return family, got[0], nil
}

// nth is for drivers that do not say which instance serves which queue, as veth: they
// make them in the order of queues, and the kernel numbers them so.
func nth(family uint16, ifindex uint32, n int) (map[uint16][]byte, error) {
	all, err := list(family, netdevNAPIGet, number32(napiIfindex, ifindex))
	if err != nil {
		return nil, fmt.Errorf("napi-get: %w", notThere(err))
	}
	slices.SortFunc(all, func(a, b map[uint16][]byte) int { return cmp.Compare(number(a[napiID]), number(b[napiID])) })
	if n >= len(all) {
		return nil, fmt.Errorf("queue rx-%d has no NAPI instance: %w", n, unix.EOPNOTSUPP)
	}
	return all[n], nil
}

// notThere makes one error of the ways in which a kernel says that it has no instance.
func notThere(err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return unix.EOPNOTSUPP
	}
	return err
}

func getNAPI(nic, rest string) (string, error) {
	queue, name, _ := strings.Cut(rest, " ")
	_, a, err := instance(nic, queue)
	if err != nil {
		return "", err
	}
	value, ok := a[napiAttributes[name]]
	if !ok {
		return "", fmt.Errorf("%s: %w", name, unix.EOPNOTSUPP)
	}
	return strconv.FormatUint(number(value), 10), nil
}

func setNAPI(nic, rest, value string) error {
	queue, name, _ := strings.Cut(rest, " ")
	v, err := strconv.ParseUint(value, 10, 32)
	kind, ok := napiAttributes[name]
	if err != nil || !ok {
		return fmt.Errorf("%w: %s %q", ErrValue, name, value)
	}
	family, a, err := instance(nic, queue)
	if err != nil {
		return err
	}
	_, err = call(family, netdevNAPISet, number32(napiID, uint32(number(a[napiID]))), number32(kind, uint32(v)))
	return err
}

func shellNAPI(nic, rest, value string) string {
	queue, name, _ := strings.Cut(rest, " ")
	id := "ID" // of an instance that is not there
	if _, a, err := instance(nic, queue); err == nil {
		id = strconv.FormatUint(number(a[napiID]), 10)
	}
	return fmt.Sprintf(`ynl --family netdev --do napi-set --json '{"id": %s, "%s": %s}' # %s %s`, id, name, value, nic, queue)
}

// noThread is the value of a queue whose NAPI instance has no thread.
const noThread = "none"

func thread(nic, queue string) (int, error) {
	_, a, err := instance(nic, queue)
	if err != nil {
		return 0, err
	}
	return int(number(a[napiPID])), nil
}

// getThread is where the thread of a queue's NAPI instance may run.
func getThread(nic, queue string) (string, error) {
	pid, err := thread(nic, queue)
	if err != nil || pid == 0 {
		return noThread, err
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(pid, &set); err != nil {
		return "", fmt.Errorf("thread %d: %w", pid, err)
	}
	var cpus []int
	for cpu := range topology.CPUsMax {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return topology.CPUs(cpus...).String(), nil
}

func setThread(nic, queue, value string) error {
	if value == noThread { // it ends with the mode that made it
		return nil
	}
	cpus, err := topology.ParseCPUs(value)
	if err != nil {
		return err
	}
	pid, err := thread(nic, queue)
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("queue %s: its NAPI instance has no thread: %w", queue, unix.ESRCH)
	}
	var set unix.CPUSet
	for _, cpu := range cpus.List() {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(pid, &set); err != nil {
		return fmt.Errorf("thread %d: %w", pid, err)
	}
	return nil
}

func shellThread(nic, queue, value string) string {
	return fmt.Sprintf("taskset -pc %s $(pgrep '^napi/%s-') # %s", value, nic, queue)
}
