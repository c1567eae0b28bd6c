// Package change says what it takes to get a running headrace from one config to
// another, before anything is done: [Between] compares the two and returns every
// difference as an [Item], with what it costs, and the new plan with numbers that fit
// the frames and the state of the old one.
//
// Read rules.go first: the table says for each field of the config how it changes.
// walk.go compares, state.go decides whose state goes on, number.go gives feeds their
// numbers.
//
// change is pure: it reads no file and no clock, and does not know who applies what it
// says.
package change
