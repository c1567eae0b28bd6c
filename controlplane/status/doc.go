// Package status shows what a run does: the loss ledgers, rates, and the same
// figures as Prometheus metrics.
//
//	Source    reads the segment and the pump into a Snapshot
//	Ledger    the sums that must match, layer by layer, as a table or as JSON
//	Reporter  what the API answers to GET /v1/status: a snapshot, its ledger, rates
//	Listen    the unix socket that has the run's name; Dial finds it
//	Command   `headrace status`
//	Metrics   a Prometheus collector over the same snapshot
//
// A snapshot is exact per worker. Sums over workers, sinks and sockets are read at
// slightly different instants: they are exact once the run has drained, and only
// then is a difference in them an imbalance.
//
// status counts nothing itself, and knows nothing of files and packets.
package status
