// Package decode measures the decoders of all formats: nanoseconds for each message
// of a packet, appended to a batch or, where no query wants its kind, only counted.
//
// The packets are real where there is a capture (IEX) and generated elsewhere. Each
// format gets the columns of a plausible query; a batch that is full is emptied. What
// is timed is Decode alone: steering and sequence come before it and keys after it.
// For a sequenced format a packet's message blocks are decoded, for flow its headers.
//
// Times are processor time of the thread; formats take turns.
package decode
