package steer

import (
	"encoding/binary"
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// NoFeed is Meta.Feed of a frame that no rule matches: HR_NO_FEED of bpf/abi.h.
const NoFeed = event.FeedsMax

// A Steerer steers frames as the XDP program does. One goroutine uses it.
type Steerer struct {
	table  *table
	places []plan.Placement // by feed
}

// New returns a Steerer for the rules and placements of feeds; other fields are
// not looked at. It returns an error for rules that the kernel would not get
// either: see [Compile].
func New(feeds []plan.Feed) (*Steerer, error) {
	set, err := Compile(feeds)
	if err != nil {
		return nil, fmt.Errorf("steer: %w", err)
	}
	s := &Steerer{table: newTable(set)}
	for i := range feeds {
		s.places = append(s.places, feeds[i].Place)
	}
	return s, nil
}

// Steer writes what it knows of a frame to *m and says whether it goes to a worker.
// wireLength is the frame's length before the capture cut it. With allowTruncated
// what only the capture cut off is not held against a frame: it is steered with
// FlagTruncated and PayloadLength is what is there.
//
// Unless the verdict is [Steered], only m.Feed means anything: the feed among whose
// frames this one counts, or [NoFeed]. It does not allocate.
func (s *Steerer) Steer(frame []byte, wireLength int, allowTruncated bool, receive uint64, m *Meta) Verdict {
	p := packet{wire: wireLength, allowTruncated: allowTruncated}
	*m = Meta{Feed: NoFeed}
	verdict := p.network(frame)
	if p.protocol != 0 {
		verdict = p.transport(frame, verdict)
	}
	if !p.ports {
		return verdict
	}
	target, ok := s.table.match(&p)
	if !ok {
		return first(verdict, NoMatch)
	}
	m.Feed = target.Feed
	if verdict != Steered {
		return verdict
	}
	if place := &s.places[target.Feed]; place.Kind == plan.PlaceTuple {
		var buf [PlaceMax]byte
		tuple := p.tuple(frame)
		m.Hash = event.HashKey(placeTuple(place, &tuple, buf[:0]))
	} else {
		placed, whole := placePayload(place, frame[p.payload:p.payload+p.payloadLength])
		if !whole {
			p.flags |= FlagNoPlace
		}
		if len(placed) == 8 {
			m.Hash = event.HashWord(binary.LittleEndian.Uint64(placed))
		} else {
			m.Hash = event.HashKey(placed)
		}
	}
	m.ReceiveNanos = receive
	m.PayloadOffset = uint16(p.payload)
	m.PayloadLength = uint16(p.payloadLength)
	m.Group = uint16(event.Group(m.Hash))
	m.Line = target.Line
	m.Flags = p.flags
	m.Version = MetaVersion
	return Steered
}

// OwnerTable returns which worker owns each key group: each of workers gets a
// contiguous range, and ranges differ by at most one in size. workers must be 1 to
// event.WorkersMax.
func OwnerTable(workers int) [event.GroupCount]uint16 {
	if workers < 1 || workers > event.WorkersMax {
		panic(fmt.Sprintf("steer: %d workers, want 1 to %d", workers, event.WorkersMax))
	}
	var t [event.GroupCount]uint16
	for g := range t {
		t[g] = uint16(g * workers / event.GroupCount)
	}
	return t
}
