package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/internal/apifake"
)

// issue makes a certificate, signed by parent or by itself.
func issue(t *testing.T, parent *tls.Certificate, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(c)
	signer, by := c, any(key)
	if parent != nil {
		signer, by = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func pin(c *tls.Certificate) config.Pins {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return config.Pins{"sha256:" + base64.StdEncoding.EncodeToString(sum[:])}
}

func write(t *testing.T, path string, blocks ...*pem.Block) {
	t.Helper()
	var b bytes.Buffer
	for _, x := range blocks {
		if err := pem.Encode(&b, x); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func block(c *tls.Certificate) *pem.Block {
	return &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}
}

// A lab is a server with a TLS port and what its clients need.
type lab struct {
	s            *api.Server
	run          *apifake.Run
	remote       config.Remote
	root, server *tls.Certificate
	out          *lines
}

func newLab(t *testing.T, clients ...config.Client) *lab {
	t.Helper()
	x := &lab{run: apifake.New("a"), out: &lines{}}
	dir := t.TempDir()
	x.root = issue(t, nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
	x.server = issue(t, x.root, func(c *x509.Certificate) { c.DNSNames = []string{"headrace.example"} })
	x.remote = config.Remote{
		Listen: port(t), Certificate: filepath.Join(dir, "s.crt"), Key: filepath.Join(dir, "s.key"), CA: filepath.Join(dir, "ca.pem"), Clients: clients,
	}
	x.keep(t)
	write(t, x.remote.CA, block(x.root))
	x.s = server(t, x.run, api.Config{API: config.API{Group: "headrace", Others: "nothing", Remote: &x.remote}, Audit: slog.New(slog.NewTextHandler(x.out, nil))})
	return x
}

// keep writes the server's certificate.
func (x *lab) keep(t *testing.T) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(x.server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, x.remote.Certificate, block(x.server))
	write(t, x.remote.Key, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// client returns a client that shows c, and what ends its connections.
func (x *lab) client(c *tls.Certificate, change func(*tls.Config)) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(x.root.Leaf)
	conf := &tls.Config{RootCAs: roots, ServerName: "headrace.example"}
	if c != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
	}
	if change != nil {
		change(conf)
	}
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: conf}}
}

func (x *lab) get(c *http.Client, method, path string) (*http.Response, error) {
	r, err := http.NewRequest(method, "https://"+x.remote.Listen+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	a, err := c.Do(r)
	if err == nil {
		_, _ = io.Copy(io.Discard, a.Body)
		_ = a.Body.Close()
	}
	return a, err
}

func TestClientsAreKnownByPinOrByNameAndHaveTheirRole(t *testing.T) {
	ann := issue(t, nil, func(*x509.Certificate) {})
	x := newLab(t,
		config.Client{Name: "ann", Role: "admin", Pin: pin(ann)},
		config.Client{Name: "ci", Role: "viewer", SAN: "ci.example"},
		config.Client{Name: "robot", Role: "operator", SAN: "spiffe://example/robot"})
	middle := issue(t, x.root, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
	ci := issue(t, x.root, func(c *x509.Certificate) { c.DNSNames = []string{"other.example", "ci.example"} })
	robot := issue(t, middle, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example", Path: "/robot"}} })
	robot.Certificate = append(robot.Certificate, middle.Certificate[0])
	for _, c := range []struct {
		name string
		show *tls.Certificate
		want [3]int // of config, drain, detach
	}{
		{"ann", ann, [3]int{200, 202, 202}},
		{"ci", ci, [3]int{200, 403, 403}},
		{"robot", robot, [3]int{200, 202, 403}},
	} {
		h := x.client(c.show, nil)
		for i, ask := range [][2]string{{"GET", "/v1/config"}, {"POST", "/v1/drain"}, {"POST", "/v1/detach"}} {
			a, err := x.get(h, ask[0], ask[1])
			if err != nil || a.StatusCode != c.want[i] || a.TLS.Version != tls.VersionTLS13 {
				t.Errorf("%s %s: %v %v", c.name, ask[1], a, err)
			}
			if all := x.out.all(); i > 0 && !strings.Contains(all[len(all)-1], `who="client `+c.name+`"`) {
				t.Errorf("audit: %s", all[len(all)-1])
			}
		}
		h.CloseIdleConnections()
	}
}

// Whoever is not known gets no byte of HTTP, whatever is sent.
func TestStrangersGetNoFurtherThanTheHandshake(t *testing.T) {
	ann := issue(t, nil, func(*x509.Certificate) {})
	x := newLab(t, config.Client{Name: "ann", Role: "admin", Pin: pin(ann)}, config.Client{Name: "ci", Role: "viewer", SAN: "ci.example"})
	named := func(c *x509.Certificate) { c.DNSNames = []string{"ci.example"} }
	other := issue(t, nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	for name, c := range map[string]struct {
		show   *tls.Certificate
		change func(*tls.Config)
	}{
		"no certificate":         {nil, nil},
		"an unknown key":         {issue(t, nil, func(*x509.Certificate) {}), nil},
		"another root's name":    {issue(t, other, named), nil},
		"a name of its own":      {issue(t, nil, named), nil},
		"an expired certificate": {issue(t, x.root, func(c *x509.Certificate) { named(c); c.NotAfter = time.Now().Add(-time.Minute) }), nil},
		"a server's certificate": {issue(t, x.root, func(c *x509.Certificate) { named(c); c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil},
		"another name":           {issue(t, x.root, func(c *x509.Certificate) { c.DNSNames = []string{"ci.example.org", "*.example"} }), nil},
		"TLS 1.2":                {ann, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		"somebody else's key":    {&tls.Certificate{Certificate: ann.Certificate, PrivateKey: other.PrivateKey, Leaf: ann.Leaf}, nil},
	} {
		h := x.client(c.show, c.change)
		if a, err := x.get(h, "GET", "/v1/healthz"); err == nil {
			t.Errorf("%s: %s", name, a.Status)
		}
		h.CloseIdleConnections()
	}
	for name, bytes := range map[string]string{
		"plain HTTP": "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "nothing": "", "garbage": "\x16\x03\x01\x00\x05hello",
	} {
		c, err := net.Dial("tcp", x.remote.Listen)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(bytes))
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, _ := io.ReadAll(c)
		_ = c.Close()
		// A TLS alert is all that may come.
		if len(got) > 7 || strings.Contains(string(got), "HTTP") {
			t.Errorf("%s is answered with %q", name, got)
		}
	}
	if did := x.run.Did(); len(did) > 0 {
		t.Errorf("done: %q", did)
	}
}

func TestAClientThatIsTakenOutIsRefusedOnItsOpenConnection(t *testing.T) {
	ann, bob := issue(t, nil, func(*x509.Certificate) {}), issue(t, nil, func(*x509.Certificate) {})
	x := newLab(t, config.Client{Name: "ann", Role: "admin", Pin: pin(ann)}, config.Client{Name: "bob", Role: "viewer", Pin: pin(bob)})
	h := x.client(ann, nil)
	defer h.CloseIdleConnections()
	if a, err := x.get(h, "GET", "/v1/config"); err != nil || a.StatusCode != http.StatusOK {
		t.Fatal(a, err)
	}
	next := x.remote
	next.Clients = x.remote.Clients[1:]
	if err := x.s.Configure(config.API{Group: "headrace", Others: "nothing", Remote: &next}); err != nil {
		t.Fatal(err)
	}
	if a, err := x.get(h, "GET", "/v1/config"); err != nil || a.StatusCode != http.StatusForbidden {
		t.Errorf("on the open connection: %v %v", a, err)
	}
	h.CloseIdleConnections()
	if _, err := x.get(h, "GET", "/v1/config"); err == nil {
		t.Error("ann is let in again")
	}
	// What cannot be had changes nothing.
	worse := next
	worse.CA = "/no/such/file"
	if err := x.s.Configure(config.API{Group: "headrace", Remote: &worse}); err == nil {
		t.Error("a file that is not there is taken")
	}
	b := x.client(bob, nil)
	defer b.CloseIdleConnections()
	if a, err := x.get(b, "GET", "/v1/config"); err != nil || a.StatusCode != http.StatusOK {
		t.Errorf("bob: %v %v", a, err)
	}
	// Without the section nothing listens.
	if err := x.s.Configure(config.API{Group: "headrace", Others: "nothing"}); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", x.remote.Listen); err == nil {
		_ = c.Close()
		t.Error("something listens")
	}
	if err := x.s.Configure(config.API{Group: "headrace", Others: "nothing", Remote: &x.remote}); err != nil {
		t.Fatal(err)
	}
	if a, err := x.get(h, "GET", "/v1/config"); err != nil || a.StatusCode != http.StatusOK {
		t.Errorf("ann, again: %v %v", a, err)
	}
}

func TestARenewedCertificateIsTakenWithoutARestart(t *testing.T) {
	ann := issue(t, nil, func(*x509.Certificate) {})
	x := newLab(t, config.Client{Name: "ann", Role: "admin", Pin: pin(ann)})
	seen := func() string {
		h := x.client(ann, nil)
		defer h.CloseIdleConnections()
		a, err := x.get(h, "GET", "/v1/config")
		if err != nil {
			t.Fatal(err)
		}
		return a.TLS.PeerCertificates[0].SerialNumber.String()
	}
	first := seen()
	x.server = issue(t, x.root, func(c *x509.Certificate) { c.DNSNames = []string{"headrace.example"} })
	x.keep(t)
	later := time.Now().Add(time.Second)
	for _, path := range []string{x.remote.Certificate, x.remote.Key} {
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	second := seen()
	if first == second {
		t.Error("the old certificate is shown")
	}
	if err := os.WriteFile(x.remote.Certificate, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := seen(); third != second {
		t.Error("a broken file replaces a good certificate")
	}
}

func TestAKeyThatEverybodyReadsIsRefused(t *testing.T) {
	x := newLab(t, config.Client{Name: "ann", Role: "admin", SAN: "ann"})
	if err := os.Chmod(x.remote.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := api.New(api.Config{Parts: x.run.Parts(), API: config.API{Group: "headrace", Remote: &x.remote}})
	if err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("New: %v", err)
	}
}

func TestRelativeFilesAreLookedForAmongCredentials(t *testing.T) {
	x := newLab(t, config.Client{Name: "ann", Role: "admin", SAN: "ann"})
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(x.remote.Key))
	r := x.remote
	r.Listen, r.Certificate, r.Key, r.CA = port(t), "s.crt", "s.key", "ca.pem"
	s, err := api.New(api.Config{Parts: x.run.Parts(), API: config.API{Group: "headrace", Remote: &r}})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}
