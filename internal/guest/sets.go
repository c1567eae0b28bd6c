package guest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A set is what one kind of test wants to find in the guest.
//
// There is no modprobe in the guest, so the kernel cannot fetch what it finds missing
// while it works, and a dependency that a module only names at run time must stand in
// its set: rxe asks the crypto layer for crc32 and without it `rdma link add` says "No
// such file or directory"; MACsec asks for gcm(aes).
type set struct{ modules, programs, files []string }

var sets = map[string]set{
	"rdma": {
		modules: []string{"crc32_generic", "rdma_rxe", "rdma_ucm", "ib_umad", "veth", "bridge", "sch_netem"},
		programs: []string{
			"ip", "rdma", "tc", "ibv_devices", "ibv_devinfo", "ibv_rc_pingpong", "ibv_uc_pingpong", "ibv_ud_pingpong",
			"ib_write_lat", "ib_send_lat", "ib_write_bw", "rping",
		},
		// libibverbs loads its drivers by name; nothing links to them.
		files: []string{"/etc/libibverbs.d/rxe.driver", "/usr/lib/x86_64-linux-gnu/libibverbs/librxe-*.so"},
	},
	"net":    {modules: []string{"veth", "bridge", "virtio_net", "sch_netem"}, programs: []string{"ip", "tc"}},
	"xdp":    {modules: []string{"veth", "virtio_net"}, programs: []string{"ip", "ethtool"}},
	"numa":   {programs: []string{"numactl"}},
	"macsec": {modules: []string{"ghash_generic", "gcm", "ctr", "macsec", "veth"}, programs: []string{"ip"}},
}

// Sets returns the names of the ready-made lists, sorted:
//
//	macsec  MACsec with AES-GCM, ip, veth
//	net     veth, bridge, netem, virtio-net; ip, tc
//	numa    numactl
//	rdma    soft RoCE with libibverbs' driver, bridge, netem; rdma, ibv_*, ib_*, rping
//	xdp     veth, virtio-net; ip, ethtool
func Sets() []string { return slices.Sorted(maps.Keys(sets)) }

// packages names the Debian package of each program and file that a guest may need.
var packages = map[string]string{
	"qemu-system-x86_64":           "qemu-system-x86",
	"busybox":                      "busybox-static",
	"dash":                         "dash",
	"xz":                           "xz-utils",
	"zstd":                         "zstd",
	"apt-get":                      "apt",
	"apt-cache":                    "apt",
	"dpkg-deb":                     "dpkg",
	"mmdebstrap":                   "mmdebstrap",
	"mke2fs":                       "e2fsprogs",
	"ip":                           "iproute2",
	"tc":                           "iproute2",
	"rdma":                         "iproute2",
	"ethtool":                      "ethtool",
	"numactl":                      "numactl",
	"ibv_devices":                  "ibverbs-utils",
	"ibv_devinfo":                  "ibverbs-utils",
	"ibv_rc_pingpong":              "ibverbs-utils",
	"ibv_uc_pingpong":              "ibverbs-utils",
	"ibv_ud_pingpong":              "ibverbs-utils",
	"ib_write_lat":                 "perftest",
	"ib_send_lat":                  "perftest",
	"ib_write_bw":                  "perftest",
	"rping":                        "rdmacm-utils",
	"/etc/libibverbs.d/rxe.driver": "ibverbs-providers",
	"/usr/lib/x86_64-linux-gnu/libibverbs/librxe-*.so": "ibverbs-providers",
}

// always is what every guest needs. dpkg-deb and xz are for the kernel's package.
var always = []string{"qemu-system-x86_64", "busybox", "dash", "xz", "zstd", "dpkg-deb"}

// A MissingError names what this machine lacks.
type MissingError struct {
	// Names are programs and files.
	Names []string
	// Packages are the Debian packages that have them, as far as they are known.
	Packages []string
}

func (e *MissingError) Error() string {
	text := "guest: not on this machine: " + strings.Join(e.Names, ", ")
	if len(e.Packages) > 0 {
		text += "; apt-get install -y --no-install-recommends " + strings.Join(e.Packages, " ")
	}
	return text
}

// missing returns a [MissingError] with all that c needs and this machine lacks, so
// that one call of apt is enough.
func missing(c Config) error {
	e := &MissingError{}
	lacks := func(name string) {
		e.Names = append(e.Names, name)
		if p := packages[name]; p != "" && !slices.Contains(e.Packages, p) {
			e.Packages = append(e.Packages, p)
		}
	}
	for _, name := range slices.Concat(always, c.Programs) {
		if _, err := lookPath(name); err != nil && !slices.Contains(e.Names, name) {
			lacks(name)
		}
	}
	for _, pattern := range c.Files {
		if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
			lacks(pattern)
		}
	}
	if len(e.Names) > 0 {
		return e
	}
	return nil
}

// lookPath finds a program on this machine. The system's own directories are looked
// through too: an ordinary user's PATH often lacks the one with ip and ethtool.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode()&0o111 != 0 && !strings.Contains(name, "/") {
			return path, nil
		}
	}
	return "", fmt.Errorf("program %s: %w", name, exec.ErrNotFound)
}
