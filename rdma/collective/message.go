package collective

import "fmt"

// A Step is one change of epoch.
type Step struct {
	Epoch   uint64 // the new epoch: its ballot
	Members Set
	Prev    uint64 // the epoch that it goes on from; 0: none
	Trim    uint64 // the last round of Prev that counts
	Holders Set    // members that have the result of round Trim, if it is Dense
	// Carried are the members that have all of what came before: they were in Prev
	// and have it up to Trim or, if no round of Prev counts, were carried into it
	// themselves. The others begin with nothing. It may be empty: all begin anew.
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
	Complain // Epoch: the sender cannot go on in it, or is in none and wants to be
	Leave    // the sender goes away for good: it is not chosen again until it is heard anew
)

var messageNames = [...]string{
	Prepare: "Prepare", Promise: "Promise", Refuse: "Refuse", Install: "Install", Fetch: "Fetch",
	Result: "Result", Ready: "Ready", Go: "Go", Complain: "Complain", Leave: "Leave",
}

func (k MessageKind) String() string {
	if k == 0 || int(k) >= len(messageNames) {
		return fmt.Sprintf("message %d", uint8(k))
	}
	return messageNames[k]
}

// A Message goes from peer to peer over the control connection, reliable and in order
// while that lasts; it may be lost or repeated across a reconnect. Fields that a kind
// does not name are zero. What it points to is shared with the machine and does not
// change.
type Message struct {
	Kind      MessageKind
	Ballot    uint64
	Promised  uint64
	Epoch     uint64 // Promise: the epoch that the sender is or was in last, 0 if in none yet
	Round     uint64 // Promise: the last round of it complete at the sender
	RoundKind Kind   // Promise: its kind
	Members   Set    // Prepare: the chosen
	Steps     []Step // Promise: those accepted, oldest first; at most [StepsMax]
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
	// Hand: call Hand with the result of Dense round Round of Epoch, the last that was
	// complete or taken here, for peer To.
	Hand
	// Take: Body is the result of Dense round Round, which counts and was not complete
	// here. It is ours now as if it had been: Hand may ask for it, and Settle will say
	// that it stands.
	Take
	// Settle: of the wedged epoch Epoch, Round is the last that counts: a round in
	// hand with that number or a lower one stands, another is to be run again. Lost says
	// that we cannot know, because the others went on without us: run again, and say so.
	// It comes before the next Open, for any epoch that has been opened here.
	Settle
	// Open: begin the epoch Step with Offers; rounds start at 1.
	Open
)

var effectNames = [...]string{
	Send: "Send", Arm: "Arm", Disarm: "Disarm", Wedge: "Wedge", MakeOffers: "MakeOffers",
	Hand: "Hand", Take: "Take", Settle: "Settle", Open: "Open",
}

func (k EffectKind) String() string {
	if k == 0 || int(k) >= len(effectNames) {
		return fmt.Sprintf("effect %d", uint8(k))
	}
	return effectNames[k]
}

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
