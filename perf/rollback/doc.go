// Package rollback measures what the undo log costs: a worker as it is live takes a
// capture that lies in memory, with the log and without it, in turns.
package rollback
