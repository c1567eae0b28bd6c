// Package run is the live appliance's control process: it starts a data plane or
// adopts one that runs, brings packets to it and its rows to the sinks, starts it
// again when it dies, and ends both in good order.
//
//	command.go     the command line
//	run.go         the life of a control process; read it first
//	generation.go  one data plane: its process, segment, pump
//	adopt.go       a data plane that another control has left
//	reach.go       a data plane that a service manager starts
//	network.go     sockets' layout, XDP programs, what is handed over of them
//	joins.go       multicast groups
//	folder.go      locks: one control and one data plane under a name
//	peers.go       the group of boxes: connections, transports, global queries
//	figures.go     status, metrics, ledger
//	peerfigures.go those of the group
//
// The data plane itself is package dataplane/proc; [DataCommand] is its entry.
//
// run reads no frame and makes no row.
package run
