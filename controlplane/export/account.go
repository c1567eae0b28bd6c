package export

import (
	"log/slog"
	"sync"
	"time"

	"github.com/headrace/headrace/dataplane/segment"
)

// An account is what every sink keeps of its rows: the last commit, and what there is
// to tell. A sink has it embedded, and alone touches the commit.
type account struct {
	log     *slog.Logger
	commits *segment.Commits // nil: nowhere
	commit  segment.Commit
	resume  []uint64

	mu     sync.Mutex
	stats  Stats
	logged time.Time // when trouble was logged last
	muted  int       // errors since then
}

// begin goes on with the last commit of workers outboxes and reports whether there is
// one.
func (a *account) begin(workers int) (found bool) {
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.commits != nil && a.commits.Load(&a.commit) {
		a.resume = append([]uint64(nil), a.commit.Positions...)
		a.show()
		return true
	}
	a.commit = segment.Commit{Positions: make([]uint64, workers)}
	return false
}

// add counts what has been written. The caller puts the commit into the segment and
// then shows it.
func (a *account) add(bytes int, n RowCount, positions []uint64) {
	copy(a.commit.Positions, positions)
	a.commit.Rows += uint64(n.Rows)
	a.commit.Global += uint64(n.Global)
	a.commit.Bytes += uint64(bytes)
}

// show makes what is committed what Stats tells.
func (a *account) show() {
	a.count(func(t *Stats) { t.Rows, t.Global, t.Bytes = a.commit.Rows, a.commit.Global, a.commit.Bytes })
}

// Resume returns the positions of the last commit, or nil.
func (a *account) Resume() []uint64 { return a.resume }

// Stats returns what was written. It may be called from any goroutine.
func (a *account) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats
}

func (a *account) count(f func(*Stats)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.stats)
}

// trouble counts an error and logs it, if none was logged for a while. place says what
// the target is. Any goroutine may call it.
func (a *account) trouble(message, place string, err error) {
	a.mu.Lock()
	a.stats.Retries++
	a.stats.LastError = err.Error()
	now, muted := time.Now(), a.muted
	if a.muted++; now.Sub(a.logged) < logEvery {
		a.mu.Unlock()
		return
	}
	a.logged, a.muted = now, 0
	name, target := a.stats.Name, a.stats.Target
	a.mu.Unlock()
	a.log.Warn(message, "sink", name, place, target, "error", err, "suppressed", muted)
}
