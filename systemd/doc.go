// Package systemd holds the units and their tests: what they may do, that they do it, and
// that nothing is lost when one of them is started again.
//
//	system/      the units; each says why an option is off
//	sysusers.d/, tmpfiles.d/, network/, tuned/  users, directories, a card, a host profile
//	isolate      the partition of the workers' processors, for headrace-isolate.service
//	notify/      the protocols, for both processes
//
// docs/OPERATIONS.md has how to use them. There is no code here.
package systemd
