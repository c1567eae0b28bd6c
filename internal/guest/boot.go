package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boot runs QEMU to its end and returns what the guest said of its command.
func (r *run) boot(ctx context.Context) (status int, err error) {
	ctx, stop := context.WithTimeout(ctx, r.Timeout)
	defer stop()
	far, err := r.openCard(ctx)
	if err != nil {
		return StatusUnprepared, err
	}
	defer far.close()

	var complaints bytes.Buffer
	args, err := r.arguments()
	if err != nil {
		return StatusUnprepared, err
	}
	qemu := exec.CommandContext(ctx, args[0], args[1:]...)
	qemu.Stderr = &complaints
	qemu.WaitDelay = 5 * time.Second
	// A killed test binary must not leave an emulator behind at full load.
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	said, lost, err := r.live(qemu, far)
	r.step("guest ended")
	if lost = errors.Join(lost, r.keepConsole()); lost != nil {
		return StatusUnprepared, lost
	}
	if status, ok, bad := r.verdict(said); bad != nil || ok {
		return status, bad
	}
	return r.withoutVerdict(ctx, err, complaints.String())
}

// withoutVerdict tells a guest that was stopped from one that died and from a QEMU that
// never began; ended is how QEMU ended.
func (r *run) withoutVerdict(ctx context.Context, ended error, complaints string) (int, error) {
	var exit *exec.ExitError
	killed := errors.As(ended, &exit) && !exit.Exited()
	complaints = strings.TrimSpace(complaints)
	switch tail := r.tail(); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return StatusTimeLimit, &ConsoleError{fmt.Errorf("%w: %v", ErrTimeLimit, r.Timeout), tail}
	case ctx.Err() != nil:
		return StatusDied, &ConsoleError{fmt.Errorf("%w: %w", ErrDied, ctx.Err()), tail}
	case killed:
		return StatusDied, &ConsoleError{fmt.Errorf("%w: qemu: %w %s", ErrDied, ended, complaints), tail}
	case ended != nil: // QEMU refuses its arguments, or is not there
		return StatusUnprepared, fmt.Errorf("qemu: %w: %s", ended, complaints)
	default:
		return StatusDied, &ConsoleError{fmt.Errorf("%w: it powered off without a status", ErrDied), tail}
	}
}

// live starts QEMU, copies what comes out of the guest's ports and waits for all of it.
// It returns the line of the status port, why output was lost, and how QEMU ended.
//
// QEMU gets pipes for the ports, never our own output: it opens what it is given once
// more, and a file opened twice is overwritten by whoever writes to it next. Its input
// is nothing: a port on the standard input is closed when that ends, and the guest's
// writes to it then block for ever.
func (r *run) live(qemu *exec.Cmd, far *card) (said string, lost, err error) {
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	defer outRead.Close() //nolint:errcheck // read to its end
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		return "", nil, errors.Join(err, outWrite.Close())
	}
	defer statusRead.Close()                            //nolint:errcheck // read to its end
	qemu.ExtraFiles = []*os.File{outWrite, statusWrite} // descriptors 3 and 4

	var copying sync.WaitGroup
	var status bytes.Buffer
	copying.Go(func() {
		if _, err := io.Copy(r.out, outRead); err != nil {
			lost = fmt.Errorf("output: %w", err)
		}
		_, _ = io.Copy(io.Discard, outRead) // the guest goes on although nobody listens
	})
	copying.Go(func() { _, _ = io.Copy(&status, statusRead) })

	ended := make(chan error)
	go func() {
		// The kernel sends the death signal when the thread that started QEMU ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := far.start(qemu)
		_, _ = outWrite.Close(), statusWrite.Close() // or reading would not end
		if err == nil {
			err = qemu.Wait()
		}
		ended <- err
	}()
	err = <-ended
	copying.Wait()
	return status.String(), lost, err
}

// verdict reads the line of the status port; ok is false if there is none.
func (r *run) verdict(said string) (status int, ok bool, err error) {
	if why, found := strings.CutPrefix(strings.TrimSpace(said), "unprepared "); found {
		return StatusUnprepared, true, fmt.Errorf("in the guest: %s", why)
	}
	var ready, end float64
	if n, _ := fmt.Sscanf(said, "exit %d %f %f\n", &status, &ready, &end); n != 3 {
		return 0, false, nil
	}
	r.step("the command began after %.2f s of the guest's time and ended after %.2f s", ready, end)
	return status, true, nil
}

// arguments are QEMU's, its own name first.
func (r *run) arguments() ([]string, error) {
	qemu, err := lookPath("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	accelerator, cpu := r.Accelerator, "max" // AVX2 and what else programs of today are built for
	if accelerator == "" {
		accelerator = defaultAccelerator()
	}
	if r.debian != nil && accelerator == "tcg,thread=multi" {
		accelerator = "tcg,thread=single" // with the other one a boot in three panics
	}
	if strings.HasPrefix(accelerator, "kvm") {
		cpu = "host"
	}
	args := []string{
		qemu, "-accel", accelerator, "-cpu", cpu,
		"-M", "q35", // "microvm" hangs when it powers off
		"-smp", strconv.Itoa(r.CPUs), "-m", strconv.Itoa(r.MemoryMB),
		"-no-reboot", "-display", "none", "-nodefaults", "-no-user-config", "-monitor", "none",
		"-serial", "file:" + escape(r.consoleFile()),
		"-kernel", filepath.Join(r.kernel.dir, "vmlinux"), "-initrd", r.rootFile(),
		"-append", r.kernelLine(),
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=out,path=/proc/self/fd/3,append=on", "-device", "virtserialport,chardev=out,name=out",
		"-chardev", "file,id=status,path=/proc/self/fd/4,append=on", "-device", "virtserialport,chardev=status,name=status",
	}
	if r.NUMA {
		args = append(args, numaArguments(r.CPUs, r.MemoryMB)...)
	}
	args = append(args, cardArguments(r.QueuePairs)...)
	if r.debian != nil {
		args = append(args, r.debian.disk()...)
	}
	return append(args, r.QEMU...), nil
}

// kernelLine is the kernel's command line. panic=-1 and -no-reboot make a panic QEMU's
// end; the clock of an emulated CPU is good, though the kernel would come to doubt it.
func (r *run) kernelLine() string {
	line := "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable"
	if r.debian != nil {
		// The mitigations stay, since what the verifier allows depends on them; but for
		// those that make each entry into an emulated kernel dearer.
		line = "console=ttyS0 quiet loglevel=4 panic=-1 nopti spectre_v2=off nokaslr tsc=reliable " +
			"systemd.unit=guest-command.target systemd.firstboot=off systemd.default_device_timeout_sec=600 systemd.show_status=no"
	}
	if l := r.Isolate; l != "" {
		line += " isolcpus=managed_irq,domain," + l + " nohz_full=" + l + " rcu_nocbs=" + l
	}
	return strings.TrimSpace(line + " " + r.Append)
}

// numaArguments split CPUs and memory into halves.
func numaArguments(cpus, memoryMB int) []string {
	var args []string
	for node := range 2 {
		args = append(
			args,
			"-object", fmt.Sprintf("memory-backend-ram,id=node%d,size=%dM", node, memoryMB/2),
			"-numa", fmt.Sprintf("node,nodeid=%d,cpus=%d-%d,memdev=node%d", node, node*cpus/2, (node+1)*cpus/2-1, node),
		)
	}
	return append(args, "-numa", "dist,src=0,dst=1,val=21", "-numa", "dist,src=1,dst=0,val=21")
}

// defaultAccelerator is KVM where it is the hardware's. A /dev/kvm that some other
// module gives may be for guests that know of it; a stock kernel hangs there.
func defaultAccelerator() string {
	if unix.Access("/dev/kvm", unix.W_OK) == nil {
		for _, module := range []string{"kvm_intel", "kvm_amd"} {
			if _, err := os.Stat("/sys/module/" + module); err == nil {
				return "kvm"
			}
		}
	}
	return "tcg,thread=multi"
}

// escape doubles commas, which end a value in QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func (r *run) keepConsole() error {
	if r.Console == "" {
		return nil
	}
	text, err := os.ReadFile(r.consoleFile())
	if err != nil {
		return nil //nolint:nilerr // QEMU did not start; it says why
	}
	return os.WriteFile(r.Console, text, 0o644)
}

// tail returns the last lines of the console: a panic's first line is what counts, and
// its registers and stack are some forty lines.
func (r *run) tail() string {
	const lines = 60
	all := strings.Split(strings.TrimSpace(r.console()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// console is what the kernel has said, "" if QEMU did not start.
func (r *run) console() string {
	text, _ := os.ReadFile(r.consoleFile())
	return string(text)
}

// panickedEarly reports whether a console is that of a kernel that panicked before init.sh
// wrote there that it runs.
func panickedEarly(console string) bool {
	return strings.Contains(console, "Kernel panic") && !strings.Contains(console, "guest: init runs")
}
