package fold

import (
	"errors"
	"fmt"
	"runtime"
)

// Names are the sides in the order of a result.
var Names = [3]string{"headrace", "map", "flat"}

// windowLeast is the number of events of a window where few keys would need fewer.
const windowLeast = 1 << 18

// A Result is what was measured with one number of keys.
type Result struct {
	Keys uint64
	// Fold and Close have the rounds of each side: nanoseconds an event, and
	// nanoseconds a row.
	Fold, Close [3][]float64
	BytesPerKey float64 // headrace's table
}

// Measure folds the given number of rounds on each side, in turns, after two rounds
// of warming up. binary is what [Build] made. It returns an error if the sides' rows
// are not equal.
func Measure(binary string, keys uint64, rounds int) (r Result, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	perWindow := max(4*keys, windowLeast) / chunk * chunk
	makers := [3]func() (side, error){
		func() (side, error) { return newHeadrace(keys, perWindow) },
		func() (side, error) { return newMap(keys, perWindow) },
		func() (side, error) { return newFlat(binary, keys, perWindow) },
	}
	r.Keys = keys
	var sides [3]side
	for i, open := range makers {
		s, err := open()
		if err != nil {
			return r, fmt.Errorf("fold: %s: %w", Names[i], err)
		}
		defer func() { err = errors.Join(err, s.close()) }()
		sides[i] = s
	}
	r.BytesPerKey = sides[0].bytesPerKey()
	// Each window is as long as a round. The first two have tables whose memory is new.
	var before [3]Round
	for round := range rounds + 2 {
		for k := range sides {
			i := (round + k) % len(sides) // who is first takes turns
			did, err := sides[i].run(perWindow)
			if err != nil {
				return r, fmt.Errorf("fold: %s: %w", Names[i], err)
			}
			if round >= 2 {
				r.Fold[i] = append(r.Fold[i], float64(did.Fold)/float64(perWindow))
				r.Close[i] = append(r.Close[i], float64(did.Close)/float64(did.Rows-before[i].Rows))
			}
			before[i] = did
		}
		for i := range sides {
			if before[i].Rows != before[0].Rows || before[i].Checksum != before[0].Checksum {
				return r, fmt.Errorf("fold: after round %d %s has %d rows with checksum %x, %s has %d with %x: the sides differ", round+1,
					Names[0], before[0].Rows, before[0].Checksum, Names[i], before[i].Rows, before[i].Checksum)
			}
		}
	}
	return r, nil
}
