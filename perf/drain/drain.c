//go:build ignore

// The C side of the drain benchmark: one AF_XDP socket by system calls, no library.
//
//	drain IFINDEX RING FRAMES BATCH CPU
//
// It sends the socket's descriptor over descriptor 3 and then obeys lines on standard
// input, answering each with a line:
//
//	n      descriptors waiting in the RX ring
//	d      drain what is there: descriptors, nanoseconds, rejected, checksum
//	l MS   receive for so long: descriptors, nanoseconds, rejected, checksum
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_xdp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define CHUNK 2048u

// struct hr_meta: the 32 bytes before a frame.
struct meta {
	uint64_t hash, receive_nanos;
	uint16_t payload_offset, payload_length, feed, group;
	uint8_t line, flags;
	uint16_t version;
	uint32_t reserved;
};
_Static_assert(sizeof(struct meta) == 32, "metadata is 32 bytes");

struct ring {
	uint32_t *producer, *consumer, *flags;
	void *entries;
	uint32_t mask, next, seen;
};

static int fd;
static uint8_t *umem;
static struct ring rx, fill;
static uint32_t batch;

static void die(const char *what)
{
	fprintf(stderr, "drain: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void set(int option, const void *value, socklen_t size, const char *what)
{
	if (setsockopt(fd, SOL_XDP, option, value, size))
		die(what);
}

static struct ring map_ring(off_t page, const struct xdp_ring_offset *off, uint32_t entries,
			    size_t entry_bytes)
{
	uint8_t *m = mmap(NULL, off->desc + entries * entry_bytes, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, fd, page);
	if (m == MAP_FAILED)
		die("map ring");
	return (struct ring){
		.producer = (uint32_t *)(m + off->producer),
		.consumer = (uint32_t *)(m + off->consumer),
		.flags = (uint32_t *)(m + off->flags),
		.entries = m + off->desc,
		.mask = entries - 1,
	};
}

static void open_socket(int ifindex, uint32_t ring, uint32_t frames)
{
	umem = mmap(NULL, (size_t)frames * CHUNK, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (umem == MAP_FAILED || fd < 0)
		die("socket and UMEM");
	struct xdp_umem_reg reg = {
		.addr = (uintptr_t)umem, .len = (uint64_t)frames * CHUNK, .chunk_size = CHUNK,
	};
	set(XDP_UMEM_REG, &reg, sizeof(reg), "UMEM");
	set(XDP_UMEM_FILL_RING, &frames, sizeof(frames), "fill ring");
	set(XDP_UMEM_COMPLETION_RING, &ring, sizeof(ring), "completion ring");
	set(XDP_RX_RING, &ring, sizeof(ring), "RX ring");
	struct xdp_mmap_offsets off;
	socklen_t size = sizeof(off);
	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &size))
		die("offsets");
	rx = map_ring(XDP_PGOFF_RX_RING, &off.rx, ring, sizeof(struct xdp_desc));
	fill = map_ring(XDP_UMEM_PGOFF_FILL_RING, &off.fr, frames, sizeof(uint64_t));
	for (uint32_t i = 0; i < frames; i++)
		((uint64_t *)fill.entries)[i] = (uint64_t)i * CHUNK;
	fill.next = frames;
	__atomic_store_n(fill.producer, frames, __ATOMIC_RELEASE);
	struct sockaddr_xdp to = {
		.sxdp_family = AF_XDP, .sxdp_ifindex = ifindex, .sxdp_queue_id = 0,
		.sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	};
	if (bind(fd, (struct sockaddr *)&to, sizeof(to)))
		die("bind");
}

static void send_descriptor(void)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr m = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(3, &m, 0) < 0)
		die("send descriptor");
}

static uint64_t rejected, checksum;

// receive takes at most a batch, reads and checks each frame's metadata, gives the
// frames back and returns how many there were.
static uint32_t receive(void)
{
	if (rx.seen - rx.next < batch)
		rx.seen = __atomic_load_n(rx.producer, __ATOMIC_ACQUIRE);
	uint32_t n = rx.seen - rx.next;
	if (n > batch)
		n = batch;
	for (uint32_t i = 0; i < n; i++) {
		const struct xdp_desc *d = &((struct xdp_desc *)rx.entries)[(rx.next + i) & rx.mask];
		const struct meta *m = (const struct meta *)(umem + d->addr) - 1;
		if (m->version != 1 || (uint32_t)m->payload_offset + m->payload_length > d->len ||
		    m->group != m->hash >> 54)
			rejected++;
		else
			checksum += m->hash ^ m->receive_nanos;
		((uint64_t *)fill.entries)[(fill.next + i) & fill.mask] = d->addr & ~(uint64_t)(CHUNK - 1);
	}
	if (!n)
		return 0;
	rx.next += n;
	fill.next += n;
	__atomic_store_n(rx.consumer, rx.next, __ATOMIC_RELEASE);
	__atomic_store_n(fill.producer, fill.next, __ATOMIC_RELEASE);
	if (__atomic_load_n(fill.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP)
		recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	return n;
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void report(uint64_t frames, uint64_t nanos)
{
	printf("%lu %lu %lu %lu\n", frames, nanos, rejected, checksum);
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "drain: five arguments: ifindex, ring, frames, batch, cpu\n");
		return 64;
	}
	cpu_set_t cpu;
	CPU_ZERO(&cpu);
	CPU_SET(atoi(argv[5]), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		die("affinity");
	batch = atoi(argv[4]);
	open_socket(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]));
	send_descriptor();
	char line[64];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t frames = 0, start = now(), got;
		switch (line[0]) {
		case 'n':
			printf("%u\n", __atomic_load_n(rx.producer, __ATOMIC_ACQUIRE) - rx.next);
			break;
		case 'd':
			start = now();
			while ((got = receive()))
				frames += got;
			report(frames, now() - start);
			break;
		case 'l': {
			uint64_t end = start + strtoull(line + 1, NULL, 10) * 1000000u;
			while (now() < end)
				frames += receive();
			report(frames, now() - start);
			break;
		}
		}
	}
	return 0;
}
