package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/internal/apifake"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew")

func server(tb testing.TB, run *apifake.Run, c api.Config) *api.Server {
	tb.Helper()
	if c.Parts.Reader == nil {
		c.Parts = run.Parts()
	}
	if c.API.Group == "" {
		c.API.Group, c.API.Others = "headrace", "read"
	}
	s, err := api.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func documentOf(tb testing.TB, s *api.Server) object {
	tb.Helper()
	var doc object
	if err := json.Unmarshal(s.Document(), &doc); err != nil {
		tb.Fatal(err)
	}
	return doc
}

// send asks h and reads the answer; headers are pairs.
func send(h http.Handler, method, target, body string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestTheDocumentInTheRepositoryIsCurrent(t *testing.T) {
	const path = "../../docs/openapi.json"
	got := server(t, apifake.New("a"), api.Config{}).Document()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the table says (%v): go test ./controlplane/api -run Document -update", path, err)
	}
}

func TestTheDocumentAndTheTableHaveTheSameOperations(t *testing.T) {
	run := apifake.New("a")
	s := server(t, run, api.Config{})
	var documented, tabled []string
	for path, methods := range documentOf(t, s)["paths"].(object) {
		for method, op := range methods.(object) {
			op := op.(object)
			words := []string{strings.ToUpper(method), path, op["operationId"].(string), op["tags"].([]any)[0].(string)}
			params, _ := op["parameters"].([]any)
			for _, p := range params {
				if p := p.(object); p["in"] == "query" {
					words = append(words, p["name"].(string))
				}
			}
			documented = append(documented, strings.Join(words, " "))
		}
	}
	for _, r := range api.Table(run.Parts()) {
		tabled = append(tabled, strings.Join(append([]string{r.Method, r.Path, r.ID, r.Role}, r.Params...), " "))
	}
	slices.Sort(documented)
	slices.Sort(tabled)
	if !slices.Equal(documented, tabled) || len(tabled) < 18 {
		t.Errorf("documented:\n%s\ntable:\n%s", strings.Join(documented, "\n"), strings.Join(tabled, "\n"))
	}
	// A part that is not there has no routes.
	few := server(t, run, api.Config{Parts: api.Parts{Reader: run}})
	if n := len(documentOf(t, few)["paths"].(object)); n != 5 {
		t.Errorf("a run that only answers has %d paths", n)
	}
	if got := send(api.As(few, "admin"), "POST", "/v1/drain", ""); got.StatusCode != http.StatusNotFound {
		t.Errorf("drain of a run that cannot: %s", got.Status)
	}
}

// good has a body and headers for each operation that needs some.
var good = map[string]struct {
	query, body string
	headers     []string
}{
	"apply":       {body: apifake.Text + "log: {level: debug}\n", headers: []string{"Content-Type", "application/yaml", "If-Match", "*"}},
	"pause":       {body: `{"feed":"cars"}`, headers: jsonHeader},
	"resume":      {body: `{}`, headers: jsonHeader},
	"rebalance":   {body: `{"mode":"auto"}`, headers: jsonHeader},
	"workers":     {body: `{"workers":3}`, headers: jsonHeader},
	"upgrade":     {body: `{"binary":"/b","anyway":true}`, headers: jsonHeader},
	"setLogLevel": {body: `{"level":"warn"}`, headers: jsonHeader},
	"capture":     {query: "?count=2&feed=cars"},
}

var jsonHeader = []string{"Content-Type", "application/json"}

// Each operation of the document answers as it says.
func TestAnswersAreWhatTheDocumentSays(t *testing.T) {
	run := apifake.New("a")
	s := server(t, run, api.Config{})
	doc, h := documentOf(t, s), api.As(s, "admin")
	seen := 0
	for _, r := range api.Table(run.Parts()) {
		g := good[r.ID]
		answer := send(h, r.Method, r.Path+g.query, g.body, g.headers...)
		if answer.StatusCode >= 300 {
			body, _ := io.ReadAll(answer.Body)
			t.Errorf("%s: %s %s", r.ID, answer.Status, body)
			continue
		}
		judge(t, doc, r, answer)
		seen++
		if r.Method == http.MethodGet {
			if head := send(h, http.MethodHead, r.Path, ""); head.StatusCode != answer.StatusCode || head.Header.Get("Content-Type") != answer.Header.Get("Content-Type") {
				t.Errorf("HEAD of %s: %s %v", r.Path, head.Status, head.Header)
			} else if body, _ := io.ReadAll(head.Body); len(body) > 0 {
				t.Errorf("HEAD of %s has a body", r.Path)
			}
		}
	}
	if seen < 18 {
		t.Errorf("%d operations", seen)
	}
}

// judge compares an answer with what the document says of that status.
func judge(tb testing.TB, doc object, r api.Row, answer *http.Response) {
	tb.Helper()
	op := doc["paths"].(object)[r.Path].(object)[strings.ToLower(r.Method)].(object)
	said, ok := op["responses"].(object)[strconv.Itoa(answer.StatusCode)].(object)
	body, _ := io.ReadAll(answer.Body)
	if !ok {
		tb.Errorf("%s: the document has no status %s: %s", r.ID, answer.Status, body)
		return
	}
	if answer.Header.Get("X-Request-Id") == "" {
		tb.Errorf("%s: no request id", r.ID)
	}
	content, _ := said["content"].(object)
	media, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
	c, ok := content[media].(object)
	if !ok {
		tb.Errorf("%s: %s: the document does not have the type %q", r.ID, answer.Status, media)
		return
	}
	if !strings.HasSuffix(media, "json") {
		return
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		tb.Errorf("%s: %v", r.ID, err)
		return
	}
	if err := matches(doc, c["schema"].(object), v, r.ID); err != nil {
		tb.Error(err)
	}
}

// What the document does not have is refused, field by field and parameter by
// parameter, with a problem that says what to do.
func TestWhatTheDocumentDoesNotHaveIsRefused(t *testing.T) {
	run := apifake.New("a")
	s := server(t, run, api.Config{})
	doc, h := documentOf(t, s), api.As(s, "admin")
	refuse := func(r api.Row, want int, target, body string, headers ...string) {
		t.Helper()
		answer := send(h, r.Method, target, body, headers...)
		text, _ := io.ReadAll(answer.Body)
		answer.Body = io.NopCloser(bytes.NewReader(text))
		var p api.Problem
		if err := json.Unmarshal(text, &p); err != nil || answer.StatusCode != want || p.Status != want || p.Fix == "" || p.Detail == "" || p.Request == "" {
			t.Errorf("%s %s %q: %s, want %d: %s", r.Method, target, body, answer.Status, want, text)
			return
		}
		judge(t, doc, r, answer)
	}
	for _, r := range api.Table(run.Parts()) {
		g := good[r.ID]
		refuse(r, 400, r.Path+"?no_such=1", g.body, g.headers...)
		for _, name := range r.Params {
			refuse(r, 400, r.Path+"?"+name+"=%00", g.body, g.headers...)
			refuse(r, 400, r.Path+"?"+name+"=a&"+name+"=b", g.body, g.headers...)
		}
		switch {
		case r.Body != "":
			refuse(r, 415, r.Path, g.body, append([]string{"Content-Type", "text/html"}, g.headers[2:]...)...)
			refuse(r, 400, r.Path, "", g.headers...)
			refuse(r, 413, r.Path, strings.Repeat("#", 1<<20+1), g.headers...)
			continue
		case r.In == nil:
			refuse(r, 400, r.Path, "x")
			continue
		}
		refuse(r, 415, r.Path, g.body, "Content-Type", "application/x-www-form-urlencoded")
		refuse(r, 413, r.Path, `{"x":"`+strings.Repeat("x", 70<<10)+`"}`, g.headers...)
		for _, body := range []string{"[]", "null", "{", `{"no_such":1}`, g.body + "{}", "\xff", "3"} {
			refuse(r, 400, r.Path, body, g.headers...)
		}
		op := doc["paths"].(object)[r.Path].(object)[strings.ToLower(r.Method)].(object)
		ref := op["requestBody"].(object)["content"].(object)["application/json"].(object)["schema"].(object)["$ref"].(string)
		schema := doc["components"].(object)["schemas"].(object)[strings.TrimPrefix(ref, "#/components/schemas/")].(object)
		for name := range schema["properties"].(object) {
			for _, value := range []string{"null", "[]", "{}", "1.5", "-1"} {
				refuse(r, 400, r.Path, `{"`+name+`":`+value+`}`, g.headers...)
			}
			refuse(r, 400, r.Path, `{"`+strings.ToUpper(name)+`":1}`, g.headers...)
		}
		if required := schema["required"].([]any); len(required) > 0 {
			refuse(r, 400, r.Path, "{}", g.headers...)
		}
	}
	if did := run.Did(); len(did) > 0 {
		t.Errorf("something was done: %q", did)
	}
}

func TestPathsAndMethodsThatAreNotThereAreSaidSo(t *testing.T) {
	s := server(t, apifake.New("a"), api.Config{})
	h := api.As(s, "admin")
	for path := range documentOf(t, s)["paths"].(object) {
		for _, method := range []string{"DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"} {
			got := send(h, method, path, "")
			if got.StatusCode != http.StatusMethodNotAllowed || got.Header.Get("Allow") == "" || got.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: %s %v", method, path, got.Status, got.Header)
			}
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/status/", "/v2/status", "/v1/../v1/status", "/%00"} {
		if got := send(h, "GET", path, ""); got.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, got.Status)
		}
	}
	if got := send(h, "GET", "/status", ""); got.StatusCode != http.StatusOK {
		t.Errorf("as clients of former versions ask: %s", got.Status)
	}
}
