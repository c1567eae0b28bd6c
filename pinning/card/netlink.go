package card

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// attribute is one netlink attribute; nested ones are not needed here.
type attribute struct {
	kind  uint16
	value []byte
}

func number32(kind uint16, v uint32) attribute {
	return attribute{kind, binary.NativeEndian.AppendUint32(nil, v)}
}

const (
	messageHeadBytes = 16 // struct nlmsghdr
	genericHeadBytes = 4  // struct genlmsghdr
	attributeHead    = 4  // struct nlattr
	answersMax       = 1 << 16
)

func align(n int) int { return (n + 3) &^ 3 }

func appendAttributes(buf []byte, attributes []attribute) []byte {
	for _, a := range attributes {
		buf = binary.NativeEndian.AppendUint16(buf, uint16(attributeHead+len(a.value)))
		buf = binary.NativeEndian.AppendUint16(buf, a.kind)
		buf = append(buf, a.value...)
		buf = append(buf, make([]byte, align(len(a.value))-len(a.value))...)
	}
	return buf
}

// parseAttributes reads attributes by kind; of two of a kind the last counts.
func parseAttributes(buf []byte) (map[uint16][]byte, error) {
	out := map[uint16][]byte{}
	for len(buf) >= attributeHead {
		n := int(binary.NativeEndian.Uint16(buf))
		if n < attributeHead || n > len(buf) {
			return nil, fmt.Errorf("attribute of %d bytes: %w", n, unix.EBADMSG)
		}
		out[binary.NativeEndian.Uint16(buf[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = buf[attributeHead:n]
		buf = buf[min(align(n), len(buf)):]
	}
	return out, nil
}

// number reads a number of 1, 2, 4 or 8 bytes: the kernel shortens "uint" attributes.
func number(value []byte) uint64 {
	switch len(value) {
	case 1:
		return uint64(value[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(value))
	case 4:
		return uint64(binary.NativeEndian.Uint32(value))
	case 8:
		return binary.NativeEndian.Uint64(value)
	}
	return 0
}

// call sends one generic netlink message in the calling thread's network namespace and
// returns the attributes of each answer.
func call(family uint16, cmd uint8, attributes ...attribute) ([]map[uint16][]byte, error) {
	return exchange(family, cmd, unix.NLM_F_ACK, attributes)
}

// list is call for all objects that the attributes select.
func list(family uint16, cmd uint8, attributes ...attribute) ([]map[uint16][]byte, error) {
	return exchange(family, cmd, unix.NLM_F_DUMP, attributes)
}

func exchange(family uint16, cmd uint8, flags uint16, attributes []attribute) ([]map[uint16][]byte, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is left to be lost
	limit := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	msg := make([]byte, messageHeadBytes, 256)
	msg = append(msg, cmd, 1, 0, 0) // version 1
	msg = appendAttributes(msg, attributes)
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], family)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|flags)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	var answers []map[uint16][]byte
	buf := make([]byte, answersMax)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		// What is kept points into the buffer, so each datagram has its own.
		done, err := eachMessage(append([]byte(nil), buf[:n]...), &answers)
		if err != nil || done {
			return answers, err
		}
	}
}

// eachMessage takes the answers out of a datagram; done is true after the last.
func eachMessage(buf []byte, answers *[]map[uint16][]byte) (done bool, err error) {
	for len(buf) >= messageHeadBytes {
		n := int(binary.NativeEndian.Uint32(buf))
		if n < messageHeadBytes || n > len(buf) {
			return true, fmt.Errorf("netlink: message of %d bytes: %w", n, unix.EBADMSG)
		}
		body := buf[messageHeadBytes:n]
		switch kind := binary.NativeEndian.Uint16(buf[4:]); {
		case (kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE) && len(body) >= 4:
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
				return true, fmt.Errorf("netlink: %w", unix.Errno(-code))
			}
			return true, nil
		case kind == unix.NLMSG_DONE:
			return true, nil
		case len(body) < genericHeadBytes:
			return true, fmt.Errorf("netlink: message of kind %d: %w", kind, unix.EBADMSG)
		}
		a, err := parseAttributes(body[genericHeadBytes:])
		if err != nil {
			return true, fmt.Errorf("netlink: %w", err)
		}
		*answers = append(*answers, a)
		buf = buf[min(align(n), len(buf)):]
	}
	return false, nil
}

// familyOf returns the number of a generic netlink family.
func familyOf(name string) (uint16, error) {
	answers, err := call(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, attribute{unix.CTRL_ATTR_FAMILY_NAME, append([]byte(name), 0)})
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, fmt.Errorf("netlink family %s: %w", name, unix.EOPNOTSUPP)
	case err != nil:
		return 0, err
	case len(answers) == 0:
		return 0, fmt.Errorf("netlink family %s: no answer: %w", name, unix.EBADMSG)
	}
	return uint16(number(answers[0][unix.CTRL_ATTR_FAMILY_ID])), nil
}
