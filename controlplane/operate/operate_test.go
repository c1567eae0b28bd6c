package operate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/operate"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/internal/apifake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a run until the test ends, or the run does, and returns its name.
func start(t *testing.T) (*apifake.Run, string) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	name := fmt.Sprintf("operate-test-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	run := apifake.New(name)
	s, err := api.New(api.Config{Parts: run.Parts(), API: config.API{Group: "headrace", Others: "nothing"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := status.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() {
		select {
		case <-run.Ended():
			cancel()
		case <-ctx.Done():
		}
		done <- nil
	}()
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	return run, name
}

// do runs a command line and returns what it prints.
func do(t *testing.T, line ...string) (out, errs string, err error) {
	t.Helper()
	c := &cobra.Command{Use: "headrace", SilenceErrors: true, SilenceUsage: true}
	c.AddCommand(operate.Commands()...)
	var o, e bytes.Buffer
	c.SetOut(&o)
	c.SetErr(&e)
	c.SetArgs(line)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = c.ExecuteContext(ctx)
	return o.String(), e.String(), err
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "next.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func isUsage(err error) bool { return errors.As(err, new(*usage.Error)) }

func TestApplyShowsWhatChangesAndThenChangesIt(t *testing.T) {
	run, name := start(t)
	path := file(t, strings.Replace(apifake.Text, "max(speed)", "min(speed)", 1)+"log: {level: warn}\n")
	out, _, err := do(t, "apply", path, "--dry-run", "--name", name)
	if err != nil || !strings.Contains(out, "warm  query fast select") || !strings.Contains(out, "live  log level") || len(run.Did()) > 0 {
		t.Errorf("dry run: %v\n%s", err, out)
	}
	out, _, err = do(t, "apply", path, "--at-most", "live", "--name", name)
	if err == nil || !strings.Contains(err.Error(), "a change is warm") || len(run.Did()) > 0 {
		t.Errorf("at most live: %v\n%s", err, out)
	}
	out, _, err = do(t, "apply", path, "--name", name)
	if err != nil || !strings.Contains(out, "is in force, revision "+run.Running().Revision+"; 2 feeds and 1 queries went on") || len(run.Did()) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	out, _, err = do(t, "apply", path, "--name", name)
	if err != nil || !strings.HasPrefix(out, "nothing changes\n") {
		t.Errorf("again: %v\n%s", err, out)
	}
	out, _, err = do(t, "apply", file(t, apifake.Text), "--name", name, "-o", "json")
	var r change.Report
	if bad := json.Unmarshal([]byte(out), &r); err != nil || bad != nil || !r.Applied || len(r.Items) != 2 {
		t.Errorf("json: %v %v\n%s", err, bad, out)
	}
}

func TestApplyOfWhatIsWrongSaysWhereAndChangesNothing(t *testing.T) {
	run, name := start(t)
	path := file(t, strings.Replace(apifake.Text, "format: flow", "format: flows", 1))
	_, errs, err := do(t, "apply", path, "--name", name)
	if !isUsage(err) || !strings.Contains(errs, path+":6:") || !strings.Contains(errs, `did you mean "flow"?`) {
		t.Errorf("%v\n%s", err, errs)
	}
	grouped := apifake.Text + `group: {me: a, peers: [{id: a, address: "10.0.0.1:7400", pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="}, {id: b, address: "10.0.0.2:7400", pin: "sha256:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="}]}` + "\n"
	out, _, err := do(t, "apply", file(t, grouped), "--name", name)
	if err == nil || isUsage(err) || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(out, "refused  group") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := do(t, "apply", "/no/such/file", "--name", name); !isUsage(err) {
		t.Errorf("%v", err)
	}
	if len(run.Did()) > 0 || run.Running().Text != apifake.Text {
		t.Errorf("done: %q", run.Did())
	}
}

func TestACommandThatFindsNoRunNamesThoseThatAreThere(t *testing.T) {
	_, name := start(t)
	path := file(t, apifake.Text)
	for _, line := range [][]string{
		{"apply", path}, {"drain"}, {"detach"}, {"pause"}, {"resume"}, {"log-level"}, {"upgrade"}, {"rebalance"}, {"workers", "2"}, {"capture", "-o", filepath.Join(t.TempDir(), "f")},
	} {
		_, _, err := do(t, append(line, "--name", "no-such-run")...)
		if !errors.Is(err, status.ErrNotRunning) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", line, err)
		}
		if _, _, err := do(t, append(line, "--name", "a/b")...); !errors.Is(err, status.ErrBadName) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestEachCommandAsksForWhatItSays(t *testing.T) {
	run, name := start(t)
	for _, c := range []struct {
		line []string
		out  string
		did  string
	}{
		{[]string{"pause", "cars"}, "paused: cars\n", `pause "cars" true`},
		{[]string{"pause"}, "paused: cars, talk\n", `pause "" true`},
		{[]string{"resume", "talk"}, "paused: cars\n", `pause "talk" false`},
		{[]string{"resume", "-o", "json"}, "{\"paused\":[]}\n", `pause "" false`},
		{[]string{"log-level"}, "info\n", ""},
		{[]string{"log-level", "debug"}, "debug\n", ""},
		{[]string{"log-level", "-o", "json"}, "{\"level\":\"debug\"}\n", ""},
		{[]string{"rebalance"}, "7 key groups have another worker; there are 2 workers\n", "rebalance once"},
		{[]string{"rebalance", "--auto"}, "7 key groups have another worker; there are 2 workers; it goes on by itself\n", "rebalance auto"},
		{[]string{"rebalance", "--off"}, "7 key groups have another worker; there are 2 workers\n", "rebalance off"},
		{[]string{"workers", "3"}, "512 key groups have another worker; there are 3 workers\n", "workers 3"},
		{[]string{"upgrade"}, "v1 -> v2, warm: state and windows went on; frames waited for 4ms of the 90ms that the rings hold\n", `upgrade "" false`},
		{[]string{"upgrade", "/slow", "--anyway", "-o", "json"}, `{"warm":true,"from":"v1","to":"v2","pause_nanos":4000000,"budget_nanos":90000000}` + "\n", `upgrade "/slow" true`},
	} {
		before := len(run.Did())
		out, errs, err := do(t, append(c.line, "--name", name)...)
		did := strings.Join(run.Did()[before:], ", ")
		if err != nil || out != c.out || did != c.did || errs != "" {
			t.Errorf("%q: %v\n%s%s did %s", c.line, err, out, errs, did)
		}
	}
	// What is refused says what to do.
	for _, c := range []struct {
		line  []string
		want  string
		usage bool
	}{
		{[]string{"pause", "carz"}, `there is no feed "carz": the feeds are cars, talk`, false},
		{[]string{"pause", ""}, "the feed's name is empty", true},
		{[]string{"workers", "5"}, "5 workers are more than workers_max 4: change workers_max", false},
		{[]string{"workers", "many"}, `"many" workers: write a number from 1 to 64`, true},
		{[]string{"upgrade", "/slow"}, "the rings hold 20ms of what comes", false},
		{[]string{"pause", "-o", "xml"}, "write text or json", true},
		{[]string{"apply", file(t, apifake.Text), "--at-most", "hot"}, "write live, warm or cold", true},
		{[]string{"capture", "--count", "0", "-o", "f"}, "at least 1", true},
		{[]string{"capture", "--count", "2", "--before-gap", "2"}, "keep one", true},
		{[]string{"capture", "--for", "2h"}, "at most 1h", true},
		{[]string{"capture", "--feed", "carz"}, "the feeds are cars, talk", false},
		{[]string{"capture", "--before-gap", "5"}, "there is no recorder", false},
	} {
		before := len(run.Did())
		_, _, err := do(t, append(c.line, "--name", name)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || isUsage(err) != c.usage {
			t.Errorf("%q: %v, want %s", c.line, err, c.want)
		}
		if did := run.Did()[before:]; slices.ContainsFunc(did, func(s string) bool { return !strings.HasPrefix(s, "capture") }) {
			t.Errorf("%q did %q", c.line, did)
		}
	}
}

func TestDrainAndDetachMayWaitForTheEnd(t *testing.T) {
	for _, word := range []string{"drain", "detach"} {
		run, name := start(t)
		out, _, err := do(t, word, "--wait", "--name", name)
		if err != nil || !strings.HasPrefix(out, name+" is d") || !slices.Equal(run.Did(), []string{word}) {
			t.Errorf("%s: %v %s %q", word, err, out, run.Did())
		}
		if _, err := status.Dial(t.Context(), name); !errors.Is(err, status.ErrNotRunning) {
			t.Errorf("after %s --wait it is there: %v", word, err)
		}
	}
}

func TestACaptureIsAFileAndSaysWhenItIsNotWhole(t *testing.T) {
	run, name := start(t)
	path := filepath.Join(t.TempDir(), "f.pcapng")
	out, _, err := do(t, "capture", "--feed", "cars", "--count", "2", "-o", path, "--name", name)
	text, _ := os.ReadFile(path)
	if err != nil || len(text) != 48+2*32 || out != fmt.Sprintf("%s: %d bytes\n", path, len(text)) {
		t.Errorf("%v: %s, %d bytes", err, out, len(text))
	}
	if is, _ := os.Stat(path); is.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", is.Mode())
	}
	out, _, err = do(t, "capture", "--count", "2", "--name", name)
	if err != nil || out != string(text) {
		t.Errorf("to standard output: %v, %d bytes", err, len(out))
	}
	run.Cut.Store(true)
	if _, _, err = do(t, "capture", "--count", "2", "-o", path, "--name", name); err == nil || !strings.Contains(err.Error(), "cut off after 80 bytes") {
		t.Errorf("%v", err)
	}
}
