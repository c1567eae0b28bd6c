package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// An item is one entry of an archive, as the reader below finds it.
type item struct {
	Name, Contents string
	Mode           uint32
}

// readArchive reads cpio "newc" by the definition of the format.
func readArchive(b []byte) (items []item, err error) {
	at := 0
	take := func(n int) []byte {
		if err != nil || at+n > len(b) {
			err = io.ErrUnexpectedEOF
			return make([]byte, n)
		}
		at += n
		return b[at-n : at]
	}
	for {
		if magic := take(6); err != nil || string(magic) != "070701" {
			return items, fmt.Errorf("magic %q at %d: %w", magic, at, err)
		}
		var fields [13]uint64
		for i := range fields {
			fields[i], _ = strconv.ParseUint(string(take(8)), 16, 32)
		}
		name := string(take(int(fields[11])))
		for at%4 != 0 {
			take(1)
		}
		contents := string(take(int(fields[6])))
		for at%4 != 0 {
			take(1)
		}
		if err != nil || !strings.HasSuffix(name, "\x00") {
			return items, fmt.Errorf("name %q: %w", name, err)
		}
		if name = name[:len(name)-1]; name == "TRAILER!!!" {
			if at != len(b) {
				return items, errors.New("bytes behind the trailer")
			}
			return items, nil
		}
		items = append(items, item{name, contents, uint32(fields[1])})
	}
}

func TestAnArchiveReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := rapid.MapOf(rapid.StringMatching(`(/[a-z]{1,5}){1,3}\.[a-z]`), rapid.String()).Draw(t, "files")
		var b bytes.Buffer
		a := newArchive(&b)
		for name, contents := range files {
			if err := a.text(name, 0o640, contents); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.close(); err != nil {
			t.Fatal(err)
		}
		if a.written != int64(b.Len()) {
			t.Fatalf("%d bytes are counted, %d were written", a.written, b.Len())
		}
		items, err := readArchive(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		seen, got := map[string]bool{".": true}, map[string]string{}
		for _, i := range items {
			if dir := path.Dir(i.Name); !seen[dir] || seen[i.Name] {
				t.Fatalf("%s is there twice or before %s", i.Name, dir)
			}
			seen[i.Name] = true
			switch i.Mode {
			case 0o100640:
				got["/"+i.Name] = i.Contents
			case 0o040755:
			default:
				t.Fatalf("%s has mode %o", i.Name, i.Mode)
			}
		}
		if d := cmp.Diff(files, got); d != "" {
			t.Fatal(d)
		}
	})
}

// The program that everybody unpacks archives with agrees.
func TestCpioReadsAnArchive(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("needs cpio (apt-get install cpio)")
	}
	var b bytes.Buffer
	a := newArchive(&b)
	if err := errors.Join(a.text("/usr/bin/x", 0o755, "#!/bin/sh\n"), a.link("/usr/bin/y", "x"), a.dir("/proc"), a.close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := exec.Command("cpio", "-id", "--quiet")
	c.Dir, c.Stdin = dir, &b
	if text, err := c.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("%v: %s", err, text)
	}
	text, err := os.ReadFile(filepath.Join(dir, "usr/bin/y"))
	st, _ := os.Stat(filepath.Join(dir, "usr/bin/x"))
	if err != nil || string(text) != "#!/bin/sh\n" || st.Mode().Perm() != 0o755 || !isDir(filepath.Join(dir, "proc")) {
		t.Errorf("unpacked %q, %v, %v", text, st, err)
	}
}

func TestAFileThatShrinksSpoilsNoArchive(t *testing.T) {
	a := newArchive(io.Discard)
	if err := a.file("/x", 0o644, 10, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if err := a.file("/y", 0o644, 1<<32, strings.NewReader("")); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
}

func TestARootIsAMergedUsr(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"run.sh": "#!/bin/sh\n", "sub/data": "1"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/data", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r := &root{newArchive(&b), newLinker()}
	if err := errors.Join(r.skeleton(), r.programs([]string{"ls"}), r.work(dir), r.close()); err != nil {
		t.Fatal(err)
	}
	items, err := readArchive(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]item{}
	for _, i := range items {
		has[i.Name] = i
		for _, link := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
			if strings.HasPrefix(i.Name, link) {
				t.Errorf("%s is written through a link", i.Name)
			}
		}
	}
	for name, contents := range map[string]string{"lib": "usr/lib", "work/run.sh": "#!/bin/sh\n", "work/sub/data": "1", "work/link": "sub/data", "init": initScript, "usr/bin/wire": WireScript} {
		if has[name].Contents != contents {
			t.Errorf("%s is %q, want %q", name, has[name].Contents, contents)
		}
	}
	if has["usr/bin/ls"].Contents == "" || has["usr/lib/x86_64-linux-gnu/libc.so.6"].Contents == "" {
		t.Error("ls or its library is missing")
	}
}

// ldd asks the loader itself.
func TestTheLibrariesOfAProgramAreThoseThatTheLoaderFinds(t *testing.T) {
	if _, err := exec.LookPath("ldd"); err != nil {
		t.Skip("needs ldd (apt-get install libc-bin)")
	}
	tried := 0
	for _, name := range []string{"sh", "ip", "git", "python3", "qemu-system-x86_64", "ibv_rc_pingpong"} {
		path, err := lookPath(name)
		if err != nil {
			continue
		}
		text, err := exec.Command("ldd", path).Output()
		if err != nil {
			continue // static
		}
		var want []string
		for line := range strings.Lines(string(text)) {
			for _, word := range strings.Fields(line) {
				if strings.HasPrefix(word, "/") {
					want = append(want, resolved(t, word))
				}
			}
		}
		got, err := newLinker().closure(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i] = resolved(t, got[i])
		}
		slices.Sort(got)
		slices.Sort(want)
		if d := cmp.Diff(slices.Compact(want), slices.Compact(got)); d != "" {
			t.Errorf("%s: %s", path, d)
		}
		tried++
	}
	if tried == 0 {
		t.Fatal("no program was compared")
	}
}

func resolved(t *testing.T, path string) string {
	t.Helper()
	p, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestALibraryThatIsNotThereIsNamed(t *testing.T) {
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sh")
	if err := os.WriteFile(path, bytes.ReplaceAll(sh, []byte("libc.so.6\x00"), []byte("libq.so.6\x00")), 0o755); err != nil {
		t.Fatal(err)
	}
	if list, err := newLinker().closure(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path+" needs libq.so.6") {
		t.Errorf("closure = %q, %v", list, err)
	}
}

func TestAScriptNeedsNoLibraries(t *testing.T) {
	for _, text := range []string{"", "#!/bin/sh\n", strings.Repeat("text\n", 100)} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if list, err := newLinker().closure(path); len(list) > 0 || err != nil {
			t.Errorf("closure of %q = %q, %v", text, list, err)
		}
	}
	if _, err := newLinker().closure("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// image makes a bzImage with a boot header, four sectors of setup and the payload at
// an odd place behind them.
func image(payload []byte, size int, change func(header []byte)) []byte {
	const begin = (1+4)*512 + 77
	b := make([]byte, begin, begin+len(payload)+5)
	b[0x1f1] = 4
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], 77)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)+4))
	change(b)
	b = append(b, payload...)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	return append(b, "rest"...)
}

func TestTheKernelIsFoundInABzImage(t *testing.T) {
	payload := []byte("payload!")
	for _, c := range []struct {
		name   string
		change func(h []byte)
		ok     bool
	}{
		{"as the protocol says", func([]byte) {}, true},
		{"no sectors mean four", func(h []byte) { h[0x1f1] = 0 }, true},
		{"no magic", func(h []byte) { h[0x202] = 'X' }, false},
		{"before the protocol had the fields", func(h []byte) { h[0x206], h[0x207] = 7, 2 }, false},
		{"the payload ends behind the file", func(h []byte) { binary.LittleEndian.PutUint32(h[0x24c:], 1<<20) }, false},
		{"the payload begins behind the file", func(h []byte) { binary.LittleEndian.PutUint32(h[0x248:], 0xffffff00) }, false},
		{"no payload", func(h []byte) { binary.LittleEndian.PutUint32(h[0x24c:], 4) }, false},
	} {
		got, size, err := packed(image(payload, 123456, c.change))
		if !c.ok {
			if !errors.Is(err, errImage) {
				t.Errorf("%s: %q, %d, %v", c.name, got, size, err)
			}
			continue
		}
		if err != nil || string(got) != "payload!" || size != 123456 {
			t.Errorf("%s: %q, %d, %v", c.name, got, size, err)
		}
	}
	if _, _, err := packed([]byte("MZ")); !errors.Is(err, errImage) {
		t.Error(err)
	}
}

// pack compresses b as the kernel's build does, without the size that follows.
func pack(t *testing.T, with string, b []byte) []byte {
	t.Helper()
	if with == "gzip" {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		if _, err := z.Write(b); err != nil {
			t.Fatal(err)
		}
		z.Close()
		return out.Bytes()[:out.Len()-4] // gzip's own last field is the size
	}
	c := exec.Command(with, "-c")
	c.Stdin = bytes.NewReader(b)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTheKernelIsUnpackedAndChecked(t *testing.T) {
	kernel := []byte(elf.ELFMAG + strings.Repeat("kernel", 1000))
	for _, with := range []string{"gzip", "xz", "zstd"} {
		if _, err := exec.LookPath(with); err != nil && with != "gzip" {
			t.Logf("without %s, which is not here", with)
			continue
		}
		whole, err := vmlinux(t.Context(), image(pack(t, with, kernel), len(kernel), func([]byte) {}))
		if err != nil || !bytes.Equal(whole, kernel) {
			t.Errorf("%s: %d bytes, %v", with, len(whole), err)
		}
		if with == "gzip" {
			continue // it sees itself that the size is wrong
		}
		if _, err := vmlinux(t.Context(), image(pack(t, with, kernel), len(kernel)+1, func([]byte) {})); !errors.Is(err, errImage) {
			t.Errorf("%s, a wrong size: %v", with, err)
		}
	}
	if _, err := vmlinux(t.Context(), image([]byte("LZO!LZO!"), 5, func([]byte) {})); !errors.Is(err, errImage) {
		t.Error(err)
	}
	text := []byte("no kernel")
	if _, err := vmlinux(t.Context(), image(pack(t, "gzip", text), len(text), func([]byte) {})); !errors.Is(err, errImage) {
		t.Error(err)
	}
}

// ko makes a module: an ELF file with one section, .modinfo.
func ko(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	infoAt := uint64(64)
	namesAt := infoAt + uint64(len(info))
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: namesAt + uint64(len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: infoAt, Size: uint64(len(info)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names)), Addralign: 1},
	}
	_ = binary.Write(&b, binary.LittleEndian, h)
	b.WriteString(info + names)
	_ = binary.Write(&b, binary.LittleEndian, sections)
	return b.Bytes()
}

func TestModulesAreLoadedAfterWhatTheyDependOn(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, contents []byte) {
		path := filepath.Join(dir, "lib/modules/6.1.0-test", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, contents, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("kernel/net/a-top.ko", ko("license=GPL\x00depends=b_mid,crc32c\x00name=a_top\x00"))
	put("kernel/net/b-mid.ko", ko("depends=c_low\x00"))
	put("kernel/c_low.ko", ko("depends=\x00"))
	put("kernel/lost.ko", ko("depends=nowhere\x00"))
	put("kernel/text.ko", []byte("no module"))
	put("modules.builtin", []byte("kernel/crypto/crc32c.ko\n"))
	k, err := readKernel(dir)
	if err != nil || k.version != "6.1.0-test" {
		t.Fatalf("%+v, %v", k, err)
	}
	var order []string
	list, err := k.load(t.Context(), []string{"c-low", "a_top", "crc32c", "a-top"})
	for _, m := range list {
		order = append(order, m.name)
	}
	if want := []string{"c_low", "b_mid", "a_top"}; err != nil || !slices.Equal(order, want) {
		t.Errorf("load = %q, %v, want %q", order, err, want)
	}
	for name, says := range map[string]string{
		"other": "kernel 6.1.0-test has no module other",
		"lost":  "has no module nowhere, which lost needs",
		"text":  "module text: ",
	} {
		if _, err := k.load(t.Context(), []string{name}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("load %s: %v, want %q", name, err, says)
		}
	}
}

func TestAptsAnswerNamesTheKernel(t *testing.T) {
	const text = "linux-image-amd64\n  Depends: linux-base\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: x\n"
	if got := dependsOn(text); got != "linux-image-6.1.0-56-amd64" {
		t.Errorf("dependsOn = %q", got)
	}
	if got := dependsOn("linux-image-amd64\n"); got != "" {
		t.Errorf("dependsOn = %q of nothing", got)
	}
}

func TestAKernelInTheCacheIsUsedBeforeAptIsAsked(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no apt
	cache := t.TempDir()
	if err := os.Mkdir(filepath.Join(cache, "deb"), 0o755); err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if _, err := findPackage(t.Context(), cache, ""); !errors.As(err, &missing) {
		t.Errorf("without apt and cache: %v", err)
	}
	deb := filepath.Join(cache, "deb", "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb")
	if err := os.WriteFile(deb, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", deb} {
		if got, err := findPackage(t.Context(), cache, name); got != deb || err != nil {
			t.Errorf("findPackage(%q) = %q, %v", name, got, err)
		}
	}
	// One that a single test asked for by name does not become everybody's.
	named := filepath.Join(cache, "named", "linux-image-7.0-cloud-amd64_7.0-1_amd64.deb")
	if err := errors.Join(os.Mkdir(filepath.Dir(named), 0o755), os.WriteFile(named, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": deb, "linux-image-7.0-cloud-amd64": named} {
		if got, err := findPackage(t.Context(), cache, name); got != want || err != nil {
			t.Errorf("findPackage(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"linux-image-6.12-amd64", "/nowhere/x.deb"} {
		if got, err := findPackage(t.Context(), cache, name); err == nil {
			t.Errorf("findPackage(%q) = %q", name, got)
		}
	}
}
