package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inGuest runs a shell script in a guest and returns its output and status.
func inGuest(t *testing.T, c Config, script string) (string, int) {
	t.Helper()
	Need(t)
	var out bytes.Buffer
	c.Console = filepath.Join(t.TempDir(), "console")
	status, err := Run(t.Context(), c, &out, "sh", "-c", script)
	if err != nil {
		t.Fatalf("%s; printed:\n%s", describe(err), &out)
	}
	return out.String(), status
}

// expect fails t unless the script ends well and prints each line, in their order.
func expect(t *testing.T, c Config, script string, lines ...string) {
	t.Helper()
	out, status := inGuest(t, c, "set -e\n"+script)
	rest := out
	for _, l := range lines {
		_, after, ok := strings.Cut(rest, l)
		if !ok {
			t.Errorf("%q is not in the output, or not in its place", l)
		}
		rest = after
	}
	if status != 0 || t.Failed() {
		t.Errorf("status %d; printed:\n%s", status, out)
	}
}

func TestGuestEndsWithTheStatusOfItsCommand(t *testing.T) {
	Need(t)
	for _, status := range []int{0, 3, StatusTimeLimit} {
		out, got := inGuest(t, Config{}, fmt.Sprintf("uname -sm; echo to stderr >&2; exit %d", status))
		if got != status || out != "Linux x86_64\nto stderr\n" {
			t.Errorf("exit %d: status %d, output %q", status, got, out)
		}
	}
}

func TestGuestPastItsTimeIsStopped(t *testing.T) {
	Need(t)
	began := time.Now()
	status, err := Run(t.Context(), Config{Timeout: 5 * time.Second}, &bytes.Buffer{}, "sleep", "600")
	if status != StatusTimeLimit || !errors.Is(err, ErrTimeLimit) {
		t.Errorf("Run = %d, %v", status, err)
	}
	if took := time.Since(began); took > 2*time.Minute {
		t.Errorf("stopped after %v", took)
	}
}

func TestGuestThatPanicsIsReportedWithItsConsole(t *testing.T) {
	Need(t)
	status, err := Run(t.Context(), Config{}, &bytes.Buffer{}, "sh", "-c", "echo c >/proc/sysrq-trigger")
	var console *ConsoleError
	if status != StatusDied || !errors.Is(err, ErrDied) || !errors.As(err, &console) || !strings.Contains(console.Tail, "Kernel panic - not syncing: sysrq triggered crash") {
		t.Errorf("Run = %d, %v, console %+v", status, err, console)
	}
}

func TestGuestGivenUpByItsCallerIsKilled(t *testing.T) {
	Need(t)
	ctx, cancel := context.WithCancel(t.Context())
	begun := writer(func([]byte) { cancel() })
	status, err := Run(ctx, Config{}, begun, "sh", "-c", "echo here; sleep 600")
	if status != StatusDied || !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %d, %v", status, err)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestGuestWhoseModuleIsRefusedDoesNotRunTheCommand(t *testing.T) {
	Need(t)
	// That module drives a device of another maker's CPUs.
	var out bytes.Buffer
	status, err := Run(t.Context(), Config{Modules: []string{"padlock_aes"}}, &out, "echo", "ran")
	if status != StatusUnprepared || err == nil || !strings.Contains(err.Error(), "module padlock_aes") || out.Len() > 0 {
		t.Errorf("Run = %d, %v, output %q", status, err, &out)
	}
	status, err = Run(t.Context(), Config{QEMU: []string{"-nonsense"}}, &out, "true")
	if status != StatusUnprepared || err == nil || !strings.Contains(err.Error(), "-nonsense") {
		t.Errorf("Run = %d, %v", status, err)
	}
}

func TestGuestFindsItsDirectory(t *testing.T) {
	Need(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.sh"), []byte("pwd; wc -c <large; exit 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 33<<20+1), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if status, err := Run(t.Context(), Config{Dir: dir}, &out, "sh", "./x.sh"); status != 7 || err != nil || out.String() != "/work\n34603009\n" {
		t.Errorf("Run = %d, %v, output %q", status, err, &out)
	}
	if status, err := Run(t.Context(), Config{Dir: dir, MemoryMB: 128}, &out, "true"); status != StatusUnprepared || !errors.Is(err, ErrConfig) {
		t.Errorf("Run with a root that does not fit = %d, %v", status, err)
	}
}

// Four peers, and proof that what the first two say to each other crosses the bridge:
// its ports count 50 messages each way, and nothing gets through a cut.
func TestGuestHasSoftRoCEOnAWire(t *testing.T) {
	expect(t, Config{Sets: []string{"rdma"}, CPUs: 4}, `
wire 4
ibv_devices
count() { cat /sys/class/net/$1/statistics/rx_packets; }
first=$(count p1); second=$(count p2)
timeout 60 ibv_rc_pingpong -d rxe1 -g 1 -n 50 -s 64 >/tmp/server &
server=$!
until netstat -ltn | grep -q :18515; do sleep 0.1; done
timeout 60 ibv_rc_pingpong -d rxe2 -g 1 -n 50 -s 64 10.9.0.1
wait $server
[ $(($(count p1) - first)) -ge 100 ] && [ $(($(count p2) - second)) -ge 100 ]
echo over the wire
second=$(count p2)
ping -c 3 -W 5 -I 10.9.0.2 10.9.0.1 >/dev/null
[ $(($(count p2) - second)) -ge 3 ]
echo by address too
tc qdisc add dev v1 root netem loss 100%
! ping -c 1 -W 1 -I v1 10.9.0.2 >/dev/null
echo cut
ping -c 1 -W 5 -I v3 10.9.0.4 >/dev/null
echo others are well`,
		"rxe1", "rxe2", "rxe3", "rxe4", "50 iters in", "over the wire", "by address too", "cut", "others are well")
}

func TestGuestHasTwoNodesAndIsolatedCPUs(t *testing.T) {
	expect(t, Config{Sets: []string{"numa"}, CPUs: 4, NUMA: true, Isolate: "3"}, `
numactl -H
echo isolated $(cat /sys/devices/system/cpu/isolated) $(cat /sys/devices/system/cpu/nohz_full)
cd /sys/fs/cgroup
echo +cpuset >cgroup.subtree_control
mkdir part
echo 2 >part/cpuset.cpus; echo 1 >part/cpuset.mems; echo isolated >part/cpuset.cpus.partition
echo partition $(cat part/cpuset.cpus.partition) $(cat part/cpuset.cpus.effective)
for node in 0 1; do
	pages=/sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
	echo 8 >$pages; echo huge $node $(cat $pages)
done`,
		"available: 2 nodes (0-1)", "node 0 cpus: 0 1", "node 1 cpus: 2 3", "0:  10  21", "isolated 3 3",
		"partition isolated 2", "huge 0 8", "huge 1 8")
}

func TestGuestHasACardWithQueuesAndAFarEnd(t *testing.T) {
	Need(t)
	var host bytes.Buffer
	c := Config{Sets: []string{"xdp"}, CPUs: 4, QueuePairs: 4, HostOutput: &host, HostCommand: "ip addr add 10.8.0.1/24 dev vt0; echo far; sleep 600"}
	expect(t, c, `
ip addr add 10.8.0.2/24 dev eth0
ip link set eth0 up
ethtool -l eth0
ethtool -L eth0 combined 2
ls /sys/class/net/eth0/queues
until ping -c 1 -W 2 10.8.0.1; do :; done
ethtool -S eth0`,
		"Combined:\t4", "rx-0", "rx-1", "tx-0", "tx-1", "1 packets received", "rx_queue_1_packets")
	if host.String() != "far\n" {
		t.Errorf("the host command printed %q", &host)
	}
}

// Two namespaces talk over MACsec: only once both have the other's key.
func TestGuestHasMACsec(t *testing.T) {
	expect(t, Config{Sets: []string{"macsec"}}, `
ip link add v1 type veth peer name v2
for i in 1 2; do
	ip netns add n$i
	ip link set v$i netns n$i
	ip -n n$i link set v$i up
	ip -n n$i link add link v$i m$i type macsec encrypt on
	ip -n n$i macsec add m$i tx sa 0 pn 1 on key 0$i 0${i}112233445566778899aabbccddeeff
	ip -n n$i addr add 10.7.0.$i/24 dev m$i
	ip -n n$i link set m$i up
done
! ip netns exec n1 ping -c 1 -W 1 10.7.0.2 >/dev/null
echo no key, no answer
for i in 1 2; do
	peer=$((3 - i))
	mac=$(ip netns exec n$peer cat /sys/class/net/m$peer/address)
	ip -n n$i macsec add m$i rx port 1 address $mac
	ip -n n$i macsec add m$i rx port 1 address $mac sa 0 pn 1 on key 0$peer 0${peer}112233445566778899aabbccddeeff
done
ip netns exec n1 ping -c 3 -W 5 10.7.0.2
ip -n n1 -s macsec show m1`,
		"no key, no answer", "0% packet loss", "InPktsOK")
}

func TestGuestRunsTheTestsOfAPackage(t *testing.T) {
	Test(t, Suite{Packages: []string{"."}, Setup: "touch /tmp/set-up", Run: "^TestInside$"})
}

// TestInside is what the test above runs, linked with the C library, in the guest.
func TestInside(t *testing.T) {
	if !Inside() {
		t.Skip("runs in a guest only (make test-guest)")
	}
	if u, err := user.LookupId("0"); err != nil || u.Username != "root" {
		t.Errorf("user 0 is %v, %v", u, err)
	}
	if name, err := os.Hostname(); name != "guest" {
		t.Errorf("host %q, %v", name, err)
	}
	if a, err := net.LookupHost("localhost"); err != nil {
		t.Errorf("localhost is %q, %v", a, err)
	}
	if _, err := os.Stat("/tmp/set-up"); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("ls", "/sys/fs/cgroup/cgroup.controllers", "/dev/hugepages").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
