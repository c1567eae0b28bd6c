package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// A reader reads small files and keeps the first thing that was wrong with one. A file
// that is not there, or that the kernel will not show, is not wrong: its value is then
// what the caller says stands for nothing.
type reader struct {
	fsys fs.FS
	err  error
}

// text returns a file without its last newline.
func (r *reader) text(name string) (string, bool) {
	b, err := fs.ReadFile(r.fsys, name)
	if err != nil {
		return "", false
	}
	return strings.TrimRight(string(b), "\n"), true
}

func (r *reader) number(name string, none int) int {
	text, ok := r.text(name)
	if !ok {
		return none
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		r.wrong(name, err)
		return none
	}
	return n
}

// set reads a list of CPUs; ok is false if there is no such file.
func (r *reader) set(name string) (CPUSet, bool) {
	text, ok := r.text(name)
	if !ok {
		return CPUSet{}, false
	}
	s, err := ParseCPUs(text)
	if err != nil {
		r.wrong(name, err)
	}
	return s, true
}

// numbered returns the N of all entries named prefixN of a directory.
func (r *reader) numbered(dir, prefix string) CPUSet {
	entries, err := fs.ReadDir(r.fsys, dir)
	if err != nil {
		return CPUSet{}
	}
	var s CPUSet
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), prefix); ok && digits != "" {
			if n, ok := number(digits); ok {
				insert(&s, n)
			}
		}
	}
	return s
}

func (r *reader) wrong(name string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("/%s: %w", name, err)
	}
}

// resolve returns name with every symbolic link in it replaced, for asking for what is
// above: an fs.FS has no "..".
func resolve(fsys fs.FS, name string) (string, error) {
	const linksMax = 40 // as the kernel
	done, rest := ".", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		element := rest[0]
		rest = rest[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		here := path.Join(done, element)
		st, err := fs.Lstat(fsys, here)
		if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			done = here
			continue
		}
		target, err := fs.ReadLink(fsys, here)
		if err != nil {
			return "", err
		}
		if links++; links > linksMax {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: errors.New("too many links")}
		}
		if path.IsAbs(target) {
			done = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}
