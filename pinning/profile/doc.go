// Package profile reads named sets of wishes for a host.
//
// A profile is a file of lines `key: value  # reason`, each with its reason, and of
// lines `include: name`, which put another profile's lines there. Of two lines with one
// key the later wins, so that a profile includes first and then differs. The value keep
// takes an earlier wish back.
//
//	Profile  profile.go   what a profile asks for
//	Load     load.go      files, includes, and what is wrong with them
//	keys     keys.go      every key, what it means and which values it takes
//	profiles/             those that come with the binary
//
// How a wish is fulfilled is package stage's.
package profile
