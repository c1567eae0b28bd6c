package rdma

import (
	"errors"
	"fmt"
	"sync"
)

// Op names how AllReduce combines vectors: element by element, in the order of
// members. Elements are little-endian.
type Op uint8

// The ops that every group has. None of them depends on the order of its operands.
const (
	SumInt64  Op = iota + 1 // wraps
	SumUint64               // wraps; the same bits as SumInt64
	MinInt64
	MaxInt64
	MaxUint8
	Or
	Sum128 // two words, low word first, two's complement; wraps
	opBuiltin
)

const (
	binsOps = 0x40 // SumBins(n) is binsOps + n
	userOps = 0x80 // RegisterOp's are userOps + number

	// BinsWordsMax bounds the words of a SumBins.
	BinsWordsMax = userOps - binsOps - 1
	// UserOpMax is the greatest number of a user's op.
	UserOpMax = 0x7f
)

// SumBins returns the op that adds integers of n words, low word first, in two's
// complement, wrapping: the bins of a reproducible sum of floats. n is at least 1 and
// at most BinsWordsMax.
func SumBins(n int) Op {
	if n < 1 || n > BinsWordsMax {
		panic(fmt.Sprintf("rdma: bins of %d words; 1 to %d are possible", n, BinsWordsMax))
	}
	return binsOps + Op(n)
}

// ErrOpUnknown reports an op that is not there, or one that cannot be registered.
var ErrOpUnknown = errors.New("no such operation")

// An operation is what an Op stands for.
type operation struct {
	name    string
	element int
	// into folds b into a copy of a, at dst. dst may be a. All have the same length,
	// a multiple of element.
	into func(dst, a, b []byte)
	// ordered says that operands have to come in the order of members.
	ordered bool
}

var builtins = [opBuiltin]operation{
	SumInt64:  {"sum_int64", 8, sum64, false},
	SumUint64: {"sum_uint64", 8, sum64, false},
	MinInt64:  {"min_int64", 8, minInt64, false},
	MaxInt64:  {"max_int64", 8, maxInt64, false},
	MaxUint8:  {"max_uint8", 1, maxUint8, false},
	Or:        {"or", 1, orBytes, false},
	Sum128:    {"sum_128", 16, sum128, false},
}

var registered struct {
	sync.RWMutex
	ops [UserOpMax + 1]operation
}

// RegisterOp adds an op that folds src into dst, both of the same length, a multiple
// of elementBytes. Every member must have registered the same under that number. It
// must give the same bits for the same operands everywhere, in whatever pieces of
// whole elements it gets them; it need not be commutative. It must not keep dst or
// src. The error is ErrOpUnknown if the number or the name is taken or impossible.
func RegisterOp(name string, number int, fold func(dst, src []byte), elementBytes int) (Op, error) {
	if number < 0 || number > UserOpMax || elementBytes < 1 || elementBytes > FrameMax || fold == nil || name == "" {
		return 0, fmt.Errorf("rdma: op %q, number %d, elements of %d bytes: %w", name, number, elementBytes, ErrOpUnknown)
	}
	registered.Lock()
	defer registered.Unlock()
	for n, o := range registered.ops {
		if o.into != nil && (n == number || o.name == name) {
			return 0, fmt.Errorf("rdma: op %q, number %d: %q has it: %w", name, number, o.name, ErrOpUnknown)
		}
	}
	registered.ops[number] = operation{name, elementBytes, func(dst, a, b []byte) {
		copy(dst, a)
		fold(dst, b)
	}, true}
	return userOps + Op(number), nil
}

// binsNames are made once: naming an op allocates nothing.
var binsNames = func() (names [BinsWordsMax + 1]string) {
	for n := range names {
		names[n] = fmt.Sprintf("sum_bins_%d", n)
	}
	return names
}()

// String names the op as metrics do.
func (op Op) String() string {
	if op > binsOps && op < userOps {
		return binsNames[op-binsOps]
	}
	if o, err := op.operation(); err == nil {
		return o.name
	}
	return fmt.Sprintf("op_%d", uint8(op))
}

func (op Op) operation() (operation, error) {
	switch {
	case op > 0 && op < opBuiltin:
		return builtins[op], nil
	case op > binsOps && op < userOps:
		return operation{binsNames[op-binsOps], 8 * int(op-binsOps), binsFolds[op-binsOps], false}, nil
	case op >= userOps:
		registered.RLock()
		o := registered.ops[op-userOps]
		registered.RUnlock()
		if o.into != nil {
			return o, nil
		}
	}
	return operation{}, fmt.Errorf("rdma: op %d: %w", uint8(op), ErrOpUnknown)
}
