// Demo is `make run`: it shows headrace at work on this machine and leaves nothing
// behind.
//
// As root it makes two network namespaces joined by a veth pair, sends a generated
// feed (or a capture) from one and runs `headrace run` in the other; main.go says
// which way is taken, live.go is that one. Without root the same stream goes into a
// file and `headrace replay` makes the same rows of it: replayed.go. screen.go and
// view.go are what is seen meanwhile, ending.go what is printed at the end.
//
// It knows the binary's command lines, its status socket and its rows, and nothing
// of how they come about.
package main
