// Package tune is `headrace tune`: what a host should be like for the workers of a config
// is checked, printed, applied, verified and taken back.
//
//	Command                command.go   flags, and what they say of a host
//	check, plan            look.go      nothing is changed
//	apply, verify, revert  change.go
//	report                 report.go    what is printed
//
// What is done is package pinning/stage's, why is pinning/profile's, and where workers
// belong is pinning's.
package tune
