package steer

// Verdict says what became of a frame: enum hr_verdict of bpf/abi.h. Every frame
// has one; all but [Steered] leave it to the kernel's network stack, untouched.
type Verdict uint8

// The verdicts.
const (
	Steered       Verdict = iota // redirected to a socket
	NoSocket                     // no socket is there for its queue and worker (XDP only)
	NoMetadata                   // the driver leaves no room for metadata (XDP only)
	NoMatch                      // UDP or TCP that no rule matches
	NotIP                        // ARP, LLDP and so on
	OtherProtocol                // IP, but neither UDP nor TCP
	Short                        // ends inside its Ethernet, VLAN or IP header
	Malformed                    // a header contradicts itself or another one
	Truncated                    // a length in a header goes beyond the frame or the packet
	Fragment                     // a fragment of an IP packet
	TooDeep                      // more VLAN tags or IPv6 extension headers than are read

	VerdictCount = iota // number of verdicts
)

var verdictNames = [VerdictCount]string{
	"steered", "no_socket", "no_metadata", "no_match", "not_ip", "other_protocol",
	"short", "malformed", "truncated", "fragment", "too_deep",
}

// String returns the verdict's name in metrics and ledgers.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}

// Counts counts frames by verdict.
type Counts [VerdictCount]uint64
