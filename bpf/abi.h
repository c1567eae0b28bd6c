/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the kernel side and the Go side must agree on. The Go twins are steer.Meta and
 * steer.Verdict (dataplane/steer) and what bpf2go makes of the types below; tests compare them.
 */
#ifndef HR_ABI_H
#define HR_ABI_H

#define HR_META_VERSION 1  /* steer.MetaVersion */
#define HR_TABLES_VERSION 1 /* layout of the maps: a process adopts only its own */

#define HR_GROUPS     1024 /* key groups: hash >> 54 */
#define HR_WORKERS    64   /* stride of a queue in the XSKMAP, whatever the number of workers */
#define HR_QUEUES     64
#define HR_FEEDS      256
#define HR_NO_FEED    HR_FEEDS /* row of the counters for what no feed matches */
#define HR_RULES      4096
#define HR_SHAPES     64   /* distinct shapes of rule in one class */
#define HR_CLASSES    4    /* IPv4 or IPv6, UDP or TCP */
#define HR_PLACE_MAX  64   /* bytes that are hashed */
#define HR_TAGS       2    /* VLAN tags that are read */
#define HR_EXTENSIONS 4    /* IPv6 extension headers that are read */

/*
 * What became of a frame. Every frame is counted under one verdict, in the row of its feed or,
 * where no rule matches it, in the last row.
 */
enum hr_verdict {
	HR_STEERED,        /* redirected to a socket */
	HR_NO_SOCKET,      /* passed: no socket is there for its queue and worker */
	HR_NO_METADATA,    /* passed: the driver leaves no room for metadata */
	HR_NO_MATCH,       /* passed: UDP or TCP that no rule matches */
	HR_NOT_IP,         /* passed: ARP, LLDP and so on */
	HR_OTHER_PROTOCOL, /* passed: IP, but neither UDP nor TCP */
	HR_SHORT,          /* passed: the frame ends inside its Ethernet, VLAN or IP header */
	HR_MALFORMED,      /* passed: a header contradicts itself or another one */
	HR_TRUNCATED,      /* passed: a length in a header goes beyond the frame or the packet */
	HR_FRAGMENT,       /* passed: a fragment of an IP packet */
	HR_TOO_DEEP,       /* passed: more VLAN tags or IPv6 extension headers than are read */
	HR_VERDICTS,
};

/* In the 32 bytes before the frame. Little-endian, as are the machines this is built for. */
struct hr_meta {
	__u64 hash;           /* XXH64, seed 0, of the placement bytes */
	__u64 receive_nanos;  /* CLOCK_MONOTONIC */
	__u16 payload_offset; /* from the frame's first byte */
	__u16 payload_length;
	__u16 feed;
	__u16 group;
	__u8 line;
	__u8 flags; /* HR_FLAG_* */
	__u16 version;
	__u32 reserved;
};
_Static_assert(sizeof(struct hr_meta) == 32, "the worker finds hr_meta 32 bytes before the frame");

#define HR_FLAG_NIC_TIME  1 /* receive_nanos is the NIC's stamp */
#define HR_FLAG_TRUNCATED 2 /* only in replay */
#define HR_FLAG_NO_PLACE  4 /* not all placement bytes were there */

/* How a rule's packets are placed; plan.PlaceKind. */
enum hr_place {
	HR_PLACE_BYTES = 1,
	HR_PLACE_TUPLE,
	HR_PLACE_UNTIL,
	HR_PLACE_CHANNEL,
};

/*
 * The bytes of a tuple placement are those fields of the packet that the rule chooses, in this
 * order and without padding:
 *
 *	source              4 bytes of IPv4 or 16 of IPv6, as on the wire
 *	destination         4 or 16 bytes, as on the wire
 *	source port         2 bytes, big-endian
 *	destination port    2 bytes, big-endian
 *	protocol            1 byte: 17 for UDP, 6 for TCP (not an extension header's number)
 *
 * Symmetric: if (destination, destination port) is less than (source, source port), compared as
 * bytes, address first, then the two ends change places before the fields are chosen.
 */
#define HR_FIELD_SOURCE           1
#define HR_FIELD_DESTINATION      2
#define HR_FIELD_SOURCE_PORT      4
#define HR_FIELD_DESTINATION_PORT 8
#define HR_FIELD_PROTOCOL         16

#define HR_CLASS_TCP 1
#define HR_CLASS_V6  2

#define HR_SHAPE_PORT      1
#define HR_SHAPE_VLAN      2
#define HR_ANY_DESTINATION 255

/*
 * A shape says which parts of a packet a rule looks at: a prefix length (or none), whether the
 * port, whether the VLAN. Rules of one shape are found with one hash lookup.
 */
struct hr_shape {
	__u64 mask[2]; /* of the destination; an IPv4 address is the first 4 bytes */
	__u8 prefix;   /* bits, or HR_ANY_DESTINATION */
	__u8 given;    /* HR_SHAPE_* */
	__u8 reserved[6];
};
_Static_assert(sizeof(struct hr_shape) == 24, "shapes are written by offset");

/* The shapes in use in one class, the most specific first. */
struct hr_shapes {
	__u32 count;
	__u32 reserved;
	struct hr_shape shape[HR_SHAPES];
};

struct hr_key {
	__u64 destination[2]; /* masked */
	__u16 port;           /* host order; 0 unless the shape has it */
	__u16 vlan;           /* 0 unless the shape has it */
	__u8 bank;
	__u8 class;
	__u8 prefix;
	__u8 given;
};
_Static_assert(sizeof(struct hr_key) == 24, "a hash key has no padding");

struct hr_rule {
	__u16 feed;
	__u16 offset;
	__u8 line;
	__u8 place; /* enum hr_place */
	__u8 length;
	__u8 trim;
	__u8 delimiter;
	__u8 fields; /* HR_FIELD_* */
	__u8 symmetric;
	__u8 reserved;
};
_Static_assert(sizeof(struct hr_rule) == 12, "a rule has no padding");

struct hr_counts {
	__u64 frames[HR_VERDICTS];
	__u64 steered_bytes; /* of whole frames */
};

#endif
