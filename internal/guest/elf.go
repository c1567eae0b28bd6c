package guest

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A linker finds the shared libraries of programs as the loader of this machine would.
// It reads the files; ldd would run them.
type linker struct {
	// dirs are searched after a program's own run path.
	dirs []string
}

// guestLibraries is where the guest's loader looks without being told: there is no
// cache of the loader in the guest.
const guestLibraries = "/usr/lib/x86_64-linux-gnu"

func newLinker() *linker {
	dirs := []string{"/lib/x86_64-linux-gnu", guestLibraries, "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
	files, _ := filepath.Glob("/etc/ld.so.conf.d/*.conf") // the pattern is good
	for _, name := range append(files, "/etc/ld.so.conf") {
		f, err := os.Open(name)
		if err != nil {
			continue // a machine without further directories
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if dir := strings.TrimSpace(lines.Text()); filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
		_ = f.Close() // only read
	}
	return &linker{dirs}
}

// closure returns the files, loader included, that the program or library at path
// needs, and those that these need. A file that is not ELF, or is static, needs none.
func (l *linker) closure(path string) ([]string, error) {
	var found []string
	seen := map[string]bool{}
	for todo := []string{path}; len(todo) > 0; todo = todo[1:] {
		needs, err := l.needs(todo[0])
		if err != nil {
			return nil, err
		}
		for _, n := range needs {
			if !seen[n] {
				seen[n] = true
				found, todo = append(found, n), append(todo, n)
			}
		}
	}
	return found, nil
}

// needs returns what the file at path names itself.
func (l *linker) needs(path string) ([]string, error) {
	f, err := elf.Open(path)
	var format *elf.FormatError
	if errors.As(err, &format) || (err != nil && isShort(path)) {
		return nil, nil // a script, a text
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	var files []string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return nil, fmt.Errorf("%s: loader: %w", path, err)
			}
			files = append(files, strings.TrimRight(string(name), "\x00"))
		}
	}
	names, err := f.DynString(elf.DT_NEEDED)
	if err != nil || len(names) == 0 {
		return files, nil // no dynamic section: static
	}
	dirs := append(runPath(f, path), l.dirs...)
	for _, name := range names {
		file, err := find(f, name, dirs)
		if err != nil {
			return nil, fmt.Errorf("%s needs %w", path, err)
		}
		files = append(files, file)
	}
	return files, nil
}

// isShort reports a file too short to have an ELF header.
func isShort(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() < 64
}

// runPath returns the directories that a file names itself.
func runPath(f *elf.File, path string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			continue // it has none
		}
		for _, p := range paths {
			for _, dir := range strings.Split(p, ":") {
				origin := filepath.Dir(path)
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir))
			}
		}
	}
	return dirs
}

// find looks for a library for f's machine, as the loader does: one for another
// machine of the same name does not count.
func find(f *elf.File, name string, dirs []string) (string, error) {
	if strings.Contains(name, "/") {
		dirs = []string{""}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		lib, err := elf.Open(path)
		if err != nil {
			continue
		}
		same := lib.Class == f.Class && lib.Machine == f.Machine
		_ = lib.Close() // only read
		if same {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s, which is not on this machine: %w", name, os.ErrNotExist)
}
