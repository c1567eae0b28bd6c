//go:build linux && cgo && rdma

package verbs

/*
#cgo LDFLAGS: -libverbs
#cgo noescape hr_post
#cgo nocallback hr_post
#cgo noescape hr_poll
#cgo nocallback hr_poll
#cgo noescape hr_arm
#cgo nocallback hr_arm
#cgo noescape hr_event
#cgo nocallback hr_event
#cgo noescape hr_async
#cgo nocallback hr_async

#include "link.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma/collective"
)

// What a work request was, in its id.
const (
	kindReceive = C.HR_RECV
	kindFrame   = C.HR_FRAME
	kindWord    = C.HR_WORD
	kindProbe   = C.HR_PROBE
)

const batchMax = C.HR_BATCH

// A request is struct hr_request.
type request struct {
	from, to             uint64
	peer, kind, len, imm uint32
	err                  int32
	_                    uint32
}

// A completion is struct hr_completion.
type completion struct {
	id, status, vendor, imm, len uint32
}

// The two views of the same memory agree.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(request{})-C.sizeof_struct_hr_request]
	_ = [1]struct{}{}[unsafe.Sizeof(completion{})-C.sizeof_struct_hr_completion]
	_ = [1]struct{}{}[C.HR_PEERS-collective.PeersMax]
)

func (c *completion) peer() int    { return int(c.id & 0xff) }
func (c *completion) kind() uint32 { return c.id >> 8 & 0xff }
func (c *completion) life() uint16 { return uint16(c.id >> 16) }

// A path is where a peer's queue pair is.
type path struct {
	gid          [16]byte
	qpn          uint32
	psn, peerPSN uint32
	rkey         uint32
	mtu          int
}

// A link is the queue pairs of one epoch. Its memory is C's: nothing of Go's is ever
// given to the device or to C.
type link struct {
	dev         *device
	c           *C.struct_hr_link
	requests    *[collective.PeersMax]request // for post
	completions *[batchMax]completion         // of poll
	recvs       int                           // of each queue pair
}

// newLink makes the queue that tells of completions, for so many peers.
func newLink(d *device, peers, sends, recvs int) (*link, error) {
	l := &link{dev: d, recvs: recvs, c: (*C.struct_hr_link)(C.calloc(1, C.sizeof_struct_hr_link))}
	l.requests = (*[collective.PeersMax]request)(unsafe.Pointer(&l.c.request))
	l.completions = (*[batchMax]completion)(unsafe.Pointer(&l.c.completion))
	var err error
	if l.c.channel, err = C.ibv_create_comp_channel(d.ctx); l.c.channel == nil {
		l.close()
		return nil, fmt.Errorf("completion channel: %w", err)
	}
	if err := unix.SetNonblock(int(l.c.channel.fd), true); err != nil {
		l.close()
		return nil, fmt.Errorf("completion channel: %w", err)
	}
	entries := max(1, peers) * (sends + recvs)
	if l.c.cq, err = C.ibv_create_cq(d.ctx, C.int(entries), nil, l.c.channel, 0); l.c.cq == nil {
		l.close()
		return nil, fmt.Errorf("completion queue of %d: %w", entries, err)
	}
	return l, nil
}

// sendFrom registers what we send from. No peer may reach it.
func (l *link) sendFrom(mem []byte) (err error) {
	l.c.send, err = l.register(mem, 0)
	return err
}

// add makes the queue pair for a peer, which may write to ring. It fills in what the
// peer has to know.
func (l *link) add(peer, sends int, ring []byte, o *offer) (err error) {
	p := &l.c.peer[peer]
	if p.ring, err = l.register(ring, C.IBV_ACCESS_LOCAL_WRITE|C.IBV_ACCESS_REMOTE_WRITE); err != nil {
		return err
	}
	if e := C.hr_create(l.c, l.dev.pd, C.int(peer), C.int(l.dev.port), C.int(sends), C.int(l.recvs)); e != 0 {
		return fmt.Errorf("queue pair of %d sends and %d receives: %w", sends, l.recvs, unix.Errno(e))
	}
	o.qpn = uint32(p.qp.qp_num)
	o.rkey = uint32(p.ring.rkey)
	o.addr = addr(ring)
	return nil
}

func (l *link) register(mem []byte, access int) (*C.struct_ibv_mr, error) {
	mr, err := C.ibv_reg_mr(l.dev.pd, unsafe.Pointer(&mem[0]), C.size_t(len(mem)), C.int(access))
	if mr == nil {
		return nil, fmt.Errorf("registering %d bytes (ulimit -l, or CAP_IPC_LOCK): %w", len(mem), err)
	}
	return mr, nil
}

func addr(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&mem[0]))) }

// inline is how long a frame may be to travel in the work request.
func (l *link) inline(peer int) int { return int(l.c.peer[peer].inl) }

// connect makes the queue pair ready to receive and to send.
func (l *link) connect(peer int, p *path, c *Config) error {
	h := C.struct_hr_path{
		qpn: C.uint32_t(p.qpn), psn: C.uint32_t(p.psn), peer_psn: C.uint32_t(p.peerPSN), rkey: C.uint32_t(p.rkey),
		mtu: C.int(p.mtu), gid_index: C.int(l.dev.gid.index), port: C.int(l.dev.port),
		timeout: C.int(c.Timeout), retries: C.int(c.RetryCount),
	}
	for i, b := range p.gid {
		h.gid[i] = C.uint8_t(b)
	}
	if e := C.hr_connect(l.c, C.int(peer), &h); e != 0 {
		return fmt.Errorf("connecting the queue pair: %w", unix.Errno(e))
	}
	return nil
}

// reset brings a dead queue pair back to where add left it.
func (l *link) reset(peer int) error {
	if e := C.hr_reset(l.c, C.int(peer), C.int(l.dev.port), C.int(l.recvs)); e != 0 {
		return fmt.Errorf("resetting the queue pair: %w", unix.Errno(e))
	}
	return nil
}

// life counts the resets: a failure of a former life says nothing.
func (l *link) life(peer int) uint16 { return uint16(l.c.peer[peer].life) }

// kill ends the queue pair: nothing comes or goes any more.
func (l *link) kill(peer int) { C.hr_state(l.c, C.int(peer), C.IBV_QPS_ERR) }

// post gives requests[:n] to the device.
func (l *link) post(n int) { C.hr_post(l.c, C.int(n)) }

// poll fills in completions and returns how many, after so many looks at most.
func (l *link) poll(looks int) int { return int(C.hr_poll(l.c, C.int(looks))) }

// arm makes fd readable at the next completion.
func (l *link) arm() bool { return C.hr_arm(l.c) == 0 }

// disarm takes the event that made fd readable.
func (l *link) disarm() { C.hr_event(l.c) }

func (l *link) fd() int { return int(l.c.channel.fd) }

// trouble takes the device's next event, if there is one. what is empty if it is not
// fatal to us; peer is whom it is about, -1: all.
func (l *link) trouble() (peer int, what string, ok bool) {
	e := C.hr_async(l.c, l.dev.ctx)
	switch {
	case e < 0:
		return 0, "", false
	case l.c.about >= 0, e == C.IBV_EVENT_DEVICE_FATAL, e == C.IBV_EVENT_CQ_ERR:
		return int(l.c.about), C.GoString(C.ibv_event_type_str(uint32(e))), true
	}
	return 0, "", true
}

func (l *link) close() {
	if l.c != nil {
		C.hr_destroy(l.c)
		l.c = nil
	}
}
