package show

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Printable takes out what a terminal might obey: keys are bytes from the network.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// Span writes a time with three digits.
func Span(d time.Duration) string {
	switch {
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", float64(d)/1e9)
}

// Thousands writes n with a comma between thousands.
func Thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Cut shortens s to width characters.
func Cut(s string, width int) string {
	at := 0
	for i := range s {
		if at == width {
			return s[:i]
		}
		at++
	}
	return s
}
