package send

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	meterTerminal = 200 * time.Millisecond // between two pictures on a terminal
	meterPlain    = 5 * time.Second        // between two lines elsewhere
	meterBar      = 24                     // characters
)

// A Status is what a [Meter] shows.
type Status struct {
	Fraction float64 // done, 0 to 1; less than 0: not known
	Counts   Counts
}

// A Meter shows how far a sending is, until it is stopped: as a bar that is drawn
// anew on a terminal, elsewhere as a line now and then.
type Meter struct {
	w        io.Writer
	terminal bool
	status   func() Status
	begin    time.Time
	lastAt   time.Time
	lastSent uint64
	stop     chan struct{}
	stopped  chan struct{}
}

// NewMeter starts a meter on w; nil shows nothing. status is called from another
// goroutine, until Stop returns.
func NewMeter(w io.Writer, status func() Status) *Meter {
	m := &Meter{w: w, status: status, stop: make(chan struct{}), stopped: make(chan struct{})}
	if w == nil {
		close(m.stopped)
		return m
	}
	if f, ok := w.(*os.File); ok {
		m.terminal = term.IsTerminal(int(f.Fd()))
	}
	m.begin = time.Now()
	m.lastAt = m.begin
	go m.run()
	return m
}

// Stop ends the meter and removes the bar from a terminal.
func (m *Meter) Stop() {
	close(m.stop)
	<-m.stopped
}

func (m *Meter) run() {
	defer close(m.stopped)
	every := meterPlain
	if m.terminal {
		every = meterTerminal
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			if m.terminal {
				fmt.Fprint(m.w, "\r\x1b[K")
			}
			return
		case now := <-tick.C:
			m.show(now)
		}
	}
}

// show draws one picture.
func (m *Meter) show(now time.Time) {
	st := m.status()
	rate := float64(st.Counts.Sent-m.lastSent) / max(now.Sub(m.lastAt).Seconds(), 1e-3)
	m.lastAt, m.lastSent = now, st.Counts.Sent
	text := fmt.Sprintf("%s sent, %s/s", group(st.Counts.Sent), group(uint64(rate)))
	if st.Counts.Refused > 0 {
		text += fmt.Sprintf(", %s refused", group(st.Counts.Refused))
	}
	if st.Fraction >= 0 {
		text = fmt.Sprintf("%3.0f %%  %s", st.Fraction*100, text)
		if st.Fraction > 0.01 {
			left := time.Duration(float64(now.Sub(m.begin)) * (1 - st.Fraction) / st.Fraction)
			text += ", " + left.Round(time.Second).String() + " left"
		}
	}
	if !m.terminal {
		fmt.Fprintln(m.w, strings.TrimSpace(text))
		return
	}
	if st.Fraction >= 0 {
		full := int(st.Fraction * meterBar)
		text = "[" + strings.Repeat("#", full) + strings.Repeat(".", meterBar-full) + "] " + text
	}
	fmt.Fprintf(m.w, "\r%s\x1b[K", text)
}

// group writes n with a comma between thousands.
func group(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
