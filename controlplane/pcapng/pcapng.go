// Package pcapng writes frames into pcapng files (draft-ietf-opsawg-pcapng): what
// `headrace capture` copies, and the report of a frame that stopped a worker. Package
// capture of the data plane reads them, as do tcpdump and Wireshark.
package pcapng

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/headrace/headrace/dataplane/event"
)

// ErrNoFace reports a frame of an interface that the file does not have.
var ErrNoFace = errors.New("the file has no such interface")

const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockEnhanced  = 6

	orderMagic   = 0x1a2b3c4d
	linkEthernet = 1

	optionEnd        = 0
	optionComment    = 1
	optionName       = 2 // of an interface
	optionResolution = 9
	optionUser       = 4 // of a section: the program that wrote it

	nanos      = 9 // units of a stamp: 10^-9 s
	commentMax = 1 << 12
)

// A Face is an interface from which frames came.
type Face struct {
	Name string
	// Snap is the most bytes that are kept of a frame; 0: all.
	Snap int
}

// A Frame is one frame, from its Ethernet header on.
type Frame struct {
	Face  int // index of the faces
	At    event.Nanos
	Bytes []byte
	// Length is that of the frame on the wire; 0: Bytes are all of it.
	Length int
	// Comment is shown with the frame.
	Comment string
}

// A Writer writes one file. Each frame goes out in one write, so that a reader of what
// there is so far finds whole blocks.
type Writer struct {
	w     io.Writer
	faces int
	buf   []byte
}

// NewWriter begins a file of frames from the given interfaces.
func NewWriter(w io.Writer, faces ...Face) (*Writer, error) {
	x := &Writer{w: w, faces: len(faces)}
	x.block(blockSection, func() {
		x.u32(orderMagic)
		x.u16(1) // version 1.0
		x.u16(0)
		x.u32(0xffffffff) // the section's length is not known
		x.u32(0xffffffff)
		x.option(optionUser, []byte("headrace"))
		x.option(optionEnd, nil)
	})
	for _, f := range faces {
		x.block(blockInterface, func() {
			x.u16(linkEthernet)
			x.u16(0)
			x.u32(uint32(f.Snap))
			x.option(optionName, []byte(f.Name))
			x.option(optionResolution, []byte{nanos})
			x.option(optionEnd, nil)
		})
	}
	return x, x.flush()
}

// Write adds a frame. The error wraps [ErrNoFace] for an interface that is not there.
func (w *Writer) Write(f *Frame) error {
	if f.Face < 0 || f.Face >= w.faces {
		return fmt.Errorf("pcapng: interface %d: %w", f.Face, ErrNoFace)
	}
	w.block(blockEnhanced, func() {
		w.u32(uint32(f.Face))
		w.u32(uint32(uint64(f.At) >> 32))
		w.u32(uint32(f.At))
		w.u32(uint32(len(f.Bytes)))
		w.u32(uint32(max(f.Length, len(f.Bytes))))
		w.padded(f.Bytes)
		if c := f.Comment; c != "" {
			w.option(optionComment, []byte(c[:min(len(c), commentMax)]))
			w.option(optionEnd, nil)
		}
	})
	return w.flush()
}

func (w *Writer) flush() error {
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		return fmt.Errorf("pcapng: %w", err)
	}
	return nil
}

// block adds a block around what body adds.
func (w *Writer) block(kind uint32, body func()) {
	start := len(w.buf)
	w.u32(kind)
	w.u32(0) // the length, when it is known
	body()
	length := uint32(len(w.buf) - start + 4)
	w.u32(length)
	binary.LittleEndian.PutUint32(w.buf[start+4:], length)
}

func (w *Writer) option(code uint16, value []byte) {
	w.u16(code)
	w.u16(uint16(len(value)))
	w.padded(value)
}

func (w *Writer) u16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }

func (w *Writer) u32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }

// padded adds bytes and what is missing to a multiple of four.
func (w *Writer) padded(b []byte) {
	w.buf = append(w.buf, b...)
	w.buf = append(w.buf, make([]byte, (4-len(b)%4)%4)...)
}
