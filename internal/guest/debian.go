package guest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// debianScript goes on in the guest where init.sh has loaded the modules: it puts /work
// and the command onto the disk and gives the machine to systemd.
//
//go:embed debian.sh
var debianScript string

// kernelOfRoot is what a package of kernels needs of its scripts where nothing is to boot
// from the root itself: its files and the list of its modules. Installed whole it brings
// the makers of an initramfs.
const kernelOfRoot = `chroot "$1" sh -ec '
	cd /tmp
	apt-get download -qq $(apt-cache depends ` + metaPackage + ` | sed -n "s/.*Depends: \(linux-image-\)/\1/p")
	dpkg-deb -x linux-image-*.deb /
	rm linux-image-*.deb
	depmod $(ls /usr/lib/modules)'`

// debianModules are what the disk needs.
var debianModules = []string{"virtio_blk", "crc32c_generic", "ext4"}

// debianPrograms make the root and its image.
var debianPrograms = []string{"mmdebstrap", "mke2fs"}

// DebianRoot returns the directory of a Debian 13 with systemd as its first process, its
// tools and nothing besides, made once in [CacheDir] (a minute, 250 MB, as root). It is
// every test's: what is changed there stays.
func DebianRoot(ctx context.Context) (string, error) {
	d, err := openDebian(ctx)
	if err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	return d.root, nil
}

// debian is the root in the cache and the image of a disk with it.
type debian struct{ root, image string }

func openDebian(ctx context.Context) (*debian, error) {
	cache, lock, err := lockCache("debian.lock")
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // it has no contents; closing unlocks
	dir := filepath.Join(cache, "debian-13")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := buildDebian(ctx, dir); err != nil {
			return nil, fmt.Errorf("a root of Debian 13: %w", err)
		}
	}
	return &debian{filepath.Join(dir, "root"), filepath.Join(dir, "image")}, nil
}

// buildDebian makes dir whole or not at all: it is made under another name.
func buildDebian(ctx context.Context, dir string) error {
	if err := missing(Config{Programs: debianPrograms}); err != nil {
		return err
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	root := filepath.Join(fresh, "root")
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return err
	}
	mirror := os.Getenv("HEADRACE_DEBIAN_MIRROR") // "": the archive's own
	args := []string{
		"--variant=minbase", "--quiet", "--include=systemd,systemd-sysv,udev,kmod,iproute2,procps",
		`--aptopt=Apt::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook=" + kernelOfRoot,
		`--customize-hook=rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*`,
		"trixie", root,
	}
	if mirror != "" {
		args = append(args, mirror)
	}
	if _, err := output(exec.CommandContext(ctx, "mmdebstrap", args...)); err != nil {
		return err
	}
	path, err := lookPath("mke2fs")
	if err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, path, "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, filepath.Join(fresh, "image"), "1G")); err != nil {
		return err
	}
	if err := unpackImage(ctx, root); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

// disk is the argument of QEMU; what the guest writes is forgotten.
func (d *debian) disk() []string {
	return []string{"-drive", "file=" + escape(d.image) + ",format=raw,if=virtio,snapshot=on"}
}
