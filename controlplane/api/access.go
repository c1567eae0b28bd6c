package api

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/rdma/boot"
)

// A Role is what a caller may do. Each includes those before it.
type Role int

// The roles.
const (
	RoleNone     Role = iota // nothing
	RoleViewer               // asks
	RoleOperator             // pauses, drains, moves, captures, sets the log level
	RoleAdmin                // changes config, workers and binary, detaches
)

var roleNames = [...]string{"nobody", "viewer", "operator", "admin"}

// String returns the role's name in the config.
func (r Role) String() string { return roleNames[r] }

// A caller is who is at the other end of a connection.
type caller struct {
	// On a unix socket: what the kernel says.
	local  bool
	uid    uint32
	groups []uint32
	pid    int32
	// On the TLS port: the certificates that the client showed, its own first.
	chain []*x509.Certificate
}

// who names the caller for the audit log. c may be nil: nobody is known.
func (c *caller) who(a *access) string {
	switch {
	case c == nil:
		return "unknown"
	case c.local:
		name := strconv.Itoa(int(c.uid))
		if u, err := user.LookupId(name); err == nil {
			name += " (" + u.Username + ")"
		}
		return fmt.Sprintf("uid %s pid %d", name, c.pid)
	}
	if x := a.client(c.chain); x != nil {
		return "client " + x.name
	}
	return "client with " + boot.Pin(c.chain[0])
}

// access is the config's section api, ready to be asked.
type access struct {
	self    uint32 // the user as whom headrace runs
	group   uint32
	hasGrp  bool
	others  Role
	clients []client
	roots   *x509.CertPool // nil: no client is known by a name
}

// A client is one of the config's.
type client struct {
	name string
	role Role
	pins []string
	san  string
}

// accessOf reads the section. Roots are read from the file that it names.
func accessOf(c *config.API) (*access, error) {
	a := &access{self: uint32(os.Geteuid())}
	if c.Others == "read" {
		a.others = RoleViewer
	}
	id, err := groupID(c.Group)
	switch {
	case err == nil:
		a.group, a.hasGrp = id, true
	case !errors.As(err, new(user.UnknownGroupError)):
		return nil, fmt.Errorf("api: group %s: %w", c.Group, err)
	}
	if c.Remote == nil {
		return a, nil
	}
	if c.Remote.CA != "" {
		text, err := os.ReadFile(credential(c.Remote.CA))
		if err != nil {
			return nil, fmt.Errorf("api: roots of clients: %w", err)
		}
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("api: %s holds no certificate: write PEM, -----BEGIN CERTIFICATE-----", c.Remote.CA)
		}
	}
	for i := range c.Remote.Clients {
		x := &c.Remote.Clients[i]
		a.clients = append(a.clients, client{name: x.Name, role: Role(slices.Index(roleNames[:], x.Role)), pins: x.Pin, san: x.SAN})
	}
	return a, nil
}

// groupID finds a group by its name or number.
func groupID(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err
}

// role says what c may do now.
func (a *access) role(c *caller) Role {
	switch {
	case c == nil:
		return RoleNone
	case !c.local:
		if x := a.client(c.chain); x != nil {
			return x.role
		}
		return RoleNone
	case c.uid == 0, c.uid == a.self, a.hasGrp && slices.Contains(c.groups, a.group):
		return RoleAdmin
	}
	return a.others
}

// client finds who shows the certificates, or nil. The handshake has proved that whoever
// shows them has the key of the first.
func (a *access) client(chain []*x509.Certificate) *client {
	if len(chain) == 0 {
		return nil
	}
	leaf := chain[0]
	pin := boot.Pin(leaf)
	for i := range a.clients {
		if slices.Contains(a.clients[i].pins, pin) {
			return &a.clients[i]
		}
	}
	if a.roots == nil {
		return nil
	}
	names := namesOf(leaf)
	i := slices.IndexFunc(a.clients, func(c client) bool { return c.san != "" && slices.Contains(names, c.san) })
	if i < 0 {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil
	}
	return &a.clients[i]
}

// namesOf returns the names that a certificate is for.
func namesOf(c *x509.Certificate) []string {
	names := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	return names
}
