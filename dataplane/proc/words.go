package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/segment"
)

const (
	// wordsFile is where the runtime writes, beside standard error, why it ends the
	// process.
	wordsFile = "crash.txt"
	wordsMax  = 64 << 10 // of it are read
)

// keepLastWords reads what the process before this one said when it died, and has what
// this one will say written to the same place. A worker that is pinned cannot tell of its
// own end: to the runtime a panic there is an error of its own.
func (p *process) keepLastWords() error {
	path := filepath.Join(p.start.Dir, wordsFile)
	if f, err := os.Open(path); err == nil {
		text, _ := io.ReadAll(io.LimitReader(f, wordsMax)) // what is there is there
		p.words = string(text)
		_ = f.Close()
	}
	// A process that is being replaced may still have the old one.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data plane: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	return errors.Join(debug.SetCrashOutput(f, debug.CrashOptions{}), f.Close())
}

// accuse finds out whether a worker brought the process before this one down and could not
// say so, leaves out what it had in hand, and says so for it.
func (p *process) accuse() {
	place, ok := workerDied(p.words)
	if !p.start.Fault || !ok {
		return
	}
	culprit, since := -1, event.MaxNanos
	for w, worker := range p.workers {
		if p.segment.Worker(w).State() == segment.Failed {
			return // it has told itself
		}
		// The others went on while the runtime wrote its last words.
		if m, open := worker.Poison(); open && m.Since < since {
			culprit, since = w, m.Since
		}
	}
	if culprit < 0 {
		return
	}
	worker := p.workers[culprit]
	mark, _ := worker.Poison()
	body := handover.PoisonBody{Worker: culprit, Feed: mark.Feed, Stage: mark.Stage.String(), Failure: place, Left: worker.LeaveOut()}
	p.showFrame(&body, culprit, mark)
	// Control may have died; then this is found out soon.
	_ = p.conn.Send(handover.Poison, &body, nil)
}

// showFrame adds the marked frame, which is still in its ring, to a report.
func (p *process) showFrame(b *handover.PoisonBody, w int, m dataplane.Mark) {
	if !m.Framed {
		return
	}
	if frame, err := p.ports[w].Peek(int(m.Ring), m.Position); err == nil {
		b.Frame, b.Received = frame.Data, event.Nanos(frame.Meta.ReceiveNanos)
	}
}

// workerDied reports whether a process's last words are of an error in a worker, and says
// where that was.
func workerDied(words string) (where string, ok bool) {
	if !strings.HasPrefix(words, "fatal error: ") {
		return "", false // it was asked to say them, or somebody else failed
	}
	what, rest, _ := strings.Cut(words, "\n")
	_, rest, found := strings.Cut(rest, "\ngoroutine ")
	if !found {
		return "", false
	}
	stack, _, _ := strings.Cut(rest, "\n\n")
	if !strings.Contains(stack, "dataplane.(*Worker).") {
		return "", false
	}
	for line := range strings.Lines(stack) {
		name, _, isCall := strings.Cut(strings.TrimSpace(line), "(0x")
		if !isCall {
			name, _, isCall = strings.Cut(strings.TrimSpace(line), "({")
		}
		if isCall && strings.Contains(name, "dataplane") && !strings.HasPrefix(line, "\t") {
			return fmt.Sprintf("%s, in %s; standard error has more", what, name[strings.LastIndexByte(name, '/')+1:]), true
		}
	}
	return what, true
}
