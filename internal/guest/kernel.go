package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// metaPackage means the newest kernel with all modules. The "cloud" kernels are built
// without soft RoCE.
const metaPackage = "linux-image-amd64"

// A kernel is an unpacked kernel package in the cache.
type kernel struct {
	dir     string
	version string
	modules map[string]string // path by name, underscores in place of dashes
	builtin map[string]bool
}

// CacheDir is where kernels are kept: $HEADRACE_GUEST_CACHE, else headrace-guest in the
// user's cache directory. Removing it is harmless. To keep it between CI runs, keep its
// directory "deb" (70 MB); what is unpacked (400 MB) is made again in seconds.
func CacheDir() (string, error) {
	if dir := os.Getenv("HEADRACE_GUEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the kernel, set HEADRACE_GUEST_CACHE: %w", err)
	}
	return filepath.Join(dir, "headrace-guest"), nil
}

// lockCache makes the cache's directory and waits for a lock in it, which is held until
// it is closed.
func lockCache(name string) (cache string, lock *os.File, err error) {
	if cache, err = CacheDir(); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", nil, err
	}
	if lock, err = os.OpenFile(filepath.Join(cache, name), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", nil, errors.Join(os.NewSyscallError("flock", err), lock.Close())
	}
	return cache, lock, nil
}

// openKernel returns the kernel of the named package or .deb, fetched and unpacked if
// it is not in the cache yet.
func openKernel(ctx context.Context, name string) (*kernel, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%w: a guest on %s, its kernel and the programs in it are for amd64", ErrConfig, runtime.GOARCH)
	}
	// Two test binaries that start together would fetch twice into one file.
	cache, lock, err := lockCache("lock")
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // it has no contents; closing unlocks
	for _, dir := range []string{"deb", "named"} {
		if err := os.MkdirAll(filepath.Join(cache, dir), 0o755); err != nil {
			return nil, err
		}
	}
	deb, err := findPackage(ctx, cache, name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, strings.TrimSuffix(filepath.Base(deb), ".deb"))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := unpackKernel(ctx, deb, dir); err != nil {
			return nil, fmt.Errorf("kernel package %s: %w", deb, err)
		}
	}
	return readKernel(dir)
}

// findPackage returns the .deb to use. A kernel that is in the cache is used before
// apt is asked: asking takes a second, and tests should not change their kernel by
// themselves. What was asked for by name is kept apart, so that it does not become the
// kernel of every other test.
func findPackage(ctx context.Context, cache, name string) (string, error) {
	if strings.HasSuffix(name, ".deb") {
		_, err := os.Stat(name)
		return name, err
	}
	dir, pattern := filepath.Join(cache, "named"), name+"_*.deb"
	if name == "" {
		dir, name, pattern = filepath.Join(cache, "deb"), metaPackage, "linux-image-*.deb"
	}
	if deb, ok := newest(filepath.Join(dir, pattern)); ok {
		return deb, nil
	}
	name, err := resolve(ctx, name)
	if err != nil {
		return "", err
	}
	pattern = filepath.Join(dir, name+"_*.deb")
	if deb, ok := newest(pattern); ok {
		return deb, nil
	}
	fetch := exec.CommandContext(ctx, "apt-get", "download", "-qq", name)
	fetch.Dir = dir
	if _, err := output(fetch); err != nil {
		return "", fmt.Errorf("%w (apt-get update, if its lists are old)", err)
	}
	deb, ok := newest(pattern)
	if !ok {
		return "", fmt.Errorf("apt-get download %s left no %s", name, pattern)
	}
	return deb, nil
}

// resolve returns the package with a kernel in it that the named package means: itself,
// or what it depends on if it is one that only follows the newest version.
func resolve(ctx context.Context, name string) (string, error) {
	for _, program := range []string{"apt-get", "apt-cache"} {
		if _, err := lookPath(program); err != nil {
			return "", &MissingError{Names: []string{program}, Packages: []string{packages[program]}}
		}
	}
	text, err := output(exec.CommandContext(ctx, "apt-cache", "depends", name))
	if err != nil {
		return "", fmt.Errorf("%w (apt-get update, if its lists are old or empty)", err)
	}
	if means := dependsOn(text); means != "" {
		return means, nil
	}
	return name, nil
}

// newest returns the file of a pattern that was changed last: names of versions do not
// sort.
func newest(pattern string) (string, bool) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		return "", false
	}
	return slices.MaxFunc(files, func(a, b string) int { return changed(a).Compare(changed(b)) }), true
}

// dependsOn finds the kernel package in what apt-cache depends says.
func dependsOn(text string) string {
	for line := range strings.Lines(text) {
		if _, name, ok := strings.Cut(line, "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// unpackKernel makes dir whole or not at all: it is made under another name.
func unpackKernel(ctx context.Context, deb, dir string) error {
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "--extract", deb, fresh)); err != nil {
		return err
	}
	if err := unpackImage(ctx, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

// unpackImage puts the kernel of a root beside its directories.
func unpackImage(ctx context.Context, root string) error {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("holds %d kernels", len(images))
	}
	image, err := os.ReadFile(images[0])
	if err != nil {
		return err
	}
	// An emulated CPU takes 13 seconds to unpack the kernel, this one takes one. QEMU
	// boots the ELF file inside through its PVH entry.
	whole, err := vmlinux(ctx, image)
	if err != nil {
		return fmt.Errorf("%s: %w", images[0], err)
	}
	return os.WriteFile(filepath.Join(root, "vmlinux"), whole, 0o644)
}

// errImage reports a kernel image that is not laid out as the boot protocol says.
var errImage = errors.New("not a bzImage that can be unpacked")

// packed returns the compressed kernel inside a bzImage and its unpacked size, found
// through the boot header (Documentation/arch/x86/boot.rst).
func packed(image []byte) (payload []byte, size int, err error) {
	const setupSectors, magic, version, payloadOffset, payloadLength, headerEnd = 0x1f1, 0x202, 0x206, 0x248, 0x24c, 0x250
	if len(image) < headerEnd || string(image[magic:magic+4]) != "HdrS" {
		return nil, 0, fmt.Errorf("%w: no boot header", errImage)
	}
	if v := binary.LittleEndian.Uint16(image[version:]); v < 0x208 { // it has no payload fields
		return nil, 0, fmt.Errorf("%w: boot protocol %#x, at least 0x208 is needed", errImage, v)
	}
	sectors := int(image[setupSectors])
	if sectors == 0 {
		sectors = 4 // as the protocol says, for the sake of very old loaders
	}
	begin := (sectors+1)*512 + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if length < 8 || begin+length > len(image) {
		return nil, 0, fmt.Errorf("%w: kernel at [%d, %d) of %d bytes", errImage, begin, begin+length, len(image))
	}
	// The build appends the unpacked size; xz and zstd would take it for garbage.
	end := begin + length - 4
	return image[begin:end], int(binary.LittleEndian.Uint32(image[end:])), nil
}

// vmlinux returns the ELF kernel inside a bzImage.
func vmlinux(ctx context.Context, image []byte) ([]byte, error) {
	payload, size, err := packed(image)
	if err != nil {
		return nil, err
	}
	// gzip ends in the size by itself: there the four bytes are its own.
	if bytes.HasPrefix(payload, gzipMagic) {
		payload = payload[:len(payload)+4]
	}
	whole, err := decompress(ctx, payload)
	if err != nil {
		return nil, err
	}
	if len(whole) != size {
		return nil, fmt.Errorf("%w: unpacked to %d bytes, its header says %d", errImage, len(whole), size)
	}
	if !bytes.HasPrefix(whole, []byte(elf.ELFMAG)) {
		return nil, fmt.Errorf("%w: no ELF kernel inside", errImage)
	}
	return whole, nil
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	xzMagic   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// decompress unpacks what kernels and modules are packed with.
func decompress(ctx context.Context, b []byte) ([]byte, error) {
	var program string
	switch {
	case bytes.HasPrefix(b, gzipMagic):
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	case bytes.HasPrefix(b, xzMagic):
		program = "xz"
	case bytes.HasPrefix(b, zstdMagic):
		program = "zstd"
	default:
		return nil, fmt.Errorf("%w: compression %x", errImage, b[:min(6, len(b))])
	}
	c := exec.CommandContext(ctx, program, "-dc")
	c.Stdin = bytes.NewReader(b)
	text, err := output(c)
	return []byte(text), err
}

// readKernel looks at an unpacked kernel.
func readKernel(dir string) (*kernel, error) {
	trees, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err == nil && len(trees) == 0 { // from trixie on
		trees, err = filepath.Glob(filepath.Join(dir, "usr/lib/modules/*"))
	}
	if err != nil || len(trees) != 1 {
		return nil, fmt.Errorf("%s holds modules of %d kernels: remove it", dir, len(trees))
	}
	k := &kernel{dir: dir, version: filepath.Base(trees[0]), modules: map[string]string{}, builtin: map[string]bool{}}
	err = filepath.WalkDir(trees[0], func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok && err == nil && !d.IsDir() {
			k.modules[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(trees[0], "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(filepath.Base(line), ".ko")
		k.builtin[moduleName(name)] = true
	}
	return k, nil
}

// moduleName is the kernel's spelling: the files have either.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// A module is one file to load.
type module struct {
	name  string
	bytes []byte
}

// load returns the named modules and all that they depend on, each once, in an order
// in which they load. What is built into the kernel is left out.
func (k *kernel) load(ctx context.Context, names []string) ([]module, error) {
	var list []module
	done := map[string]bool{}
	var add func(name, by string) error
	add = func(name, by string) error {
		name = moduleName(name)
		if done[name] || k.builtin[name] {
			return nil
		}
		done[name] = true
		path, ok := k.modules[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s%s", k.version, name, by)
		}
		contents, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(contents, []byte(elf.ELFMAG)) {
			if contents, err = decompress(ctx, contents); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		needs, err := dependencies(contents)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n, ", which "+name+" needs"); err != nil {
				return err
			}
		}
		list = append(list, module{name, contents})
		return nil
	}
	for _, n := range names {
		if err := add(n, ""); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// dependencies reads the names in a module's "depends" line, what depmod reads too.
func dependencies(contents []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(contents))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo: not a kernel module")
	}
	lines, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(lines), "\x00") {
		if names, ok := strings.CutPrefix(line, "depends="); ok && names != "" {
			return strings.Split(names, ","), nil
		}
	}
	return nil, nil
}

// output runs c and returns what it prints; the error holds what it complained about.
func output(c *exec.Cmd) (string, error) {
	var complaints bytes.Buffer
	c.Stderr = &complaints
	text, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return string(text), nil
}
