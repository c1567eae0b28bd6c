package status

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A Group is what a box knows of the group that it belongs to.
type Group struct {
	Me      string   `json:"me"`
	Epoch   uint64   `json:"epoch"` // 0: too few peers are reached, and there are no global rows
	Members []string `json:"members"`
	Known   []string `json:"known"`
	// Transport is the epoch's; Fallback says that a preferred one was not to be had.
	Transport string `json:"transport"`
	Fallback  bool   `json:"fallback"`
	Device    string `json:"device,omitempty"`
	GID       string `json:"gid,omitempty"`
	MTU       int    `json:"mtu,omitempty"`

	EpochChanges   []Count     `json:"epoch_changes"`
	EpochChange    Durations   `json:"epoch_change_seconds"`
	Rounds         []Count     `json:"rounds"` // by result
	RoundDurations []OpPhase   `json:"round_seconds"`
	BadFrames      []Count     `json:"bad_frames"`
	StaleFrames    uint64      `json:"stale_frames"`
	BadMessages    uint64      `json:"bad_messages"`
	Refused        []Count     `json:"refused"`     // connections, by reason
	Completions    []Count     `json:"completions"` // of verbs, by status
	CreditsLeast   int         `json:"credits_least"`
	DeviceCounters []Count     `json:"device_counters"`
	Peers          []GroupPeer `json:"peers"`

	Queries   []GlobalQuery `json:"queries"`
	Bad       []Count       `json:"bad_contributions"` // by reason
	KeptBytes uint64        `json:"kept_bytes"`        // partials whose rows are not durable yet
	KeptLimit uint64        `json:"kept_limit"`
	KeptLost  uint64        `json:"kept_lost"` // windows of which partials were dropped for want of room
}

// A GroupPeer is another box, or this one, as this one sees it.
type GroupPeer struct {
	ID          string        `json:"id"`
	Address     string        `json:"address"`
	Me          bool          `json:"me,omitempty"`
	Member      bool          `json:"member"`
	Connected   bool          `json:"connected"`
	Heard       bool          `json:"heard"`
	RTT         time.Duration `json:"rtt_nanos"` // the least
	ClockOffset time.Duration `json:"clock_offset_nanos"`
	ClockKnown  bool          `json:"clock_known"`
	Sent        uint64        `json:"sent_bytes"`
	Received    uint64        `json:"received_bytes"`
	// Waited is how long rounds waited for this peer alone, in WaitedRounds of them.
	Waited       time.Duration `json:"waited_nanos"`
	WaitedRounds uint64        `json:"waited_rounds"`
	PathFailures uint64        `json:"path_failures"`
	Stalls       uint64        `json:"stalls"` // times that it was left out because it began no rounds
	LastError    string        `json:"last_error,omitempty"`
}

// A GlobalQuery is what the group makes of one query.
type GlobalQuery struct {
	Name        string        `json:"name"`
	Watermark   time.Time     `json:"watermark"` // the group's: the least over its members
	HeldBy      string        `json:"held_by,omitempty"`
	Lag         time.Duration `json:"lag_nanos"` // of HeldBy behind the first
	Open        uint64        `json:"open_windows"`
	Rows        uint64        `json:"rows"` // made by this box
	Windows     uint64        `json:"windows_fired"`
	Corrections uint64        `json:"corrections"`
	Forced      uint64        `json:"forced"`  // fired without a peer that lives and is behind
	Unknown     uint64        `json:"unknown"` // windows of which nobody left can say whether their rows are out
	Dropped     uint64        `json:"dropped"` // rows that this box's sinks did not write before the room for what waits was full
}

// Durations is a histogram: Below[i] durations were at most Bounds[i], not counting
// those of the bounds before.
type Durations struct {
	Bounds []time.Duration `json:"bounds_nanos"`
	Counts []uint64        `json:"counts"` // one more than bounds: the rest
	Sum    time.Duration   `json:"sum_nanos"`
}

// OpPhase is one phase of the rounds of one operation.
type OpPhase struct {
	Op    string `json:"op"`
	Phase string `json:"phase"` // whole, post, wait, reduce
	Durations
}

// count returns the number of durations and how many are at most each bound.
func (d *Durations) count() (n uint64, below map[float64]uint64) {
	below = map[float64]uint64{}
	for i, c := range d.Counts {
		n += c
		if i < len(d.Bounds) {
			below[d.Bounds[i].Seconds()] = n
		}
	}
	return n, below
}

// WritePeers prints the group for people.
func (g *Group) WritePeers(w io.Writer) error {
	if g == nil {
		_, err := fmt.Fprintln(w, "this box is in no group: its config has no section group")
		return err
	}
	epoch := "no epoch: too few peers are reached, and there are no global rows"
	if g.Epoch != 0 {
		epoch = fmt.Sprintf("epoch %d of %s", g.Epoch, strings.Join(g.Members, ", "))
		if g.Transport == "" {
			epoch += ", alone" // there is nobody to exchange with
		} else {
			epoch += " over " + g.Transport
		}
		if g.Fallback {
			epoch += " (a preferred transport is not to be had: see the log)"
		}
	}
	fmt.Fprintf(w, "%s: %s\n\n", g.Me, epoch)
	if err := writeTable(w, g.peerTable()); err != nil {
		return err
	}
	if len(g.Queries) > 0 {
		fmt.Fprintln(w)
		if err := writeTable(w, g.queryTable()); err != nil {
			return err
		}
	}
	return g.notes(w)
}

func (g *Group) peerTable() [][]string {
	table := [][]string{{"peer", "address", "state", "rtt", "clock offset", "sent", "received", "waited for"}}
	for i := range g.Peers {
		p := &g.Peers[i]
		state := "not heard"
		switch {
		case p.Me && p.Member:
			state = "this box"
		case p.Me:
			state = "this box, alone"
		case p.Member:
			state = "member"
		case p.Heard:
			state = "heard, no member"
		case p.Connected:
			state = "connected"
		}
		row := []string{p.ID, p.Address, state, "", "", bytesOf(p.Sent), bytesOf(p.Received), ""}
		if p.ClockKnown {
			row[3], row[4] = short(p.RTT), short(p.ClockOffset)
		}
		if p.WaitedRounds > 0 {
			row[7] = fmt.Sprintf("%s in %d rounds", short(p.Waited), p.WaitedRounds)
		}
		table = append(table, row)
	}
	return table
}

func (g *Group) queryTable() [][]string {
	table := [][]string{{"global query", "watermark", "held by", "lag", "open", "windows", "rows here", "corrected", "forced"}}
	for i := range g.Queries {
		q := &g.Queries[i]
		mark := "none"
		if !q.Watermark.IsZero() {
			mark = q.Watermark.UTC().Format("2006-01-02T15:04:05.000Z")
		}
		table = append(table, []string{
			q.Name, mark, q.HeldBy, short(q.Lag), fmt.Sprint(q.Open), fmt.Sprint(q.Windows), fmt.Sprint(q.Rows), fmt.Sprint(q.Corrections), fmt.Sprint(q.Forced),
		})
	}
	return table
}

// notes prints what a person should look at.
func (g *Group) notes(w io.Writer) error {
	var notes []string
	for i := range g.Queries {
		if q := &g.Queries[i]; q.Unknown > 0 {
			notes = append(notes, fmt.Sprintf("query %s: %d windows whose rows may or may not be out: the boxes that held them are gone", q.Name, q.Unknown))
		}
	}
	for i := range g.Queries {
		if q := &g.Queries[i]; q.Dropped > 0 {
			notes = append(notes, fmt.Sprintf("query %s: %d rows were dropped because the sinks of this box had stalled", q.Name, q.Dropped))
		}
	}
	if g.KeptLost > 0 {
		notes = append(notes, fmt.Sprintf("%d windows lost kept partials: give group.keep more than %s", g.KeptLost, bytesOf(g.KeptLimit)))
	}
	for _, set := range []struct {
		what   string
		counts []Count
	}{{"connections refused", g.Refused}, {"frames refused", g.BadFrames}, {"contributions refused", g.Bad}} {
		for _, c := range set.counts {
			if c.Count > 0 {
				notes = append(notes, fmt.Sprintf("%s: %d: %s", set.what, c.Count, c.Name))
			}
		}
	}
	for i := range g.Peers {
		if p := &g.Peers[i]; p.LastError != "" && !p.Heard && !p.Me {
			notes = append(notes, fmt.Sprintf("peer %s: %s", p.ID, p.LastError))
		}
	}
	if len(notes) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
	return err
}

// short rounds d to three digits or so.
func short(d time.Duration) string {
	for unit := time.Second; unit > time.Nanosecond; unit /= 10 {
		if d >= 100*unit || d <= -100*unit {
			return d.Round(unit).String()
		}
	}
	return d.String()
}

// bytesOf prints n with a unit.
func bytesOf(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
