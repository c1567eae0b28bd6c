package run

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrPrivileges reports that this process may not do what run has to.
var ErrPrivileges = errors.New("privileges are missing")

// needed are the capabilities without which nothing can be received. CAP_SYS_ADMIN
// stands in for those that it was split into.
var needed = []struct {
	bit   int
	name  string
	admin bool
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", false},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", false},
	{unix.CAP_BPF, "CAP_BPF", true},
	{unix.CAP_PERFMON, "CAP_PERFMON", true},
}

// checkPrivileges names what is missing, before anything is begun.
func checkPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	return missing(func(bit int) bool { return sets[bit/32].Effective&(1<<(bit%32)) != 0 })
}

func missing(has func(bit int) bool) error {
	var names []string
	for _, c := range needed {
		if !has(c.bit) && (!c.admin || !has(unix.CAP_SYS_ADMIN)) {
			names = append(names, c.name)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: %s: run as root, or give them to the binary or its unit; `headrace replay` needs none", ErrPrivileges, strings.Join(names, ", "))
	}
	return nil
}

// interfaceNamed finds an interface; the error lists those that there are.
func interfaceNamed(name string) (*net.Interface, error) {
	nic, err := net.InterfaceByName(name)
	if err == nil {
		return nic, nil
	}
	var names []string
	if all, err := net.Interfaces(); err == nil {
		for i := range all {
			names = append(names, all[i].Name)
		}
	}
	return nil, fmt.Errorf("interface %s is not here: there are %s: %w", name, strings.Join(names, ", "), err)
}
