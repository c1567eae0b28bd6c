// Package sinks opens the sinks that a config names: the one place that knows every
// kind of them. What a sink does is in package export.
package sinks

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/group"
	"github.com/headrace/headrace/dataplane/segment"
)

// Config says what to open.
type Config struct {
	// Config is the configuration. Required.
	Config *config.Config
	// Wanted reports the sinks that some query uses, by name. Required.
	Wanted func(name string) bool
	// Out, if not empty, is a path: the one JSON Lines sink OutName takes the place of
	// all others.
	Out, OutName string
	// Truncate begins files anew.
	Truncate bool
	// FilesOnly leaves out sinks that are no files.
	FilesOnly bool
	// Workers is the number of outboxes. Required.
	Workers int
	// Commits returns where a sink's commits go. Nil: nowhere.
	Commits func(name string) *segment.Commits
	// Log is told of trouble. Nil: nobody is.
	Log *slog.Logger
}

// Open opens the sinks, sorted by name. On an error none is open.
func Open(c Config) ([]export.Sink, error) {
	kinds := map[string]*config.Sink{}
	if c.Out != "" {
		kinds[c.OutName] = &config.Sink{Name: c.OutName, JSONL: &config.JSONL{Path: c.Out}}
	} else {
		for i := range c.Config.Sinks {
			if s := &c.Config.Sinks[i]; c.Wanted(s.Name) && (s.JSONL != nil || !c.FilesOnly) {
				kinds[s.Name] = s
			}
		}
	}
	var all []export.Sink
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		s, err := c.open(kinds[name])
		if err != nil {
			for _, s := range all {
				_ = s.Close()
			}
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (c *Config) open(s *config.Sink) (export.Sink, error) {
	var commits *segment.Commits
	if c.Commits != nil {
		commits = c.Commits(s.Name)
	}
	switch {
	case s.JSONL != nil:
		return export.OpenJSONL(export.JSONLConfig{
			Name: s.Name, Path: s.JSONL.Path, Truncate: c.Truncate, Workers: c.Workers, Commits: commits, Log: c.Log,
		})
	case s.RDMAWrite != nil:
		return c.openRDMAWrite(s, commits)
	}
	return nil, fmt.Errorf("sink %s says not what it is", s.Name)
}

func (c *Config) openRDMAWrite(s *config.Sink, commits *segment.Commits) (export.Sink, error) {
	w := s.RDMAWrite
	dir := w.Dir
	if g := c.Config.Group; dir == "" && g != nil {
		dir = g.Dir
	}
	keys, err := group.Open(cmp.Or(dir, group.DirDefault))
	if err != nil {
		return nil, fmt.Errorf("sink %s: the key of this box: %w", s.Name, err)
	}
	return export.OpenDeliver(export.DeliverConfig{
		Name: s.Name, Address: w.Address, Pins: w.Pin, Transport: w.Transport, Device: w.Device, Seal: w.Seal,
		Certificate: keys.Certificate, Workers: c.Workers, Commits: commits, Log: c.Log,
	})
}
