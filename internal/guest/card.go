package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/internal/veth"
)

// farDevice is the name of the far end of the guest's card.
const farDevice = "vt0"

// A card is the far end of the guest's network card: a tap with several queues, in a
// network namespace of its own, and the program that sends to it. A nil card is none.
type card struct {
	in   *veth.Namespace
	host *exec.Cmd
}

// cardArguments give the guest a card of so many queue pairs, or none.
//
// The guest's offloads are off: with them virtio-net refuses to attach XDP.
func cardArguments(pairs int) []string {
	if pairs == 0 {
		return []string{"-nic", "none"}
	}
	return []string{
		"-netdev", fmt.Sprintf("tap,id=card,ifname=%s,script=no,downscript=no,queues=%d", farDevice, pairs),
		// Each pair has two interrupts; configuration and control have the other two.
		"-device", "virtio-net-pci,netdev=card,mq=on,vectors=" + strconv.Itoa(2*pairs+2) + ",mac=52:54:00:00:01:01," +
			"guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off",
	}
}

// openCard makes the far end and starts the host command beside it.
func (r *run) openCard(ctx context.Context) (*card, error) {
	if r.QueuePairs == 0 {
		return nil, nil //nolint:nilnil // no card is asked for
	}
	in, err := veth.NewNamespace()
	if err != nil {
		return nil, err
	}
	c := &card{in: in}
	var made error
	if err := errors.Join(in.Do(func() { made = makeTap(farDevice) }), made); err != nil {
		c.close()
		return nil, fmt.Errorf("device %s: %w", farDevice, err)
	}
	if r.HostCommand == "" {
		return c, nil
	}
	host := exec.CommandContext(ctx, "sh", "-c", r.HostCommand)
	host.Stdout, host.Stderr = r.HostOutput, r.HostOutput
	// A group of its own, so that what the shell has started ends with it.
	host.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := in.Start(host); err != nil {
		c.close()
		return nil, fmt.Errorf("host command: %w", err)
	}
	c.host = host
	return c, nil
}

// makeTap makes a tap in this thread's namespace that takes several queues and stays
// when it is closed: QEMU opens it by name, once for each queue.
func makeTap(name string) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return os.NewSyscallError("TUNSETPERSIST", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// start starts QEMU where the card's far end is.
func (c *card) start(qemu *exec.Cmd) error {
	if c == nil {
		return qemu.Start()
	}
	return c.in.Start(qemu)
}

// close ends the host command and removes the namespace with the device in it.
func (c *card) close() {
	if c == nil {
		return
	}
	if c.host != nil {
		_ = unix.Kill(-c.host.Process.Pid, unix.SIGKILL) // it may have ended
		_ = c.host.Wait()                                // killed, as it should be
	}
	_ = c.in.Close() // what is left of it has a random name and no way out
}
