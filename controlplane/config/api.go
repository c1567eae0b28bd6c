package config

import (
	"fmt"
	"regexp"
)

var unixGroupForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)

// checkAPI judges what the section api alone can tell.
func (c *Config) checkAPI() {
	if g := c.API.Group; !c.Bad("api", "group") && !unixGroupForm.MatchString(g) {
		c.Report(c.Pos("api", "group"), fmt.Sprintf("%q cannot name a Unix group", clip(g)), "a name as in /etc/group, or a number", "headrace")
	}
	r := c.API.Remote
	if r == nil || c.Bad("api", "remote") {
		return
	}
	if !c.Bad("api", "remote", "listen") {
		c.checkListen(r.Listen, "", "api", "remote", "listen")
	}
	switch {
	case r.Certificate != "" && r.Key == "" && !c.Has("api", "remote", "key"):
		c.Report(c.KeyPos("api", "remote", "certificate"), "certificate stands without key", "name the file with the certificate's key too: key: api.key", "")
	case r.Key != "" && r.Certificate == "" && !c.Has("api", "remote", "certificate"):
		c.Report(c.KeyPos("api", "remote", "key"), "key stands without certificate", "name the file with the certificate too: certificate: api.crt", "")
	}
	c.checkClients(r)
}

// checkClients finds clients that could not be told from each other or from nobody.
func (c *Config) checkClients(r *Remote) {
	pins, sans := map[string]string{}, map[string]string{}
	for i := range r.Clients {
		x := &r.Clients[i]
		at := func(field string) []string { return []string{"api", "remote", "clients", x.Name, field} }
		if c.Bad("api", "remote", "clients", x.Name) {
			continue
		}
		for _, pin := range x.Pin {
			if other, twice := pins[pin]; twice {
				c.Report(c.Pos(at("pin")...), fmt.Sprintf("clients %s and %s have the same pin", other, x.Name), "a client has one role: keep one of them", "")
			}
			pins[pin] = x.Name
		}
		if x.SAN == "" {
			continue
		}
		if other, twice := sans[x.SAN]; twice {
			c.Report(c.Pos(at("san")...), fmt.Sprintf("clients %s and %s have the same san", other, x.Name), "a client has one role: keep one of them", "")
		}
		sans[x.SAN] = x.Name
		if r.CA == "" && !c.Has("api", "remote", "ca") {
			c.Report(c.KeyPos(at("san")...), fmt.Sprintf("client %s is known by a name, and no root vouches for names", x.Name), "name the file with the roots, ca: clients.pem beside clients, or give the client a pin", "")
		}
	}
}
