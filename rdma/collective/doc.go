// Package collective is the agreement among the peers of a group as a pure state
// machine: which peers are members of the epoch, which rounds of it are complete, and
// what becomes of the round in hand when a member fails. It has no clock, no
// goroutine and no network; it is told what happened and answers what to do.
//
// # Nouns
//
//	peer    a configured box, by its number 0 … PeersMax-1; a Set is a set of them
//	epoch   a numbered set of members; rounds exist only within one
//	round   one collective operation; numbered 1, 2, 3 … within its epoch
//	kind    Dense (AllReduce: everybody gets every contribution) or
//	        Sparse (Exchange: everybody gets the part meant for it)
//	wedge   to stop taking part in an epoch's rounds, for good
//	trim    the last round of an epoch that counts, agreed when the next one begins
//	step    one change of epoch that its members have accepted
//
// # Rounds ([Rounds])
//
// A member begins round r+1 only when round r is complete at itself, so two members
// are never more than one round apart. A round is complete at a member when the
// contributions of all members have arrived there whole; that its own were taken by
// others says nothing. A Dense round's result may be used as soon as it is complete.
// A Sparse round is used only when it is committed: every member has said that it is
// complete there (Have; a contribution to the next round says the same). So what a
// committed round made anybody do, everybody can do again.
//
// # Epochs ([Machine])
//
// Peers tell each other whom they hear. From that matrix each peer chooses the
// members that it would have: the largest set of peers that all hear each other and
// has itself in it; among equals the one with most of the present members, then the
// one with the lowest numbers. If that differs from the present epoch, or a member
// has complained, the lowest of the chosen proposes; the others do so only after it
// has been silent for some timeouts.
//
//	proposer                         each chosen peer
//	Prepare(ballot)            ->    promise: wedge, refuse lower ballots
//	                           <-    Promise(ballot, epoch, completed round, its kind, steps accepted)
//	Install(ballot, steps)     ->    accept; fetch what the trim counts and it lacks; make offers
//	                           <-    Ready(ballot, offers)
//	Go(ballot, offers)         ->    apply the steps, open the epoch, round 1
//
// A peer refuses a proposer that is not among its own chosen. A ballot is
// (counter, peer), so no two proposers share one; the epoch's number is its ballot.
// An epoch needs a quorum ([Quorum]); peers without one are in no epoch. A step that
// somebody may have applied had been accepted by all its members, so that a later
// proposer, who has promises of a quorum, sees it and goes on from it: the same idea
// as in Paxos (Lamport, "Paxos Made Simple", 2001). Views, wedging and the ragged
// trim are those of virtual synchrony (Birman; Derecho, TOCS 2019).
//
// Trim. Let R be the completed rounds that the promising members of the epoch report;
// they differ by one at most. If the highest is Dense it counts: who lacks it fetches
// the result from one that has it. If it is Sparse it counts only if all have it, which
// is sure if it was committed anywhere. A round beyond the trim is run again in the
// next epoch by who is in it.
//
// The machine's owner calls it from one goroutine.
package collective
