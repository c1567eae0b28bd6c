// Package cluster makes the rows of global queries: it brings the partials of all boxes
// of a group together, a window at a time, in rounds of a [rdma.Group].
//
//	Tap          takes records out of a data plane's pump        tap.go
//	contributor  collects them into windows, keeps them          contributor.go
//	header       what a member says to all in a round            wire.go
//	registry     what has happened so far, the same at all       registry.go, snapshot.go
//	holder       merged states, and the rows made of them        holder.go
//	timekeeper   what the clock decides                          timekeeper.go
//	member       one peer's part in the rounds; read it first    member.go
//	engine       all of these in step                            engine.go
//	Cluster      the goroutine that waits, exchanges and emits   cluster.go
//
// # Nouns
//
// A key group is at home at one configured peer (group number modulo peers, unless
// Config.Home says otherwise). Of a home the owner is that peer, or the next member
// after it if it is none; the second is the next member after the owner. What there is
// of one window at one home is a share; owner and second have the same one. A firing is
// one time that a window's rows are made: its number is their revision, and all firings
// are counted by one sequence through all epochs.
//
// # Rounds
//
// In every round each member says a header, the same to all, and a body to each. The
// registry is a function of the headers of committed rounds and of nothing else, so
// that all members decide alike without asking each other.
//
//	round 1   roll call: what is the last round that each has followed? Those with the
//	          latest know all that has happened: they are whole.
//	round 2   carrying: the lowest whole member tells the others the registry. The state
//	          of a home whose owner or second changed goes from the old owner, or else
//	          the old second, to the new ones. A member that was not whole drops what it
//	          held.
//	round 3 … windows: each header says how far its sender is with every query, which
//	          windows it closes with this contribution, and which rows are in its sinks.
//	          Bodies are the records of key groups whose owner or second the receiver is.
//
// That nobody is whole, because all that were have died at once, begins a new lineage
// with an empty registry. What a peer had sent in another lineage it does not send
// again: its rows may be out. It counts that as unknown.
//
// A peer contributes all that it has of a window at once, when every worker has put it
// out. A contribution counts once: that of a peer which the registry has already is
// ignored, so that whoever does not know whether a round stood, or has lost its memory
// and reads its outbox again, just contributes again. Outbox positions are given back
// when the registry has the window; records are kept until the rows are in the sinks.
//
// A window fires in the round after which every member has passed it: it has
// contributed, its watermark is past the end, it is final or it is idle. Or the lowest
// member says that it has waited for max_wait. What is contributed later fires it
// again, all keys of it, with the next revision, until the lowest member says that the
// time for corrections is over; then it is forgotten. That time begins when more than
// half of the members that are waited for have passed the window, and nothing that they
// have not passed is ever over: one clock that is ahead, or one event of a time that is
// none, makes nobody else late. Members that are idle or final have no say in it.
//
// # Rows
//
// The owner makes the rows and gives them out. The second can make the very same bytes:
// it has the same states, and before a later contribution changes a state, the lines of
// firings that are not yet known to be in the sinks are made and kept. The epoch, the
// merged peers and what is missing are those of the firing, whoever makes the row, and
// whenever. When an owner has gone, the next one gives out all that it had not reported.
//
// A row names as merged who has contributed, and who had nothing: those that had passed
// the window without contributing, are final, or have never seen an event of the query.
// The latter count only after max_wait without one. A peer that is idle because its
// sources are silent holds nobody up, but is not merged: an open window of its may hold
// events. Missing messages are added up over the peers.
//
// # The promise
//
// At least once; all rows with equal (row_id, revision) are equal, byte for byte; a
// revision never replaces a row that merged more peers; once all have come, the values
// are those of one box that saw everything.
//
// It holds as long as every epoch has a member that has followed all rounds before it:
// memory is all that there is, so a quorum of boxes that have just been started, or of
// those and one that was away, knows less than the one that is cut off. What else can
// be lost is lost by name:
//
//   - Owner and second of a home die at once: contributors send what they kept, and the
//     window fires again (what was fired may be out or not). If somebody's part is
//     nowhere any more the rows that can be made have fewer peers than those that may
//     be out, so they are not made: unknown. A window that had not fired goes out
//     without that part, and does not name it: short.
//   - All die at once, or the only one: rows on their way to a sink are counted by the
//     next control process as in doubt.
//   - keep is too small for what waits: the oldest windows are contributed without
//     their records and marked incomplete: overflow. Each window costs something too;
//     when too much of keep is such windows the oldest are given up without a word, and
//     since says so: the peer is not named as merged up to there. hold is too small for what can
//     be corrected: the oldest states go, and their windows are corrected no more. It is
//     too small for what a stalled sink leaves waiting: the owner drops its oldest rows
//     and reports them as safe, so that nobody else keeps them: shed.
//   - While there is no epoch an outbox gives back its oldest half: those windows are in
//     the control process alone. Up to where is stored with the positions, and becomes
//     the since of the next control process: lonely.
//   - allow_solo lets two sides go on apart. Both fire the same windows then. So does a
//     tie breaker that has forgotten what it had done with the other, which is away.
//   - An epoch begins a lineage whose members remember no more than what each has stored
//     beside its outbox. A window that was fired, and that none of them has stored, is
//     fired again as revision 0.
//   - What is stored ends with the data plane's segment. All boxes that are stopped in
//     good order and started again within one window remember nothing of it: revision 0
//     of it is made before and after, of what came before and after.
//   - A box that is stopped, and started again within a window, contributes to it once,
//     with what it had at the stop.
//
// Without an epoch a box gives out no global rows, not even those that had fired: who
// is in one may be giving them out. It keeps its partials within the budget.
//
// # Trust
//
// Members are authenticated, and their bytes are not trusted to be well-formed. A
// header is ignored by all alike if it cannot be read. A section of a body (one window,
// one home) has its sum in the header: if the bytes are those but cannot be read, owner
// and second leave the section out alike, and the rows of that share say that they are
// incomplete; if they are not, one receiver alone knows, and it makes no rows of that
// share any more.
//
// cluster knows partials, rows and time. It does not know sockets, epochs' agreement or
// files.
package cluster
