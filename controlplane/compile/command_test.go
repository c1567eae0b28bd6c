package compile_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/usage"
)

func runCheck(t *testing.T, args ...string) (out, errs string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	cmd := compile.Command(options())
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SetArgs(args)
	err = cmd.Execute()
	return o.String(), e.String(), err
}

func TestCheckCountsWhatIsGood(t *testing.T) {
	out, _, err := runCheck(t, "../../examples/iex-bars.yaml")
	if want := "../../examples/iex-bars.yaml: ok: 1 feed, 1 query\n"; err != nil || out != want {
		t.Errorf("check = %q, %v, want %q", out, err, want)
	}
}

func TestCheckNamesEveryMistakeAndIsAnErrorOfUsage(t *testing.T) {
	const file = "testdata/broken/bad-values.yaml"
	out, errs, err := runCheck(t, file)
	var u *usage.Error
	if !errors.As(err, &u) || err.Error() != file+": 3 mistakes" {
		t.Errorf("check = %v, want an error of usage with three mistakes", err)
	}
	if out != "" || strings.Count(errs, file+":") != 3 {
		t.Errorf("check printed %q and %q", out, errs)
	}
	for _, args := range [][]string{{"no/such/file.yaml"}, {"testdata"}} {
		if _, _, err := runCheck(t, args...); !errors.As(err, &u) || !strings.HasPrefix(err.Error(), "config: ") {
			t.Errorf("check %v = %v, want an error of usage", args, err)
		}
	}
}
