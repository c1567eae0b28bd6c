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

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <infiniband/verbs.h>

enum { HR_PEERS = 16, HR_BATCH = 64, HR_RECV = 1 };

// Work request ids: peer, what it was, how often the queue pair had been reset.
#define HR_ID(peer, kind, life) ((peer) | (kind) << 8 | (uint32_t)(life) << 16)

struct hr_request {
	uint64_t from, to;
	uint32_t peer, kind, len, imm;
	int32_t err;
	uint32_t pad;
};

struct hr_completion {
	uint32_t id, status, vendor, imm, len;
};

struct hr_peer {
	struct ibv_qp *qp;
	struct ibv_mr *ring;
	uint32_t rkey, inl, life;
};

struct hr_link {
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_mr *send;
	struct hr_peer peer[HR_PEERS];
	struct hr_request request[HR_PEERS];
	struct hr_completion completion[HR_BATCH];
};

struct hr_path {
	uint8_t gid[16];
	uint32_t qpn, psn, peer_psn, rkey;
	int mtu, gid_index, port, timeout, retries;
};

static int hr_recvs(struct hr_peer *p, int peer, int n)
{
	struct ibv_recv_wr *bad, wr = { .wr_id = HR_ID(peer, HR_RECV, p->life) };
	int err = 0;

	while (n-- > 0 && !err)
		err = ibv_post_recv(p->qp, &wr, &bad);
	return err;
}

static int hr_init(struct ibv_qp *qp, int port)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_INIT,
		.port_num = port,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};

	return ibv_modify_qp(qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX |
			     IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

// A queue pair that waits for its peer: receives are posted before anybody hears of it.
static int hr_create(struct hr_link *l, struct ibv_pd *pd, int peer, int port,
		     int sends, int recvs)
{
	static const int inl[] = { 512, 256, 128, 64, 0 };
	struct hr_peer *p = &l->peer[peer];
	int err;

	for (int i = 0; !p->qp && i < 5; i++) {
		struct ibv_qp_init_attr a = {
			.send_cq = l->cq,
			.recv_cq = l->cq,
			.qp_type = IBV_QPT_RC,
			.cap = {
				.max_send_wr = sends,
				.max_recv_wr = recvs,
				.max_send_sge = 1,
				.max_recv_sge = 1,
				.max_inline_data = inl[i],
			},
		};
		p->qp = ibv_create_qp(pd, &a);
		p->inl = a.cap.max_inline_data;
	}
	if (!p->qp)
		return errno;
	err = hr_init(p->qp, port);
	return err ? err : hr_recvs(p, peer, recvs);
}

static int hr_connect(struct hr_link *l, int peer, const struct hr_path *h)
{
	struct hr_peer *p = &l->peer[peer];
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = h->mtu,
		.dest_qp_num = h->qpn,
		.rq_psn = h->peer_psn,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = {
			.is_global = 1,
			.port_num = h->port,
			.grh = { .sgid_index = h->gid_index, .hop_limit = 64 },
		},
	};
	int err;

	memcpy(a.ah_attr.grh.dgid.raw, h->gid, 16);
	err = ibv_modify_qp(p->qp, &a, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
			    IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
			    IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	if (err)
		return err;
	p->rkey = h->rkey;
	a = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS,
		.timeout = h->timeout,
		.retry_cnt = h->retries,
		.rnr_retry = 6, // 7 is for ever
		.sq_psn = h->psn,
		.max_rd_atomic = 1,
	};
	return ibv_modify_qp(p->qp, &a, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
			     IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

static int hr_state(struct hr_link *l, int peer, enum ibv_qp_state state)
{
	struct ibv_qp_attr a = { .qp_state = state };

	return ibv_modify_qp(l->peer[peer].qp, &a, IBV_QP_STATE);
}

// From the dead to waiting for the peer again, with the same number.
static int hr_reset(struct hr_link *l, int peer, int port, int recvs)
{
	struct hr_peer *p = &l->peer[peer];
	int err = hr_state(l, peer, IBV_QPS_RESET);

	if (!err)
		err = hr_init(p->qp, port);
	if (err)
		return err;
	p->life++;
	err = hr_recvs(p, peer, recvs);
	return err == ENOMEM ? 0 : err; // some devices keep those that were posted
}

// One write with immediate for each of n requests, each of which gets its outcome.
static void hr_post(struct hr_link *l, int n)
{
	for (struct hr_request *r = l->request; r < l->request + n; r++) {
		struct hr_peer *p = &l->peer[r->peer];
		struct ibv_sge sge = {
			.addr = r->from,
			.length = r->len,
			.lkey = l->send ? l->send->lkey : 0,
		};
		struct ibv_send_wr *bad, wr = {
			.wr_id = HR_ID(r->peer, r->kind, p->life),
			.sg_list = &sge,
			.num_sge = r->len != 0,
			.opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
			.send_flags = IBV_SEND_SIGNALED,
			.imm_data = htobe32(r->imm),
			.wr.rdma = { .remote_addr = r->to, .rkey = p->rkey },
		};

		if (r->len && r->len <= p->inl)
			wr.send_flags |= IBV_SEND_INLINE;
		r->err = ibv_post_send(p->qp, &wr, &bad);
	}
}

// What has completed, after at most so many looks. A receive that was used is posted
// again: it names no memory.
static int hr_poll(struct hr_link *l, int looks)
{
	struct ibv_wc wc[HR_BATCH];
	int n = 0;

	while (looks-- > 0 && !n)
		n = ibv_poll_cq(l->cq, HR_BATCH, wc);
	for (int i = 0; i < n; i++) {
		struct hr_completion *c = &l->completion[i];

		c->id = wc[i].wr_id;
		c->status = wc[i].status;
		c->vendor = wc[i].status ? wc[i].vendor_err : 0;
		c->imm = 0;
		c->len = 0;
		if (wc[i].status || (c->id >> 8 & 0xff) != HR_RECV)
			continue;
		c->imm = be32toh(wc[i].imm_data);
		c->len = wc[i].byte_len;
		if (hr_recvs(&l->peer[c->id & 0xff], c->id & 0xff, 1))
			c->status = IBV_WC_GENERAL_ERR;
	}
	return n;
}

static int hr_arm(struct hr_link *l) { return ibv_req_notify_cq(l->cq, 0); }

static void hr_event(struct hr_link *l)
{
	struct ibv_cq *cq;
	void *context;

	if (!ibv_get_cq_event(l->channel, &cq, &context))
		ibv_ack_cq_events(cq, 1);
}

// The next asynchronous event, or -1; peer is -1 for those of the whole device.
static int hr_async(struct hr_link *l, struct ibv_context *c, int *peer)
{
	struct ibv_async_event e;

	if (ibv_get_async_event(c, &e))
		return -1;
	ibv_ack_async_event(&e);
	*peer = -1;
	switch (e.event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		for (int i = 0; i < HR_PEERS; i++)
			if (l->peer[i].qp && l->peer[i].qp == e.element.qp)
				*peer = i;
		break;
	default:
		break;
	}
	return e.event_type;
}

// Queue pairs first: then nobody writes to the memory any more.
static void hr_destroy(struct hr_link *l)
{
	for (int i = 0; i < HR_PEERS; i++)
		if (l->peer[i].qp)
			ibv_destroy_qp(l->peer[i].qp);
	for (int i = 0; i < HR_PEERS; i++)
		if (l->peer[i].ring)
			ibv_dereg_mr(l->peer[i].ring);
	if (l->send)
		ibv_dereg_mr(l->send);
	if (l->cq)
		ibv_destroy_cq(l->cq);
	if (l->channel)
		ibv_destroy_comp_channel(l->channel);
	free(l);
}
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
	kindFrame   = 2
	kindWord    = 3
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

// trouble takes the device's next event. It returns what is fatal and for whom: a
// peer, or -1 for all.
func (l *link) trouble() (peer int, what string, ok bool) {
	var p C.int
	switch e := C.hr_async(l.c, l.dev.ctx, &p); e {
	case C.IBV_EVENT_QP_FATAL, C.IBV_EVENT_QP_REQ_ERR, C.IBV_EVENT_QP_ACCESS_ERR:
		return int(p), C.GoString(C.ibv_event_type_str(uint32(e))), p >= 0
	case C.IBV_EVENT_DEVICE_FATAL, C.IBV_EVENT_CQ_ERR:
		return -1, C.GoString(C.ibv_event_type_str(uint32(e))), true
	}
	return 0, "", false
}

func (l *link) close() {
	if l.c != nil {
		C.hr_destroy(l.c)
		l.c = nil
	}
}
