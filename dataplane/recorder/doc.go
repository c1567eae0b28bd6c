// Package recorder keeps the latest frames of a worker where the control process can read
// them: [Ring] is the worker's side, [Reader] the other.
//
// The ring is part of the worker's region, so it outlives a data plane. The worker puts
// frames in with plain stores, and once a batch says how far it is; it never waits for a
// reader. The reader trusts nothing of it: it reads the file and maps nothing, takes a copy,
// and believes that only if the worker has not come round to it meanwhile.
//
// A frame that is received once more after a crash is in the ring twice.
package recorder
