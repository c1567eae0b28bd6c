/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Ethernet to UDP or TCP. dataplane/steer/parse.go does the same in the same order; where a
 * frame is wrong in two ways, the order decides the verdict.
 *
 * Between network and transport the place goes through a number with a bound, at: so the
 * verifier looks at what follows once, not once for every way to get there.
 */
#ifndef HR_PARSE_H
#define HR_PARSE_H

#include "abi.h"

struct hr_packet {
	__u64 source[2]; /* as on the wire; an IPv4 address is the first 4 bytes */
	__u64 destination[2];
	__u32 at;   /* where the transport header begins, from the frame's first byte */
	__u32 left; /* bytes from there to the end of the packet, by its IP header */
	__u32 payload_offset;
	__u32 payload_length;
	__u16 source_port; /* host order, as are the fields below */
	__u16 destination_port;
	__u16 vlan;    /* of the innermost tag, 0 without one */
	__u8 protocol; /* IPPROTO_UDP or IPPROTO_TCP; 0 if there is no transport header to read */
	__u8 class;    /* HR_CLASS_* */
	__u8 ports;    /* the ports were read, so rules can be looked up */
	__u8 flags;    /* HR_FLAG_* */
	__u16 reserved;
	__u32 reserved2;
};

struct hr_tag {
	__be16 control;
	__be16 type;
};

struct hr_extension {
	__u8 next;
	__u8 length; /* in units of 8 bytes beyond the first; not in a fragment header */
	__be16 fragment;
	__u32 rest;
};

/* More than Ethernet, tags, IPv6 and the longest extension headers. */
#define HR_AT_MAX 0x3fff

static __always_inline int is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/*
 * The first verdict that is not HR_STEERED stays, but reading goes on while there is something
 * to read: so a bad packet of a feed is counted as that feed's.
 */
static __always_inline int first(int verdict, int otherwise)
{
	return verdict != HR_STEERED ? verdict : otherwise;
}

static __always_inline int parse_ipv4(void *data, void *at, void *end, struct hr_packet *p)
{
	struct iphdr *ip = at;
	int verdict = HR_STEERED;

	if ((void *)(ip + 1) > end)
		return HR_SHORT;
	if (ip->version != 4 || ip->ihl < 5)
		return HR_MALFORMED;
	__u32 header = ip->ihl * 4;
	if (at + header > end)
		return HR_SHORT;
	__u32 total = bpf_ntohs(ip->tot_len);
	if (total < header)
		return HR_MALFORMED;
	p->source[0] = ip->saddr;
	p->destination[0] = ip->daddr;
	if (ip->protocol == IPPROTO_TCP)
		p->class = HR_CLASS_TCP;
	else if (ip->protocol != IPPROTO_UDP)
		return HR_OTHER_PROTOCOL;
	if (at + total > end)
		verdict = HR_TRUNCATED;
	if (ip->frag_off & bpf_htons(0x3fff)) { /* more fragments, or an offset */
		verdict = first(verdict, HR_FRAGMENT);
		if (ip->frag_off & bpf_htons(0x1fff))
			return verdict;
	}
	p->protocol = ip->protocol;
	p->at = at + header - data;
	p->left = total - header;
	return verdict;
}

static __always_inline int parse_ipv6(void *data, void *at, void *end, struct hr_packet *p)
{
	struct ipv6hdr *ip = at;
	int verdict = HR_STEERED;

	if ((void *)(ip + 1) > end)
		return HR_SHORT;
	if (ip->version != 6)
		return HR_MALFORMED;
	__builtin_memcpy(p->source, &ip->saddr, sizeof(p->source));
	__builtin_memcpy(p->destination, &ip->daddr, sizeof(p->destination));
	__u32 left = bpf_ntohs(ip->payload_len);

	/* Up to Linux 6.12 a swap of bytes has no bounds for the verifier. */
	asm volatile("" : "+r"(left));
	left &= 0xffff;
	__u8 next = ip->nexthdr;
	at += sizeof(*ip);
	if (at + left > end)
		verdict = HR_TRUNCATED;

	for (int i = 0; i <= HR_EXTENSIONS; i++) {
		if (next == IPPROTO_UDP || next == IPPROTO_TCP) {
			p->protocol = next;
			p->class = next == IPPROTO_TCP ? HR_CLASS_V6 | HR_CLASS_TCP : HR_CLASS_V6;
			p->at = at - data;
			p->left = left;
			return verdict;
		}
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS)
			return HR_OTHER_PROTOCOL;
		if (i == HR_EXTENSIONS)
			break;
		struct hr_extension *extension = at;
		if (left < sizeof(*extension))
			return first(verdict, HR_MALFORMED);
		if ((void *)(extension + 1) > end)
			return first(verdict, HR_TRUNCATED);
		__u32 length = sizeof(*extension);
		if (next == IPPROTO_FRAGMENT) {
			verdict = first(verdict, HR_FRAGMENT);
			if (extension->fragment & bpf_htons(0xfff8))
				return verdict;
		} else {
			length += extension->length * 8;
		}
		if (length > left)
			return first(verdict, HR_MALFORMED);
		next = extension->next;
		at += length;
		left -= length;
	}
	return first(verdict, HR_TOO_DEEP);
}

/* Ethernet, tags and IP. p->protocol says whether there is a transport header to read. */
static __always_inline int parse_network(struct xdp_md *ctx, struct hr_packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *at = eth + 1;

	if (at > end)
		return HR_SHORT;
	__be16 type = eth->h_proto;
#pragma unroll
	for (int i = 0; i < HR_TAGS; i++) {
		if (!is_tag(type))
			break;
		struct hr_tag *tag = at;
		if ((void *)(tag + 1) > end)
			return HR_SHORT;
		p->vlan = bpf_ntohs(tag->control) & 0xfff;
		type = tag->type;
		at += sizeof(*tag);
	}
	if (is_tag(type))
		return HR_TOO_DEEP;
	if (type == bpf_htons(ETH_P_IP))
		return parse_ipv4(data, at, end, p);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(data, at, end, p);
	return HR_NOT_IP;
}

/* UDP or TCP. Returns HR_STEERED if that was the verdict so far and the header is good. */
static __always_inline int parse_transport(struct xdp_md *ctx, struct hr_packet *p, int verdict)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	__u32 begin = p->at;
	asm volatile("" : "+r"(begin)); /* what is checked is what is used */
	if (begin > HR_AT_MAX)
		return first(verdict, HR_TOO_DEEP);
	void *at = data + begin;
	__u32 left = p->left;

	if (p->protocol == IPPROTO_UDP) {
		struct udphdr *udp = at;

		if (left < sizeof(*udp))
			return first(verdict, HR_MALFORMED);
		if ((void *)(udp + 1) > end)
			return first(verdict, HR_TRUNCATED);
		p->source_port = bpf_ntohs(udp->source);
		p->destination_port = bpf_ntohs(udp->dest);
		p->ports = 1;
		__u32 length = bpf_ntohs(udp->len);
		if (length < sizeof(*udp))
			return first(verdict, HR_MALFORMED);
		if (length > left)
			return first(verdict, HR_TRUNCATED);
		/* What follows within the frame is Ethernet's padding. */
		p->payload_offset = p->at + sizeof(*udp);
		p->payload_length = length - sizeof(*udp);
		return verdict;
	}
	struct tcphdr *tcp = at;

	if (left < sizeof(*tcp))
		return first(verdict, HR_MALFORMED);
	if ((void *)(tcp + 1) > end)
		return first(verdict, HR_TRUNCATED);
	p->source_port = bpf_ntohs(tcp->source);
	p->destination_port = bpf_ntohs(tcp->dest);
	p->ports = 1;
	__u32 header = tcp->doff * 4;
	if (header < sizeof(*tcp) || header > left)
		return first(verdict, HR_MALFORMED);
	p->payload_offset = p->at + header;
	p->payload_length = left - header;
	return verdict;
}

#endif
