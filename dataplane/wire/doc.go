// Package wire turns payloads into events. Each format is a folder below this
// one; a format is added by its folder and one line in package formats.
//
// A decoder is a pure function of bytes and of its channels' state in an arena.
// It reads no clock, keeps no Go pointer to its input, allocates nothing and
// bounds everything.
//
// A decoder whose channels have state saves it in the undo log that New was given,
// before it changes, says how much that is ([Saver]), and lets it move to another
// decoder ([Mover]). Between two batches of one packet nothing but that state and the
// packet's [Progress] is kept.
package wire
