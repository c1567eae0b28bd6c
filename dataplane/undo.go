package dataplane

import (
	"errors"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// A batch ends when the undo log has no room for one more step: so a step's greatest
// need decides how much the log must hold, and what is beyond that decides how much is
// done in a batch.
func logWords(step int) int { return 2*step + 1<<16 }

// probeBytes is the address space for building what is only asked how much it needs.
const probeBytes = 1 << 40

// stepWords returns how many words of the undo log one step may need: folding twice what
// batches hold, and one frame's way through sequence and decode, with what it lets
// through up to the next look at the log.
func stepWords(p *plan.Plan) (words int, err error) {
	r, err := arena.New("headrace probe", probeBytes)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	widest := 0
	for i := range p.Feeds {
		n, err := feedWords(&p.Feeds[i], r)
		if err != nil {
			return 0, err
		}
		widest = max(widest, n)
	}
	return 2*window.SaveMax(p) + 2*segment.CounterWords(p) + widest, nil
}

func feedWords(f *plan.Feed, r *arena.Region) (int, error) {
	const channels = 16 // of their states, with their records: those of one release
	words := channels * 8
	format, ok := formats.Lookup(f.Format)
	if !ok {
		return words, nil // who builds the feed says so
	}
	d, err := format.New(f, r, nil)
	if err != nil {
		return 0, err
	}
	if s, ok := d.(wire.Saver); ok {
		words += s.SaveMax(frameBytes) + s.ForgetMax()
	}
	if f.Sequence != plan.Unsequenced {
		s, err := sequence.New(f, r, nil)
		if err != nil {
			return 0, err
		}
		words += 3 * s.SaveMax() // the packet, its second part, and carrying it
	}
	return words, nil
}
