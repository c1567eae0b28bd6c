package guest

import (
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed init.sh
var initScript string

// WireScript is a shell script with one argument: `sh wire.sh N` joins N soft RoCE
// devices, rxe1 to rxeN at 10.9.0.1 to 10.9.0.N, by a bridge that their packets really
// cross. Every guest has it as the command `wire`; it works with the set rdma.
//
//go:embed wire.sh
var WireScript string

// transport is what the guest needs to talk to us at all.
var transport = []string{"virtio_pci", "virtio_console"}

// A root is the guest's file system in the making.
type root struct {
	*archive
	linker *linker
}

// writeRoot writes the guest's root to the file at path and returns its size.
//
// It is a merged /usr, as Debian has it, so that a path of this machine means the same
// there: /bin, /sbin, /lib and /lib64 are links. Applets of busybox stand in /busybox,
// the last directory of PATH, and are found only where the real program is not there.
func writeRoot(ctx context.Context, c Config, k *kernel, command []string, path string) (size int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // close below counts
	r := &root{newArchive(f), newLinker()}
	for _, step := range []func() error{
		r.skeleton,
		func() error { return r.busybox(ctx) },
		func() error { return r.modules(ctx, k, c.Modules) },
		func() error { return r.programs(c.Programs) },
		func() error { return r.files(c.Files) },
		func() error { return r.work(c.Dir) },
		func() error { return r.text("/command", 0o755, quote(command)+"\n") },
		func() error { return r.debian(c.Debian) },
		r.close,
	} {
		if err := step(); err != nil {
			return 0, fmt.Errorf("root: %w", err)
		}
	}
	return r.written, f.Close()
}

func (r *root) skeleton() error {
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := r.dir("/usr/" + name); err != nil {
			return err
		}
		if err := r.link("/"+name, "usr/"+name); err != nil {
			return err
		}
	}
	for _, name := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/var/tmp", "/work", "/modules"} {
		if err := r.dir(name); err != nil {
			return err
		}
	}
	for _, t := range []struct{ name, contents string }{
		{"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"},
		{"/etc/group", "root:x:0:\n"},
		{"/etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"},
	} {
		if err := r.text(t.name, 0o644, t.contents); err != nil {
			return err
		}
	}
	if err := r.text("/init", 0o755, initScript); err != nil {
		return err
	}
	return r.text("/usr/bin/wire", 0o755, WireScript)
}

// busybox puts the programs of every guest: busybox, a shell, the C library's helper.
func (r *root) busybox(ctx context.Context) error {
	path, err := lookPath("busybox")
	if err != nil {
		return err
	}
	if err := r.put(path, "/usr/bin/busybox"); err != nil {
		return err
	}
	applets, err := output(exec.CommandContext(ctx, path, "--list"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(applets) {
		if err := r.link("/busybox/"+name, "/usr/bin/busybox"); err != nil {
			return err
		}
	}
	// The shell is dash. That of busybox runs its own ip, ping, ... whatever PATH says.
	if path, err = lookPath("dash"); err != nil {
		return err
	}
	if err := r.put(path, "/usr/bin/dash"); err != nil {
		return err
	}
	if err := r.link("/usr/bin/sh", "dash"); err != nil {
		return err
	}
	if err := r.link("/usr/bin/env", "/usr/bin/busybox"); err != nil { // for #! lines
		return err
	}
	// The C library loads it by itself when a thread exits and aborts without it; it
	// stands in no program's list.
	const helper = guestLibraries + "/libgcc_s.so.1"
	if _, err := os.Stat(helper); err != nil {
		return nil //nolint:nilerr // a machine without it has no program that asks for it
	}
	return r.put(helper, helper)
}

// modules puts the modules and two lists of them, which init loads in their order.
func (r *root) modules(ctx context.Context, k *kernel, names []string) error {
	first, err := k.load(ctx, transport)
	if err != nil {
		return err
	}
	all, err := k.load(ctx, append(transport[:len(transport):len(transport)], names...))
	if err != nil {
		return err
	}
	lists := [2]string{}
	for i, m := range all {
		name := "/modules/" + m.name + ".ko"
		if err := r.text(name, 0o644, string(m.bytes)); err != nil {
			return err
		}
		if i < len(first) {
			lists[0] += m.name + "\n"
		} else {
			lists[1] += m.name + "\n"
		}
	}
	if err := r.text("/modules/first", 0o644, lists[0]); err != nil {
		return err
	}
	return r.text("/modules/rest", 0o644, lists[1])
}

// debian has the guest go on with the system on its disk.
func (r *root) debian(asked bool) error {
	if !asked {
		return nil
	}
	return r.text("/debian.sh", 0o644, debianScript)
}

func (r *root) programs(names []string) error {
	for _, name := range names {
		path, err := lookPath(name)
		if err != nil {
			return err
		}
		if err := r.put(path, path); err != nil {
			return err
		}
		// A program outside the guest's PATH is found by its name all the same.
		if err := r.link("/usr/local/bin/"+filepath.Base(path), merged(path)); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) files(patterns []string) error {
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("file pattern %q: %w", pattern, err)
		}
		for _, p := range paths {
			if p, err = filepath.Abs(p); err != nil {
				return err
			}
			if err := r.tree(p, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *root) work(dir string) error {
	if dir == "" {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return r.tree(dir, "/work")
}

// tree puts the file or directory at path under the guest's name. Links inside a
// directory stay links; path itself may be one.
func (r *root) tree(path, name string) error {
	top, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(name, strings.TrimPrefix(p, top))
		switch {
		case d.IsDir():
			return r.dir(merged(to))
		case d.Type().IsRegular():
			return r.put(p, to)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return r.link(merged(to), target)
		}
		return fmt.Errorf("%s is neither file, directory nor link", p)
	})
}

// put copies the file at path, links followed, under the guest's name, and the
// libraries that it needs, under their own names.
func (r *root) put(path, name string) error {
	if err := r.copy(path, merged(name)); err != nil {
		return err
	}
	libraries, err := r.linker.closure(path)
	if err != nil {
		return err
	}
	for _, l := range libraries {
		name := merged(l)
		for _, dir := range r.linker.dirs { // from where the guest's loader does not look
			if filepath.Dir(l) == dir && !strings.HasPrefix(filepath.Base(l), "ld-") {
				name = filepath.Join(guestLibraries, filepath.Base(l))
			}
		}
		if err := r.copy(l, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) copy(path, name string) error {
	if r.have[name] {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return r.file(name, st.Mode(), st.Size(), f)
}

// merged is path where /bin, /sbin, /lib and /lib64 are links into /usr: the archive
// cannot write through a link that it has made.
func merged(path string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, dir) {
			return "/usr" + path
		}
	}
	return path
}

// quote writes a command as a line of shell.
func quote(command []string) string {
	words := make([]string, len(command))
	for i, w := range command {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// changed is when a file was changed last; a file that is gone is the oldest.
func changed(path string) time.Time {
	st, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}
