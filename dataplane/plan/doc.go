// Package plan is what a worker executes: plain data, made by the control plane
// from a checked config and handed to the data plane as JSON.
//
// A plan has no behaviour and no pointers into anything; two plans are the same
// work if and only if their [Plan.Hash] is equal. Names in it are for people and
// for rows; the data plane goes by index.
//
//	Feed    what to match, how to place it, how to decode it, which columns
//	Stream  a feed and one key list: the unit in which events change owner
//	Query   one windowed aggregation over a stream
//
// plan knows event and nothing else.
package plan
