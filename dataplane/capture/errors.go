package capture

import (
	"errors"
	"fmt"
	"strconv"
)

// The kinds of trouble with a capture; found with errors.Is.
var (
	// ErrEmpty reports a file without a byte in it.
	ErrEmpty = errors.New("the file is empty")
	// ErrNotCapture reports a file that is neither pcap nor pcapng.
	ErrNotCapture = errors.New("not a capture")
	// ErrLinkType reports frames of a link type other than Ethernet.
	ErrLinkType = errors.New("link type is not Ethernet")
	// ErrCorrupt reports a capture whose own lengths or stamps contradict each other.
	ErrCorrupt = errors.New("the capture is damaged")
)

// A FormatError says what is wrong with a capture file, and where.
type FormatError struct {
	Path string
	// Offset is the byte at which the trouble begins; in a compressed file, of
	// what it decompresses to.
	Offset     int64
	Compressed bool
	// Packet is the number of the packet in its file, from 1; 0 before the first.
	Packet uint64
	Err    error
}

// Error returns file, packet, byte and cause.
func (e *FormatError) Error() string {
	at := "byte " + strconv.FormatInt(e.Offset, 10)
	if e.Compressed {
		at += " (decompressed)"
	}
	if e.Packet > 0 {
		at = "packet " + strconv.FormatUint(e.Packet, 10) + " at " + at
	}
	return fmt.Sprintf("capture: %s: %s: %v", e.Path, at, e.Err)
}

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// linkEthernet is the one link type that is read. https://www.tcpdump.org/linktypes.html
const linkEthernet = 1

var linkNames = map[uint32]string{
	0:   "BSD loopback",
	9:   "PPP",
	12:  "raw IP",
	14:  "raw IP",
	101: "raw IP",
	105: "IEEE 802.11",
	108: "OpenBSD loopback",
	113: "Linux cooked, SLL",
	127: "IEEE 802.11 with radiotap",
	192: "PPI",
	220: "USB, Linux",
	228: "raw IPv4",
	229: "raw IPv6",
	239: "NFLOG",
	276: "Linux cooked, SLL2",
}

func linkError(link uint32) error {
	name, ok := linkNames[link]
	if !ok {
		name = "see tcpdump.org/linktypes.html"
	}
	hint := "capture on an Ethernet interface"
	if link == 113 || link == 276 {
		hint = `capture on one interface by name instead of "any"`
	}
	return fmt.Errorf("%w: it is %d (%s): %s", ErrLinkType, link, name, hint)
}
