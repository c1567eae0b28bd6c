package cluster

import (
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// A timekeeper judges by the clock: which windows have waited long enough for a peer,
// which can be corrected no more, and whose silence holds nobody. All members keep
// time; the lowest one's rulings count, once they stand in a committed round.
type timekeeper struct {
	s                   *shape
	maxWait, correctFor time.Duration
	began               time.Duration   // of the present source
	moved               []time.Duration // [query] when the watermark moved last
}

func newTimekeeper(s *shape, maxWait, correctFor time.Duration) *timekeeper {
	return &timekeeper{s: s, maxWait: maxWait, correctFor: correctFor, moved: make([]time.Duration, len(s.queries))}
}

// look notes what a round has brought about.
func (t *timekeeper) look(r *registry, now time.Duration) {
	now = max(now, 1) // 0 is never
	for _, e := range r.open {
		if e.seenAt == 0 {
			e.seenAt = now
		}
	}
	for _, e := range r.fired {
		if e.firedAt == 0 {
			e.firedAt = now
		}
	}
}

// adopt notes what was told: what happened before counts as happening now.
func (t *timekeeper) adopt(r *registry, now time.Duration) {
	for _, queue := range r.queues {
		for _, e := range queue {
			if e.firings > 0 && e.firedAt == 0 {
				e.firedAt = max(now, 1)
			}
		}
	}
	t.look(r, now)
}

// rule adds to s what the clock says.
func (t *timekeeper) rule(s *saying, r *registry, now time.Duration) {
	for _, e := range r.open {
		if e.seenAt != 0 && now-e.seenAt >= t.maxWait {
			s.forced = append(s.forced, e.id)
		}
	}
	for q, queue := range r.queues {
		floor := r.floors[q]
		for _, e := range queue {
			if e.firings == 0 || e.firedAt == 0 || now-e.firedAt < t.correctFor {
				break
			}
			floor = max(floor, e.id.end)
		}
		s.marks[q].floor = floor
	}
}

// due returns when the next window has waited long enough.
func (t *timekeeper) due(r *registry) time.Duration {
	next := time.Duration(event.MaxNanos)
	for _, e := range r.open {
		if e.seenAt != 0 {
			next = min(next, e.seenAt+t.maxWait)
		}
	}
	return next
}

// judge says whether a peer that has the given history of q is idle.
func (t *timekeeper) judge(q int, seen, waiting bool, now time.Duration) idle {
	switch limit := t.s.queries[q].Idle; {
	case waiting:
		return waited
	case !seen && now-t.began >= t.maxWait:
		return without
	case seen && limit > 0 && now-t.moved[q] >= limit:
		return silent
	}
	return waited
}
