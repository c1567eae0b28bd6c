package api_test

import (
	"flag"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/internal/apifake"
)

var examples = flag.String("schemathesis", "", "ask every operation with this many made-up requests")

// Somebody else's reading of the document, against the real server: what it makes up is
// answered as the document says, what the document forbids is refused, nothing fails.
func TestSchemathesis(t *testing.T) {
	const program = "../../bin/schemathesis/bin/schemathesis"
	if *examples == "" {
		t.Skip("make test-api runs it")
	}
	path, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("schemathesis is not installed (make deps-api): %v", err)
	}
	run := apifake.New("a")
	s := server(t, run, api.Config{})
	h := httptest.NewServer(api.As(s, "admin"))
	defer h.Close()
	dir := t.TempDir()
	// A config may be wrong in more ways than its schema says, or come in the place of
	// another one.
	const conf = "[checks]\npositive_data_acceptance.expected-statuses = [\"2xx\", \"3xx\", 404, 409, 412, 422, 428]\n"
	if err := os.WriteFile(filepath.Join(dir, "schemathesis.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), path, "run", h.URL+"/v1/openapi.json", "--url", h.URL,
		"--checks", "all", "--max-examples", *examples, "--seed", "1", "--generation-database", "none", "--no-color")
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	if len(run.Did()) == 0 {
		t.Error("nothing was done")
	}
}
