package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/internal/apifake"
)

const askVariable, leastVariable = "HEADRACE_TEST_ASK_SOCKET", "HEADRACE_TEST_TURNED_AWAY"

// TestMain is also a process that asks a socket, as another user.
func TestMain(m *testing.M) {
	if socket := os.Getenv(askVariable); socket != "" {
		for _, target := range []string{"GET /v1/config", "POST /v1/drain"} {
			method, path, _ := strings.Cut(target, " ")
			status, err := ask(socket, method, path)
			fmt.Println(target, status, err)
		}
		least, _ := strconv.Atoi(os.Getenv(leastVariable)) // it is ours
		fmt.Println("turned away", turnedAway(socket, 40, least))
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// turnedAway opens n connections to a socket and returns how many are not kept. It
// gives the server time to turn least of them away.
func turnedAway(socket string, n, least int) int {
	closed := 0
	var open []net.Conn
	for range n {
		c, err := net.Dial("unix", socket)
		if err != nil {
			closed++
			continue
		}
		defer c.Close()
		open = append(open, c)
	}
	for end := time.Now().Add(4 * time.Second); ; { // the server's own patience is 5 s
		last := closed >= least || time.Now().After(end)
		time.Sleep(50 * time.Millisecond)
		open = slices.DeleteFunc(open, func(c net.Conn) bool {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
		})
		if closed = n - len(open); last {
			return closed
		}
	}
}

func over(socket string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

func ask(socket, method, path string) (int, error) {
	r, err := http.NewRequest(method, "http://headrace"+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	answer, err := over(socket).Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// serve serves s on a socket that anybody can reach, until the test ends.
func serve(t *testing.T, s *api.Server) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // nobody else reaches what is in t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "a.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	return socket
}

func put(h http.Handler, text, match string, query string) (*http.Response, *change.Report, *api.Problem) {
	headers := []string{"Content-Type", "application/yaml"}
	if match != "" {
		headers = append(headers, "If-Match", match)
	}
	answer := send(h, "PUT", "/v1/config"+query, text, headers...)
	body, _ := io.ReadAll(answer.Body)
	var r change.Report
	var p api.Problem
	if answer.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &r); err != nil {
			panic(err)
		}
		return answer, &r, nil
	}
	if err := json.Unmarshal(body, &p); err != nil {
		panic(err)
	}
	return answer, nil, &p
}

func TestAConfigIsAppliedOnlyInThePlaceOfTheOneThatWasRead(t *testing.T) {
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{}), "admin")
	etag := send(h, "GET", "/v1/config", "").Header.Get("ETag")
	next := apifake.Text + "log: {level: debug}\n"

	if a, _, p := put(h, next, "", ""); a.StatusCode != http.StatusPreconditionRequired || !strings.Contains(p.Fix, "If-Match") {
		t.Errorf("without If-Match: %+v", p)
	}
	if a, r, _ := put(h, next, "", "?dry_run=true"); a.StatusCode != http.StatusOK || r.Applied || !r.DryRun || len(r.Items) != 1 || r.Tag != change.Live {
		t.Errorf("dry run: %+v", r)
	}
	a, r, _ := put(h, next, etag, "?source=next.yaml")
	if a.StatusCode != http.StatusOK || !r.Applied || a.Header.Get("ETag") == etag || a.Header.Get("ETag") != `"`+r.Revision+`"` {
		t.Fatalf("%s %+v", a.Status, r)
	}
	if a, _, p := put(h, apifake.Text, etag, ""); a.StatusCode != http.StatusPreconditionFailed || p.Type != "urn:headrace:problem:stale" {
		t.Errorf("with the tag of the config before: %+v", p)
	}
	if a, _, _ := put(h, apifake.Text, `W/`+a.Header.Get("ETag"), ""); a.StatusCode != http.StatusPreconditionFailed {
		t.Errorf("with a weak tag: %s", a.Status)
	}
	for _, bad := range []string{"abc", `"a`, `"a" "b"`, ","} {
		if a, _, p := put(h, apifake.Text, bad, ""); a.StatusCode != http.StatusBadRequest {
			t.Errorf("If-Match %q: %+v", bad, p)
		}
	}
	if a := send(h, "GET", "/v1/config", "", "If-None-Match", a.Header.Get("ETag")); a.StatusCode != http.StatusNotModified {
		t.Errorf("If-None-Match: %s", a.Status)
	}
	if a, _, _ := put(h, apifake.Text, `"x", `+a.Header.Get("ETag"), ""); a.StatusCode != http.StatusOK {
		t.Errorf("a list: %s", a.Status)
	}
	if did := run.Did(); !slices.Equal(did, []string{"apply next.yaml", "apply api"}) {
		t.Errorf("done: %q", did)
	}
}

func TestAChangeIsFinishedThoughWhoAskedForItIsGone(t *testing.T) {
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{}), "admin")
	gone, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequest(http.MethodPut, "/v1/config?source=gone", strings.NewReader(apifake.Text+"#\n")).WithContext(gone)
	r.Header.Set("Content-Type", "application/yaml")
	r.Header.Set("If-Match", "*")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if did := run.Did(); !slices.Equal(did, []string{"apply gone"}) {
		t.Errorf("done: %q", did)
	}
}

// A feed that is no more leaves its number behind, not its name.
func TestEverythingCanBeAskedAfterAFeedWasReplaced(t *testing.T) {
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{}), "admin")
	if a, r, p := put(h, strings.Replace(apifake.Text, "unit: ms", "unit: us", 1), "*", ""); a.StatusCode != http.StatusOK || r.KeptFeeds != 1 || r.KeptQueries != 1 {
		t.Fatalf("%s %+v %+v", a.Status, r, p)
	}
	for _, path := range []string{"/v1/status", "/v1/plan", "/v1/config", "/v1/explain"} {
		a := send(h, "GET", path, "")
		body, _ := io.ReadAll(a.Body)
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, body)
		}
		if path == "/v1/explain" && (strings.Contains(string(body), "removed") || !strings.Contains(string(body), ": 2 feeds")) {
			t.Errorf("%s", body)
		}
	}
	if a := send(h, "POST", "/v1/pause", "{}", jsonHeader...); a.StatusCode != http.StatusOK || !slices.Equal(run.Paused(), []string{"cars", "talk"}) {
		t.Errorf("paused: %q", run.Paused())
	}
}

func TestOfTwoOperatorsWhoReadTheSameConfigOneChangesIt(t *testing.T) {
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{}), "admin")
	etag := send(h, "GET", "/v1/config", "").Header.Get("ETag")
	var wait sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for i := range 8 {
		wait.Go(func() {
			a, _, _ := put(h, apifake.Text+strings.Repeat("#\n", i+1), etag, "")
			mu.Lock()
			defer mu.Unlock()
			counts[a.StatusCode]++
		})
	}
	wait.Wait()
	if counts[200] != 1 || counts[412] != 7 {
		t.Errorf("answers: %v", counts)
	}
}

func TestMistakesAndRefusedChangesSayWhereAndWhatToDo(t *testing.T) {
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{}), "admin")
	a, _, p := put(h, strings.Replace(apifake.Text, "format: flow", "format: flows", 1), "*", "?source=x.yaml")
	if a.StatusCode != http.StatusUnprocessableEntity || len(p.Findings) == 0 || p.Findings[0].Line != 6 || p.Findings[0].Meant != "flow" || !strings.HasPrefix(p.Detail, "x.yaml:6:") {
		t.Errorf("%+v", p)
	}
	grouped := apifake.Text + `group: {me: a, peers: [{id: a, address: "10.0.0.1:7400", pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="}, {id: b, address: "10.0.0.2:7400", pin: "sha256:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="}]}` + "\n"
	a, _, p = put(h, grouped, "*", "")
	if a.StatusCode != http.StatusConflict || p.Changes == nil || p.Changes.Refused() != 1 || p.Changes.Applied || run.Running().Text != apifake.Text {
		t.Errorf("%+v", p)
	}
	answer := send(h, "PUT", "/v1/workers", `{"workers":60}`, jsonHeader...)
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusConflict || !strings.Contains(string(body), "workers_max") {
		t.Errorf("%s %s", answer.Status, body)
	}
	answer = send(h, "POST", "/v1/pause", `{"feed":"carz"}`, jsonHeader...)
	body, _ = io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "the feeds are cars, talk") {
		t.Errorf("%s %s", answer.Status, body)
	}
}

// Who may only ask changes nothing, and who may do nothing learns nothing.
func TestEachRoleMayDoWhatTheTableSays(t *testing.T) {
	roles := []string{"nobody", "viewer", "operator", "admin"}
	for have, role := range roles {
		run := apifake.New("a")
		h := api.As(server(t, run, api.Config{}), role)
		for _, r := range api.Table(run.Parts()) {
			g := good[r.ID]
			answer := send(h, r.Method, r.Path+g.query, g.body, g.headers...)
			allowed := have >= slices.Index(roles, r.Role)
			if got := answer.StatusCode != http.StatusForbidden; got != allowed {
				t.Errorf("%s as %s: %s", r.ID, role, answer.Status)
			}
		}
		if did := run.Did(); have < 2 && len(did) > 0 {
			t.Errorf("%s did %q", role, did)
		}
		if a := send(h, "GET", "/v1/nothing", ""); have == 0 && a.StatusCode != http.StatusForbidden {
			t.Errorf("nobody learns what is not there: %s", a.Status)
		}
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

func TestEveryCallThatChangesSomethingIsInTheAuditLog(t *testing.T) {
	var out lines
	run := apifake.New("a")
	s := server(t, run, api.Config{Audit: slog.New(slog.NewTextHandler(&out, nil))})
	want := 0
	for _, role := range []string{"viewer", "admin"} {
		for _, r := range api.Table(run.Parts()) {
			g := good[r.ID]
			send(api.As(s, role), r.Method, r.Path+g.query, g.body, append([]string{"X-Request-Id", "id-" + r.ID}, g.headers...)...)
			if !r.Changes {
				continue
			}
			want++
			all := out.all()
			last := all[len(all)-1]
			for _, part := range []string{`who="uid 12345 pid 0"`, "did=" + r.ID, "request=id-" + r.ID, "result="} {
				if len(all) != want || !strings.Contains(last, part) {
					t.Errorf("%s as %s: %d lines, the last %s; want %s", r.ID, role, len(all), last, part)
				}
			}
			if refused := strings.Contains(last, "result=403"); refused != (role == "viewer") {
				t.Errorf("%s as %s: %s", r.ID, role, last)
			}
		}
	}
	text := strings.Join(out.all(), "\n")
	for _, part := range []string{"feed=cars", "workers=3", "binary=/b", "level=warn", "source=api", "tag=live", "mode=auto"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %s in\n%s", part, text)
		}
	}
}

func TestAPanicIsAnAnswerAndTheServerGoesOn(t *testing.T) {
	var out lines
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{Log: slog.New(slog.NewTextHandler(&out, nil))}), "viewer")
	run.Panics = true
	a := send(h, "GET", "/v1/status", "", "X-Request-Id", "bad one\n")
	var p api.Problem
	if err := json.NewDecoder(a.Body).Decode(&p); err != nil || a.StatusCode != http.StatusInternalServerError || strings.Contains(p.Request, " ") || !strings.Contains(out.all()[0], p.Request) {
		t.Errorf("%s %+v %v", a.Status, p, err)
	}
	run.Panics = false
	if a := send(h, "GET", "/v1/status", ""); a.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %s", a.Status)
	}
}

func TestHealthIsAnAnswerOfItsOwn(t *testing.T) {
	run := apifake.New("a")
	h := api.As(server(t, run, api.Config{}), "viewer")
	run.Sick = errors.New("the data plane died three times in a minute")
	for _, path := range []string{"/v1/healthz", "/v1/readyz"} {
		a := send(h, "GET", path, "")
		body, _ := io.ReadAll(a.Body)
		if a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "three times") {
			t.Errorf("%s: %s %s", path, a.Status, body)
		}
	}
}

func TestACaptureStreamsAndSaysWhenItIsCutOff(t *testing.T) {
	run := apifake.New("a")
	s := server(t, run, api.Config{})
	h := httptest.NewServer(api.As(s, "operator"))
	defer h.Close()
	post := func(ctx context.Context, query string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/v1/capture"+query, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		return h.Client().Do(r)
	}
	a, err := post(t.Context(), "?count=3&feed=cars")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(a.Body)
	a.Body.Close()
	if err != nil || a.Header.Get("Content-Type") != "application/x-pcapng" || len(body) != 48+3*32 {
		t.Errorf("%v %v: %d bytes", err, a.Header, len(body))
	}
	run.Cut.Store(true)
	if a, err = post(t.Context(), "?count=3"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(a.Body); err == nil {
		t.Errorf("a cut file of %d bytes looks whole", len(body))
	}
	a.Body.Close()
	// Its time is over: what there is, is the file.
	run.Cut.Store(false)
	run.Endless.Store(true)
	if a, err = post(t.Context(), "?count=3&seconds=1"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(a.Body); err != nil || len(body) != 48 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	a.Body.Close()
	// There is room for four, and it is given back when a client goes.
	ctx, cancel := context.WithCancel(t.Context())
	var open []*http.Response
	for range 4 {
		a, err := post(ctx, "?count=3")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, a)
	}
	if a, err = post(t.Context(), "?count=3"); err != nil || a.StatusCode != http.StatusConflict {
		t.Errorf("a fifth: %v %v", a, err)
	}
	a.Body.Close()
	cancel()
	for _, a := range open {
		a.Body.Close()
	}
	run.Endless.Store(false)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		a, err := post(t.Context(), "?count=1")
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("room is not given back")
		}
	}
	h.CloseClientConnections()
	h.Client().CloseIdleConnections()
}

// On the socket it is the kernel who says who asks.
func TestTheSocketKnowsItsOwnUser(t *testing.T) {
	run := apifake.New("a")
	s := server(t, run, api.Config{API: config.API{Group: "headrace", Others: "nothing"}})
	socket := serve(t, s)
	if status, err := ask(socket, "POST", "/v1/drain"); status != http.StatusAccepted || err != nil {
		t.Errorf("%d %v", status, err)
	}
	if is, err := os.Stat(socket); err != nil || is.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", is.Mode(), err)
	}
	if err := s.Configure(config.API{Group: "headrace", Others: "read"}); err != nil {
		t.Fatal(err)
	}
	if is, err := os.Stat(socket); err != nil || is.Mode().Perm() != 0o666 {
		t.Errorf("%v %v", is.Mode(), err)
	}
}

func TestOtherUsersOfTheHostMayWhatTheConfigSaysRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		others, group string
		groups        []uint32
		want          []string
	}{
		// Those who may only ask leave room for those who act.
		{"read", "4242", nil, []string{"GET /v1/config 200 <nil>", "POST /v1/drain 403 <nil>", "turned away 8"}},
		{"read", "4242", []uint32{7, 4242}, []string{"GET /v1/config 200 <nil>", "POST /v1/drain 202 <nil>", "turned away 0"}},
		{"nothing", "4242", []uint32{4242}, []string{"GET /v1/config 200 <nil>", "POST /v1/drain 202 <nil>", "turned away 0"}},
		{"nothing", "4242", []uint32{7}, []string{"permission denied", "permission denied", "turned away 40"}},
	} {
		run := apifake.New("a")
		socket := serve(t, server(t, run, api.Config{API: config.API{Group: c.group, Others: c.others}}))
		// The test's own binary lies where nobody else reaches it.
		other := filepath.Join(filepath.Dir(socket), "ask")
		if err := os.WriteFile(other, program, 0o755); err != nil {
			t.Fatal(err)
		}
		x := exec.Command(other)
		x.Env = []string{askVariable + "=" + socket, leastVariable + "=" + strings.TrimPrefix(c.want[2], "turned away ")}
		x.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: c.groups}}
		x.Dir = "/"
		out, err := x.Output()
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			// A connection of the questions before may not be gone yet.
			late := c.want[i] == "turned away 8" && (line == "turned away 9" || line == "turned away 10")
			if !strings.Contains(line, c.want[i]) && !late {
				t.Errorf("others %s, groups %v: %s, want %s", c.others, c.groups, line, c.want[i])
			}
		}
	}
}

func TestConnectionsAreBoundedAndMakeRoomAgain(t *testing.T) {
	socket := serve(t, server(t, apifake.New("a"), api.Config{}))
	if n := turnedAway(socket, 300, 300-256); n != 300-256 {
		t.Errorf("%d of 300 connections were turned away, want 44", n)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if status, _ := ask(socket, "GET", "/v1/config"); status == 200 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no room again")
		}
	}
}

// FuzzRequest sends what nobody would: an answer is always one of the document's, and
// never a failure of ours.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/v1/status", "", "", "")
	f.Add("PUT", "/v1/config?dry_run=true", "application/yaml", "", apifake.Text)
	f.Add("PUT", "/v1/config", "application/yaml", `"a", W/"b"`, "feeds: {a: {")
	f.Add("POST", "/v1/pause", "application/json; charset=x", "*", `{"feed":"cars"}`)
	f.Add("PUT", "/v1/workers", "application/json", "", `{"workers":1e2,"workers":3}`)
	f.Add("POST", "/v1/capture?count=1&seconds=1&feed=%ff", "", "", "")
	run := apifake.New("a")
	s := server(f, run, api.Config{})
	h, doc, table := api.As(s, "admin"), documentOf(f, s), api.Table(run.Parts())
	f.Fuzz(func(t *testing.T, method, target, media, match, body string) {
		r, err := http.NewRequest(method, "http://headrace", strings.NewReader(body))
		if err != nil {
			return // no server would have got it
		}
		if u, err := r.URL.Parse(target); err == nil {
			r.URL = u
		}
		r.Header["Content-Type"], r.Header["If-Match"] = []string{media}, []string{match}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		a := w.Result()
		if a.StatusCode >= 500 {
			t.Errorf("%s %s: %s %s", method, target, a.Status, w.Body)
		}
		for _, row := range table {
			if row.Method == method && row.Path == r.URL.Path && a.StatusCode != http.StatusNotModified {
				judge(t, doc, row, a)
			}
		}
	})
}
