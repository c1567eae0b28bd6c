package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/show"
)

// A sight is what is seen of the boxes at one moment.
type sight struct {
	now   time.Duration // since the program began
	boxes []boxSight
	rows  tally
}

// A boxSight is what one box says of itself.
type boxSight struct {
	id       string
	killed   bool
	running  bool
	receives bool
	epoch    uint64 // 0: none
	members  []string
	heard    []string
	rows     uint64 // in its file
	fixed    uint64 // of those, corrections
}

// A scene is something that is done to the boxes, and what must come of it, in this
// order.
type scene struct {
	// at is when, in tenths of the time from the end of the first scene to [story.until]; never before the last scene is over.
	at    int
	tell  string // "": the beats say enough
	do    func() error
	beats []beat
}

// A beat is one thing that must come of a scene.
type beat struct {
	name string // for the account
	is   func(before, now *sight) bool
	say  func(now *sight) string
	// Once it has come:
	took  time.Duration // since the scene began
	epoch uint64
}

// A story tells scenes one after the other. It has no clock and does nothing but what
// the scenes do.
type story struct {
	scenes []scene
	until  time.Duration // when the last scene is due, the others in between
	tell   func(when, what string)

	scene, beat int
	playing     bool
	zero        time.Duration // when the first scene was over
	before      *sight        // when the present scene began
}

// look takes a sight. It does what is due and reports whether everything has been told.
func (s *story) look(now *sight) (over bool, err error) {
	for s.scene < len(s.scenes) {
		c := &s.scenes[s.scene]
		if !s.playing {
			if s.scene > 0 && now.now < s.zero+(s.until-s.zero)*time.Duration(c.at)/tenths {
				return false, nil
			}
			s.playing, s.before, s.beat = true, now, 0
			if c.tell != "" {
				s.tell(s.clock(now.now), c.tell)
			}
			// What comes of it is in the next sight.
			return len(c.beats) == 0 && s.scene == len(s.scenes)-1, c.do()
		}
		for ; s.beat < len(c.beats); s.beat++ {
			b := &c.beats[s.beat]
			if !b.is(s.before, now) {
				return false, nil
			}
			b.took, b.epoch = now.now-s.before.now, now.epoch()
			if s.scene == 0 {
				s.zero = now.now
				s.tell(s.clock(now.now), "three boxes, "+b.say(now))
				continue
			}
			s.tell("+"+show.Span(b.took), b.say(now))
		}
		s.playing = false
		s.scene++
	}
	return true, nil
}

// tenths are what scenes are set by.
const tenths = 10

func (s *story) clock(now time.Duration) string {
	return fmt.Sprintf("%.1f s", max(now-s.zero, 0).Seconds())
}

// waits says what has not come about, "" if nothing is waited for.
func (s *story) waits() string {
	if !s.playing || s.scene >= len(s.scenes) || s.beat >= len(s.scenes[s.scene].beats) {
		return ""
	}
	return s.scenes[s.scene].beats[s.beat].name
}

// told returns how far the story has come, for the account.
func (s *story) told() (lines [][2]string) {
	for i := range s.scenes {
		c := &s.scenes[i]
		if i == 0 || c.tell == "" {
			continue
		}
		for k := range c.beats {
			if i < s.scene || i == s.scene && s.playing && k < s.beat {
				b := &c.beats[k]
				lines = append(lines, [2]string{c.tell, b.name + " after " + show.Span(b.took)})
			}
		}
	}
	return lines
}

// Who is in the story.
var (
	everybody = []string{"a", "b", "c"}
	others    = []string{"a", "b"}
)

// epochOf is the beat that every one of some boxes is in an epoch of members.
func epochOf(some, members []string) beat {
	return beat{
		name: "epoch of " + list(members),
		is: func(_, now *sight) bool {
			for i := range now.boxes {
				b := &now.boxes[i]
				if slices.Contains(some, b.id) && (!b.running || !b.receives || b.epoch == 0 || !slices.Equal(b.members, members)) {
					return false
				}
			}
			return true
		},
		say: func(now *sight) string { return fmt.Sprintf("epoch %d of %s", now.epoch(), list(members)) },
	}
}

// epoch is the highest that a box is in.
func (s *sight) epoch() (highest uint64) {
	for i := range s.boxes {
		highest = max(highest, s.boxes[i].epoch)
	}
	return highest
}

// alone is the beat that a box knows that it makes no global rows.
func alone(id string) beat {
	return beat{
		name: "no epoch at " + id,
		is: func(_, now *sight) bool {
			return slices.ContainsFunc(now.boxes, func(b boxSight) bool { return b.id == id && b.receives && b.epoch == 0 })
		},
		say: func(*sight) string { return id + " is alone and makes no global rows" },
	}
}

// rowsSay is the beat that a row of the present epoch names these peers as merged.
func rowsSay(merged []string) beat {
	what := fmt.Sprintf("merged %s of %s", peersOf(merged), peersOf(everybody))
	return beat{
		name: "a row: " + what,
		is: func(before, now *sight) bool {
			key := peersOf(merged)
			return now.rows.by[key].rows > before.rows.by[key].rows && now.rows.by[key].epoch >= now.epoch()
		},
		say: func(*sight) string { return "rows say: " + what },
	}
}

// corrected is the beat that rows have been corrected.
func corrected() beat {
	return beat{
		name: "a corrected row",
		is:   func(before, now *sight) bool { return now.rows.corrected > before.rows.corrected },
		say: func(now *sight) string {
			return "rows are corrected with what c saw meanwhile: " + show.Thousands(now.rows.corrected) + " so far"
		},
	}
}

func list(ids []string) string { return strings.Join(ids, ", ") }

// deeds are what the story does to the boxes.
type deeds struct{ start, send, kill, restart, cut, mend, end func() error }

// Where in the story c is cut off, and where it is back.
const (
	cutScene  = 4
	mendScene = 5
)

// apart returns the epochs in which c was cut off: from first to before end.
func (s *story) apart() (first, end uint64) {
	return s.scenes[cutScene].beats[0].epoch, s.scenes[mendScene].beats[0].epoch
}

// scenes is the whole story.
func scenes(d *deeds) []scene {
	three, two := epochOf(everybody, everybody), epochOf(others, others)
	return []scene{
		{do: d.start, beats: []beat{three}},
		{tell: "a feed to each box", do: d.send, beats: []beat{rowsSay(everybody)}},
		{at: 2, tell: "box c is killed (kill -9)", do: d.kill, beats: []beat{two, rowsSay(others)}},
		{at: 4, tell: "box c is started again", do: d.restart, beats: []beat{three, rowsSay(everybody)}},
		{at: 6, tell: "box c is cut off from a and b; its feed goes on", do: d.cut, beats: []beat{two, alone("c"), rowsSay(others)}},
		{at: 8, tell: "the cable of c is back", do: d.mend, beats: []beat{three, corrected(), rowsSay(everybody)}},
		{at: tenths, tell: "the feeds end, the boxes are stopped", do: d.end},
	}
}
