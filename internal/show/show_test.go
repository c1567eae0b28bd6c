package show

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// lines is a view of numbered lines, as many as fit.
type lines struct{ newest string }

func (lines) Title() []string  { return []string{"what", "will be seen"} }
func (lines) Plain() string    { return "now" }
func (l lines) Newest() string { return l.newest }
func (lines) Picture(width, height int) (all []string) {
	for i := range height {
		all = append(all, Cut(fmt.Sprint("line ", i), width))
	}
	return all
}

func TestAScreenIsClearedOnlyWhenItsSizeChanges(t *testing.T) {
	width, height := 80, 24
	s := &Screen{size: func() (int, int, error) { return width, height, nil }}
	for i, c := range []struct {
		width, height int
		clears        bool
	}{{80, 24, true}, {80, 24, false}, {100, 24, true}, {100, 24, false}, {100, 10, true}, {0, 0, true}, {0, 0, false}} {
		width, height = c.width, c.height
		b := s.picture(lines{}, 1)
		if strings.Contains(b, clearAll) != c.clears {
			t.Errorf("picture %d, %d×%d: clears %v, want %v", i, width, height, !c.clears, c.clears)
		}
		if n := strings.Count(b, "\r\n"); height > 0 && n >= height {
			t.Errorf("picture %d has %d lines and scrolls a screen of %d", i, n, height)
		}
	}
}

func TestWithoutATerminalNothingIsDrawnOver(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out)
	if err := errors.Join(s.First(lines{}), s.Draw(lines{newest: "row\x1b[2J"}), s.Last(lines{newest: "row"})); err != nil {
		t.Fatal(err)
	}
	s.Close()
	const want = "what\nwill be seen\n\nnow\n      row?[2J\nnow\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := Thousands(n); got != want {
			t.Errorf("Thousands(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{1500: "1.5 µs", 62 * time.Millisecond: "62.00 ms", 1500 * time.Millisecond: "1.50 s"} {
		if got := Span(d); got != want {
			t.Errorf("Span(%d) = %q, want %q", d, got, want)
		}
	}
	if got := Cut("añb", 2); got != "añ" {
		t.Errorf("Cut = %q, want two characters", got)
	}
}

func TestADurationIsATimeThatIsLongEnough(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "2s": 2 * time.Second, "2m": 2 * time.Minute} {
		if got, err := Duration(text, time.Second); err != nil || got != want {
			t.Errorf("Duration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"20", "1ms", "-5s", "soon"} {
		if _, err := Duration(text, time.Second); !errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), text) {
			t.Errorf("Duration(%q): %v, want an error that names it", text, err)
		}
	}
}
