package replay

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Names are the sides in the order of a result.
var Names = [2]string{"headrace", "loop"}

// A Config says what to measure.
type Config struct {
	Config  string        // path of the example config
	Capture string        // path of the capture, a pcap file, compressed with gzip
	Dir     string        // for what is made
	Rounds  int           // readings of each side
	Reading time.Duration // about how long a reading of headrace takes
}

// A Result is what was measured, messages a second of each reading of each side.
type Result struct {
	Messages  uint64 // in the capture
	Rows      int
	Wall, CPU [2][]float64
	Stages    []Stage
}

// Measure replays the capture on both sides, in turns. It returns an error if their
// rows are not equal.
func Measure(c Config) (r Result, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replay: %w", err)
		}
	}()
	plain := filepath.Join(c.Dir, "capture.pcap")
	if err := unpack(c.Capture, plain); err != nil {
		return r, err
	}
	binary, err := Build(c.Dir)
	if err != nil {
		return r, err
	}
	h, err := newHeadrace(c.Config, c.Capture, c.Dir)
	if err != nil {
		return r, err
	}
	p, err := startPeer(binary, plain)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	sides := [2]interface {
		run(int) (reading, error)
		rows() ([]string, error)
	}{h, p}
	first, err := h.run(5)
	if err != nil {
		return r, err
	}
	times := max(1, int(5*c.Reading/max(first.wall, first.cpu)))
	r.Messages = first.messages
	for round := range c.Rounds {
		var rows [2][]string
		for k := range sides {
			i := (round + k) % 2 // who is first takes turns
			did, err := sides[i].run(times)
			if err != nil {
				return r, err
			}
			if did.messages != first.messages || did.epochs != first.epochs || did.missing != first.missing {
				return r, fmt.Errorf("%s has %d messages, %d epochs, %d missing; headrace had %d, %d, %d first", Names[i],
					did.messages, did.epochs, did.missing, first.messages, first.epochs, first.missing)
			}
			messages := float64(did.messages) * float64(times)
			r.Wall[i] = append(r.Wall[i], messages/did.wall.Seconds())
			r.CPU[i] = append(r.CPU[i], messages/did.cpu.Seconds())
			if rows[i], err = sides[i].rows(); err != nil {
				return r, err
			}
		}
		if err := equal(rows); err != nil {
			return r, err
		}
		r.Rows = len(rows[0])
	}
	r.Stages, err = profile(h, times)
	return r, err
}

func equal(rows [2][]string) error {
	if len(rows[0]) != len(rows[1]) || len(rows[0]) == 0 {
		return fmt.Errorf("%s has %d rows, %s has %d", Names[0], len(rows[0]), Names[1], len(rows[1]))
	}
	for i := range rows[0] {
		if !slices.Equal(rows[0][i:i+1], rows[1][i:i+1]) {
			return fmt.Errorf("row %d differs: %s has %q, %s has %q", i+1, Names[0], rows[0][i], Names[1], rows[1][i])
		}
	}
	return nil
}

// unpack writes the decompressed capture, as far as it goes: the end of this one is
// cut off.
func unpack(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err = io.Copy(out, z); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}
