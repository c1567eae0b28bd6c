package api

import (
	"context"
	"net/http"
	"slices"
)

// As returns s for a process of this host with a role.
func As(s *Server, role string) http.Handler {
	c := &caller{local: true, uid: 12345, groups: []uint32{54321}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := *s.access.Load()
		a.self, a.group, a.hasGrp, a.others = 12346, 54322, true, Role(slices.Index(roleNames[:], role))
		s.access.Store(&a)
		s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// A Row is what tests want to know of a route.
type Row struct {
	Method, Path, ID, Role string
	Changes                bool
	Params                 []string
	In                     any
	Body                   string
}

// Table returns the routes of all parts.
func Table(p Parts) []Row {
	var out []Row
	for _, r := range routes(&p) {
		row := Row{Method: r.method, Path: r.path, ID: r.id, Role: r.role.String(), Changes: r.changes, In: r.in, Body: r.body}
		for _, x := range r.params {
			row.Params = append(row.Params, x.name)
		}
		out = append(out, row)
	}
	return out
}
