package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
)

// An archive writes the one format that the kernel unpacks as its root, cpio "newc":
// a header of 8-digit hexadecimal fields, the name, the contents, each padded to four
// bytes (Documentation/driver-api/early-userspace/buffer-format.rst). It is not
// compressed: unpacking is what an emulated CPU is slow at.
//
// Names are paths of the guest and begin with "/". A directory that a name needs is
// written before it; a name that is there already is left out, so that a library that
// ten programs need is written once.
type archive struct {
	w       *bufio.Writer
	written int64
	count   uint32 // entries, and the number of the next inode
	have    map[string]bool
}

var errTooLarge = errors.New("too large for its archive, 4 GiB")

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), have: map[string]bool{"/": true}}
}

// Kinds of entry, the upper bits of a mode (inode(7)).
const (
	kindDir  = 0o040000
	kindFile = 0o100000
	kindLink = 0o120000
)

// dir makes a directory and those above it.
func (a *archive) dir(name string) error {
	if name = path.Clean(name); a.have[name] {
		return nil
	}
	return a.entry(name, kindDir|0o755, 0, nil)
}

// link makes name mean target.
func (a *archive) link(name, target string) error {
	return a.entry(name, kindLink|0o777, int64(len(target)), strings.NewReader(target))
}

// text makes a file with the given contents.
func (a *archive) text(name string, mode fs.FileMode, contents string) error {
	return a.file(name, mode, int64(len(contents)), strings.NewReader(contents))
}

// file makes a file of size bytes, read from r.
func (a *archive) file(name string, mode fs.FileMode, size int64, r io.Reader) error {
	return a.entry(name, kindFile|uint32(mode.Perm()), size, r)
}

func (a *archive) entry(name string, mode uint32, size int64, r io.Reader) error {
	name = path.Clean(name)
	if a.have[name] {
		return nil
	}
	if err := a.dir(path.Dir(name)); err != nil {
		return err
	}
	a.have[name] = true
	if size > math.MaxUint32 {
		return fmt.Errorf("%s: %w", name, errTooLarge)
	}
	if err := a.header(strings.TrimPrefix(name, "/"), mode, uint32(size)); err != nil || r == nil {
		return err
	}
	n, err := io.Copy(a.w, io.LimitReader(r, size))
	a.written += n
	if err != nil {
		return err
	}
	if n != size { // the header is out: what follows would be read as contents
		return fmt.Errorf("%s: %d bytes of %d: %w", name, n, size, io.ErrUnexpectedEOF)
	}
	return a.pad()
}

// header writes an entry's head; everything belongs to root and was made in 1970, so
// that equal roots are equal files.
func (a *archive) header(name string, mode, size uint32) error {
	a.count++
	links := uint32(1)
	if mode&kindDir == kindDir && mode&kindFile == 0 {
		links = 2
	}
	if _, err := a.w.WriteString("070701"); err != nil {
		return err
	}
	for _, field := range [13]uint32{a.count, mode, 0, 0, links, 0, size, 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		if _, err := fmt.Fprintf(a.w, "%08x", field); err != nil {
			return err
		}
	}
	if _, err := a.w.WriteString(name + "\x00"); err != nil {
		return err
	}
	a.written += 6 + 13*8 + int64(len(name)) + 1
	return a.pad()
}

func (a *archive) pad() error {
	n := int(-a.written & 3)
	a.written += int64(n)
	_, err := a.w.WriteString("\x00\x00\x00"[:n])
	return err
}

// close ends the archive; it does not close what it is written to.
func (a *archive) close() error {
	if err := a.header("TRAILER!!!", 0, 0); err != nil {
		return err
	}
	return a.w.Flush()
}
