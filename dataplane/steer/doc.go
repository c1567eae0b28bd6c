// Package steer is the Go twin of bpf/steer.bpf.c: it parses a frame, finds the
// feed whose rule matches best, takes the placement bytes, hashes them and writes
// the same metadata that XDP writes before a frame. Replay uses it where there
// is no XDP; bpf's tests hold the two against each other on random frames.
//
// It keeps no state but the rules and is safe for concurrent use.
package steer
