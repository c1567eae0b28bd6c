package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Pos is a place in the file. Line and Column count from 1, columns in
// characters; the zero Pos is nowhere.
type Pos struct {
	Line, Column int
}

// A Finding is one mistake in a config.
type Finding struct {
	File string
	Pos
	// Message says what is wrong, Allowed what would be right, Fix is the word that
	// was probably meant. The last two may be empty.
	Message, Allowed, Fix string
}

// String returns the finding on one line: file:line:column: message; what is
// allowed; did you mean "x"?
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
	if f.Allowed != "" {
		b.WriteString("; " + f.Allowed)
	}
	switch {
	case f.Fix == "":
	case strings.ContainsAny(f.Fix, `"\`):
		fmt.Fprintf(&b, "; did you mean '%s'?", f.Fix)
	default:
		fmt.Fprintf(&b, "; did you mean %q?", f.Fix)
	}
	return b.String()
}

// Findings are all mistakes of a config, by position. As an error they are one a line.
type Findings []Finding //nolint:errname // a list that is also an error; it is named for what it holds

// Error returns the findings, one a line.
func (f Findings) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].String()
	}
	return strings.Join(lines, "\n")
}

// sorted returns f by position, each finding once.
func (f Findings) sorted() Findings {
	out := slices.Clone(f)
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(out)
}

// OneOf joins words as "a, b or c".
func OneOf(words []string) string {
	switch n := len(words); n {
	case 0:
		return "nothing"
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
}

// Nearest returns the candidate that differs least from word, or "" if none is
// near enough to have been meant.
func Nearest(word string, candidates []string) string {
	if len(word) >= 4 {
		for _, c := range candidates {
			if len(c) > len(word) && strings.HasPrefix(c, word) {
				return c
			}
		}
	}
	best, at := "", max(1, len([]rune(word))/3)+1
	for _, c := range candidates {
		if c == word {
			continue
		}
		if strings.EqualFold(c, word) {
			return c
		}
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < at {
			best, at = c, d
		}
	}
	if best == "" && len(word) >= 3 {
		for _, c := range candidates {
			if strings.HasPrefix(c, word) || len(c) >= 3 && strings.HasPrefix(word, c) {
				return c
			}
		}
	}
	return best
}

// distance counts insertions, deletions, replacements and swaps of neighbors that
// turn a into b. Words longer than 64 characters are as far apart as they are long.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 64 || len(y) > 64 {
		return max(len(x), len(y))
	}
	var before, last, row [65]int
	for j := range len(y) + 1 {
		last[j] = j
	}
	for i := range x {
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(y)]
}
