package cluster

import (
	"testing"
	"time"
)

func TestWhoIsWaitedFor(t *testing.T) {
	s := testShape(t, 2)
	s.queries[0].Idle = 100
	k := newTimekeeper(s, 50, 1000)
	k.moved[0] = 1000
	for _, c := range []struct {
		name          string
		query         int
		seen, waiting bool
		now, since    time.Duration
		want          idle
	}{
		{"a box that has just moved", 0, true, false, 1099, 0, waited},
		{"a box that has been silent for as long as the query says", 0, true, false, 1100, 0, silent},
		{"a silent box with a window that waits for a round", 0, true, true, 1100, 0, waited},
		{"a silent box, if the query says nothing of it", 2, true, false, 1100, 0, waited},
		{"a box without an event, since a moment ago", 2, false, false, 1100, 1051, waited},
		{"a box without an event for max_wait", 2, false, false, 1100, 1050, without},
	} {
		if got := k.judge(c.query, c.seen, c.waiting, c.now, c.since); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
