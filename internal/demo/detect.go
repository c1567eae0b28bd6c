package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// examples are the configs that a capture is tried with.
var examples = []string{"iex-bars.yaml", "bars.yaml"}

// triedPackets is how far into a capture the examples are tried.
const triedPackets = 10_000

// fitting returns the example whose feeds take most of the capture's first packets.
func fitting(s *settings) (string, error) {
	best, most := "", uint64(0)
	for _, name := range examples {
		n, err := steered(s.example(name), s.capture)
		if err != nil {
			return "", err
		}
		if n > most {
			best, most = s.example(name), n
		}
	}
	if best == "" {
		return "", fmt.Errorf("CAPTURE=%s: no packet of the first %d is of a feed in examples/iex-bars.yaml or examples/bars.yaml: give CONFIG=FILE, a config whose feeds match it",
			s.capture, triedPackets)
	}
	return best, nil
}

// steered counts the packets at the beginning of a capture that config's feeds match.
func steered(config, path string) (uint64, error) {
	_, p, err := compile.File(config, compile.Options{Formats: formats.Lookup, Replay: true})
	if err != nil {
		return 0, err
	}
	feeds, err := steer.New(p.Feeds)
	if err != nil {
		return 0, err
	}
	records, err := capture.Open([]string{path}, nil)
	if err != nil {
		return 0, err
	}
	defer records.Close() //nolint:errcheck // only read from
	var r capture.Record
	var m steer.Meta
	n := uint64(0)
	for range triedPackets {
		if err := records.Next(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, err
		}
		if feeds.Steer(r.Data, r.WireLength, r.Cut || r.WireLength > len(r.Data), 0, &m) == steer.Steered {
			n++
		}
	}
	return n, nil
}
