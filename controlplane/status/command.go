package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
)

// answerMax bounds what a client reads.
const answerMax = 64 << 20

// ask gets /status from the run of a name.
func ask(ctx context.Context, name string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://headrace/status", http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := Transport(name).RoundTrip(request)
	if errors.Is(err, ErrNotRunning) || errors.Is(err, ErrBadName) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("status: %s: %w", name, err)
	}
	defer answer.Body.Close() //nolint:errcheck // nothing is lost with it
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status: %s answers %s", name, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, answerMax))
}

// Command returns `headrace status`.
func Command() *cobra.Command {
	var (
		name   string
		asJSON bool
		peers  bool
	)
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the loss ledgers and rates of a run",
		Long: "Show what a run received and what became of it, layer by layer: the sums must match.\n" +
			"Rates are those of the last seconds.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body, err := Fetch(c.Context(), name)
			if err != nil {
				return err
			}
			if asJSON {
				_, err = c.OutOrStdout().Write(body)
				return err
			}
			var r Report
			if err := json.Unmarshal(body, &r); err != nil {
				return fmt.Errorf("status: the answer of %s: %w", name, err)
			}
			if peers {
				return r.Snapshot.Group.WritePeers(c.OutOrStdout())
			}
			return r.Write(c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&name, "name", "headrace", "name of the run")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&peers, "peers", false, "show the group instead: its peers, who is waited for, its global queries")
	return c
}
