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
// A member begins round r+1 only when round r is over at itself, so two members are
// never more than one round apart. A round is complete at a member when the
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
// has been silent for some timeouts, one after the other.
//
//	proposer                         each chosen peer
//	Prepare(ballot)            ->    promise: wedge, refuse lower ballots
//	                           <-    Promise(ballot, epoch, completed round, its kind, steps accepted)
//	Install(ballot, steps)     ->    fetch what the trim counts and it lacks; make offers
//	                           <-    accept the steps; Ready(ballot, offers)
//	Go(ballot, offers)         ->    apply the steps, open the epoch, round 1
//
// A peer refuses a proposer that is not among its own chosen. A ballot is
// (counter, peer), so no two proposers share one; the epoch's number is its ballot.
// An epoch needs a quorum ([Quorum]); peers without one are in no epoch.
//
// A proposer that hears nothing asks once more, then does without those that do not
// answer, if the others are a quorum. They come in again when they speak up: a peer
// that is in no epoch complains to the lowest that it would have.
//
// Steps. A step that somebody may have applied had been accepted by all its members.
// So a later proposer, who has promises of a quorum, sees it in one of them and goes on
// from it: the same idea as in Paxos (Lamport, "Paxos Made Simple", 2001). If one of its
// members has promised without having accepted it, nobody has applied it nor will, and
// the proposer must not go on from it: it may count on a result that nobody has any
// more. A proposer accepts its own step last, when it says Go. Views, wedging and the
// ragged trim are those of virtual synchrony (Birman; Derecho, TOCS 2019).
//
// Trim. Let R be the completed rounds that the promising peers report that are in the
// epoch gone on from; they differ by one at most. If the highest is Dense it counts: who
// lacks it fetches the result from one that has it. If it is Sparse it counts only if
// all have it, which is sure if it was committed anywhere. A round beyond the trim is
// run again in the next epoch by who is in it. If not even the first round counts, the
// epoch has given nothing to those that came to it with nothing.
//
// Peers that forget. A peer that was started anew remembers neither promises nor steps.
// It joins like any other, but what it does not remember may have been agreed. So an
// epoch goes on from an earlier one only if those among its members that remember
// anything are so many that nothing can have been agreed without them: a quorum will do.
// Otherwise it begins from nothing, and nobody is carried. With three boxes that is so
// when one is cut off or dead and another is started anew, but not when one is started
// anew while the two others are there. [Config].Counter keeps the new life's ballots
// apart from those of the old one, and above them.
//
// # What the owner must do
//
//   - Hear: say that a peer is heard again only after it has been so for some timeouts.
//     Whatever changes the chosen ends the epoch, so a connection that comes and goes
//     faster than a proposal takes, three round trips and the time to make offers, keeps
//     the group from having one. To tell our own row last saves an epoch: the peers in
//     it then come in together.
//   - Fail: call it whenever the mesh of the present epoch has lost a peer, the heard
//     ones too: a member that goes on to another epoch closes its end, and may have
//     found no other way to tell us. If a mesh cannot be opened, wait for a timeout
//     before saying so.
//   - A timeout is longer than a round trip and the time that MakeOffers and Hand take:
//     who takes more than two is done without.
//   - Rounds and Step speak of the new epoch as soon as the call that returned Open has
//     returned: to settle the old one, remember what was in hand.
//
// The machine's owner calls it from one goroutine.
package collective
