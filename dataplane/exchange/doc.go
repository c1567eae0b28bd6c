// Package exchange moves events to the worker that owns their key: lanes, which
// are single-producer single-consumer rings of words, one for each ordered pair of
// workers, and the two ways to empty them.
//
// A lane carries typed records in order:
//
//	begin    the release that the records after it belong to (position, source)
//	event    one event of one stream: key, hash, argument columns, queries that want it
//	release  begin, where that is needed, and the release's watermark advance: to every worker
//	mark     a gap, a retirement: to every worker
//
// A writer's records become visible at [Lane.Publish], once a batch. In run an
// owner takes lane after lane as they come ([Inbox.Next] in arrival order). In
// replay it merges the lanes by position: a record is taken only when no lane can
// still bring an earlier one, which each lane's frontier tells. The lane with the
// least frontier can always be emptied, so lanes cannot deadlock.
//
// exchange knows events and plans; it knows neither windows nor packets.
package exchange
