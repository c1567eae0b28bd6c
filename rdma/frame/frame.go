package frame

// HeaderBytes is the length of a header on the wire: one cache line.
const HeaderBytes = 64

// Kind says what a frame is for.
type Kind uint8

// The kinds.
const (
	Dense   Kind = iota + 1 // a contribution, or a piece of one, to an AllReduce
	Reduced                 // the second step of an AllReduce: a piece that its owner has reduced
	Sparse                  // a piece of a contribution to an Exchange
	Have                    // a Sparse round is complete at the sender
	Probe                   // shows that the path works, before round 1
	Rows                    // a piece of a batch of rows; the round is the batch's number
	RowsAck                 // the batch whose number is the round is where its reader finds it
	kindCount
)

// A Header says what a payload is. A contribution larger than a frame goes in
// several, all with the same Total.
type Header struct {
	Kind   Kind
	Op     uint8 // the operation of a Dense round, so that members notice if they disagree
	Source uint8 // the sender
	Dest   uint8 // the receiver; AnyDest where the same frame goes to several
	Epoch  uint64
	Round  uint64
	Total  uint64 // bytes of the whole contribution
	Offset uint64 // of this payload in it
	Length uint32 // bytes of this payload
}

// AnyDest is the destination of a frame that goes to several peers.
const AnyDest = 0xff
