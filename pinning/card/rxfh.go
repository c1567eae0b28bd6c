package card

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of linux/ethtool.h that the library lacks.
const (
	cmdGetRXFH       = 0x46       // ETHTOOL_GRSSH
	cmdSetRXFH       = 0x47       // ETHTOOL_SRSSH
	tableStays       = 0xffffffff // ETH_RXFH_INDIR_NO_CHANGE
	siocEthtool      = 0x8946     // SIOCETHTOOL
	rxfhHeadBytes    = 24         // struct ethtool_rxfh, up to rss_config
	rxfhEntriesMax   = 1 << 16
	rxfhKeyBytesMax  = 1 << 12
	interfaceNameMax = unix.IFNAMSIZ - 1
)

// ifreq is struct ifreq with a pointer in its union. The pointer is one that the
// collector sees.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte // the union is larger
}

// ioctl gives the kernel a command in buf, which begins with its number, and takes the
// answer in it.
func ioctl(nic string, buf []byte) error {
	if nic == "" || len(nic) > interfaceNameMax {
		return fmt.Errorf("interface %q: %w", nic, unix.ENODEV)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&buf[0]) // the kernel follows the pointer in ifreq
	r := ifreq{data: unsafe.Pointer(&buf[0])}
	copy(r.name[:], nic)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocEthtool, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("ioctl: %w", errno)
	}
	return nil
}

// rxfh is how a card spreads flows over queues: linux/ethtool.h, struct ethtool_rxfh.
type rxfh struct {
	table []uint32
	key   []byte
}

func readRXFH(nic string) (rxfh, error) {
	head := make([]byte, rxfhHeadBytes)
	binary.NativeEndian.PutUint32(head, cmdGetRXFH)
	if err := ioctl(nic, head); err != nil {
		return rxfh{}, err
	}
	entries, keyBytes := binary.NativeEndian.Uint32(head[8:]), binary.NativeEndian.Uint32(head[12:])
	if entries > rxfhEntriesMax || keyBytes > rxfhKeyBytesMax {
		return rxfh{}, fmt.Errorf("a table of %d and a key of %d bytes: %w", entries, keyBytes, unix.EOPNOTSUPP)
	}
	buf := make([]byte, rxfhHeadBytes+4*entries+keyBytes)
	binary.NativeEndian.PutUint32(buf, cmdGetRXFH)
	binary.NativeEndian.PutUint32(buf[8:], entries)
	binary.NativeEndian.PutUint32(buf[12:], keyBytes)
	if err := ioctl(nic, buf); err != nil {
		return rxfh{}, err
	}
	r := rxfh{table: make([]uint32, entries), key: buf[rxfhHeadBytes+4*entries:]}
	for i := range r.table {
		r.table[i] = binary.NativeEndian.Uint32(buf[rxfhHeadBytes+4*i:])
	}
	return r, nil
}

// message is the command that writes r; a nil table and an empty key stay as they are.
func (r rxfh) message() []byte {
	buf := make([]byte, rxfhHeadBytes, rxfhHeadBytes+4*len(r.table)+len(r.key))
	binary.NativeEndian.PutUint32(buf, cmdSetRXFH)
	entries := uint32(tableStays)
	if r.table != nil {
		entries = uint32(len(r.table))
	}
	binary.NativeEndian.PutUint32(buf[8:], entries)
	binary.NativeEndian.PutUint32(buf[12:], uint32(len(r.key)))
	for _, queue := range r.table {
		buf = binary.NativeEndian.AppendUint32(buf, queue)
	}
	return append(buf, r.key...)
}

func getTable(nic, _ string) (string, error) {
	r, err := readRXFH(nic)
	if err != nil {
		return "", err
	}
	if len(r.table) == 0 {
		return "", unix.EOPNOTSUPP
	}
	return formatTable(r.table), nil
}

func formatTable(table []uint32) string {
	parts := make([]string, len(table))
	for i, queue := range table {
		parts[i] = strconv.FormatUint(uint64(queue), 10)
	}
	return strings.Join(parts, ",")
}

func parseTable(value string) ([]uint32, error) {
	var table []uint32
	for part := range strings.SplitSeq(value, ",") {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: queue %q", ErrValue, part)
		}
		table = append(table, uint32(n))
	}
	return table, nil
}

func setTable(nic, _, value string) error {
	table, err := parseTable(value)
	if err != nil {
		return err
	}
	return ioctl(nic, rxfh{table: table}.message())
}

// shellTable is exact for tables that deal queues in turn, as ours are; for another it
// gives weights, which is as near as ethtool(8) comes.
func shellTable(nic, _, value string) string {
	table, err := parseTable(value)
	if err != nil {
		return ""
	}
	queues := uint32(0)
	for _, q := range table {
		queues = max(queues, q+1)
	}
	weights, equal := make([]string, queues), true
	for i, q := range table {
		equal = equal && q == uint32(i)%queues
	}
	if equal {
		return fmt.Sprintf("ethtool -X %s equal %d", nic, queues)
	}
	for q := range weights {
		n := 0
		for _, at := range table {
			if at == uint32(q) {
				n++
			}
		}
		weights[q] = strconv.Itoa(n)
	}
	return fmt.Sprintf("ethtool -X %s weight %s", nic, strings.Join(weights, " "))
}

// EqualTable is the value of rss-table that deals so many queues in turn, as long as the
// table given.
func EqualTable(table string, queues int) string {
	entries := strings.Count(table, ",") + 1
	out := make([]uint32, entries)
	for i := range out {
		out[i] = uint32(i % max(1, queues))
	}
	return formatTable(out)
}

// SymmetricKey is the value of rss-key that gives both directions of a flow the same
// queue: Woo and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side
// Scaling", 2012. It is as long as the key given.
func SymmetricKey(key string) string {
	n := strings.Count(key, ":") + 1
	parts := make([]string, n)
	for i := range parts {
		parts[i] = []string{"6d", "5a"}[i%2]
	}
	return strings.Join(parts, ":")
}

func getKey(nic, _ string) (string, error) {
	r, err := readRXFH(nic)
	if err != nil {
		return "", err
	}
	if len(r.key) == 0 {
		return "", unix.EOPNOTSUPP
	}
	parts := make([]string, len(r.key))
	for i := range r.key {
		parts[i] = hex.EncodeToString(r.key[i : i+1])
	}
	return strings.Join(parts, ":"), nil
}

func setKey(nic, _, value string) error {
	key, err := hex.DecodeString(strings.ReplaceAll(value, ":", ""))
	if err != nil || len(key) == 0 {
		return fmt.Errorf("%w: key %q", ErrValue, value)
	}
	return ioctl(nic, rxfh{key: key}.message())
}

func shellKey(nic, _, value string) string {
	return fmt.Sprintf("ethtool -X %s hkey %s", nic, value)
}
