package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/config"
)

// A Problem is an answer that is no success: application/problem+json of RFC 9457. As
// an error it may be returned by every part, with any of the fields but Request.
type Problem struct { //nolint:errname // it is an answer first; RFC 9457 calls it that
	// Type is a URI that names the kind of problem.
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what is wrong this time.
	Detail string `json:"detail,omitempty"`
	// Fix says what to do.
	Fix string `json:"fix,omitempty"`
	// Request is the id under which the log has the request.
	Request string `json:"request"`
	// Findings are the mistakes of a config.
	Findings []Finding `json:"findings,omitempty"`
	// Changes is what a config that is refused would change.
	Changes *change.Report `json:"changes,omitempty"`

	cause error
}

// A Finding is one mistake in a config.
type Finding struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Allowed string `json:"allowed,omitempty"`
	Meant   string `json:"meant,omitempty"`
}

// Error returns detail and fix.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if p.Fix != "" {
		text += ": " + p.Fix
	}
	return text
}

// Unwrap returns what the problem was made of.
func (p *Problem) Unwrap() error { return p.cause }

// Refuse returns an error that wraps [ErrRefused]: what is asked for is possible, but not
// as things are. fix says what to do first.
func Refuse(fix, format string, args ...any) error {
	return &Problem{Status: http.StatusConflict, Detail: fmt.Sprintf(format, args...), Fix: fix, cause: ErrRefused}
}

// Unknown returns an error that wraps [ErrUnknown].
func Unknown(fix, format string, args ...any) error {
	return &Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf(format, args...), Fix: fix, cause: ErrUnknown}
}

// kinds are the problems' types and titles, by status.
var kinds = map[int]struct{ kind, title string }{
	http.StatusBadRequest:            {"malformed", "The request is not one of those in the document"},
	http.StatusForbidden:             {"forbidden", "You may not do this"},
	http.StatusNotFound:              {"unknown", "There is no such thing"},
	http.StatusMethodNotAllowed:      {"method", "The method does not go with this path"},
	http.StatusConflict:              {"refused", "It cannot be done as things are"},
	http.StatusPreconditionFailed:    {"stale", "Another config is in force"},
	http.StatusRequestEntityTooLarge: {"too-large", "The request is too large"},
	http.StatusUnsupportedMediaType:  {"media-type", "The body is of another type"},
	http.StatusUnprocessableEntity:   {"mistakes", "The config has mistakes"},
	http.StatusPreconditionRequired:  {"no-precondition", "The request does not say what it replaces"},
	http.StatusInternalServerError:   {"failure", "headrace failed"},
	http.StatusServiceUnavailable:    {"unavailable", "headrace is not there for it now"},
	http.StatusGatewayTimeout:        {"timeout", "It took too long"},
}

// problemOf makes an answer of an error. changes may be nil.
func problemOf(err error, changes *change.Report) *Problem {
	p := &Problem{Status: http.StatusInternalServerError, Detail: err.Error(), cause: err}
	var own *Problem
	var found config.Findings
	switch {
	case errors.As(err, &own):
		x := *own // it may be shared
		p = &x
	case errors.As(err, &found):
		p.Status, p.Detail = http.StatusUnprocessableEntity, fmt.Sprintf("the config has %d mistakes, the first: %s", len(found), found[0].String())
		if len(found) == 1 {
			p.Detail = found[0].String()
		}
		p.Fix = "headrace check FILE shows them all"
		for _, f := range found {
			p.Findings = append(p.Findings, Finding{f.Line, f.Column, f.Message, f.Allowed, f.Fix})
		}
	case errors.Is(err, ErrStale):
		p.Status, p.Fix = http.StatusPreconditionFailed, "read /v1/config again, look at what has changed, and use its ETag"
	case errors.Is(err, ErrRefused):
		p.Status = http.StatusConflict
	case errors.Is(err, ErrUnknown):
		p.Status = http.StatusNotFound
	case errors.Is(err, context.DeadlineExceeded):
		p.Status, p.Fix = http.StatusGatewayTimeout, "ask /v1/status what became of it"
	}
	if changes != nil {
		p.Changes = changes
	}
	return p.complete()
}

// complete fills in what follows from the status.
func (p *Problem) complete() *Problem {
	k, ok := kinds[p.Status]
	if !ok {
		p.Status = http.StatusInternalServerError
		k = kinds[p.Status]
	}
	p.Type, p.Title = "urn:headrace:problem:"+k.kind, k.title
	if p.Fix == "" && p.Status == http.StatusInternalServerError {
		p.Fix = "look for the request's id in headrace's log"
	}
	return p
}

// problem makes one of our own.
func problem(status int, fix, format string, args ...any) *Problem {
	return (&Problem{Status: status, Detail: fmt.Sprintf(format, args...), Fix: fix}).complete()
}

// write answers with p.
func (p *Problem) write(w http.ResponseWriter, request string) {
	p.Request = request
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // an error is the client's going away
}

const problemType = "application/problem+json"
