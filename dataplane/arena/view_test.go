package arena

import (
	"testing"

	"golang.org/x/sys/unix"
)

// What is written in a view stays in it, and what nobody has touched is left out there.
func TestAViewChangesNothingAndKnowsWhatWasTouched(t *testing.T) {
	const n = 1 << 20
	build := func(r *Region) []uint64 {
		t.Helper()
		if _, err := Slice[uint64](r, "before", 100); err != nil {
			t.Fatal(err)
		}
		s, err := Slice[uint64](r, "words", n)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	r, err := New("test", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := build(r)
	touched := []int{0, 5, n / 2, n - 1}
	for _, i := range touched {
		s[i] = uint64(i) + 1
	}
	if err := r.Complete(1); err != nil {
		t.Fatal(err)
	}
	if begin, end := Touched(r, s, 7); begin != 7 || end != n {
		t.Errorf("[%d, %d) of a region that is no view", begin, end)
	}
	fd, err := unix.Dup(r.FD())
	if err != nil {
		t.Fatal(err)
	}
	v, err := View(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if !v.Warm() {
		t.Fatal("the view is not warm")
	}
	seen := build(v)
	looked, found := 0, 0
	for i := 0; i < n; {
		var end int
		for i, end = Touched(v, seen, i); i < end; i++ {
			if looked++; seen[i] != 0 {
				found++
			}
		}
	}
	if found != len(touched) || looked > 4*unix.Getpagesize()/8*len(touched) {
		t.Errorf("%d of %d were found in %d looked at", found, len(touched), looked)
	}
	seen[5] = 99
	if s[5] != 6 {
		t.Errorf("a write in a view made %d of 6", s[5])
	}
}
