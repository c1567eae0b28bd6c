package api

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/pinning/topology"
)

// Media types.
const (
	typeJSON   = "application/json"
	typeYAML   = "application/yaml" // RFC 9512
	typeText   = "text/plain; charset=utf-8"
	typePcapng = "application/x-pcapng"
)

// Bounds.
const (
	configMax    = 1 << 20 // bytes, that of package config
	bodyMax      = 64 << 10
	countMax     = 1_000_000 // frames of one capture
	secondsMost  = int(CaptureMost / time.Second)
	capturesMost = 4 // at a time

	// CaptureMost is how long a capture may take.
	CaptureMost = time.Hour
	// SourceMax is how many characters may say where a config comes from.
	SourceMax = 255
)

// A route is one operation.
type route struct {
	method, path string
	id           string // operationId
	summary      string
	doc          string
	role         Role
	// changes says that the call goes into the audit log, alone that one such is made at a
	// time.
	changes, alone bool
	params         []param
	// match says that the request tells by If-Match what it replaces.
	match bool
	// in is the zero value of the JSON body; body is the media type of another one.
	in   any
	body string
	// out is the zero value of the JSON answer; media is the type of another one.
	out    any
	media  string
	status int   // of success
	fails  []int // statuses beyond those that every route has
	serve  func(*call) error
}

// A param is a query parameter.
type param struct {
	name, doc string
	kind      string // boolean, integer or string
	min, max  int
	preset    string
}

// Bodies of requests and answers.
type (
	// FeedName names a feed, or every feed.
	FeedName struct {
		Feed string `json:"feed,omitempty" doc:"The feed's name; without it every feed." maxLength:"64"`
	}
	// Paused are the feeds whose packets pass to the network stack.
	Paused struct {
		Paused []string `json:"paused"`
	}
	// Level is the least that is logged.
	Level struct {
		Level string `json:"level" doc:"The least that is logged." enum:"debug,info,warn,error"`
	}
	// Rebalance asks for key groups to be moved.
	Rebalance struct {
		Mode RebalanceMode `json:"mode,omitempty" doc:"How often: once is now, auto is now and whenever it is worth it, off ends auto." enum:"once,auto,off"`
		// Groups and To name one move; then Mode is not looked at.
		Groups string `json:"groups,omitempty" doc:"Key groups to move to worker to, as a list of numbers and ranges such as 0-99,512. Without it groups are moved by how much their workers have to do." maxLength:"512"`
		To     int    `json:"to,omitempty" doc:"The worker that gets the groups; 0 is the first." minimum:"0" maximum:"63"`
	}
	// Workers is a number of workers.
	Workers struct {
		Workers int `json:"workers" doc:"At most workers_max of the config." minimum:"1" maximum:"64"`
	}
	// State says how the run is.
	State struct {
		State string `json:"state" doc:"ok." enum:"ok"`
	}
	// Begun says what has begun and goes on.
	Begun struct {
		Begun string `json:"begun"`
	}
)

// routes returns the table: what the given parts can do.
func routes(p *Parts) []route {
	list := append([]route{}, readRoutes...)
	for _, part := range []struct {
		there bool
		list  []route
	}{
		{p.Prober != nil, proberRoutes},
		{p.Changer != nil, changerRoutes},
		{p.Operator != nil, operatorRoutes},
		{p.Mover != nil, moverRoutes},
		{p.Upgrader != nil, upgraderRoutes},
		{p.Capturer != nil, capturerRoutes},
		{p.Level != nil, levelRoutes},
	} {
		if part.there {
			list = append(list, part.list...)
		}
	}
	return list
}

var readRoutes = []route{
	{
		method: http.MethodGet, path: "/v1/status", id: "status", role: RoleViewer, summary: "The loss ledgers, counts and rates of now",
		out: status.Report{}, status: http.StatusOK,
		serve: func(c *call) error { return c.answer(c.s.parts.Reader.Status()) },
	},
	{
		method: http.MethodGet, path: "/v1/config", id: "config", role: RoleViewer, summary: "The config that is in force",
		doc: "Its ETag goes into If-Match when another config is applied. If-None-Match is answered with 304 if nothing has changed.",
		out: Running{}, status: http.StatusOK, fails: []int{http.StatusNotModified},
		serve: running,
	},
	{
		method: http.MethodGet, path: "/v1/plan", id: "plan", role: RoleViewer, summary: "The plan that the config was compiled to",
		doc: "It is what the data plane is given. It belongs to one version of headrace: programs should not rely on its fields.",
		out: plan.Plan{}, status: http.StatusOK,
		serve: func(c *call) error { return c.answer(c.s.parts.Reader.Plan()) },
	},
	{
		method: http.MethodGet, path: "/v1/explain", id: "explain", role: RoleViewer, summary: "In words, what the config amounts to",
		media: typeText, status: http.StatusOK,
		serve: func(c *call) error {
			var b bytes.Buffer
			if err := c.s.parts.Reader.Explain(&b); err != nil {
				return err
			}
			return c.raw(typeText, b.Bytes())
		},
	},
	{
		method: http.MethodGet, path: "/v1/openapi.json", id: "openapi", role: RoleViewer, summary: "This document",
		media: typeJSON, status: http.StatusOK,
		serve: func(c *call) error { return c.raw(typeJSON, c.s.document) },
	},
}

func running(c *call) error {
	r := c.s.parts.Reader.Running()
	tag := `"` + r.Revision + `"`
	c.w.Header().Set("ETag", tag)
	if tags, _, err := etags(c.r.Header.Values("If-None-Match"), "If-None-Match", true); err != nil {
		return err
	} else if slices.Contains(tags, r.Revision) || slices.Contains(tags, "*") {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return c.answer(r)
}

var proberRoutes = []route{
	{
		method: http.MethodGet, path: "/v1/healthz", id: "healthz", role: RoleViewer, summary: "Whether the run works or will mend by itself",
		out: State{}, status: http.StatusOK, fails: []int{http.StatusServiceUnavailable},
		serve: func(c *call) error {
			return c.probe(c.s.parts.Prober.Healthy(), "stop it, look at its log, and start it again")
		},
	},
	{
		method: http.MethodGet, path: "/v1/readyz", id: "readyz", role: RoleViewer, summary: "Whether packets are received now",
		out: State{}, status: http.StatusOK, fails: []int{http.StatusServiceUnavailable},
		serve: func(c *call) error {
			return c.probe(c.s.parts.Prober.Ready(), "ask again; headrace status says more")
		},
	},
}

func (c *call) probe(err error, fix string) error {
	if err != nil {
		p := problem(http.StatusServiceUnavailable, fix, "%s", err)
		p.cause = err
		return p
	}
	return c.answer(State{State: "ok"})
}

var changerRoutes = []route{
	{
		method: http.MethodPut, path: "/v1/config", id: "apply", role: RoleAdmin, changes: true, alone: true, match: true,
		summary: "Put another config in force, or ask what that would change",
		doc: "The body is the config. It is read, checked and compared with the one in force, and then applied whole or not at all. " +
			"Each change has a tag: live (the control process does it alone), warm (the data plane is replaced within milliseconds, no frame is lost), " +
			"cold (sockets or their memory would have to be made anew: it is refused in a running headrace); or it is refused for another reason. " +
			"What is refused says what to do. " +
			"If-Match says which config is replaced: the ETag of GET /v1/config, or * for any. A dry run needs none.",
		params: []param{
			{name: "dry_run", kind: "boolean", preset: "false", doc: "Only say what would change."},
			{name: "source", kind: "string", preset: "api", max: SourceMax, doc: "Where the text comes from, such as a file's name."},
		},
		body: typeYAML, out: change.Report{}, status: http.StatusOK,
		fails: []int{http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnprocessableEntity, http.StatusPreconditionRequired},
		serve: apply,
	},
}

func apply(c *call) error {
	a := Application{Text: c.text, Source: c.word("source"), DryRun: c.yes("dry_run")}
	tags, given, err := etags(c.r.Header.Values("If-Match"), "If-Match", false)
	switch {
	case err != nil:
		return err
	case !given && !a.DryRun:
		return problem(http.StatusPreconditionRequired, "send If-Match with the ETag of GET /v1/config, or * to replace whatever is in force",
			"another operator's change could be overwritten")
	case !slices.Contains(tags, "*"):
		a.Match = tags
	}
	c.detail("source", a.Source, "dry_run", a.DryRun, "text", Revision(a.Text))
	report, err := c.s.parts.Changer.Apply(c.ctx, a)
	if err != nil {
		return problemOf(err, report)
	}
	c.detail("tag", report.Tag, "changes", len(report.Items))
	c.w.Header().Set("ETag", `"`+report.Revision+`"`)
	return c.answer(report)
}

// tagsPattern is a list of entity tags as we give them, without commas in them; an
// empty one is none. The document has it too.
const tagsPattern = `^(\*|(W/)?"[!#-+\--~]*"( *, *(W/)?"[!#-+\--~]*")*)?$`

var tagsForm = regexp.MustCompile(tagsPattern)

// etags reads a header that lists entity tags. A weak tag never matches If-Match.
func etags(lines []string, header string, weak bool) (tags []string, given bool, err error) {
	rest := strings.TrimSpace(strings.Join(lines, ","))
	switch {
	case rest == "":
		return nil, false, nil
	case rest == "*":
		return []string{rest}, true, nil
	case !tagsForm.MatchString(rest):
		return nil, true, badTags(header)
	}
	for _, part := range strings.Split(rest, ",") {
		part = strings.TrimSpace(part)
		strong, isWeak := strings.CutPrefix(part, "W/")
		if isWeak && !weak {
			strong = part // no revision is written so
		}
		tags = append(tags, strings.Trim(strong, `"`))
	}
	return tags, true, nil
}

func badTags(header string) error {
	return problem(http.StatusBadRequest, `write "revision" in double quotes, as ETag has it`, "the header %s is no list of entity tags", header)
}

var operatorRoutes = []route{
	{
		method: http.MethodPost, path: "/v1/drain", id: "drain", role: RoleOperator, changes: true, alone: true, summary: "Stop in good order",
		doc: "Packets go elsewhere, what is open is finished as on_stop says, every row is written, and the run ends. The answer comes when that has begun.",
		out: Begun{}, status: http.StatusAccepted,
		serve: func(c *call) error {
			if err := c.s.parts.Operator.Drain(c.ctx); err != nil {
				return err
			}
			return c.answer(Begun{Begun: "drain"})
		},
	},
	{
		method: http.MethodPost, path: "/v1/pause", id: "pause", role: RoleOperator, changes: true, alone: true, summary: "Let packets pass to the network stack",
		doc: "Of one feed or of all. State is kept, and windows stay open. What passes meanwhile is missing: a sequenced feed says so when it goes on.",
		in:  FeedName{}, out: Paused{}, status: http.StatusOK, fails: []int{http.StatusNotFound},
		serve: func(c *call) error {
			name := c.in.(*FeedName).Feed
			c.detail("feed", name)
			return c.paused(c.s.parts.Operator.Pause(c.ctx, name))
		},
	},
	{
		method: http.MethodPost, path: "/v1/resume", id: "resume", role: RoleOperator, changes: true, alone: true, summary: "Take packets again",
		in: FeedName{}, out: Paused{}, status: http.StatusOK, fails: []int{http.StatusNotFound},
		serve: func(c *call) error {
			name := c.in.(*FeedName).Feed
			c.detail("feed", name)
			return c.paused(c.s.parts.Operator.Resume(c.ctx, name))
		},
	},
}

func (c *call) paused(err error) error {
	if err != nil {
		return err
	}
	names := c.s.parts.Operator.Paused()
	if names == nil {
		names = []string{}
	}
	return c.answer(Paused{names})
}

var moverRoutes = []route{
	{
		method: http.MethodPost, path: "/v1/rebalance", id: "rebalance", role: RoleOperator, changes: true, alone: true, summary: "Move key groups so that workers have about as much to do",
		in: Rebalance{}, out: Moved{}, status: http.StatusOK, fails: []int{http.StatusConflict},
		serve: func(c *call) error {
			in := c.in.(*Rebalance)
			if in.Groups != "" {
				return c.moveGroups(in)
			}
			mode := in.Mode
			if mode == "" {
				mode = Once
			}
			c.detail("mode", mode)
			moved, err := c.s.parts.Mover.Rebalance(c.ctx, mode)
			return c.moved(moved, err)
		},
	},
	{
		method: http.MethodPut, path: "/v1/workers", id: "workers", role: RoleAdmin, changes: true, alone: true, summary: "Add or remove workers",
		doc: "The config's number is meant for the next start; it is not changed by this.",
		in:  Workers{}, out: Moved{}, status: http.StatusOK, fails: []int{http.StatusConflict},
		serve: func(c *call) error {
			n := c.in.(*Workers).Workers
			c.detail("workers", n)
			moved, err := c.s.parts.Mover.SetWorkers(c.ctx, n)
			return c.moved(moved, err)
		},
	},
}

// moveGroups moves the key groups that are named.
func (c *call) moveGroups(in *Rebalance) error {
	set, err := topology.ParseCPUs(in.Groups) // such lists are written alike
	list := set.List()
	if err != nil || len(list) == 0 || list[len(list)-1] >= event.GroupCount {
		return Refuse(fmt.Sprintf("give numbers and ranges of 0 to %d, such as 0-99,512", event.GroupCount-1), "%q names no key groups", in.Groups)
	}
	c.detail("groups", in.Groups)
	c.detail("to", in.To)
	moved, err := c.s.parts.Mover.Move(c.ctx, list, in.To)
	return c.moved(moved, err)
}

func (c *call) moved(m Moved, err error) error {
	if err != nil {
		return err
	}
	c.detail("groups", m.Groups)
	return c.answer(m)
}

var upgraderRoutes = []route{
	{
		method: http.MethodPost, path: "/v1/upgrade", id: "upgrade", role: RoleAdmin, changes: true, alone: true, summary: "Replace the data plane by one of another binary",
		doc: "State and windows go on. It is refused if they could not, because the two lay out their memory differently, and if frames would be lost by it.",
		in:  Upgrade{}, out: Upgraded{}, status: http.StatusOK, fails: []int{http.StatusNotFound, http.StatusConflict},
		serve: func(c *call) error {
			u := *c.in.(*Upgrade)
			c.detail("binary", u.Binary, "anyway", u.Anyway)
			done, err := c.s.parts.Upgrader.Upgrade(c.ctx, u)
			if err != nil {
				return err
			}
			c.detail("to", done.To, "warm", done.Warm)
			return c.answer(done)
		},
	},
	{
		method: http.MethodPost, path: "/v1/detach", id: "detach", role: RoleAdmin, changes: true, alone: true, summary: "Give the network interfaces back, and stop",
		doc: "The XDP program is taken off and nothing of the run stays behind. The answer comes when that has begun.",
		out: Begun{}, status: http.StatusAccepted,
		serve: func(c *call) error {
			if err := c.s.parts.Upgrader.Detach(c.ctx); err != nil {
				return err
			}
			return c.answer(Begun{Begun: "detach"})
		},
	},
}

var levelRoutes = []route{
	{
		method: http.MethodGet, path: "/v1/log-level", id: "logLevel", role: RoleViewer, summary: "The least that is logged",
		out: Level{}, status: http.StatusOK,
		serve: func(c *call) error { return c.answer(Level{levelName(c.s.parts.Level.Level())}) },
	},
	{
		method: http.MethodPut, path: "/v1/log-level", id: "setLogLevel", role: RoleOperator, changes: true, alone: true, summary: "Set the least that is logged",
		doc: "Until the next start, or until a config with another level is applied.",
		in:  Level{}, out: Level{}, status: http.StatusOK,
		serve: func(c *call) error {
			name := c.in.(*Level).Level
			c.detail("level", name)
			var l slog.Level
			if err := l.UnmarshalText([]byte(name)); err != nil {
				return fmt.Errorf("api: level %s: %w", name, err)
			}
			c.s.parts.Level.Set(l)
			return c.answer(Level{levelName(l)})
		},
	},
}

// levelName writes a level as the config does.
func levelName(l slog.Level) string {
	for _, x := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if l <= x {
			return strings.ToLower(x.String())
		}
	}
	return strings.ToLower(slog.LevelError.String())
}

var capturerRoutes = []route{
	{
		method: http.MethodPost, path: "/v1/capture", id: "capture", role: RoleOperator, changes: true, summary: "Copy frames into a pcapng file",
		doc: "The frames that come next, or with before_gap those before the latest gap. The answer is the file, as it grows; it ends when it has count frames or when the time is over.",
		params: []param{
			{name: "feed", kind: "string", max: event.KeyMax, doc: "The feed's name; without it every feed."},
			{name: "count", kind: "integer", min: 1, max: countMax, preset: "1000", doc: "How many frames."},
			{name: "before_gap", kind: "boolean", preset: "false", doc: "The frames before the feed's latest gap, out of the recorder."},
			{name: "seconds", kind: "integer", min: 1, max: secondsMost, preset: "60", doc: "How long to wait for them."},
		},
		media: typePcapng, status: http.StatusOK, fails: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
		serve: capture,
	},
}

func capture(c *call) error {
	q := Capture{Feed: c.word("feed"), Count: c.integer("count"), BeforeGap: c.yes("before_gap")}
	long := time.Duration(c.integer("seconds")) * time.Second
	select {
	case c.s.captures <- struct{}{}:
		defer func() { <-c.s.captures }()
	default:
		return Refuse("wait for one of them to end", "%d captures are being made already", capturesMost)
	}
	c.detail("feed", q.Feed, "count", q.Count, "before_gap", q.BeforeGap)
	// It is of use only to who asked: it ends with the connection.
	ctx, cancel := context.WithTimeout(c.r.Context(), long)
	defer cancel()
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(long + writeTime)) // tests have writers without
	w := &stream{w: c.w, media: typePcapng}
	err := c.s.parts.Capturer.Capture(ctx, q, w)
	if ctx.Err() != nil && err != nil && c.r.Context().Err() == nil {
		err = nil // its time is over: what there is, is the file
	}
	switch {
	case err != nil && !w.begun:
		return err
	case err != nil:
		c.detail("cut", err)
		panic(http.ErrAbortHandler) // so that the client sees that the file is cut off
	case !w.begun:
		_, err = w.Write(nil)
	}
	c.detail("bytes", w.bytes)
	return err
}

// A stream sends the answer's header with its first byte, so that what goes wrong
// before is an answer of its own.
type stream struct {
	w     http.ResponseWriter
	media string
	begun bool
	bytes int64
}

// Write sends p on at once: a capture of few frames would wait in a buffer for long.
func (s *stream) Write(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", s.media)
		s.w.WriteHeader(http.StatusOK)
	}
	n, err := s.w.Write(p)
	s.bytes += int64(n)
	if err == nil {
		err = http.NewResponseController(s.w).Flush()
	}
	return n, err
}

func (c *call) word(name string) string { return c.query[name] }

func (c *call) yes(name string) bool { return c.query[name] == "true" }

func (c *call) integer(name string) int {
	n, _ := strconv.Atoi(c.query[name]) // it has been checked against the parameter's bounds
	return n
}
