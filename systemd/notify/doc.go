// Package notify speaks with a service manager that follows systemd's protocols: what
// state the service is in, that it lives, and descriptors that the manager keeps for
// the next process of the unit.
//
//	Open, Socket  socket.go    states, watchdog, descriptors to the manager
//	Inherited     inherited.go descriptors from the manager: kept ones and sockets
//	Pulse         pulse.go     the watchdog, tied to the progress of many
//
// The protocols are sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3). Where no
// manager listens, [Open] returns nil, and everything that a nil [Socket] is told is
// dropped: a program says the same everywhere.
package notify
