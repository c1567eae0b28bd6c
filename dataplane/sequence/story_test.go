package sequence

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// The stories read like this. One line is one packet:
//
//	A 3ms seq 4: d e f          on line A, received at 3 ms, messages 4 to 6
//	A 3ms seq 4 sent 70: d e f  the same with a send time (IEX-TP)
//	A 3ms seq 7 heartbeat       7 is the next number
//	A 3ms seq 7 end             end of session
//	session 8, channel 2        before seq: other than session 1 of channel 1
//	cut 2                       two more messages were promised and cut off
//
// and what comes out is one line for each step of its release.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		t.Helper()
		var s *Sequencer
		var f *plan.Feed
		l := &ledger{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			var b strings.Builder
			switch d.Cmd {
			case "feed":
				f = feed(plan.IEXTP)
				for _, a := range d.CmdArgs {
					v := a.Vals[0]
					switch a.Key {
					case "framing":
						f.Sequence = plan.Sequence(v)
					case "hold":
						f.HoldPackets = number(t, v)
					case "bytes":
						f.HoldBytes = number(t, v)
					case "for":
						f.HoldFor, _ = time.ParseDuration(v)
					case "channels":
						f.Channels = number(t, v)
					}
				}
				s, l = newSequencer(t, f), &ledger{}
			case "packets":
				for line := range strings.Lines(d.Input) {
					tell(t, &b, s, l, f.Sequence, strings.TrimSpace(line))
				}
			case "expire":
				at, _ := time.ParseDuration(d.CmdArgs[0].Key)
				for r := s.Expire(event.Nanos(at)); r != nil; r = s.Expire(event.Nanos(at)) {
					l.add(t, r)
					describe(&b, s, f.Sequence, r)
				}
			case "finish":
				l.finish(t, s, func(r *Release) { describe(&b, s, f.Sequence, r) })
			default:
				t.Fatalf("unknown command %s", d.Cmd)
			}
			if s != nil {
				l.balance(t, s)
			}
			return b.String()
		})
	})
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tell pushes the packet that line describes.
func tell(t *testing.T, b *strings.Builder, s *Sequencer, l *ledger, p plan.Sequence, line string) {
	t.Helper()
	head, text, _ := strings.Cut(line, ":")
	words := strings.Fields(head)
	at, err := time.ParseDuration(words[1])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	values := map[string]int{"session": 1, "channel": 1}
	end := false
	for i := 2; i < len(words); i++ {
		switch w := words[i]; w {
		case "heartbeat":
		case "end":
			end = true
		default:
			values[w] = number(t, words[i+1])
			i++
		}
	}
	messages := strings.Fields(text)
	for range values["cut"] {
		messages = append(messages, "-")
	}
	name, seq := fmt.Sprint("session ", values["session"]), uint64(values["seq"])
	payload := mold(name, seq, messages...)
	if p == plan.IEXTP {
		payload = iex(uint32(values["channel"]), uint32(values["session"]), seq, event.Nanos(values["sent"]), messages...)
	} else if end {
		payload = moldStop(name, seq)
	}
	payload = payload[:len(payload)-3*values["cut"]]
	fmt.Fprintln(b, line)
	l.push(t, s, payload, words[0][0]-'A', event.Nanos(at), values["cut"] > 0, func(r *Release) { describe(b, s, p, r) })
}

func describe(b *strings.Builder, s *Sequencer, p plan.Sequence, r *Release) {
	say := func(format string, a ...any) { fmt.Fprintf(b, "    "+format+"\n", a...) }
	if r.Drop != event.Kept {
		say("dropped: %v", r.Drop)
		return
	}
	if r.New {
		say("channel %d is new", r.Channel)
	}
	for _, it := range r.Items {
		if g := it.Gap; g.Count > 0 {
			say("MISSING %d.%d to %d (%d)", g.Epoch, g.Seq, g.Seq+g.Count-1, g.Count)
			continue
		}
		sp := it.Span
		var ms []string
		for k := range sp.Count {
			ms = append(ms, message(p, s.Body(&sp), sp.Skip+k))
		}
		line := fmt.Sprintf("%d.%d: %s", sp.Epoch, sp.Seq, strings.Join(ms, " "))
		if sp.NewEpoch {
			line += ", epoch begins"
		}
		if sp.Held {
			line += ", held since " + time.Duration(sp.Receive).String()
		}
		say("%s", line)
	}
	if r.Began && !r.New && len(r.Items) == 0 {
		say("epoch %d begins", r.Epoch)
	}
	for _, c := range []struct {
		n    uint64
		what string
	}{{r.Held, "held"}, {r.Duplicate, "duplicate"}, {r.Ancient, "ancient"}, {r.Cut, "cut"}} {
		if c.n > 0 {
			say("%d %s", c.n, c.what)
		}
	}
	if r.Retired >= 0 {
		say("channel %d retires", r.Retired)
	}
}
