package frame

import "errors"

// What is wrong with a frame. [Codec.Bad] counts each.
var (
	ErrShort   = errors.New("shorter than its header says")
	ErrMagic   = errors.New("not a frame")
	ErrVersion = errors.New("another version")
	ErrKind    = errors.New("an unknown kind")
	ErrEpoch   = errors.New("another epoch")
	ErrSource  = errors.New("not from the peer that sent it, or not for us")
	ErrLength  = errors.New("a length beyond the limit")
	ErrSum     = errors.New("a wrong checksum")
	ErrSeal    = errors.New("a broken seal")
	ErrReplay  = errors.New("a frame that came before")
)
