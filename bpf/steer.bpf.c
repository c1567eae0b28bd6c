//go:build ignore

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * steer: find the feed of a frame, hash its placement bytes, put 32 bytes of metadata before it
 * and redirect it to the socket of the worker that owns the hash. What is no feed's, or not
 * whole, is passed on untouched.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "key.h"
#include "maps.h"
#include "parse.h"

/*
 * match and place are functions of their own, not inlined: so the verifier looks at each once,
 * not once for every way through the parser. It then knows nothing of an argument but its type,
 * not even that it is there.
 */

/* Copies the most specific rule that matches *p to *found, and says whether there is one. */
__noinline int match(const struct hr_packet *p, struct hr_rule *found)
{
	if (!p || !found)
		return 0;
	__u32 b = *(volatile __u32 *)&bank & 1; /* read once: the lists and the rules of one edit */
	struct hr_shapes *list = &shapes[b][p->class & (HR_CLASSES - 1)];
	struct hr_key key = { .bank = b, .class = p->class };

	for (__u32 i = 0; i < HR_SHAPES; i++) {
		if (i >= list->count)
			break;
		struct hr_shape *shape = &list->shape[i];
		key.destination[0] = p->destination[0] & shape->mask[0];
		key.destination[1] = p->destination[1] & shape->mask[1];
		key.port = shape->given & HR_SHAPE_PORT ? p->destination_port : 0;
		key.vlan = shape->given & HR_SHAPE_VLAN ? p->vlan : 0;
		key.prefix = shape->prefix;
		key.given = shape->given;
		struct hr_rule *rule = bpf_map_lookup_elem(&rules, &key);
		if (rule) {
			*found = *rule;
			return 1;
		}
	}
	return 0;
}

/* The hash of *p's placement bytes; sets p->flags. */
__noinline __u64 place(struct xdp_md *ctx, struct hr_packet *p, const struct hr_rule *r)
{
	struct hr_bytes bytes = {};

	if (!p || !r)
		return 0;
	if (r->place == HR_PLACE_TUPLE)
		place_tuple(p, r, &bytes);
	else
		place_payload(ctx, p, r, &bytes);
	p->flags = bytes.flags;
	return xxh64(&bytes);
}

static __always_inline int count(__u32 row, __u32 verdict, __u64 bytes)
{
	struct hr_counts *c = bpf_map_lookup_elem(&counters, &row);

	if (c && verdict < HR_VERDICTS) {
		c->frames[verdict]++;
		c->steered_bytes += bytes;
	}
	return XDP_PASS;
}

static __always_inline __u32 socket_of(__u32 queue, __u32 group)
{
	__u32 worker = slots[group & (HR_GROUPS - 1)];

	if (aligned) {
		__u32 *w = bpf_map_lookup_elem(&queues, &queue);

		worker = w ? *w : 0;
	}
	/* Beyond the map's end there is no socket, and the frame is passed. */
	return queue * HR_WORKERS + (worker & (HR_WORKERS - 1));
}

/*
 * Not xdp.frags: a frame is one buffer and one descriptor. Without the mark the kernel refuses to
 * attach where frames could span buffers (a large MTU), rather than deliver the first part.
 */
SEC("xdp")
int steer(struct xdp_md *ctx)
{
	struct hr_packet packet = {};
	struct hr_rule rule = {};
	__u32 row = HR_NO_FEED;

	int verdict = parse_network(ctx, &packet);
	if (packet.protocol)
		verdict = parse_transport(ctx, &packet, verdict);
	if (packet.ports && match(&packet, &rule))
		row = rule.feed;
	else if (verdict == HR_STEERED)
		verdict = HR_NO_MATCH;
	if (verdict != HR_STEERED)
		return count(row, verdict, 0);
	__u64 hash = place(ctx, &packet, &rule);

	/* Some drivers bring metadata of their own; ours is what lies directly before the frame. */
	int had = (int)(ctx->data - ctx->data_meta);
	if (bpf_xdp_adjust_meta(ctx, had - (int)sizeof(struct hr_meta)) < 0)
		return count(row, HR_NO_METADATA, 0);
	struct hr_meta *meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return count(row, HR_NO_METADATA, 0);
	meta->hash = hash;
	meta->receive_nanos = bpf_ktime_get_ns();
	meta->payload_offset = packet.payload_offset;
	meta->payload_length = packet.payload_length;
	meta->feed = row;
	meta->group = hash >> 54;
	meta->line = rule.line;
	meta->flags = packet.flags;
	meta->version = HR_META_VERSION;
	meta->reserved = 0;

	__u64 length = ctx->data_end - ctx->data;
	int action = bpf_redirect_map(&xsks, socket_of(ctx->rx_queue_index, hash >> 54), XDP_PASS);
	if (action == XDP_REDIRECT) {
		count(row, HR_STEERED, length);
		return action;
	}
	/* Passed frames are untouched: the stack gets no metadata of ours. */
	bpf_xdp_adjust_meta(ctx, sizeof(struct hr_meta));
	return count(row, HR_NO_SOCKET, 0);
}

/*
 * The helpers in use do not ask for it, but the kernel functions that give a NIC's receive stamp
 * are only for programs whose license is compatible with the GPL.
 */
char LICENSE[] SEC("license") = "GPL";
