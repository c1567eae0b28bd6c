// Package stage changes a host so that workers are left alone, and changes it back.
//
// Whatever is changed is a [Setting]: it has a name, can be read, and can be written
// back as it was read. A [Stage] is one part of the host: it says, without privilege
// and without changing anything, which settings should have which values and why. The
// rest is the same for all and is done once, by the [Tuner]:
//
//	Check    what is not as the profile wants it
//	Plan     every step, as the shell line that does the same
//	Apply    record the old value, write the new one, read it back
//	Verify   read again all that was applied
//	Revert   write the recorded values back, the last first
//
// Records are in a file, on the disk before a setting is touched, so that a tuner that
// is killed at any moment can be reverted by the next one. A record's old value is that
// of before the first apply, however often is applied after it.
//
//	Stages           stages.go    all stages, in the order in which they are applied
//	Host             host.go      what they look at: a root, a placement, cards, a profile
//	Setting, medium  setting.go   files, cgroups, cards; how each is read and written
//	record           record.go    the file of records
//	Tuner            tuner.go     the five verbs
//	Hold             hold.go      what is in force only while a process holds it
//
// The root is a directory; in tests it is one shaped as a host, and the cards are made up.
package stage
