package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// group says what the boxes of the group do together.
func (e *explainer) group() error {
	g, p := e.c.Group, e.p.Group
	if g == nil || p == nil {
		return nil
	}
	e.line("\ngroup: this box is %s of %s", p.Me, strings.Join(p.Peers, ", "))
	for i, peer := range g.Peers {
		about, me := "", ""
		if i == 0 {
			about = "peers"
		}
		if peer.ID == p.Me {
			me = ", this box"
		}
		e.say(about, "%s at %s%s", peer.ID, peer.Address, me)
	}
	e.say("alive", "a peer that is silent for %s is gone on without; each says %s that it lives", duration(g.Period), "every "+config.FormatDuration(g.Period.D()/5))
	e.say("quorum", "%s", quorum(p))
	least, most := event.GroupCount/len(p.Peers), (event.GroupCount+len(p.Peers)-1)/len(p.Peers)
	owned := fmt.Sprint(most)
	if least != most {
		owned = fmt.Sprintf("%d or %d", least, most)
	}
	e.say("owners", "each of the %d key groups has an owner, who writes its global rows, and a second, who has them too and goes on if the owner is gone: with all peers there each owns %s", event.GroupCount, owned)
	e.say("rows", "a global row waits up to %s for a peer that lives and is behind; %s", duration(g.MaxWait), corrections(g))
	if err := e.exchange(g); err != nil {
		return err
	}
	sealed := ""
	if p.Seal {
		sealed = ", encrypted"
	}
	e.say("transport", "%s%s", transport(g), sealed)
	return nil
}

func duration(d config.Duration) string { return config.FormatDuration(d.D()) }

func quorum(p *plan.Group) string {
	n := len(p.Peers)
	switch {
	case p.AllowSolo:
		return "none: a box that hears nobody goes on alone, and two that are cut off from each other both write rows, under the same ids, that differ"
	case p.TieBreaker != "" && n == 2:
		return fmt.Sprintf("both, or %s alone: without %s there are no global rows, local ones go on", p.TieBreaker, p.TieBreaker)
	case p.TieBreaker != "":
		return fmt.Sprintf("%d of %d, or %d with %s among them: fewer make no global rows, local ones go on", n/2+1, n, n/2, p.TieBreaker)
	case n == 2:
		return "both: while one is gone there are no global rows, local ones go on; a tie_breaker could go on alone"
	}
	return fmt.Sprintf("%d of %d: fewer make no global rows, local ones go on", n/2+1, n)
}

func corrections(g *config.Group) string {
	if g.CorrectFor == 0 {
		return "what comes later is dropped and counted"
	}
	return fmt.Sprintf("what comes within %s after it makes a new revision", duration(g.CorrectFor))
}

func transport(g *config.Group) string {
	device := ""
	if g.Device != "" {
		device = " on " + g.Device
	}
	out := map[string]string{"auto": "RDMA verbs" + device + " if all peers have it, else TCP", "verbs": "RDMA verbs" + device, "tcp": "TCP"}[g.Transport]
	if g.Busy {
		return out + ", polled without sleeping"
	}
	return out
}

// exchange says what goes from box to box, and what is kept.
func (e *explainer) exchange(g *config.Group) error {
	least := 0
	for i := range e.p.Queries {
		q := &e.p.Queries[i]
		if !q.Global {
			continue
		}
		if e.o.State == nil {
			e.say("exchanges", "query %s: the partial result of each key and window, to its owner and its second", q.Name)
			continue
		}
		n, err := e.o.State(q, e.p.Feeds[q.Feed].Columns)
		if err != nil {
			return fmt.Errorf("explain: query %s: %w", q.Name, err)
		}
		record := outbox.RecordBytes(e.p.Streams[q.Stream].KeyWidth, (n+7)/8)
		e.say("exchanges", "query %s: up to %s for each key and window, to its owner and its second", q.Name, count(record, "byte"))
		least = max(least, record)
	}
	switch {
	case !slices.ContainsFunc(e.p.Queries, func(q plan.Query) bool { return q.Global }):
		e.say("exchanges", "nothing: no query has scope: global; rows say whose they are")
	case least > 0:
		e.say("keeps", "up to %s of partial results until their rows are written, at least %s of the largest", size(int(g.Keep)), count(int(g.Keep)/least, "record"))
	default:
		e.say("keeps", "up to %s of partial results until their rows are written", size(int(g.Keep)))
	}
	return nil
}
