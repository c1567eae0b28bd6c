package collective_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/headrace/headrace/rdma/collective"
)

// The files in testdata tell stories of a group, one command at a time:
//
//	group peers=3 [tie-breaker=0] [allow-solo]   nobody is started
//	start peers=(0,1) [counter=N]                start, or start anew
//	hear                                         all that live hear each other, or
//	  0: 0 1                                     whom each hears; a peer sees the rows of those it hears
//	run                                          deliver control messages until there are none
//	deliver from=0 to=1                          deliver one
//	drop from=0 to=1                             lose all from one to the other
//	repeat from=0 to=1                           deliver the last one again
//	begin peer=0 kind=dense                      begin a round; contributions are on their way
//	arrive [from=0] [to=1]                       deliver what is on its way in the data path
//	timeout peer=0, fail peer=0, leave peer=0, crash peer=0
//	show                                         where everybody is
//
// Offers are made and results handed over at once. A ballot is written counter/peer,
// with the number that tells a peer's lives apart, if it has one, after the counter.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Helper()
		s := &story{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			s.out.Reset()
			s.command(t, d)
			if s.out.Len() == 0 {
				return "ok\n"
			}
			return s.out.String()
		})
	})
}

type pair struct{ from, to int }

type arrival struct {
	epoch, round uint64
	kind         collective.Kind
	have         bool
}

type story struct {
	quorum  collective.Quorum
	peers   [collective.PeersMax]*collective.Machine
	last    [collective.PeersMax]uint64 // the epoch that a peer has open
	control map[pair][]*collective.Message
	before  map[pair]*collective.Message
	data    map[pair][]arrival
	out     strings.Builder
}

func (s *story) command(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	peer, from, to := -1, -1, -1
	for name, at := range map[string]*int{"peer": &peer, "from": &from, "to": &to} {
		d.MaybeScanArgs(t, name, at)
	}
	switch p := (pair{from, to}); d.Cmd {
	case "group":
		*s = story{control: map[pair][]*collective.Message{}, before: map[pair]*collective.Message{}, data: map[pair][]arrival{}}
		s.quorum.TieBreaker = -1
		d.ScanArgs(t, "peers", &s.quorum.Peers)
		d.MaybeScanArgs(t, "tie-breaker", &s.quorum.TieBreaker)
		s.quorum.AllowSolo = d.HasArg("allow-solo")
	case "start":
		var counter uint64
		var peers []int
		d.MaybeScanArgs(t, "counter", &counter)
		d.ScanArgs(t, "peers", &peers)
		for _, p := range peers {
			s.peers[p] = collective.New(collective.Config{Me: p, Quorum: s.quorum, Counter: counter})
		}
	case "hear":
		s.hear(t, d.Input)
	case "run":
		s.run()
	case "deliver":
		s.deliver(p)
	case "drop":
		delete(s.control, p)
	case "repeat":
		fmt.Fprintf(&s.out, "again ")
		s.control[p] = slices.Insert(s.control[p], 0, s.before[p])
		s.deliver(p)
	case "begin":
		s.begin(t, peer, d)
	case "arrive":
		s.arrive(from, to)
	case "timeout":
		s.do(peer, s.peers[peer].Timeout(nil))
	case "fail":
		s.do(peer, s.peers[peer].Fail(nil))
	case "leave":
		s.do(peer, s.peers[peer].Leave(nil))
	case "crash":
		s.peers[peer] = nil
	case "show":
		s.show()
	default:
		t.Fatalf("%s: no command %q", d.Pos, d.Cmd)
	}
}

func (s *story) hear(t *testing.T, input string) {
	t.Helper()
	var rows [collective.PeersMax]collective.Set
	for _, line := range strings.Split(input, "\n") {
		who, whom, ok := strings.Cut(line, ":")
		for _, w := range strings.Fields(whom) {
			from, err1 := strconv.Atoi(who)
			to, err2 := strconv.Atoi(w)
			if err1 != nil || err2 != nil {
				t.Fatalf("cannot read %q", line)
			}
			rows[from] = rows[from].With(to)
		}
		if ok {
			continue
		}
		for p, m := range s.peers {
			for q, n := range s.peers {
				if m != nil && n != nil {
					rows[p] = rows[p].With(q)
				}
			}
		}
	}
	for p, m := range s.peers {
		if m == nil {
			continue
		}
		for row := range s.quorum.Peers {
			if !rows[p].Has(row) {
				s.do(p, m.Hear(row, 0, nil))
			}
		}
		for row := range rows[p].Without(p).All {
			s.do(p, m.Hear(row, rows[row], nil))
		}
		s.do(p, m.Hear(p, rows[p], nil)) // last, so that all those it hears anew come in at once
	}
}

func (s *story) run() {
	for busy := true; busy; {
		busy = false
		for from := range s.quorum.Peers {
			for to := range s.quorum.Peers {
				if p := (pair{from, to}); len(s.control[p]) > 0 {
					s.deliver(p)
					busy = true
				}
			}
		}
	}
}

func (s *story) deliver(p pair) {
	if len(s.control[p]) == 0 {
		fmt.Fprintf(&s.out, "nothing from %d to %d\n", p.from, p.to)
		return
	}
	msg := s.control[p][0]
	s.control[p] = s.control[p][1:]
	s.before[p] = msg
	fmt.Fprintf(&s.out, "%d to %d: %s\n", p.from, p.to, tell(msg))
	if m := s.peers[p.to]; m != nil {
		s.do(p.to, m.Receive(p.from, msg, nil))
	}
}

func (s *story) begin(t *testing.T, peer int, d *datadriven.TestData) {
	t.Helper()
	var kind string
	d.ScanArgs(t, "kind", &kind)
	k := map[string]collective.Kind{"dense": dense, "sparse": sparse}[kind]
	round, p, err := s.peers[peer].Rounds().Begin(k)
	if err != nil {
		fmt.Fprintf(&s.out, "%v\n", err)
		return
	}
	s.toOthers(peer, arrival{epoch: s.last[peer], round: round, kind: k})
	s.progress(peer, round, p)
}

func (s *story) toOthers(peer int, a arrival) {
	for to := range s.peers[peer].Step().Members.Without(peer).All {
		s.data[pair{peer, to}] = append(s.data[pair{peer, to}], a)
	}
}

func (s *story) arrive(from, to int) {
	for f := range s.quorum.Peers {
		for o := range s.quorum.Peers {
			p := pair{f, o}
			arrivals := s.data[p]
			if from >= 0 && f != from || to >= 0 && o != to || s.peers[o] == nil {
				continue
			}
			delete(s.data, p)
			for _, a := range arrivals {
				if a.epoch != s.last[o] {
					continue
				}
				s.arrived(p, a)
			}
		}
	}
	for _, left := range s.data {
		if len(left) > 0 && from < 0 && to < 0 {
			s.arrive(from, to) // Have is the answer to a contribution
			return
		}
	}
}

func (s *story) arrived(p pair, a arrival) {
	var got collective.Progress
	var err error
	if a.have {
		got, err = s.peers[p.to].Rounds().Have(p.from, a.round)
	} else {
		got, err = s.peers[p.to].Rounds().Arrived(p.from, a.round, a.kind)
	}
	if err != nil {
		fmt.Fprintf(&s.out, "%d: %v\n", p.to, err)
	}
	s.progress(p.to, a.round, got)
}

func (s *story) progress(peer int, round uint64, p collective.Progress) {
	if p&complete != 0 {
		_, kind := s.peers[peer].Rounds().Completed()
		fmt.Fprintf(&s.out, "%d: %v round %d is complete\n", peer, kind, round)
		if kind == sparse {
			s.toOthers(peer, arrival{epoch: s.last[peer], round: round, kind: kind, have: true})
		}
	}
	if p&committed != 0 {
		fmt.Fprintf(&s.out, "%d: round %d is committed\n", peer, s.peers[peer].Rounds().Round())
	}
}

func (s *story) do(peer int, effects []collective.Effect) {
	m := s.peers[peer]
	for _, e := range effects {
		switch e.Kind {
		case collective.Send:
			p := pair{peer, e.To}
			s.control[p] = append(s.control[p], &e.Message)
		case collective.Arm, collective.Disarm:
		case collective.Wedge:
			fmt.Fprintf(&s.out, "  %d wedges %s\n", peer, ballot(e.Epoch))
			s.last[peer] = 0
		case collective.MakeOffers:
			s.do(peer, m.Offer(e.Epoch, make([][]byte, s.quorum.Peers), nil))
		case collective.Hand:
			body := fmt.Sprintf("result %d of %s", e.Round, ballot(e.Epoch))
			s.do(peer, m.Hand(e.To, e.Epoch, e.Round, []byte(body), 0, nil))
		case collective.Take:
			fmt.Fprintf(&s.out, "  %d takes %q\n", peer, e.Body)
		case collective.Settle:
			fmt.Fprintf(&s.out, "  %d settles %s at round %d%s\n", peer, ballot(e.Epoch), e.Round,
				map[bool]string{true: ", lost"}[e.Lost])
		case collective.Open:
			fmt.Fprintf(&s.out, "  %d opens %s\n", peer, tellStep(e.Step))
			s.last[peer] = e.Epoch
		}
	}
}

func (s *story) show() {
	for p, m := range s.peers {
		if m == nil {
			continue
		}
		if step := m.Step(); step.Epoch != 0 {
			fmt.Fprintf(&s.out, "%d: epoch %s, members %s, round %d\n",
				p, ballot(step.Epoch), names(step.Members), m.Rounds().Round())
		} else {
			fmt.Fprintf(&s.out, "%d: no epoch, would have %s\n", p, names(m.Chosen()))
		}
	}
}

func ballot(b uint64) string {
	life := ""
	if l := b >> 4 & 1023; l != 0 {
		life = fmt.Sprintf(".%d", l)
	}
	return fmt.Sprintf("%d%s/%d", b>>14, life, b&15)
}

func names(s collective.Set) string {
	return strings.Trim(fmt.Sprint(slices.Collect(s.All)), "[]")
}

func tellStep(s collective.Step) string {
	text := fmt.Sprintf("%s {%s}", ballot(s.Epoch), names(s.Members))
	if s.Prev == 0 {
		return text + " from nothing"
	}
	text += fmt.Sprintf(" from %s round %d, carried {%s}", ballot(s.Prev), s.Trim, names(s.Carried))
	if s.Holders != 0 {
		text += fmt.Sprintf(", result at {%s}", names(s.Holders))
	}
	return text
}

func tell(m *collective.Message) string {
	text := m.Kind.String()
	switch m.Kind {
	case collective.Prepare:
		text += fmt.Sprintf(" %s {%s}", ballot(m.Ballot), names(m.Members))
	case collective.Promise:
		text += fmt.Sprintf(" %s: in %s, round %d, accepted", ballot(m.Ballot), ballot(m.Epoch), m.Round)
		for _, s := range m.Steps {
			text += " " + ballot(s.Epoch)
		}
	case collective.Refuse:
		text += fmt.Sprintf(" %s: promised %s", ballot(m.Ballot), ballot(m.Promised))
	case collective.Install:
		last := len(m.Steps) - 1
		text += " " + tellStep(m.Steps[last])
		for i, s := range m.Steps[:last] {
			text += []string{", after ", " "}[min(i, 1)] + ballot(s.Epoch)
		}
	case collective.Fetch, collective.Result:
		text += fmt.Sprintf(" %s round %d", ballot(m.Epoch), m.Round)
	case collective.Ready, collective.Go:
		text += " " + ballot(m.Ballot)
	case collective.Complain:
		text += " of " + ballot(m.Epoch)
	case collective.Leave:
	}
	return text
}
