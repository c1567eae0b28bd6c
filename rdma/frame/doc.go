// Package frame is the unit that peers exchange on every transport: a 64-byte header
// and a payload, checked before anything in it is believed, and optionally sealed.
//
// frame knows bytes only: not who sent them over what, nor what a round is.
package frame
