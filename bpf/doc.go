// Package bpf owns the XDP program and its maps: what the kernel does with a
// frame before a worker sees it.
//
// The program is steer.bpf.c, read downward with parse.h, key.h, maps.h and abi.h.
// It finds the feed of a frame, hashes the placement bytes, writes [steer.Meta]
// before the frame and redirects it to the socket of its queue and worker. Every
// other frame is passed to the network stack untouched, and every frame is
// counted.
//
// [Load] makes the [Tables] that all interfaces share: rules, owners of key
// groups, counters. [Tables.Program] loads an [Instance] for one interface, with
// socket and queue maps of its own; [Instance.Attach] attaches it. Tables are
// edited while programs run. [Tables.Handover] and [Adopt] carry all of it to
// another process.
//
// A driver that takes VLAN tags out of frames (rx-vlan-offload) hides them from
// XDP: rules with a VLAN need it off.
//
// bpf opens no sockets and reads no frames. It is the only importer of
// github.com/cilium/ebpf; parsing, matching and placement have a twin in
// dataplane/steer, and bpf's tests hold the two against each other.
package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -target bpfel -type hr_meta -type hr_verdict -type hr_place steer steer.bpf.c -- -I/usr/include/x86_64-linux-gnu -O2 -mcpu=v3 -Wall -Werror
