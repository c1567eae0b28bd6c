package replay

import (
	"errors"
	"fmt"
	"strings"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// Memory returns what p takes, line by line, by building it: nothing is touched, so
// it costs address space only. Pane tables are counted once for the box, since a key
// group's run is touched only by the worker that owns it; what every worker has is
// counted for each. With `crash: rollback` that is its undo log, too, and what a batch
// leaves to the next process.
func Memory(p *plan.Plan) (lines []arena.Line, err error) {
	seg, err := segment.Create(p)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	defer func() { err = errors.Join(err, seg.Close()) }()
	lines = append(lines, seg.Layout.Lines()...)
	region, err := arena.New("headrace", regionBytes)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	defer func() { err = errors.Join(err, region.Close()) }()
	one := *p
	one.Workers = 1
	var owner [event.GroupCount]uint16
	c := dataplane.Config{Plan: &one, Segment: seg.Worker(0), Region: region, Owner: &owner}
	if c.Rollback = p.Crash == plan.Rollback && !p.Replay; c.Rollback {
		c.Attach = dataplane.Unattached
	}
	if _, err := dataplane.NewWorker(c); err != nil {
		return nil, err
	}
	for _, l := range region.Lines() {
		if !strings.HasPrefix(l.Label, "query ") {
			l.Bytes *= p.Workers
			l.Label = fmt.Sprintf("%d × %s", p.Workers, l.Label)
		}
		lines = add(lines, l)
	}
	common, err := shared(p)
	for _, l := range common {
		lines = add(lines, l)
	}
	return lines, err
}

// shared returns what the workers of p have in common.
func shared(p *plan.Plan) (lines []arena.Line, err error) {
	common, err := arena.New("headrace shared", regionBytes)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	defer func() { err = errors.Join(err, common.Close()) }()
	if _, err := dataplane.NewCommon(p, common); err != nil {
		return nil, err
	}
	return common.Lines(), nil
}

// add adds l to the line of the same label.
func add(lines []arena.Line, l arena.Line) []arena.Line {
	for i := range lines {
		if lines[i].Label == l.Label {
			lines[i].Bytes += l.Bytes
			return lines
		}
	}
	return append(lines, l)
}

// StateBytes returns the bytes of q's aggregate states for one key.
func StateBytes(q *plan.Query, columns []plan.Column) (int, error) {
	set, err := aggregate.NewSet(q, columns)
	if err != nil {
		return 0, err
	}
	return 8 * set.Words(), nil
}
