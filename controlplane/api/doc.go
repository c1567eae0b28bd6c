// Package api is how a running headrace is asked and changed: HTTP and JSON, described
// by the OpenAPI document that it serves itself, on the run's unix socket and, if the
// config says so, on a TLS port for known clients.
//
//	parts.go    what the run offers: small interfaces, and what they take and give
//	routes.go   the table of everything that can be asked; one entry is one operation
//	dispatch.go from a request to its route: who asks, bounds, audit, errors
//	problem.go  errors as application/problem+json (RFC 9457), each with its fix
//	access.go   who may do what: the kernel's word on a unix socket, else certificates
//	remote.go   the TLS port: who is not known gets no further than the handshake
//	openapi.go  the document, made from the table and the Go types
//	server.go   listeners, from start to stop
//
// Start with routes.go. api decides nothing of what it is asked to do, and knows neither
// workers nor packets.
package api
