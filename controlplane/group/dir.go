package group

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
)

// ErrExists reports a directory that has a key already.
var ErrExists = errors.New("there is a key already")

// Names of the files.
const (
	fileKey    = "key.pem"
	fileNext   = "next.pem"
	filePeers  = "peers.yaml"
	fileSecret = "secret"
	fileLock   = "lock"
	dirTokens  = "tokens"
)

// A Dir is a box's directory of keys and peers. Its methods may be called from any
// goroutine, and other programs may change the directory at the same time.
type Dir struct {
	// Log is told once when a file has become bad and what was in it before is used.
	// Nil: nobody is. It is set before the first use.
	Log *slog.Logger

	path string

	mu    sync.Mutex
	said  string // to Log
	key   cached[*tls.Certificate]
	peers cached[*file]
}

// file is peers.yaml.
type file struct {
	Me    string  `yaml:"me"`
	Peers []entry `yaml:"peers"`
}

type entry struct {
	ID      string `yaml:"id"`
	Address string `yaml:"address,omitempty"`
	Pin     pins   `yaml:"pin,omitempty"`
	// Retired pins are not accepted, whatever a config says.
	Retired pins `yaml:"retired,omitempty"`
}

// pins are written as one string or as a list.
type pins []string

func (p pins) MarshalYAML() (any, error) {
	if len(p) == 1 {
		return p[0], nil
	}
	return []string(p), nil
}

func (p *pins) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*p = pins{one}
		return nil
	}
	var many []string
	err := decode(&many)
	*p = many
	return err
}

// Init makes the directory at path with a new key for the peer id, which is to listen
// at address. It returns an error wrapping [ErrExists] if that has a key.
func Init(path, id, address string) (*Dir, error) {
	if err := checkPeer(id, address); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(path, dirTokens), 0o700); err != nil {
		return nil, err
	}
	// A directory that was there keeps its mode: it may have other uses.
	if is, err := os.Stat(path); err != nil {
		return nil, err
	} else if is.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: others may write into it (mode %#o): chmod 700", path, is.Mode().Perm())
	}
	d := &Dir{path: path}
	err := d.locked(func() error {
		switch _, err := os.Stat(d.at(fileKey)); {
		case err == nil:
			return fmt.Errorf("%s: %w; 'headrace group rotate' makes another", d.at(fileKey), ErrExists)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		text, pin, err := newKey(id)
		if err != nil {
			return err
		}
		f := &file{Me: id, Peers: []entry{{ID: id, Address: address, Pin: pins{pin}}}}
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // it never fails
		return errors.Join(d.write(fileSecret, secret), d.store(f), d.write(fileKey, text))
	})
	if err != nil {
		return nil, err
	}
	return Open(path)
}

// Open opens the directory at path and checks what is in it.
func Open(path string) (*Dir, error) {
	d := &Dir{path: path}
	if _, err := d.Certificate(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: 'headrace group init' or 'headrace group join' makes it", err)
		}
		return nil, err
	}
	if _, err := d.load(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Dir) at(name string) string { return filepath.Join(d.path, name) }

// Path returns where the directory is.
func (d *Dir) Path() string { return d.path }

// Me returns our id.
func (d *Dir) Me() (string, error) {
	f, err := d.load()
	if err != nil {
		return "", err
	}
	return f.Me, nil
}

// Peers returns who is known, with the pins that are valid, sorted by id.
func (d *Dir) Peers() ([]boot.Peer, error) {
	f, err := d.load()
	if err != nil {
		return nil, err
	}
	return f.list(), nil
}

// Certificate returns the key that we present, as it is now; while it cannot be read,
// as it was. It is a boot.Config.Certificate.
func (d *Dir) Certificate() (*tls.Certificate, error) {
	c, err := d.certificate()
	if c != nil {
		d.complain(err)
		return c, nil
	}
	return nil, err
}

// complain logs an error whose file we do without. It is not said again while it lasts.
func (d *Dir) complain(err error) {
	if err == nil || d.Log == nil {
		return
	}
	d.mu.Lock()
	news := d.said != err.Error()
	d.said = err.Error()
	d.mu.Unlock()
	if news {
		d.Log.Warn("a file of the group's directory is bad: what it was before is used", "error", err)
	}
}

func (d *Dir) certificate() (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.key.get(d.at(fileKey), 0o077, func(text []byte) (*tls.Certificate, error) {
		c, err := tls.X509KeyPair(text, text)
		if err != nil {
			return nil, err
		}
		return &c, nil
	})
}

// Pin returns the pin of the key in the directory.
func (d *Dir) Pin() (string, error) {
	c, err := d.certificate()
	if err != nil {
		return "", err
	}
	return boot.PinOf(c)
}

// Pins returns a boot.Config.Pins: a peer's pins are those of the config and those of
// peers.yaml as it is at that moment, without the retired ones. While peers.yaml cannot
// be read, it is what it was.
func (d *Dir) Pins(configured []boot.Peer) func(peer string) []string {
	return func(peer string) []string {
		f, err := d.load()
		if f == nil {
			return nil
		}
		d.complain(err)
		var all []string
		for _, p := range configured {
			if p.ID == peer {
				all = append(all, p.Pins...)
			}
		}
		if e := f.find(peer); e != nil {
			all = append(all, e.Pin...)
			all = slices.DeleteFunc(all, func(pin string) bool { return slices.Contains(e.Retired, pin) })
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
}

// load returns peers.yaml as it is now; with an error, as it was when it was good last,
// or nil. The file must not be changed in place.
func (d *Dir) load() (*file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.peers.get(d.at(filePeers), 0o022, func(text []byte) (*file, error) {
		f := new(file)
		if err := yaml.UnmarshalWithOptions(text, f, yaml.Strict()); err != nil {
			return nil, err
		}
		return f, f.check()
	})
}

func (f *file) check() error {
	if f.find(f.Me) == nil {
		return fmt.Errorf("me: %q is not among the peers", f.Me)
	}
	if len(f.Peers) > collective.PeersMax {
		return fmt.Errorf("%d peers, limit %d", len(f.Peers), collective.PeersMax)
	}
	owner := map[string]string{}
	for i, e := range f.Peers {
		if err := boot.CheckID(e.ID); err != nil {
			return err
		}
		if f.find(e.ID) != &f.Peers[i] {
			return fmt.Errorf("peer %s is there twice", e.ID)
		}
		for _, pin := range slices.Concat(e.Pin, e.Retired) {
			if err := boot.CheckPin(pin); err != nil {
				return fmt.Errorf("peer %s: %w", e.ID, err)
			}
		}
		for _, pin := range e.Pin {
			if other, ok := owner[pin]; ok {
				return fmt.Errorf("peers %s and %s have the same pin: every box needs a key of its own", other, e.ID)
			}
			owner[pin] = e.ID
		}
	}
	return nil
}

func (f *file) find(id string) *entry {
	for i := range f.Peers {
		if f.Peers[i].ID == id {
			return &f.Peers[i]
		}
	}
	return nil
}

// entry returns id's entry, a new one if it has none.
func (f *file) entry(id string) *entry {
	if e := f.find(id); e != nil {
		return e
	}
	f.Peers = append(f.Peers, entry{ID: id})
	slices.SortFunc(f.Peers, func(a, b entry) int { return cmp.Compare(a.ID, b.ID) })
	return f.find(id)
}

// add accepts pin.
func (e *entry) add(pin string) {
	e.Retired = slices.DeleteFunc(e.Retired, func(p string) bool { return p == pin })
	if !slices.Contains(e.Pin, pin) {
		e.Pin = append(e.Pin, pin)
	}
}

// retire accepts of the pins only keep.
func (e *entry) retire(keep string) (retired []string) {
	for _, pin := range e.Pin {
		if pin != keep {
			retired = append(retired, pin)
		}
	}
	e.Pin = pins{keep}
	e.Retired = append(e.Retired, retired...)
	if over := len(e.Retired) - retiredMax; over > 0 {
		e.Retired = e.Retired[over:]
	}
	return retired
}

// retiredMax is more rotations than a config outlives.
const retiredMax = 64

// clone returns a copy that may be changed.
func (f *file) clone() *file {
	c := &file{Me: f.Me, Peers: slices.Clone(f.Peers)}
	for i := range c.Peers {
		c.Peers[i].Pin = slices.Clone(c.Peers[i].Pin)
		c.Peers[i].Retired = slices.Clone(c.Peers[i].Retired)
	}
	return c
}

func (f *file) list() []boot.Peer {
	var all []boot.Peer
	for _, e := range f.Peers {
		all = append(all, boot.Peer{ID: e.ID, Address: e.Address, Pins: slices.Clone(e.Pin)})
	}
	slices.SortFunc(all, func(a, b boot.Peer) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// change changes peers.yaml.
func (d *Dir) change(edit func(*file) error) error {
	return d.locked(func() error {
		old, err := d.load()
		if err != nil {
			return err
		}
		f := old.clone()
		if err := edit(f); err != nil {
			return err
		}
		return d.store(f)
	})
}

func (d *Dir) store(f *file) error {
	if err := f.check(); err != nil {
		return err
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	return d.write(filePeers, text)
}

// write puts a file in its place whole.
func (d *Dir) write(name string, text []byte) error {
	tmp, err := os.CreateTemp(d.path, "."+name+"-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is renamed, unless something failed
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), d.at(name))
}

// locked calls f while nobody else changes the directory.
func (d *Dir) locked(f func() error) error {
	lock, err := os.OpenFile(d.at(fileLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // it unlocks
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("flock", err)
		}
		return f()
	}
}

// A cached file is read again when it has changed.
type cached[T any] struct {
	value T
	is    os.FileInfo
}

// fileMax bounds the files of the directory.
const fileMax = 1 << 20

// get returns the file at path, decoded; with an error, what was there when it was good
// last. Its mode must have none of the forbidden bits.
func (c *cached[T]) get(path string, forbidden fs.FileMode, decode func([]byte) (T, error)) (T, error) {
	is, err := os.Stat(path)
	if err != nil {
		return c.value, err
	}
	if c.is != nil && os.SameFile(is, c.is) && is.ModTime().Equal(c.is.ModTime()) && is.Size() == c.is.Size() {
		return c.value, nil
	}
	if is.Mode().Perm()&forbidden != 0 {
		return c.value, fmt.Errorf("%s: others may read or write it (mode %#o): chmod 600", path, is.Mode().Perm())
	}
	if is.Size() > fileMax {
		return c.value, fmt.Errorf("%s: %d bytes, limit %d", path, is.Size(), fileMax)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c.value, err
	}
	v, err := decode(text)
	if err != nil {
		return c.value, fmt.Errorf("%s: %w", path, err)
	}
	c.value, c.is = v, is
	return v, nil
}

// checkPeer checks what others are to know of a peer, as they will find it in the config.
func checkPeer(id, address string) error {
	if address == "" {
		return errors.New("the address is missing")
	}
	return config.CheckPeer(id, address)
}

// newKey makes a key and a certificate that signs itself. Nobody looks at names and
// dates in it: the pin is all.
func newKey(id string) (text []byte, pin string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, "", err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "headrace " + id},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5: no end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, "", err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	err = errors.Join(
		pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return b.Bytes(), boot.Pin(leaf), err
}
