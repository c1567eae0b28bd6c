package steer

// MetaSize is the size of [Meta] before a frame.
const MetaSize = 32

// Flags of Meta.
const (
	FlagNICTime   = 1 << iota // ReceiveNanos is the NIC's stamp
	FlagTruncated             // the frame holds less than the IP header promises (capture files only)
	FlagNoPlace               // the placement bytes were not all there; Hash is that of what was
)

// Meta is what steer knows of a frame: struct hr_meta of bpf/abi.h, little-endian,
// in the 32 bytes before the frame. A change of layout is a change of ABI.
type Meta struct {
	Hash          uint64
	ReceiveNanos  uint64 // CLOCK_MONOTONIC; the capture's stamp (UTC) in replay
	PayloadOffset uint16 // from the frame's first byte
	PayloadLength uint16
	Feed          uint16
	Group         uint16
	Line          uint8
	Flags         uint8
	Version       uint16 // ABI version: MetaVersion
	Reserved      uint32
}

// MetaVersion is the version of Meta's layout.
const MetaVersion = 1
