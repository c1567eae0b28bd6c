package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/headrace/headrace/internal/testdata"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"headrace": main}) }

// The stories of testdata/script are command lines as they are written in the manual.
func TestCommandLines(t *testing.T) {
	data := testdata.Path(t)
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("DATA", data)
			e.Setenv("EXAMPLES", examples)
			return nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exit": exit, "last": last},
	})
}

// exit CODE headrace ARGS… wants that exit code. An argument ">FILE" keeps standard
// output, "2>FILE" standard error, "<FILE" is standard input.
func exit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGS…")
	}
	var out, errs bytes.Buffer
	path, err := exec.LookPath(args[1])
	if from := ts.Getenv("PATH"); err != nil || from != os.Getenv("PATH") {
		for _, dir := range filepath.SplitList(from) {
			if p := filepath.Join(dir, args[1]); exists(p) {
				path = p
				break
			}
		}
	}
	c := exec.Command(path)
	keep := map[string]*bytes.Buffer{}
	for _, a := range args[2:] {
		switch {
		case strings.HasPrefix(a, "2>"):
			keep[a[2:]] = &errs
		case strings.HasPrefix(a, ">"):
			keep[a[1:]] = &out
		case strings.HasPrefix(a, "<"):
			c.Stdin = strings.NewReader(ts.ReadFile(a[1:]))
		default:
			c.Args = append(c.Args, a)
		}
	}
	c.Dir, c.Stdout, c.Stderr = ts.MkAbs("."), &out, &errs
	c.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=/no-home", "TMPDIR=" + ts.Getenv("TMPDIR")}
	err = c.Run()
	for name, b := range keep {
		ts.Check(os.WriteFile(ts.MkAbs(name), b.Bytes(), 0o600))
	}
	ts.Logf("[stdout]\n%s[stderr]\n%s", out.String(), errs.String())
	if c.ProcessState == nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got := c.ProcessState.String(); got != "exit status "+args[0] {
		ts.Fatalf("%s: %s, want exit status %s", strings.Join(args[1:], " "), got, args[0])
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// last FILE TEXT… wants each text in the last line of the file.
func last(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.Split(strings.TrimRight(ts.ReadFile(args[0]), "\n"), "\n")
	line := lines[len(lines)-1]
	for _, want := range args[1:] {
		if strings.Contains(line, want) == neg {
			ts.Fatalf("the last line of %s is %s\nwant (or not) %s", args[0], line, want)
		}
	}
}

// Every command explains itself, and so does every flag.
func TestEveryCommandAndFlagIsExplained(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no help", c.CommandPath(), f.Name)
			}
		})
		var out bytes.Buffer
		r := root()
		r.SetOut(&out)
		r.SetErr(&out)
		r.SetArgs(append(strings.Fields(c.CommandPath())[1:], "--help"))
		if err := r.Execute(); err != nil || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s --help: %v\n%s", c.CommandPath(), err, out.String())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root())
}
