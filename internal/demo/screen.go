package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// screen shows a view: on a terminal as a picture that is drawn anew in its place,
// elsewhere as lines, one a second.
type screen struct {
	w     io.Writer
	every time.Duration
	// size is the terminal's, in characters; nil: not a terminal.
	size          func() (width, height int, err error)
	width, height int // of the last picture
}

const (
	everyTerminal = 500 * time.Millisecond
	everyPlain    = time.Second
	widthLeast    = 20
	heightLeast   = 4
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

func newScreen(w io.Writer) *screen {
	s := &screen{w: w, every: everyPlain}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.every = everyTerminal
		s.size = func() (int, int, error) { return term.GetSize(int(f.Fd())) }
	}
	return s
}

// first says what will be seen.
func (s *screen) first(v *view) error {
	if s.size != nil {
		return s.draw(v)
	}
	_, err := fmt.Fprintf(s.w, "%s\n\n", strings.Join(v.title, "\n"))
	return err
}

// draw shows v now.
func (s *screen) draw(v *view) error {
	if s.size == nil {
		text := v.plain() + "\n"
		if lines := v.rows.last(1); len(lines) > 0 {
			text += "      " + printable(string(lines[0])) + "\n"
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
func (s *screen) picture(v *view, spare int) string {
	width, height, err := s.size()
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	width, height = max(width, widthLeast), max(height, heightLeast)
	var b strings.Builder
	b.WriteString(hideCursor)
	if width != s.width || height != s.height {
		b.WriteString(clearAll) // the first picture, or the terminal has another size
		s.width, s.height = width, height
	}
	b.WriteString(home)
	for _, line := range v.picture(width, height-spare) {
		b.WriteString(line + clearLine + "\r\n")
	}
	b.WriteString(clearBelow)
	return b.String()
}

// last shows v for the last time. What is printed afterwards comes below it.
func (s *screen) last(v *view) error {
	if s.size == nil {
		_, err := fmt.Fprintln(s.w, v.plain())
		return err
	}
	return s.draw(v)
}

// printf prints below the picture.
func (s *screen) printf(format string, args ...any) { fmt.Fprintf(s.w, format, args...) }

// close gives the terminal its cursor back.
func (s *screen) close() {
	if s.size != nil {
		fmt.Fprint(s.w, showCursor)
	}
}
