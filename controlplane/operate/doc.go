// Package operate is the commands that ask a running headrace to do something: apply,
// drain, pause, resume, log-level, upgrade, detach, rebalance, workers and capture.
//
//	client.go    HTTP over the run's unix socket; problems become errors
//	apply.go     `headrace apply`: first what would change, then the change
//	capture.go   `headrace capture`: a stream into a file
//	commands.go  the rest, one request each
//
// operate knows only the API: whatever it does, curl can do too.
package operate
