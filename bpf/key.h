/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Placement: from a packet to the bytes that choose its worker, and their hash. */
#ifndef HR_KEY_H
#define HR_KEY_H

#include "parse.h"

#define HR_WORDS (HR_PLACE_MAX / 8)
#define ONES     0x0101010101010101ULL

/*
 * The placement bytes, from the first byte of word[0] on. Bytes beyond the length are zero until
 * a delimiter or trimming shortens it.
 */
struct hr_bytes {
	__u64 word[HR_WORDS];
	__u32 length;
	__u8 flags; /* HR_FLAG_NO_PLACE */
};

/* The index of the first byte of *b that is c, or HR_PLACE_MAX. */
static __always_inline __u32 find(const struct hr_bytes *b, __u8 c)
{
	__u64 pattern = c * ONES;

#pragma unroll
	for (int i = 0; i < HR_WORDS; i++) {
		__u64 x = b->word[i] ^ pattern;
		/* The lowest set bit is at the first byte of x that is zero. */
		__u64 m = ((x - ONES) & ~x & (ONES << 7)) >> 7;
		if (m) {
			/* One bit for each byte below it; their sum gathers in the top byte. */
			__u64 below = ((m & -m) - 1) & ONES;
			return i * 8 + (below * ONES >> 56);
		}
	}
	return HR_PLACE_MAX;
}

/* The length of *b without trailing spaces and zeros. */
static __always_inline __u32 trimmed(const struct hr_bytes *b)
{
#pragma unroll
	for (int i = HR_WORDS - 1; i >= 0; i--) {
		__u64 x = b->word[i] & ~(0x20 * ONES); /* zero for 0x20 and for 0x00, and only for these */
		if (x) {
			__u32 n = i * 8 + 1;
			if (x >> 32) {
				n += 4;
				x >>= 32;
			}
			if (x >> 16) {
				n += 2;
				x >>= 16;
			}
			return x >> 8 ? n + 1 : n;
		}
	}
	return 0;
}

static __always_inline void place_payload(struct xdp_md *ctx, const struct hr_packet *p,
					  const struct hr_rule *r, struct hr_bytes *b)
{
	__u32 offset = r->offset;
	__u32 have = offset < p->payload_length ? p->payload_length - offset : 0;
	__u32 n = r->length;

	if (n > HR_PLACE_MAX)
		n = HR_PLACE_MAX;
	if (have < n) {
		n = have;
		if (r->place != HR_PLACE_UNTIL)
			b->flags = HR_FLAG_NO_PLACE;
	}
	if (n > 0) {
		/* 1 to HR_PLACE_MAX for any verifier: a mask bounds the register itself, a
		 * comparison perhaps a copy of it, which Linux 6.1 does not see through. */
		__u32 last = n - 1;

		asm volatile("" : "+r"(last));
		last &= HR_PLACE_MAX - 1;
		if (bpf_xdp_load_bytes(ctx, p->payload_offset + offset, b->word, last + 1) < 0)
			n = 0;
	}
	if (r->place == HR_PLACE_UNTIL) {
		__u32 at = find(b, r->delimiter);

		if (at < n)
			n = at;
		else if (n < HR_PLACE_MAX)
			b->flags = HR_FLAG_NO_PLACE;
	} else if (r->trim) {
		n = trimmed(b);
	}
	b->length = n;
}

/* Whether the destination end comes before the source end, compared as bytes on the wire. */
static __always_inline int reversed(const struct hr_packet *p)
{
	if (p->source[0] != p->destination[0])
		return bpf_be64_to_cpu(p->destination[0]) < bpf_be64_to_cpu(p->source[0]);
	if (p->source[1] != p->destination[1])
		return bpf_be64_to_cpu(p->destination[1]) < bpf_be64_to_cpu(p->source[1]);
	return p->destination_port < p->source_port;
}

static __always_inline __u32 put_address(__u32 *to, __u32 n, const __u64 *address, int v6)
{
	to[(n & 31) / 4] = address[0];
	if (!v6)
		return n + 4;
	to[(n & 31) / 4 + 1] = address[0] >> 32;
	to[(n & 31) / 4 + 2] = address[1];
	to[(n & 31) / 4 + 3] = address[1] >> 32;
	return n + 16;
}

static __always_inline void place_tuple(const struct hr_packet *p, const struct hr_rule *r,
					struct hr_bytes *b)
{
	const __u64 *source = p->source, *destination = p->destination;
	__u16 source_port = p->source_port, destination_port = p->destination_port;
	int v6 = p->class & HR_CLASS_V6;
	__u32 n = 0;

	if (r->symmetric && reversed(p)) {
		source = p->destination;
		destination = p->source;
		source_port = p->destination_port;
		destination_port = p->source_port;
	}
	if (r->fields & HR_FIELD_SOURCE)
		n = put_address((__u32 *)b->word, n, source, v6);
	if (r->fields & HR_FIELD_DESTINATION)
		n = put_address((__u32 *)b->word, n, destination, v6);
	if (r->fields & HR_FIELD_SOURCE_PORT) {
		((__u16 *)b->word)[(n & 63) / 2] = bpf_htons(source_port);
		n += 2;
	}
	if (r->fields & HR_FIELD_DESTINATION_PORT) {
		((__u16 *)b->word)[(n & 63) / 2] = bpf_htons(destination_port);
		n += 2;
	}
	if (r->fields & HR_FIELD_PROTOCOL) {
		((__u8 *)b->word)[n & 63] = p->protocol;
		n += 1;
	}
	b->length = n;
}

/* XXH64, github.com/Cyan4973/xxHash doc/xxhash_spec.md, for at most 64 bytes and seed 0. */

#define XXH_1 0x9E3779B185EBCA87ULL
#define XXH_2 0xC2B2AE3D27D4EB4FULL
#define XXH_3 0x165667B19E3779F9ULL
#define XXH_4 0x85EBCA77C2B2AE63ULL
#define XXH_5 0x27D4EB2F165667C5ULL

static __always_inline __u64 rotate(__u64 x, int n)
{
	return x << n | x >> (64 - n);
}

static __always_inline __u64 xxh_round(__u64 lane, __u64 word)
{
	return rotate(lane + word * XXH_2, 31) * XXH_1;
}

static __always_inline __u64 xxh_merge(__u64 h, __u64 lane)
{
	return (h ^ xxh_round(0, lane)) * XXH_1 + XXH_4;
}

static __always_inline __u64 xxh_word(__u64 h, __u64 word)
{
	return rotate(h ^ xxh_round(0, word), 27) * XXH_1 + XXH_4;
}

static __always_inline __u64 xxh64(const struct hr_bytes *b)
{
	const __u64 *word = b->word;
	__u32 n = b->length;
	__u64 h = XXH_5;

	if (n >= 32) {
		__u64 a = xxh_round(XXH_1 + XXH_2, word[0]);
		__u64 c = xxh_round(XXH_2, word[1]);
		__u64 d = xxh_round(0, word[2]);
		__u64 e = xxh_round(-XXH_1, word[3]);
		if (n >= 64) {
			a = xxh_round(a, word[4]);
			c = xxh_round(c, word[5]);
			d = xxh_round(d, word[6]);
			e = xxh_round(e, word[7]);
		}
		h = rotate(a, 1) + rotate(c, 7) + rotate(d, 12) + rotate(e, 18);
		h = xxh_merge(xxh_merge(xxh_merge(xxh_merge(h, a), c), d), e);
		word += 4;
	}
	h += n;
	n &= 31;
	if (n >= 8)
		h = xxh_word(h, word[0]);
	if (n >= 16)
		h = xxh_word(h, word[1]);
	if (n >= 24)
		h = xxh_word(h, word[2]);
	__u64 tail = word[n / 8];
	if (n & 4) {
		h = rotate(h ^ (__u32)tail * XXH_1, 23) * XXH_2 + XXH_3;
		tail >>= 32;
	}
#pragma unroll
	for (__u32 i = 0; i < 3; i++) {
		if ((n & 3) > i)
			h = rotate(h ^ (tail & 0xff) * XXH_5, 11) * XXH_1;
		tail >>= 8;
	}
	h = (h ^ h >> 33) * XXH_2;
	h = (h ^ h >> 29) * XXH_3;
	return h ^ h >> 32;
}

#endif
