// Peersdemo is `make run-peers`: it shows three boxes that are one system on this
// machine, what happens when one of them dies or is cut off, and leaves nothing behind.
//
// Package boxes makes the three boxes, each in a network namespace of its own. A feed is
// generated to each; one global query makes rows of what all of them see. main.go is
// the beginning and the end, story.go what happens to the boxes and what must come of
// it, book.go reads the rows and holds them against what is promised of them; view.go
// is what is seen meanwhile, account.go what is printed at the end.
//
// It knows the binary's command lines, its status socket and its rows, and nothing of
// how they come about.
package main
