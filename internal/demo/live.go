package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/generate"
	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/internal/show"
)

const (
	startMost = 20 * time.Second        // until `headrace run` receives
	askEvery  = 20 * time.Millisecond   // until then
	settle    = 300 * time.Millisecond  // from the last frame to the stop: holds and windows end
	reserve   = 1500 * time.Millisecond // of the duration, to stop everything in good order
	patience  = 10 * time.Second        // with a child that was told to stop
)

// live sends a stream through n and shows what headrace makes of it.
func (st *stage) live(n *network) (err error) {
	if err := st.announce(n); err != nil {
		return err
	}
	receiver, err := st.begun(n.to, "run", "-c", st.config, "--interface", n.pair.B.Interface, "--out", st.rows, "--name", st.name)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, receiver.stop(st.hurry.Done()), n.clear(st.binary), st.forget())
	}()
	if err := st.ready(receiver); err != nil || st.stop.Err() != nil {
		return err
	}
	sender, err := st.sender(n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sender.stop(st.hurry.Done())) }()
	if err := st.watch(receiver, sender); err != nil {
		return err
	}
	st.view.phase = "stopping"
	if err := sender.stop(st.hurry.Done()); err != nil {
		return err
	}
	if err := sender.failure(); err != nil {
		return err
	}
	show.Pause(st.hurry, settle)
	last := st.sample()
	if err := receiver.stop(st.hurry.Done()); err != nil {
		return err
	}
	if err := receiver.failure(); err != nil {
		return err
	}
	return st.end(receiver, sender, last)
}

// announce says what will be seen.
func (st *stage) announce(n *network) error {
	from := fmt.Sprintf("itch: %d symbols, %s messages/s, lines A and B, %g %% of each lost", keys, show.Thousands(uint64(st.rate)), loss*100)
	if st.capture != "" {
		from = fmt.Sprintf("%s: once, %s packets/s", st.short(st.capture), show.Thousands(uint64(st.pps)))
	}
	st.view.about = []string{
		from,
		fmt.Sprintf("%s in %s -> %s in %s, %s", n.pair.A.Interface, n.from.Name, n.pair.B.Interface, n.to.Name, st.short(st.config)),
	}
	st.view.name, st.view.phase = "headrace run --name "+st.name, "starting"
	return st.screen.First(st.view)
}

// forget removes what a run leaves under its name for a start after a crash: the name
// is used only once.
func (st *stage) forget() error {
	dir, err := status.Dir(st.name)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(filepath.Join(dir, st.name+".run")), os.RemoveAll(filepath.Join(dir, st.name+".sock")))
}

// ready waits until every worker receives.
func (st *stage) ready(receiver *child) error {
	for begin := time.Now(); ; show.Pause(st.stop, askEvery) {
		if receiver.over() {
			if err := receiver.failure(); err != nil {
				return err
			}
			return errors.New("headrace run ended before it received anything")
		}
		r, err := st.fetch()
		running := err == nil && len(r.Snapshot.Workers) > 0
		for i := 0; running && i < len(r.Snapshot.Workers); i++ {
			running = r.Snapshot.Workers[i].State == segment.Running.String()
		}
		switch {
		case running, st.stop.Err() != nil:
			return nil //nolint:nilerr // a stop is no failure
		case time.Since(begin) > startMost:
			return fmt.Errorf("headrace run does not receive after %s: %w", startMost, err)
		}
	}
}

// sender starts what sends.
func (st *stage) sender(n *network) (*child, error) {
	to := []string{"--interface", n.pair.A.Interface, "--json", "--quiet"}
	if st.capture != "" {
		return st.begun(n.from, append(append([]string{"send"}, to...), "--pps", strconv.Itoa(st.pps), st.capture)...)
	}
	return st.begun(n.from, append(append([]string{"generate", "itch"}, to...), st.stream()...)...)
}

// stream is the flags that say which stream is generated.
func (st *stage) stream() []string {
	return []string{
		"--keys", strconv.Itoa(keys), "--lines", "2", "--loss", strconv.FormatFloat(loss, 'g', -1, 64), "--rate", strconv.Itoa(st.rate),
	}
}

// watch shows what goes on until the sender is through, time is up or a signal comes.
func (st *stage) watch(receiver, sender *child) error {
	st.view.phase = "sending"
	tick := time.NewTicker(st.screen.Every)
	defer tick.Stop()
	most := max(st.left()-min(reserve, st.duration/2), time.Second)
	up := time.NewTimer(most)
	defer up.Stop()
	for {
		select {
		case <-st.stop.Done():
			return nil
		case <-up.C:
			return nil
		case <-sender.done:
			return sender.failure()
		case <-receiver.done:
			return errors.Join(errors.New("headrace run ended early"), receiver.failure())
		case <-tick.C:
			st.sample()
			if err := st.screen.Draw(st.view); err != nil {
				return err
			}
		}
	}
}

// fetch asks the run for its figures.
func (st *stage) fetch() (*status.Report, error) {
	body, err := status.Fetch(context.Background(), st.name)
	if err != nil {
		return nil, err
	}
	var r status.Report
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("the status of %s: %w", st.name, err)
	}
	return &r, nil
}

// sample takes the figures of now into the view. Now and then none come: then the
// last ones stay.
func (st *stage) sample() *status.Report {
	st.view.elapsed = time.Since(st.begin)
	r, err := st.fetch()
	if err != nil {
		return nil
	}
	st.view.take(r.Snapshot)
	return r
}

// end shows the last picture and prints the account.
func (st *stage) end(receiver, sender *child, last *status.Report) error {
	st.view.elapsed, st.view.phase = time.Since(st.begin), "done"
	if err := st.view.countRows(); err != nil {
		return err
	}
	if err := st.screen.Last(st.view); err != nil {
		return err
	}
	if err := st.lastRows(); err != nil {
		return err
	}
	table, differences, err := ledgerOf(receiver.said.bytes())
	if err != nil {
		return err
	}
	st.ledger(table)
	if st.capture != "" {
		var sum send.Summary
		if json.Unmarshal(sender.lastLine(), &sum) == nil {
			st.screen.Printf("%s frames were sent, %s refused by the interface; it took %.1f s.\n", show.Thousands(sum.Sent), show.Thousands(sum.Refused), sum.Seconds)
		}
	} else {
		var sum generate.Report
		if json.Unmarshal(sender.lastLine(), &sum) == nil {
			st.compare(sum.Messages, sum.LostMessages, last)
		}
	}
	return st.balanced(differences)
}

// compare sets what is known to be lost on both lines beside what is missing.
func (st *stage) compare(sent, lost uint64, last *status.Report) {
	if last == nil {
		return
	}
	missing, kernel := uint64(0), uint64(0)
	for i := range last.Snapshot.Feeds {
		missing += last.Snapshot.Feeds[i].Missing
	}
	if x := last.Snapshot.XDP; x != nil {
		for i := range x.Interfaces {
			kernel += x.Interfaces[i].RxDropped + x.Interfaces[i].RxRingFull
		}
	}
	st.screen.Printf("%s messages sent, %s on neither line; headrace counts %s as missing.\n", show.Thousands(sent), show.Thousands(lost), show.Thousands(missing))
	if kernel > 0 {
		st.screen.Printf("%s frames were lost before a worker took them: this machine is too slow for RATE=%d.\n", show.Thousands(kernel), st.rate)
	}
}

// balanced says whether the ledger does.
func (st *stage) balanced(differences []string) error {
	if len(differences) > 0 {
		return fmt.Errorf("the ledger does not balance: %s", strings.Join(differences, "; "))
	}
	st.screen.Printf("The ledger balances: everything received is accounted for.\n")
	return nil
}
