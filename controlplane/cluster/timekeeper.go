package cluster

import (
	"slices"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// A timekeeper judges by the clock: which windows have waited long enough for a peer,
// which can be corrected no more, and whose silence holds nobody. All members keep
// time; the lowest one's rulings count, once they stand in a committed round.
type timekeeper struct {
	s                   *shape
	maxWait, correctFor time.Duration
	moved               []time.Duration // [query] when the watermark moved last
	progress            []uint64        // [query] as it was then
	early               []*entry        // those that have fired before they were over
	most                []event.Nanos   // [query] what is over, by the last round
}

func newTimekeeper(s *shape, maxWait, correctFor time.Duration) *timekeeper {
	return &timekeeper{s: s, maxWait: maxWait, correctFor: correctFor, moved: make([]time.Duration, len(s.queries)), progress: make([]uint64, len(s.queries)), most: make([]event.Nanos, len(s.queries))}
}

// note notes whether events of q have come since the last time: the watermark has passed
// a window, or has moved within one. A window may be much longer than what makes a
// source idle.
func (t *timekeeper) note(q int, passed bool, progress uint64, now time.Duration) {
	if passed || progress != t.progress[q] {
		t.moved[q], t.progress[q] = now, progress
	}
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
		if e.firedAt == 0 && !e.early {
			e.early = true
			t.early = append(t.early, e)
		}
	}
	if len(t.early) == 0 {
		return
	}
	for q := range t.most {
		t.most[q] = r.most(q)
	}
	t.early = slices.DeleteFunc(t.early, func(e *entry) bool {
		// What a box contributes when it stops, or when its clock is ahead, may have long to
		// go at the others.
		if e.id.end > t.most[e.id.query] {
			return false
		}
		e.firedAt, e.early = now, false
		return true
	})
}

// adopt notes what was told: what happened before counts as happening now.
func (t *timekeeper) adopt(r *registry, now time.Duration) {
	t.early = t.early[:0]
	for _, queue := range r.queues {
		for _, e := range queue {
			if e.early = e.firings > 0 && e.firedAt == 0; e.early {
				t.early = append(t.early, e)
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

// judge says whether this box is idle: whether it has seen an event of q, or has
// lacked one since when, and whether windows of q wait to be contributed.
func (t *timekeeper) judge(q int, seen, waiting bool, now, since time.Duration) idle {
	switch limit := t.s.queries[q].Idle; {
	case waiting:
		return waited
	case !seen && now-since >= t.maxWait:
		return without
	case seen && limit > 0 && now-t.moved[q] >= limit:
		return silent
	}
	return waited
}
