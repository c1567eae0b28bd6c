package verbs

import (
	"fmt"
	"net/netip"
)

// A Status is how a work request ended: libibverbs' ibv_wc_status.
type Status uint8

// StatusCount bounds the statuses: the last one stands for all beyond.
const StatusCount = 25

var statusNames = [StatusCount]string{
	"success", "local_length", "local_qp_operation", "local_eec_operation", "local_protection",
	"flushed", "memory_window_bind", "bad_response", "local_access", "remote_invalid_request",
	"remote_access", "remote_operation", "retries_exceeded", "rnr_retries_exceeded", "local_rdd_violation",
	"remote_invalid_read_request", "remote_abort", "invalid_eec_number", "invalid_eec_state", "fatal",
	"response_timeout", "general", "tag_matching", "tag_matching_rendezvous", "other",
}

// String is the status as metrics have it.
func (s Status) String() string { return statusNames[min(s, StatusCount-1)] }

// A CompletionError is a work request that did not succeed: the end of the pair.
type CompletionError struct {
	Status Status
	Vendor uint32 // what the device's maker says about it
}

func (e *CompletionError) Error() string {
	if e.Vendor != 0 {
		return fmt.Sprintf("completion: %v (vendor code %#x)", e.Status, e.Vendor)
	}
	return fmt.Sprintf("completion: %v", e.Status)
}

// Stats is what a transport is and has done.
type Stats struct {
	Device   string
	Port     int
	GID      netip.Addr
	GIDIndex int
	MTU      int  // bytes, of our port
	Node     int  // the device's memory node, -1: unknown
	Huge     bool // the latest arena has huge pages
	Inline   int  // frames up to this long travel in the work request
	Slots    int  // of a ring
	// CreditsMin is the least number of free slots that a Send found at any peer since
	// the Stats before, Slots if none was used.
	CreditsMin int
	// Completions by status, over all epochs.
	Completions [StatusCount]uint64
	// Counters are the device's own, of the port's hw_counters; their names are the
	// driver's.
	Counters map[string]uint64
}
