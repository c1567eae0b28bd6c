// Package fault marks the places where a test may end the process. In a binary built
// with the tag faults every [Point] that is passed counts; elsewhere a Point is nothing.
//
// A point stands between two statements after which memory would differ: a start that
// finds the memory of a process that ended there must make of it what that process
// would have made.
package fault
