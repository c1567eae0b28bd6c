package show

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// A View is what is to be seen, on a terminal or as lines.
type View interface {
	// Title says what will be seen.
	Title() []string
	// Picture returns at most height lines of at most width characters.
	Picture(width, height int) []string
	// Plain is the same on one line, for where there is no terminal.
	Plain() string
	// Newest is the newest row, "" if there is none: printed below Plain.
	Newest() string
}

// A Screen shows a view: on a terminal as a picture that is drawn anew in its place,
// elsewhere as lines.
type Screen struct {
	// Every is how often to draw.
	Every time.Duration
	w     io.Writer
	// size is the terminal's, in characters; nil: not a terminal.
	size          func() (width, height int, err error)
	width, height int // of the last picture
}

const (
	everyTerminal = 500 * time.Millisecond
	everyPlain    = time.Second
)

// What a picture must fit into, in characters.
const (
	WidthLeast  = 20
	HeightLeast = 4
)

// What the terminal is told (ECMA-48).
const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearAll   = "\x1b[2J"
	home       = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

// NewScreen shows on w, with pictures if that is a terminal that can.
func NewScreen(w io.Writer) *Screen {
	s := &Screen{w: w, Every: everyPlain}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.Every = everyTerminal
		s.size = func() (int, int, error) { return term.GetSize(int(f.Fd())) }
	}
	return s
}

// Terminal reports that pictures are drawn.
func (s *Screen) Terminal() bool { return s.size != nil }

// Width is that of the last picture, 0 if there was none.
func (s *Screen) Width() int { return s.width }

// First says what will be seen.
func (s *Screen) First(v View) error {
	if s.size != nil {
		return s.Draw(v)
	}
	_, err := fmt.Fprintf(s.w, "%s\n\n", strings.Join(v.Title(), "\n"))
	return err
}

// Draw shows v now.
func (s *Screen) Draw(v View) error {
	if s.size == nil {
		text := v.Plain() + "\n"
		if row := v.Newest(); row != "" {
			text += "      " + Printable(row) + "\n"
		}
		_, err := io.WriteString(s.w, text)
		return err
	}
	// One write, so that no half of a picture is seen.
	_, err := io.WriteString(s.w, s.picture(v, 1))
	return err
}

// picture is the bytes that draw v. It leaves spare lines free, and everything else
// in its place: what is drawn over is as long as the line.
func (s *Screen) picture(v View, spare int) string {
	width, height, err := s.size()
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	width, height = max(width, WidthLeast), max(height, HeightLeast)
	var b strings.Builder
	b.WriteString(hideCursor)
	if width != s.width || height != s.height {
		b.WriteString(clearAll) // the first picture, or the terminal has another size
		s.width, s.height = width, height
	}
	b.WriteString(home)
	for _, line := range v.Picture(width, height-spare) {
		b.WriteString(line + clearLine + "\r\n")
	}
	b.WriteString(clearBelow)
	return b.String()
}

// Last shows v for the last time. What is printed afterwards comes below it.
func (s *Screen) Last(v View) error {
	if s.size == nil {
		_, err := fmt.Fprintln(s.w, v.Plain())
		return err
	}
	return s.Draw(v)
}

// Printf prints below the picture.
func (s *Screen) Printf(format string, args ...any) { fmt.Fprintf(s.w, format, args...) }

// Close gives the terminal its cursor back.
func (s *Screen) Close() {
	if s.size != nil {
		fmt.Fprint(s.w, showCursor)
	}
}
