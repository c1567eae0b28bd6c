package group

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
)

// ErrToken reports a token that is not good.
var ErrToken = errors.New("the token is not good")

// tokenPrefix begins every token, and names its version.
const tokenPrefix = "hrj1."

// Bounds of a token's life.
const (
	TokenLife    = 10 * time.Minute // default
	tokenLifeMax = 7 * 24 * time.Hour
)

// A Token invites one peer, once. Its text is "hrj1.", what it says, a dot, and the
// inviter's HMAC over that; the inviter alone can check it. It tells the newcomer whom
// it talks to.
type Token struct {
	Nonce   string    `json:"n"`
	Expires time.Time `json:"e"`
	For     string    `json:"f"` // id of the newcomer
	ID      string    `json:"i"` // of the inviter
	Address string    `json:"a"`
	Pin     string    `json:"p"`
}

// ParseToken reads a token. Its HMAC is not checked.
func ParseToken(text string) (*Token, error) {
	payload, _, err := splitToken(text)
	if err != nil {
		return nil, err
	}
	t := new(Token)
	if err := json.Unmarshal(payload, t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if n, err := hex.DecodeString(t.Nonce); err != nil || len(n) != 16 {
		return nil, fmt.Errorf("%w: its nonce", ErrToken)
	}
	if err := errors.Join(config.CheckPeer(t.For, ""), checkPeer(t.ID, t.Address), boot.CheckPin(t.Pin)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return t, nil
}

func splitToken(text string) (payload, mac []byte, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	said, sum, two := strings.Cut(rest, ".")
	if !ok || !two {
		return nil, nil, fmt.Errorf("%w: it is not of the form %s….…", ErrToken, tokenPrefix)
	}
	payload, err = base64.RawURLEncoding.Strict().DecodeString(said)
	if err == nil {
		mac, err = base64.RawURLEncoding.Strict().DecodeString(sum)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return payload, mac, nil
}

// Issue makes a token for the peer id, good for life. known is true if there is a
// peer of that id: its key will be replaced.
func (d *Dir) Issue(id string, life time.Duration) (text string, t *Token, known bool, err error) {
	if life <= 0 || life > tokenLifeMax {
		return "", nil, false, fmt.Errorf("a token's life is up to %v, not %v", tokenLifeMax, life)
	}
	if err := config.CheckPeer(id, ""); err != nil {
		return "", nil, false, err
	}
	f, err := d.load()
	if err != nil {
		return "", nil, false, err
	}
	if id == f.Me {
		return "", nil, false, fmt.Errorf("%s is this box itself", id)
	}
	known = f.find(id) != nil
	if !known && len(f.Peers) >= collective.PeersMax {
		return "", nil, false, fmt.Errorf("a group has at most %d peers", collective.PeersMax)
	}
	pin, err := d.Pin()
	if err != nil {
		return "", nil, false, err
	}
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // it never fails
	t = &Token{
		Nonce: hex.EncodeToString(nonce), Expires: time.Now().Add(life).UTC(),
		For: id, ID: f.Me, Address: f.find(f.Me).Address, Pin: pin,
	}
	payload, err := json.Marshal(t)
	if err != nil {
		return "", nil, false, err
	}
	mac, err := d.sign(payload)
	if err != nil {
		return "", nil, false, err
	}
	d.sweep()
	open := filepath.Join(d.path, dirTokens, t.Nonce)
	if err := os.WriteFile(open, []byte(t.Expires.Format(time.RFC3339Nano)), 0o600); err != nil {
		return "", nil, false, err
	}
	return tokenPrefix + encode(payload) + "." + encode(mac), t, known, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (d *Dir) sign(payload []byte) ([]byte, error) {
	secret, err := os.ReadFile(d.at(fileSecret))
	if err != nil {
		return nil, err
	}
	if len(secret) < 32 {
		return nil, fmt.Errorf("%s: %d bytes, 32 are needed", d.at(fileSecret), len(secret))
	}
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(tokenPrefix))
	h.Write(payload)
	return h.Sum(nil), nil
}

// sweep removes the files of tokens that have expired without having been used.
func (d *Dir) sweep() {
	all, _ := os.ReadDir(d.at(dirTokens))
	for _, e := range all {
		path := filepath.Join(d.path, dirTokens, e.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if at, err := time.Parse(time.RFC3339Nano, string(text)); err != nil || time.Now().After(at) {
			_ = os.Remove(path)
		}
	}
}

// open reports whether t may still be used.
func (d *Dir) open(t *Token) bool {
	_, err := os.Stat(filepath.Join(d.path, dirTokens, t.Nonce))
	return err == nil && time.Now().Before(t.Expires)
}

// Admit takes a newcomer with a good token into peers.yaml, in place of a peer of the
// same id, and answers who the peers are. It is a boot.Config.Join.
func (d *Dir) Admit(r boot.Request) ([]boot.Peer, error) {
	payload, mac, err := splitToken(r.Token)
	if err != nil {
		return nil, err
	}
	want, err := d.sign(payload)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(mac, want) {
		return nil, fmt.Errorf("%w: it was not made here, or was changed", ErrToken)
	}
	t, err := ParseToken(r.Token)
	switch {
	case err != nil:
		return nil, err
	case t.For != r.ID:
		return nil, fmt.Errorf("%w: it is for %s, not for %s", ErrToken, t.For, r.ID)
	case !time.Now().Before(t.Expires):
		return nil, fmt.Errorf("%w: it expired at %s", ErrToken, t.Expires.Format(time.RFC3339))
	}
	if err := checkPeer(r.ID, r.Address); err != nil {
		return nil, err
	}
	var all []boot.Peer
	err = d.change(func(f *file) error {
		if r.ID == f.Me {
			return fmt.Errorf("%s is this box itself", r.ID)
		}
		e := f.entry(r.ID)
		e.Address = r.Address
		e.add(r.Pin)
		e.retire(r.Pin)
		if err := f.check(); err != nil {
			return err
		}
		// Removing its file is what uses a token: of two that try, one succeeds.
		err := os.Remove(filepath.Join(d.path, dirTokens, t.Nonce))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: it has been used, or was withdrawn", ErrToken)
		}
		all = f.list()
		return err
	})
	return all, err
}
