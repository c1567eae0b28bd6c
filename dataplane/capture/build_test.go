package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/headrace/headrace/dataplane/event"
)

// kept is a record whose bytes are our own.
type kept struct {
	data  string
	wire  int
	stamp event.Nanos
	cut   bool
}

// all reads to the end and returns what was read with the error, nil for io.EOF.
func all(r Records) ([]kept, error) {
	var got []kept
	var rec Record
	for {
		switch err := r.Next(&rec); {
		case errors.Is(err, io.EOF):
			return got, nil
		case err != nil:
			return got, err
		}
		got = append(got, kept{string(rec.Data), rec.WireLength, rec.Stamp, rec.Cut})
	}
}

// readBytes reads a capture that lies in memory.
func readBytes(b []byte) ([]kept, error) {
	r, err := OpenReader(bytes.NewReader(b), "test")
	if err != nil {
		return nil, err
	}
	got, err := all(r)
	return got, errors.Join(err, r.Close())
}

// classic builds a pcap file; stamps lose what unit cannot express.
func classic(o binary.AppendByteOrder, unit int64, records ...kept) []byte {
	magic := uint32(pcapNanos)
	if unit == 1000 {
		magic = pcapMicros
	}
	b := o.AppendUint32(nil, magic)
	b = o.AppendUint16(b, 2)
	b = o.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = o.AppendUint32(b, 65535)
	b = o.AppendUint32(b, linkEthernet)
	for _, r := range records {
		b = o.AppendUint32(b, uint32(r.stamp/1e9))
		b = o.AppendUint32(b, uint32(int64(r.stamp%1e9)/unit))
		b = o.AppendUint32(b, uint32(len(r.data)))
		b = o.AppendUint32(b, uint32(r.wire))
		b = append(b, r.data...)
	}
	return b
}

// ng appends pcapng blocks in one byte order.
type ng struct {
	o binary.AppendByteOrder
	b []byte
}

func (n *ng) block(kind uint32, body ...byte) {
	body = append(slices.Clone(body), make([]byte, -len(body)&3)...)
	total := uint32(len(body) + ngBlockMin)
	n.b = n.o.AppendUint32(n.b, kind)
	n.b = n.o.AppendUint32(n.b, total)
	n.b = append(n.b, body...)
	n.b = n.o.AppendUint32(n.b, total)
}

func (n *ng) section() {
	h := n.o.AppendUint32(nil, ngOrderMagic)
	h = n.o.AppendUint16(h, 1)
	h = n.o.AppendUint16(h, 0)
	n.block(ngSection, n.o.AppendUint64(h, ^uint64(0))...)
}

func (n *ng) option(b []byte, code uint16, v ...byte) []byte {
	b = n.o.AppendUint16(b, code)
	b = n.o.AppendUint16(b, uint16(len(v)))
	b = append(b, v...)
	return append(b, make([]byte, -len(v)&3)...)
}

// face describes an interface; options are given ready made.
func (n *ng) face(link uint16, snap uint32, options ...byte) {
	h := n.o.AppendUint16(nil, link)
	h = n.o.AppendUint16(h, 0)
	h = n.o.AppendUint32(h, snap)
	n.block(ngInterface, append(h, options...)...)
}

func (n *ng) packet(id uint32, units uint64, wire int, data string, options ...byte) {
	h := n.o.AppendUint32(nil, id)
	h = n.o.AppendUint32(h, uint32(units>>32))
	h = n.o.AppendUint32(h, uint32(units))
	h = n.o.AppendUint32(h, uint32(len(data)))
	h = n.o.AppendUint32(h, uint32(wire))
	h = append(h, data...)
	h = append(h, make([]byte, -len(data)&3)...)
	n.block(ngEnhanced, append(h, options...)...)
}

func (n *ng) simple(wire int, data string) {
	n.block(ngSimple, append(n.o.AppendUint32(nil, uint32(wire)), data...)...)
}

// pcapngOf builds a file of one section with one interface in nanoseconds.
func pcapngOf(o binary.AppendByteOrder, records ...kept) []byte {
	n := ng{o: o}
	n.section()
	n.face(linkEthernet, 0, n.option(nil, ngOptionResolution, 9)...)
	for _, r := range records {
		n.packet(0, uint64(r.stamp), r.wire, r.data)
	}
	return n.b
}

func gz(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zst(tb testing.TB, b []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// some returns n records of different lengths and contents.
func some(n int) []kept {
	var out []kept
	for i := range n {
		data := bytes.Repeat([]byte{byte(i + 1)}, 1+i*37%300)
		out = append(out, kept{string(data), len(data) + i%2*10, event.Nanos(1_500_000_000_123_456_000 + int64(i)*1_000_001_000), false})
	}
	return out
}

func (k kept) time() time.Time { return time.Unix(0, int64(k.stamp)) }
