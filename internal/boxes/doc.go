// Package boxes is a group of headrace boxes on one machine: each in a network
// namespace of its own, with a cable for packets from a sender and a plug in a switch
// that joins the boxes. Cables can be pulled, packets between boxes dropped in one
// direction, processes stopped and killed.
//
// The tests of this package are those of the group as a whole; the demonstration in
// package internal/peersdemo shows the same lab to people.
package boxes
