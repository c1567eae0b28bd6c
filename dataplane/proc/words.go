package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/segment"
)

const (
	// WordsFile is where the runtime writes, beside standard error, why it ends the
	// process, in the folder of the run. It is empty while the process lives, and after it was
	// killed.
	WordsFile = "crash.txt"
	wordsMax  = 64 << 10 // of it are read
)

// keepLastWords reads what the process before this one said when it died, and has what
// this one will say written to the same place. A worker that is pinned cannot tell of its
// own end: to the runtime a panic there is an error of its own.
func (p *process) keepLastWords() error {
	path := filepath.Join(p.start.Dir, WordsFile)
	if f, err := os.Open(path); err == nil {
		text, _ := io.ReadAll(io.LimitReader(f, wordsMax)) // what is there is there
		p.words = string(text)
		_ = f.Close()
	}
	// A process that is being replaced may still have the old one.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("data plane: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrExist) {
		return nil // as a unit of its own user: its last words are on standard error alone
	}
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	return errors.Join(debug.SetCrashOutput(f, debug.CrashOptions{}), f.Close())
}

// accuse finds out whether a worker brought the process before this one down and could not
// say so, leaves out what it had in hand, and says so for it.
func (p *process) accuse() {
	what, ok := workerDied(p.words)
	if !ok {
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
	body := handover.PoisonBody{Worker: culprit, Feed: mark.Feed, Stage: mark.Stage.String(), Failure: what, Left: worker.LeaveOut()}
	if mark.Framed { // it is still in its ring
		if frame, err := p.ports[culprit].Peek(int(mark.Ring), mark.Position); err == nil {
			p.showFrame(&body, culprit, &frame)
		}
	}
	// Control may have died; then this is found out soon.
	_ = p.conn.Send(handover.Poison, &body, nil)
}

// workerDied reports whether a process's last words are of an error in a worker, and says
// what and where that was.
func workerDied(words string) (what string, ok bool) {
	// The goroutine that failed comes first. One that has only caught a signal, as who
	// asks for the stacks sends it, has not thrown.
	_, rest, found := strings.Cut("\n"+words, "\ngoroutine ")
	stack, _, _ := strings.Cut(rest, "\n\n")
	if !found || !strings.Contains(stack, "\nruntime.throw(") || !strings.Contains(stack, "dataplane.(*Worker).") {
		return "", false
	}
	switch {
	case strings.Contains(stack, "\nruntime.sigpanic("):
		what = "a fault of memory"
	case strings.Contains(stack, "\npanic("):
		what = "a panic"
	default:
		what = "an error of the runtime"
	}
	for line := range strings.Lines(stack) {
		if i := strings.LastIndexByte(line, '('); strings.HasPrefix(line, modulePath) && i > 0 {
			what += " in " + line[strings.LastIndexByte(line[:i], '/')+1:i]
			break
		}
	}
	return what + "; standard error has more", true
}

// modulePath begins the names of our own functions.
const modulePath = "github.com/headrace/headrace/"
