/*
 * What Go calls of libibverbs. The calls of its data path are inline functions and
 * some are macros, which cgo cannot call; and one crossing into C does a whole batch.
 */
#ifndef HEADRACE_VERBS_LINK_H
#define HEADRACE_VERBS_LINK_H

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <infiniband/verbs.h>

enum { HR_PEERS = 16, HR_BATCH = 64 };

/* What a work request is. */
enum { HR_RECV = 1, HR_FRAME, HR_WORD, HR_PROBE };

/* Work request ids: peer, what it was, how often the queue pair had been reset. */
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
	int about; /* whom hr_async spoke of */
};

struct hr_path {
	uint8_t gid[16];
	uint32_t qpn, psn, peer_psn, rkey;
	int mtu, gid_index, port, timeout, retries;
};

/* ibv_query_port is a macro. */
static inline int hr_query_port(struct ibv_context *c, int port, struct ibv_port_attr *a)
{
	return ibv_query_port(c, port, a);
}

static inline ssize_t hr_gids(struct ibv_context *c, struct ibv_gid_entry *e, size_t n)
{
	return ibv_query_gid_table(c, e, n, 0);
}

static inline int hr_recvs(struct hr_peer *p, int peer, int n)
{
	struct ibv_recv_wr *bad, wr = { .wr_id = HR_ID(peer, HR_RECV, p->life) };
	int err = 0;

	while (n-- > 0 && !err)
		err = ibv_post_recv(p->qp, &wr, &bad);
	return err;
}

static inline int hr_init(struct ibv_qp *qp, int port)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_INIT,
		.port_num = port,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};

	return ibv_modify_qp(qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX |
			     IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

/* A queue pair that waits for its peer: receives are posted before anybody hears of it. */
static inline int hr_create(struct hr_link *l, struct ibv_pd *pd, int peer, int port,
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

static inline int hr_connect(struct hr_link *l, int peer, const struct hr_path *h)
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
		.rnr_retry = 6, /* 7 is for ever */
		.sq_psn = h->psn,
		.max_rd_atomic = 1,
	};
	return ibv_modify_qp(p->qp, &a, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
			     IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

static inline int hr_state(struct hr_link *l, int peer, enum ibv_qp_state state)
{
	struct ibv_qp_attr a = { .qp_state = state };

	return ibv_modify_qp(l->peer[peer].qp, &a, IBV_QP_STATE);
}

/* From the dead to waiting for the peer again, with the same number. */
static inline int hr_reset(struct hr_link *l, int peer, int port, int recvs)
{
	struct hr_peer *p = &l->peer[peer];
	int err = hr_state(l, peer, IBV_QPS_RESET);

	if (!err)
		err = hr_init(p->qp, port);
	if (err)
		return err;
	p->life++;
	err = hr_recvs(p, peer, recvs);
	return err == ENOMEM ? 0 : err; /* some devices keep those that were posted */
}

/* One write for each of n requests, each of which gets its outcome. */
static inline void hr_post(struct hr_link *l, int n)
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
		if (r->kind == HR_PROBE) /* takes no receive at the peer */
			wr.opcode = IBV_WR_RDMA_WRITE;
		r->err = ibv_post_send(p->qp, &wr, &bad);
	}
}

/* What has completed, after at most so many looks. A receive that was used is posted
 * again: it names no memory. */
static inline int hr_poll(struct hr_link *l, int looks)
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

static inline int hr_arm(struct hr_link *l) { return ibv_req_notify_cq(l->cq, 0); }

static inline void hr_event(struct hr_link *l)
{
	struct ibv_cq *cq;
	void *context;

	if (!ibv_get_cq_event(l->channel, &cq, &context))
		ibv_ack_cq_events(cq, 1);
}

/* The next asynchronous event, or -1; about is -1 if it is of the whole device. */
static inline int hr_async(struct hr_link *l, struct ibv_context *c)
{
	struct ibv_async_event e;

	if (ibv_get_async_event(c, &e))
		return -1;
	ibv_ack_async_event(&e);
	l->about = -1;
	switch (e.event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		for (int i = 0; i < HR_PEERS; i++)
			if (l->peer[i].qp && l->peer[i].qp == e.element.qp)
				l->about = i;
		break;
	default:
		break;
	}
	return e.event_type;
}

/* Queue pairs first: then nobody writes to the memory any more. */
static inline void hr_destroy(struct hr_link *l)
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

#endif
