package arena_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
)

type cell struct {
	A uint64
	B [3]uint32
	C uint8
}

// memory is what a process builds in a region.
type memory struct {
	region *arena.Region
	words  []uint64
	cells  []cell
	small  []uint32
	commit []uint64
	undo   *arena.Undo
}

func build(t *testing.T, r *arena.Region) *memory {
	t.Helper()
	m := &memory{region: r}
	var errs [5]error
	m.words, errs[0] = arena.Slice[uint64](r, "words", 100)
	m.cells, errs[1] = arena.Slice[cell](r, "cells", 10)
	m.small, errs[2] = arena.Slice[uint32](r, "small", 33)
	m.commit, errs[3] = arena.Slice[uint64](r, "commit", 1)
	m.undo, errs[4] = arena.NewUndo(r, 1<<12)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return m
}

// reopen maps the region again, as the next process would.
func reopen(t *testing.T, m *memory) *memory {
	t.Helper()
	fd, err := unix.Dup(m.region.FD())
	if err != nil {
		t.Fatal(err)
	}
	r, err := arena.Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return build(t, r)
}

func fresh(t *testing.T) *memory {
	t.Helper()
	r, err := arena.New("test", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	m := build(t, r)
	if err := r.Complete(7); err != nil {
		t.Fatal(err)
	}
	return m
}

// change does n random changes, each saved before.
func (m *memory) change(rng *rand.Rand, n int) {
	for range n {
		switch rng.IntN(4) {
		case 0:
			at := rng.IntN(len(m.words) - 4)
			arena.SaveSlice(m.undo, m.words[at:at+4])
			for i := range 4 {
				m.words[at+i] = rng.Uint64()
			}
		case 1:
			c := &m.cells[rng.IntN(len(m.cells))]
			arena.Save(m.undo, c)
			*c = cell{rng.Uint64(), [3]uint32{rng.Uint32(), 1, 2}, uint8(rng.Uint32())}
		case 2:
			s := &m.small[rng.IntN(len(m.small))]
			arena.Save(m.undo, s)
			*s = rng.Uint32()
		case 3:
			s := m.small[rng.IntN(16):17]
			arena.SaveSlice(m.undo, s)
			for i := range s {
				s[i] = rng.Uint32()
			}
		}
	}
}

func TestABatchThatWasNotCommittedIsTakenBack(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := fresh(t)
		for batch := uint64(1); batch <= 5; batch++ {
			m.undo.Begin(batch)
			m.change(rng, rng.IntN(20))
			m.commit[0] = batch
		}
		words, cells, small := slices.Clone(m.words), slices.Clone(m.cells), slices.Clone(m.small)
		m.undo.Begin(6)
		n := rng.IntN(30)
		m.change(rng, n)

		next := reopen(t, m)
		if err := next.region.Complete(7); err != nil {
			t.Fatal(err)
		}
		did, err := next.undo.Rollback(next.commit[0])
		if err != nil || did != (n > 0) {
			t.Fatalf("seed %d: %d changes, rolled back: %v, %v", seed, n, did, err)
		}
		if !slices.Equal(next.words, words) || !slices.Equal(next.cells, cells) || !slices.Equal(next.small, small) {
			t.Fatalf("seed %d: memory is not what was committed", seed)
		}
	}
}

func TestACommittedBatchStays(t *testing.T) {
	m := fresh(t)
	rng := rand.New(rand.NewPCG(1, 1))
	m.undo.Begin(1)
	m.change(rng, 20)
	m.commit[0] = 1
	words := slices.Clone(m.words)
	next := reopen(t, m)
	if did, err := next.undo.Rollback(next.commit[0]); did || err != nil {
		t.Fatalf("rolled back: %v, %v", did, err)
	}
	if !slices.Equal(next.words, words) {
		t.Fatal("memory changed")
	}
}

func TestARegionOfAnotherLayoutIsRefused(t *testing.T) {
	m := fresh(t)
	fd, err := unix.Dup(m.region.FD())
	if err != nil {
		t.Fatal(err)
	}
	r, err := arena.Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !r.Warm() {
		t.Fatal("not warm")
	}
	if _, err := arena.Slice[uint64](r, "words", 101); err != nil {
		t.Fatal(err)
	}
	if err := r.Complete(7); !errors.Is(err, arena.ErrLayout) {
		t.Fatalf("got %v", err)
	}
	again := reopen(t, m)
	if err := again.region.Complete(8); !errors.Is(err, arena.ErrLayout) {
		t.Fatalf("another version: got %v", err)
	}
}

func TestARegionWhoseBuilderDiedIsFresh(t *testing.T) {
	r, err := arena.New("test", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := build(t, r)
	if next := reopen(t, m); next.region.Warm() {
		t.Fatal("warm, though nothing was completed")
	}
}

func TestSavingDoesNotAllocate(t *testing.T) {
	m := fresh(t)
	rng := rand.New(rand.NewPCG(1, 1))
	batch := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		batch++
		m.undo.Begin(batch)
		m.change(rng, 10)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestANilLogSavesNothing(t *testing.T) {
	var u *arena.Undo
	x := uint64(1)
	u.Begin(1)
	arena.Save(u, &x)
	arena.SaveSlice(u, []uint64{1})
	if u.Used() != 0 || u.Cap() != 0 {
		t.Fatal("a nil log has room")
	}
}

func BenchmarkSaveOneCell(b *testing.B) {
	r, err := arena.New("bench", 1<<24)
	if err != nil {
		b.Fatal(err)
	}
	words, _ := arena.Slice[uint64](r, "words", 1<<16)
	undo, _ := arena.NewUndo(r, 1<<16)
	batch := uint64(0)
	for i := 0; b.Loop(); i++ {
		if undo.Used()+16 > undo.Cap() {
			batch++
			undo.Begin(batch)
		}
		arena.SaveSlice(undo, words[i&0xff*8:i&0xff*8+8])
	}
}

// What is put together, zeros and entries of a table included, is taken back as what
// is saved one by one.
func TestWhatWasPutTogetherIsTakenBack(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := fresh(t)
		for i := range m.words[:80] {
			m.words[i] = rng.Uint64()
		}
		size := []int{1, 2, 4, 7, 10}[rng.IntN(5)]
		words, small := slices.Clone(m.words), slices.Clone(m.small)
		m.undo.Begin(1)
		for range rng.IntN(20) {
			switch rng.IntN(3) {
			case 0:
				var at []uint32
				for range rng.IntN(10) {
					at = append(at, uint32(rng.IntN(80/size)*size))
				}
				m.undo.PutEntries(m.words, at, size)
				m.undo.Publish()
				for _, a := range at {
					for i := range size {
						m.words[int(a)+i] += rng.Uint64()
					}
				}
			case 1:
				at := 80 + rng.IntN(20)
				arena.Put(m.undo, &m.small[3])
				if zeros := m.words[at : at+1]; zeros[0] == 0 {
					m.undo.PutZeros(zeros)
					m.undo.Publish()
					zeros[0] = rng.Uint64()
				}
				m.undo.Publish()
				m.small[3] = rng.Uint32()
			case 2:
				arena.PutSlice(m.undo, m.small[5:9])
				m.undo.Publish()
				m.small[7]++
			}
		}
		did := m.undo.Used() > 0
		next := reopen(t, m)
		if rolled, err := next.undo.Rollback(0); err != nil || rolled != did {
			t.Fatalf("seed %d: rolled back %v, %v, want %v", seed, rolled, err, did)
		}
		if !slices.Equal(next.words, words) || !slices.Equal(next.small, small) {
			t.Fatalf("seed %d: memory is not what was committed", seed)
		}
	}
}

func TestPuttingEntriesDoesNotAllocate(t *testing.T) {
	m := fresh(t)
	at := []uint32{0, 8, 0, 8, 8, 16}
	batch := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		batch++
		m.undo.Begin(batch)
		for _, size := range []int{3, 4, 9} {
			m.undo.PutEntries(m.words, at, size)
			m.undo.Publish()
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
	// Events of one entry in a row are saved once, entries of many words once in a batch.
	if want := 5*4 + 5*5 + 3*10; m.undo.Used() != want {
		t.Fatalf("%d words are used, want %d", m.undo.Used(), want)
	}
}
