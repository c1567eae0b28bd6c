package xsk

import (
	"fmt"
	"math"
)

// Sizes are the sizes of one queue's rings, in entries, and of its UMEM. All are
// powers of two.
type Sizes struct {
	FrameSize int // bytes, 2048 or 4096
	Frames    int
	// RxRing is the size of every worker's RX ring. TxRing is the owner's TX and
	// completion ring and the number of frames kept for sending; the others receive.
	RxRing, TxRing int
	// FillRing holds all frames.
	FillRing int
}

// Wish is what [Fit] makes sizes of. Zero fields other than Workers take defaults.
type Wish struct {
	Workers     int // the most there will ever be. Required.
	RxRing      int // 4096
	TxRing      int // 512
	FillReserve int // frames the driver holds: its own ring with zero-copy; 2048
	FrameSize   int // 2048
}

// Fit returns the sizes for w, rings rounded up to powers of two. The frames are
//
//	workers × RX ring + fill reserve + TX ring ≤ frames
//
// so that workers which stall with their RX rings full leave frames for the others.
func Fit(w Wish) (Sizes, error) {
	w = w.withDefaults()
	if w.Workers < 1 || w.Workers > WorkersMax {
		return Sizes{}, fmt.Errorf("xsk: %d workers: 1 to %d are possible", w.Workers, WorkersMax)
	}
	for _, n := range []int{w.RxRing, w.TxRing, w.FillReserve} {
		if n < 1 || n > ringMax {
			return Sizes{}, fmt.Errorf("xsk: ring of %d entries: 1 to %d are possible", n, ringMax)
		}
	}
	s := Sizes{FrameSize: w.FrameSize, RxRing: ceilPowerOfTwo(w.RxRing), TxRing: ceilPowerOfTwo(w.TxRing)}
	s.Frames = ceilPowerOfTwo(w.Workers*s.RxRing + w.FillReserve + s.TxRing)
	s.FillRing = s.Frames
	if err := s.check(); err != nil {
		return Sizes{}, fmt.Errorf("xsk: %w", err)
	}
	return s, nil
}

// ringMax bounds a ring; it keeps sums of them far from overflow.
const ringMax = 1 << 20

func (w Wish) withDefaults() Wish {
	set := func(p *int, value int) {
		if *p == 0 {
			*p = value
		}
	}
	set(&w.RxRing, 4096)
	set(&w.TxRing, 512)
	set(&w.FillReserve, 2048)
	set(&w.FrameSize, 2048)
	return w
}

// Explain says where Fit's number of frames comes from, one line a term.
func (w Wish) Explain(s Sizes) []string {
	w = w.withDefaults()
	need := w.Workers*s.RxRing + w.FillReserve + s.TxRing
	return []string{
		fmt.Sprintf("%10d frames  %d workers × RX ring of %d: all may stall with full rings", w.Workers*s.RxRing, w.Workers, s.RxRing),
		fmt.Sprintf("%10d frames  fill reserve: what the driver holds", w.FillReserve),
		fmt.Sprintf("%10d frames  TX ring", s.TxRing),
		fmt.Sprintf("%10d frames  rounded up from %d to a power of two", s.Frames, need),
		fmt.Sprintf("%10d bytes   UMEM a queue: %d frames of %d bytes", s.UMEMBytes(), s.Frames, s.FrameSize),
		fmt.Sprintf("%10d bytes   rings a queue: fill, completion, TX, %d × RX", s.RingBytes(w.Workers), w.Workers),
	}
}

// UMEMBytes returns the size of one queue's UMEM.
func (s Sizes) UMEMBytes() int { return s.Frames * s.FrameSize }

// Workers returns the most workers that the sizes are enough for, at least one.
func (s Sizes) Workers() int {
	return min(max((s.Frames-s.TxRing)/s.RxRing, 1), WorkersMax)
}

// RingBytes returns the size of one queue's ring entries with so many workers.
func (s Sizes) RingBytes(workers int) int {
	return s.FillRing*addressBytes + s.TxRing*(addressBytes+int(descBytes)) + workers*s.RxRing*int(descBytes)
}

func (s Sizes) check() error {
	for _, v := range []struct {
		what string
		n    int
	}{
		{"frames", s.Frames},
		{"RX ring", s.RxRing},
		{"TX ring", s.TxRing},
		{"fill ring", s.FillRing},
	} {
		if !powerOfTwo(v.n) {
			return fmt.Errorf("%s of %d: must be a power of two", v.what, v.n)
		}
	}
	if s.FrameSize != 2048 && s.FrameSize != 4096 {
		return fmt.Errorf("frame size of %d: 2048 or 4096 are possible", s.FrameSize)
	}
	if s.Frames <= s.TxRing {
		return fmt.Errorf("%d frames: a TX ring of %d leaves none to receive", s.Frames, s.TxRing)
	}
	if s.FillRing < s.Frames {
		return fmt.Errorf("fill ring of %d: must hold all %d frames", s.FillRing, s.Frames)
	}
	if s.Frames > math.MaxUint32/s.FrameSize {
		return fmt.Errorf("UMEM of %d frames of %d bytes: less than 4 GiB a queue is possible; use smaller RX rings", s.Frames, s.FrameSize)
	}
	return nil
}
