package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// aloneTime is how long a change waits for the one before it, changeTime how long it
	// may take, writeTime how long an answer may take to go out.
	aloneTime, changeTime, writeTime = 5 * time.Second, 2 * time.Minute, 30 * time.Second

	requestHeader = "X-Request-Id"
)

var requestForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Revision returns what identifies a config's text.
func Revision(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// A call is one request on its way.
type call struct {
	s     *Server
	route *route
	w     *answer
	r     *http.Request
	// ctx is what the parts get: of a change it ends after changeTime, not with the
	// connection, so that nothing is left half done because an operator went away.
	ctx    context.Context
	from   *caller
	access *access
	id     string
	query  map[string]string
	in     any    // a pointer to the route's JSON body
	text   []byte // another body
	note   []any  // for the audit log
}

// detail adds to the audit log's line.
func (c *call) detail(pairs ...any) { c.note = append(c.note, pairs...) }

// answer writes v as JSON.
func (c *call) answer(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("api: answer of %s: %w", c.route.id, err)
	}
	return c.raw(typeJSON, append(text, '\n'))
}

func (c *call) raw(media string, body []byte) error {
	c.w.Header().Set("Content-Type", media)
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(c.route.status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(body) // an error is the client's going away
	}
	return nil
}

// answer is a ResponseWriter that remembers what was said.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

type callerKey struct{}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{s: s, w: &answer{ResponseWriter: w}, r: r, access: s.access.Load(), id: r.Header.Get(requestHeader)}
	if !requestForm.MatchString(c.id) {
		c.id = rand.Text()[:16]
	}
	c.from, _ = r.Context().Value(callerKey{}).(*caller)
	if r.TLS != nil {
		c.from = &caller{chain: r.TLS.PeerCertificates}
	}
	w.Header().Set(requestHeader, c.id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	began := time.Now()
	defer c.end(began)
	if err := c.run(); err != nil {
		problemOf(err, nil).write(c.w, c.id)
	}
}

// end answers for a panic and writes the audit log.
func (c *call) end(began time.Time) {
	r := recover()
	if r != nil && r != http.ErrAbortHandler { //nolint:errorlint // it is compared as net/http does
		c.s.log.Error("the API panicked", "request", c.id, "path", c.r.URL.Path, "panic", r, "stack", string(debug.Stack()))
		if c.w.status == 0 {
			problem(http.StatusInternalServerError, "tell the maintainers what the log has of this request", "an error within headrace").write(c.w, c.id)
			r = nil
		}
	}
	if c.route != nil && c.route.changes {
		result := "cut off"
		if r == nil {
			result = strconv.Itoa(c.w.status)
		}
		c.s.audit.Info("audit", append([]any{
			"who", c.from.who(c.access), "did", c.route.id, "result", result, "took", time.Since(began).Round(time.Microsecond), "request", c.id,
		}, c.note...)...)
	}
	if r != nil {
		panic(http.ErrAbortHandler)
	}
}

// run finds the route, checks everything that can be checked, and serves.
func (c *call) run() error {
	role := c.access.role(c.from)
	if role == RoleNone {
		return c.forbidden(role, RoleViewer)
	}
	if err := c.find(); err != nil {
		return err
	}
	if role < c.route.role {
		return c.forbidden(role, c.route.role)
	}
	if err := c.readQuery(); err != nil {
		return err
	}
	if err := c.readBody(); err != nil {
		return err
	}
	c.ctx = c.r.Context()
	if c.route.changes {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), changeTime)
		defer cancel()
		c.ctx = ctx
		// The answer waits for what is done.
		_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(aloneTime + changeTime + writeTime)) // tests have writers without
	}
	if c.route.alone {
		wait := time.NewTimer(aloneTime)
		defer wait.Stop()
		select {
		case c.s.alone <- struct{}{}:
			defer func() { <-c.s.alone }()
		case <-wait.C:
			return Refuse("ask again when it is done", "another change is being made")
		}
	}
	return c.route.serve(c)
}

func (c *call) forbidden(role, wants Role) error {
	fix := "ask as root, as headrace's own user or as a member of the config's api.group"
	switch {
	case c.from == nil || !c.from.local:
		fix = "give the client another role in the config's api.remote.clients"
	case wants == RoleViewer:
		fix += "; api.others is nothing"
	}
	return problem(http.StatusForbidden, fix, "%s has the role %s, and this needs %s", c.from.who(c.access), role, wants)
}

// find finds the route of the request.
func (c *call) find() error {
	path := c.r.URL.Path
	if path == "/status" { // as clients of former versions ask
		path = "/v1/status"
	}
	methods := c.s.routes[path]
	if methods == nil {
		return problem(http.StatusNotFound, "GET /v1/openapi.json lists what there is", "there is no %s", clip(path))
	}
	method := c.r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if c.route = methods[method]; c.route != nil {
		return nil
	}
	var allowed []string
	for m := range methods {
		allowed = append(allowed, m)
		if m == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	c.w.Header().Set("Allow", strings.Join(allowed, ", "))
	return problem(http.StatusMethodNotAllowed, "use "+strings.Join(allowed, " or "), "%s does not go with %s", clip(c.r.Method), path)
}

func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// readQuery checks the query. What is not known is refused: a dry run that is
// misspelled would be none.
func (c *call) readQuery() error {
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return problem(http.StatusBadRequest, "write name=value, joined by &", "the query cannot be read")
	}
	c.query = map[string]string{}
	for name, given := range values {
		if i := slices.IndexFunc(c.route.params, func(p param) bool { return p.name == name }); i < 0 {
			var names []string
			for _, p := range c.route.params {
				names = append(names, p.name)
			}
			fix := "it has none"
			if len(names) > 0 {
				fix = "it has " + strings.Join(names, ", ")
			}
			return problem(http.StatusBadRequest, fix, "%s has no parameter %q", c.route.id, clip(name))
		}
		if len(given) > 1 {
			return problem(http.StatusBadRequest, "keep one", "the parameter %s is given %d times", name, len(given))
		}
		c.query[name] = given[0]
	}
	for i := range c.route.params {
		p := &c.route.params[i]
		text, given := c.query[p.name]
		if !given {
			c.query[p.name] = p.preset
			continue
		}
		if wants := p.wants(text); wants != "" {
			return problem(http.StatusBadRequest, wants, "the parameter %s is %q", p.name, clip(text))
		}
	}
	return nil
}

// wants says what the parameter's value should be if text is not that.
func (p *param) wants(text string) string {
	switch p.kind {
	case "boolean":
		if text != "true" && text != "false" {
			return "write true or false"
		}
	case "integer":
		if n, err := strconv.Atoi(text); err != nil || n < p.min || n > p.max || text != strconv.Itoa(n) {
			return fmt.Sprintf("write a whole number from %d to %d", p.min, p.max)
		}
	default:
		printable := !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
		if !utf8.ValidString(text) || utf8.RuneCountInString(text) > p.max || !printable {
			return fmt.Sprintf("write text of at most %d characters, all of them printable", p.max)
		}
	}
	return ""
}

// readBody reads the request's body as its route wants it.
func (c *call) readBody() error {
	most := bodyMax
	if c.route.body != "" {
		most = configMax
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, int64(most)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return problem(http.StatusRequestEntityTooLarge, "send less", "the body has more than %d bytes", most)
	case err != nil:
		return problem(http.StatusBadRequest, "send it again", "the body broke off: %v", err)
	case c.route.in == nil && c.route.body == "":
		if len(body) > 0 {
			return problem(http.StatusBadRequest, "send nothing", "%s takes no body", c.route.id)
		}
		return nil
	}
	if err := c.checkType(len(body)); err != nil {
		return err
	}
	if c.route.body != "" {
		if len(body) == 0 {
			return problem(http.StatusBadRequest, "send the config as YAML", "the body is empty")
		}
		c.text = body
		return nil
	}
	in := reflect.New(reflect.TypeOf(c.route.in))
	if err := strict(body, in.Elem()); err != nil {
		return err
	}
	c.in = in.Interface()
	return nil
}

func (c *call) checkType(length int) error {
	types := []string{typeJSON}
	if c.route.body != "" {
		types = []string{typeYAML, "application/x-yaml", "text/yaml"}
	}
	given := c.r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(given)
	if length == 0 && given == "" {
		return nil // nothing is of no type
	}
	if err != nil || !slices.Contains(types, media) {
		return problem(http.StatusUnsupportedMediaType, "send Content-Type: "+types[0], "the body's type is %q", clip(given))
	}
	return nil
}

// strict reads a JSON object into a struct: names as they are written, once each, no
// others, values within the bounds of the fields' tags.
func strict(body []byte, v reflect.Value) error {
	const shape = "send a JSON object with the fields of the document"
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if !utf8.Valid(body) {
		return problem(http.StatusBadRequest, shape, "the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return problem(http.StatusBadRequest, shape, "the body is no JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return problem(http.StatusBadRequest, shape, "the body is no JSON object")
		}
		i := fieldIndex(v.Type(), name)
		if i < 0 || seen[name] {
			return problem(http.StatusBadRequest, "the fields are "+strings.Join(fieldNames(v.Type()), ", "), "the field %q is not known, or given twice", clip(name))
		}
		seen[name] = true
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return problem(http.StatusBadRequest, shape, "the body cannot be read as JSON")
		}
		if wants := setField(v.Field(i), v.Type().Field(i), raw); wants != "" {
			return problem(http.StatusBadRequest, wants, "the field %s is %s", name, clip(string(raw)))
		}
	}
	if _, err := d.Token(); err != nil {
		return problem(http.StatusBadRequest, shape, "the body cannot be read as JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return problem(http.StatusBadRequest, "send one JSON object", "something follows the body's object")
	}
	for i := range v.NumField() {
		if name, optional := jsonName(v.Type().Field(i)); !optional && !seen[name] {
			return problem(http.StatusBadRequest, shape, "the field %s is missing", name)
		}
	}
	return nil
}

// setField sets one field and says what it should be if raw is not that.
func setField(x reflect.Value, f reflect.StructField, raw json.RawMessage) string {
	wants := "write " + map[reflect.Kind]string{reflect.String: "text", reflect.Bool: "true or false", reflect.Int: "a whole number"}[x.Kind()]
	enum, low, high, long := tagsOf(f)
	switch {
	case len(enum) > 0:
		wants = "write one of " + strings.Join(enum, ", ")
	case x.Kind() == reflect.Int:
		wants += fmt.Sprintf(" from %d to %d", low, high)
	case long > 0:
		wants += fmt.Sprintf(" of at most %d characters", long)
	}
	if string(raw) == "null" || json.Unmarshal(whole(x, raw), x.Addr().Interface()) != nil {
		return wants
	}
	switch {
	case x.Kind() == reflect.Int && (x.Int() < int64(low) || x.Int() > int64(high)),
		len(enum) > 0 && !slices.Contains(enum, x.String()),
		long > 0 && utf8.RuneCountInString(x.String()) > long:
		return wants
	}
	return ""
}

// whole writes a number as Go reads integers: to JSON Schema 3.0 is one.
func whole(x reflect.Value, raw json.RawMessage) json.RawMessage {
	if f, err := strconv.ParseFloat(string(raw), 64); x.Kind() == reflect.Int && err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.AppendInt(nil, int64(f), 10)
	}
	return raw
}

// tagsOf reads the bounds of a field; the document says them too.
func tagsOf(f reflect.StructField) (enum []string, low, high, long int) {
	if e := f.Tag.Get("enum"); e != "" {
		enum = strings.Split(e, ",")
	}
	number := func(tag string) int {
		n, _ := strconv.Atoi(f.Tag.Get(tag)) // tags are ours
		return n
	}
	return enum, number("minimum"), number("maximum"), number("maxLength")
}

// jsonName returns the name of a field in JSON, "" if it has none, and whether it may
// be left out.
func jsonName(f reflect.StructField) (name string, optional bool) {
	if !f.IsExported() && !f.Anonymous {
		return "", true
	}
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	switch name {
	case "-":
		return "", true
	case "":
		name = f.Name
	}
	return name, strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
}

func fieldIndex(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if n, _ := jsonName(t.Field(i)); n == name && n != "" {
			return i
		}
	}
	return -1
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if n, _ := jsonName(t.Field(i)); n != "" {
			names = append(names, n)
		}
	}
	return names
}

// quiet is a log that nobody reads.
func quiet(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
