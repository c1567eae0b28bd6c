package collective

// A Quorum says which sets of peers may be an epoch.
type Quorum struct {
	// Peers is the number of configured peers. Required.
	Peers int
	// TieBreaker is the peer whose side has the quorum when an even group splits in
	// halves; -1: none.
	TieBreaker int
	// AllowSolo lets a single peer be an epoch. Two sides may then both go on.
	AllowSolo bool
}

// Config makes a [Machine].
type Config struct {
	Me     int
	Quorum Quorum
	// Counter is where ballots begin: anything that was not used before by this
	// peer's earlier lives helps; 0 is right, if slower to join.
	Counter uint64
	// Patience is how many timeouts a peer waits for a lower one to propose. Zero: 3.
	Patience int
}

// A Step is one change of epoch.
type Step struct {
	Epoch   uint64 // the new epoch: its ballot
	Members Set
	Prev    uint64 // the epoch that it goes on from; 0: none
	Trim    uint64 // the last round of Prev that counts
	Holders Set    // members that have the result of round Trim, if it is Dense
	// Carried are the members that were in Prev and so have all of it up to Trim;
	// the others begin with nothing.
	Carried Set
}

// MessageKind is the kind of a control message.
type MessageKind uint8

// The kinds of control messages; see the package's picture.
const (
	Prepare MessageKind = iota + 1
	Promise
	Refuse   // Ballot is the one that was refused, Promised the one that stands
	Install  // Steps: all that a receiver may lack, oldest first; the last is the new one
	Fetch    // Epoch, Round: asks a holder for a Dense result
	Result   // Epoch, Round, Body, Contributors
	Ready    // Offers
	Go       // Offers
	Complain // Epoch: the sender, a member, cannot go on in it
	Leave    // the sender goes away for good: it is not chosen again until it is heard anew
)

// A Message goes from peer to peer over the control connection, reliable and in order
// while that lasts; it may be lost or repeated across a reconnect. Fields that a kind
// does not name are zero.
type Message struct {
	Kind      MessageKind
	Ballot    uint64
	Promised  uint64
	Epoch     uint64 // Promise: the sender's epoch, 0 if in none
	Round     uint64 // Promise: the last round complete at the sender
	RoundKind Kind   // Promise: its kind
	Members   Set    // Prepare: the chosen
	Steps     []Step
	// Contributors of a Result.
	Contributors Set
	// Offers are by peer. Ready: the sender's offer to each peer. Go: what each peer
	// offers to the receiver.
	Offers [][]byte
	Body   []byte
}

// EffectKind says what the machine's owner is to do.
type EffectKind uint8

// The effects, to be carried out in the order given.
const (
	// Send: give Message to peer To.
	Send EffectKind = iota + 1
	// Arm: call Timeout after a while, in place of any call that is due.
	Arm
	// Disarm: no Timeout is due.
	Disarm
	// Wedge: the epoch is over; no frame of it counts any more.
	Wedge
	// MakeOffers: prepare for epoch Step.Epoch with Step.Members, then call Offer.
	MakeOffers
	// Hand: call Hand with the result of Dense round Round of Epoch for peer To.
	Hand
	// Take: Body is the result of Dense round Round, which counts and was not complete here.
	Take
	// Settle: of the epoch that was wedged, Round is the last that counts: a round in
	// hand with that number or a lower one stands, another is to be run again. Lost says
	// that we cannot know, because we were not carried: run again, and say so.
	Settle
	// Open: begin the epoch Step with Offers; rounds start at 1.
	Open
)

// An Effect is one thing to do.
type Effect struct {
	Kind         EffectKind
	To           int
	Message      Message
	Epoch, Round uint64
	Step         Step
	Offers       [][]byte
	Body         []byte
	Contributors Set
	Lost         bool
}
