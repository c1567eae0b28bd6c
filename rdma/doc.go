// Package rdma makes several boxes one system: a [Group] runs numbered rounds of
// collective exchange among the members of an epoch, over RDMA verbs or TCP, with no
// coordinator on the path, and says exactly whose data is in each result.
//
//	Group        epochs, rounds, AllReduce and Exchange        group.go
//	Transport    makes a Mesh for an epoch                      transport.go
//	Mesh         frames to and from the members of one epoch
//	Control      what peers agree on beside the data: package boot
//
//	collective/  the agreement, as a pure state machine; read its doc first
//	frame/       header, checks, seal
//	tcp/ verbs/ loop/    transports
//	boot/        TLS 1.3 connections with pinned keys among the configured peers
//	meshtest/    what every transport must do, as tests
//
// rdma moves bytes. It does not know events, windows, rows or who drives it.
package rdma
