package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/controlplane/usage"
)

// answerMax bounds an answer that is kept in memory.
const answerMax = 64 << 20

// flags are what every command has.
type flags struct {
	name   string
	output string
}

func (f *flags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.name, "name", "headrace", "name of the run")
	if c.Flags().Lookup("output") == nil {
		c.Flags().StringVarP(&f.output, "output", "o", "text", "how to print the answer: text or json")
	}
}

// check judges the flags.
func (f *flags) check(c *cobra.Command) error {
	if f.output != "text" && f.output != "json" {
		return usage.Errorf(c.CommandPath(), "-o %s: write text or json", f.output)
	}
	return nil
}

// A request is one question to the run.
type request struct {
	method, path string
	query        url.Values
	json         any    // the body, if not nil
	yaml         []byte // another body
	match        string // If-Match
}

// send asks the run of a name. The error is that of a run that is not there, or an
// [api.Problem]. The caller closes the answer's body.
func send(ctx context.Context, name string, q *request) (*http.Response, error) {
	target := "http://headrace" + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	body, media := q.yaml, "application/yaml"
	if q.json != nil {
		text, err := json.Marshal(q.json)
		if err != nil {
			return nil, err
		}
		body, media = text, "application/json"
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", media)
	}
	if q.match != "" {
		r.Header.Set("If-Match", q.match)
	}
	answer, err := status.Transport(name).RoundTrip(r)
	if errors.Is(err, status.ErrNotRunning) || errors.Is(err, status.ErrBadName) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if answer.StatusCode < http.StatusMultipleChoices {
		return answer, nil
	}
	return nil, problemOf(name, answer)
}

// problemOf reads what went wrong and closes the answer.
func problemOf(name string, answer *http.Response) error {
	defer answer.Body.Close() //nolint:errcheck // nothing is lost with it
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerMax))
	p := &api.Problem{}
	if err != nil || json.Unmarshal(text, p) != nil || p.Status == 0 {
		what := "answers " + answer.Status
		if answer.StatusCode == http.StatusNotFound {
			what += ": it is of a version without this"
		}
		return fmt.Errorf("%s %s", name, what)
	}
	return p
}

// ask asks and reads the answer into v, and returns it as it came and its ETag.
func ask(ctx context.Context, name string, q *request, v any) (text []byte, etag string, err error) {
	answer, err := send(ctx, name, q)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close() //nolint:errcheck // nothing is lost with it
	text, err = io.ReadAll(io.LimitReader(answer.Body, answerMax))
	if err != nil {
		return nil, "", fmt.Errorf("%s: the answer broke off: %w", name, err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return nil, "", fmt.Errorf("%s: the answer cannot be read: %w", name, err)
	}
	return text, answer.Header.Get("ETag"), nil
}

// tell asks and prints the answer: as JSON if the flags want it, else in words.
func (f *flags) tell(c *cobra.Command, q *request, v any, words func() string) error {
	if err := f.check(c); err != nil {
		return err
	}
	text, _, err := ask(c.Context(), f.name, q, v)
	if err != nil {
		return err
	}
	if f.output == "json" {
		_, err = c.OutOrStdout().Write(text)
		return err
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), strings.TrimSpace(words()))
	return err
}
