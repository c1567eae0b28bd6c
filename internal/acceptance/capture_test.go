package acceptance

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/packet"
)

// A record is one packet of a capture.
type record struct {
	stamp  int64 // nanoseconds, UTC
	data   []byte
	length int // on the wire; data may hold less
	cut    int // of the bytes that the file promises, as many are missing at its end
}

// readPcap takes a classic little-endian capture apart, gzip or not.
func readPcap(tb testing.TB, path string) []record {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			tb.Fatal(err)
		}
		// A capture that was cut before it was compressed ends well as gzip.
		if b, err = io.ReadAll(z); err != nil {
			tb.Fatal(err)
		}
	}
	le := binary.LittleEndian
	unit := int64(1000)
	switch le.Uint32(b) {
	case 0xa1b23c4d:
		unit = 1
	case 0xa1b2c3d4:
	default:
		tb.Fatalf("%s: not a little-endian pcap", path)
	}
	var out []record
	for b = b[24:]; len(b) >= 16; {
		n := int(le.Uint32(b[8:]))
		r := record{
			stamp:  int64(le.Uint32(b))*1e9 + int64(le.Uint32(b[4:]))*unit,
			length: int(le.Uint32(b[12:])),
		}
		b = b[16:]
		if n > len(b) {
			r.cut, n = n-len(b), len(b)
		}
		r.data, b = b[:n], b[n:]
		out = append(out, r)
	}
	return out
}

// writePcap writes a classic capture with nanoseconds and returns its path.
func writePcap(tb testing.TB, name string, records []record) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	write(tb, path, pcapBytes(records))
	return path
}

func pcapBytes(records []record) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(b, 262144)
	b = le.AppendUint32(b, 1)
	for i := range records {
		r := &records[i]
		b = le.AppendUint32(b, uint32(r.stamp/1e9))
		b = le.AppendUint32(b, uint32(r.stamp%1e9))
		b = le.AppendUint32(b, uint32(len(r.data)+r.cut))
		b = le.AppendUint32(b, uint32(max(r.length, len(r.data)+r.cut)))
		b = append(b, r.data...)
	}
	return b
}

// pcapngBytes writes the records as enhanced packet blocks with microseconds.
func pcapngBytes(records []record) []byte {
	le := binary.LittleEndian
	block := func(b []byte, kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		n := uint32(12 + len(body))
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, n)
		b = append(b, body...)
		return le.AppendUint32(b, n)
	}
	section := le.AppendUint32(nil, 0x1a2b3c4d)
	section = le.AppendUint32(section, 1)
	section = le.AppendUint64(section, ^uint64(0))
	b := block(nil, 0x0a0d0d0a, section)
	b = block(b, 1, []byte{1, 0, 0, 0, 0, 0, 4, 0})
	for i := range records {
		r := &records[i]
		at := uint64(r.stamp / 1000)
		body := le.AppendUint32(nil, 0)
		body = le.AppendUint32(body, uint32(at>>32))
		body = le.AppendUint32(body, uint32(at))
		body = le.AppendUint32(body, uint32(len(r.data)))
		body = le.AppendUint32(body, uint32(max(r.length, len(r.data))))
		b = block(b, 6, append(body, r.data...))
	}
	return b
}

func gzipped(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// udp returns the frame of a UDP packet.
func udp(from, to string, payload []byte) []byte {
	u := packet.UDP{Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to)}
	return u.Append(nil, payload)
}

// payload returns what an untagged IPv4 UDP frame carries, or nil: it is another one.
func payload(frame []byte) []byte {
	if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != 17 {
		return nil
	}
	return frame[14+int(frame[14]&15)*4+8:]
}

// redirect returns a copy of the IPv4 UDP frame with another destination: header
// checksum made anew, UDP checksum left out.
func redirect(frame []byte, to netip.Addr) []byte {
	f := slices.Clone(frame)
	a := to.As4()
	copy(f[30:34], a[:])
	h := f[14 : 14+int(f[14]&15)*4]
	h[10], h[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	f[14+len(h)+6], f[14+len(h)+7] = 0, 0
	return f
}
