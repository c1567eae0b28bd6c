// Package rows makes finished results out of partials: one JSON object a line.
//
// A [Former] turns one partial into one row; a [Sorter] puts the rows of a replay
// into the order that a file of them promises. Both are plain functions of their
// input: no goroutine, no clock, no file.
//
// rows does not know how an aggregate is computed ([Values] does), where rows go
// (package export), or that there are several workers, except that a sorter waits
// for all of them.
package rows
