package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/generate"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/internal/show"
)

// replayed shows the same rows without a network: the stream goes into a file, and
// `headrace replay` reads it.
func (st *stage) replayed(why string) error {
	st.screen.Printf("No network is made, since %s.\nThe same rows come out of the same stream by `headrace replay`:\n\n", why)
	path := st.capture
	var made generate.Report
	if path == "" {
		var err error
		if path, err = st.write(&made); err != nil || st.stop.Err() != nil {
			return err
		}
	} else {
		st.view.about = []string{st.short(path), "headrace replay -c " + st.short(st.config)}
		if err := st.screen.First(st.view); err != nil {
			return err
		}
	}
	st.view.phase = "replaying"
	reader, err := st.begun(nil, "replay", "-c", st.config, "--json", "--out", st.rows, path)
	if err != nil {
		return err
	}
	if err := st.attend(reader); err != nil || st.stop.Err() != nil {
		return err
	}
	var sum replay.Summary
	if err := json.Unmarshal(reader.lastLine(), &sum); err != nil {
		return fmt.Errorf("the summary of headrace replay: %w", err)
	}
	st.view.takeSummary(&sum)
	st.view.elapsed, st.view.phase = time.Since(st.begin), "done"
	if err := st.screen.Last(st.view); err != nil {
		return err
	}
	if err := st.lastRows(); err != nil {
		return err
	}
	var table strings.Builder
	if err := sum.Ledger.Write(&table); err != nil {
		return err
	}
	st.ledger(table.String())
	var differences []string
	for _, l := range sum.Ledger {
		if l.Difference != 0 {
			differences = append(differences, fmt.Sprintf("%s of %s by %d", l.Layer, l.Of, l.Difference))
		}
	}
	if st.capture == "" {
		st.screen.Printf("%s messages generated, %s on neither line; headrace counts %s as missing.\n",
			show.Thousands(made.Messages), show.Thousands(made.LostMessages), show.Thousands(sum.Missing))
	}
	return st.balanced(differences)
}

// write makes the stream's file.
func (st *stage) write(made *generate.Report) (string, error) {
	seconds := replaySeconds
	if st.duration > 0 {
		seconds = max(1, int(st.duration/time.Second))
	}
	st.view.about = []string{
		fmt.Sprintf("itch: %d symbols, %s messages/s, lines A and B, %g %% of each lost", keys, show.Thousands(uint64(st.rate)), loss*100),
		fmt.Sprintf("%d s of it into a file -> headrace replay -c %s", seconds, st.short(st.config)),
	}
	st.view.phase = "generating"
	if err := st.screen.First(st.view); err != nil {
		return "", err
	}
	path := filepath.Join(st.dir, "stream.pcap")
	writer, err := st.begun(nil, append([]string{
		"generate", "itch", "--json", "--out", path, "--count", strconv.Itoa(seconds * st.rate),
	}, st.stream()...)...)
	if err != nil {
		return "", err
	}
	if err := st.attend(writer); err != nil || st.stop.Err() != nil {
		return "", err
	}
	if err := json.Unmarshal(writer.lastLine(), made); err != nil {
		return "", fmt.Errorf("the summary of headrace generate: %w", err)
	}
	return path, nil
}

// attend shows what there is to see until c has ended, or a signal or the end of the
// time ends it.
func (st *stage) attend(c *child) error {
	tick := time.NewTicker(st.screen.Every)
	defer tick.Stop()
	up := time.NewTimer(max(st.left(), time.Second))
	defer up.Stop()
	for {
		select {
		case <-st.stop.Done():
			return c.stop(st.hurry.Done())
		case <-up.C:
			return errors.Join(c.stop(st.hurry.Done()), fmt.Errorf("headrace %s was not through after %s: give a longer DURATION or a smaller RATE", c.what, st.duration))
		case <-c.done:
			return c.failure()
		case <-tick.C:
			st.view.elapsed = time.Since(st.begin)
			if err := st.screen.Draw(st.view); err != nil {
				return errors.Join(err, c.stop(st.hurry.Done()))
			}
		}
	}
}
