/* headrace_ring.h reads the rows that `headrace receive` puts in a ring in shared memory.
 *
 *	hr_ring r; const void *row; size_t length;
 *	if (hr_ring_open(&r, "/dev/shm/headrace-rows") != 0)
 *		die(r.error);
 *	while (hr_ring_wait(&r, -1) >= 0) {
 *		while (hr_ring_next(&r, &row, &length) > 0)
 *			use(row, length);
 *		hr_ring_release(&r);
 *	}
 *	hr_ring_close(&r);
 *
 * A row is one JSON object without a newline, in the ring itself: it may be read until
 * hr_ring_release; who ends before it gets the row again. A ring has one reader, of one
 * thread. Lengths are checked before they are used, every row has a checksum, and all but
 * the reader's part is mapped read-only. C11, Linux, little-endian. Layout: memory.go.
 */
#ifndef HEADRACE_RING_H
#define HEADRACE_RING_H

#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the ring is little-endian"
#endif
long syscall(long number, ...); /* strict C11 hides it, O_CLOEXEC and F_OFD_SETLK */

#define HR_OWN 65536 /* bytes of a part; the second part is the reader's */
#define HR_RECORDS ((uint64_t)3 * HR_OWN)
#define HR_ROW_MAX ((uint64_t)4 << 20)
#define HR_WORD(bits, p) ((_Atomic uint##bits##_t *)(uintptr_t)(p))

typedef struct hr_ring {
	const char *error;     /* what is wrong, once a function has returned -1 */
	uint64_t sequence;     /* of the last row; rows are numbered from 1 on */
	const uint8_t *memory; /* the file, read-only */
	uint8_t *own;          /* the reader's part */
	uint64_t size, next, seen;
	int fd;
	uint32_t table[256];
} hr_ring;

static inline uint64_t hr_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint32_t hr_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline int hr_wrong(hr_ring *r, const char *error) { r->error = error; return -1; }

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t hr_crc_fast(const uint8_t *p, size_t n)
{
	uint64_t c = 0xffffffff;
	for (; n >= 8; n -= 8, p += 8)
		c = __builtin_ia32_crc32di(c, hr_u64(p));
	while (n-- > 0)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
	return ~(uint32_t)c;
}
#endif

static inline uint32_t hr_crc(const hr_ring *r, const uint8_t *p, size_t n)
{
#ifdef __x86_64__
	if (r->table[0] != 0) /* it would be 0 in the table: the processor has crc32 */
		return hr_crc_fast(p, n);
#endif
	uint32_t c = 0xffffffff;
	while (n-- > 0)
		c = r->table[(c ^ *p++) & 0xff] ^ c >> 8;
	return ~c;
}

static inline void hr_crc_init(hr_ring *r)
{
	for (uint32_t i = 0; i < 256; i++) {
		r->table[i] = i;
		for (int k = 0; k < 8; k++)
			r->table[i] = r->table[i] >> 1 ^ (r->table[i] & 1 ? 0x82f63b78 : 0);
	}
#ifdef __x86_64__
	r->table[0] = __builtin_cpu_supports("sse4.2") != 0;
#endif
}

static inline void hr_ring_close(hr_ring *r)
{
	if (r->memory != NULL)
		munmap((void *)(uintptr_t)r->memory, HR_RECORDS + r->size);
	if (r->own != NULL)
		munmap(r->own, HR_OWN);
	if (r->fd >= 0) /* and with it the lock */
		close(r->fd);
	r->memory = NULL, r->own = NULL, r->fd = -1;
}

/* hr_look reads the head: 1 if there is something to read, 0 if not, -1 if it is wrong. */
static inline int hr_look(hr_ring *r)
{
	if (r->error != NULL)
		return -1;
	uint64_t head = atomic_load(HR_WORD(64, r->memory + 128));
	if (head < r->seen || head - r->next > r->size || (head | r->next) % 8 != 0)
		return hr_wrong(r, "the ring is damaged: its head is wrong");
	r->seen = head;
	return head != r->next;
}

/* hr_ring_open opens the ring at path: 0, or -1 and r->error says why (see errno too). */
static inline int hr_ring_open(hr_ring *r, const char *path)
{
	struct stat st;
	uint8_t head[24];
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HR_OWN, .l_len = 1};
	memset(r, 0, sizeof *r);
	hr_crc_init(r);
	r->fd = open(path, O_RDWR | __O_CLOEXEC);
	if (r->fd < 0)
		return hr_wrong(r, "the file cannot be opened");
	if (fstat(r->fd, &st) != 0 || read(r->fd, head, sizeof head) != (ssize_t)sizeof head || memcmp(head, "hr-ring1", 8) != 0)
		r->error = "not a ring of rows";
	else if (hr_u32(head + 8) != 1 || hr_u32(head + 12) != HR_RECORDS)
		r->error = "a ring of another version";
	else if (r->size = hr_u64(head + 16), r->size < HR_OWN || r->size > (uint64_t)1 << 36
			|| (r->size & (r->size - 1)) != 0 || (uint64_t)st.st_size != HR_RECORDS + r->size)
		r->error = "not a ring of rows: its size is wrong";
	else if (fcntl(r->fd, 37 /* F_OFD_SETLK */, &lock) != 0)
		r->error = "another reader has the ring";
	if (r->error == NULL) {
		void *memory = mmap(NULL, HR_RECORDS + r->size, PROT_READ, MAP_SHARED, r->fd, 0);
		void *own = mmap(NULL, HR_OWN, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, HR_OWN);
		r->memory = memory == MAP_FAILED ? NULL : memory;
		r->own = own == MAP_FAILED ? NULL : own;
		if (r->memory == NULL || r->own == NULL)
			r->error = "the ring cannot be mapped";
		else if (r->seen = r->next = hr_u64(r->own), hr_look(r) >= 0)
			return 0;
	}
	hr_ring_close(r);
	return -1;
}

/* hr_ring_next sets the next row: 1, or 0 if there is none now, or -1 and r->error. */
static inline int hr_ring_next(hr_ring *r, const void **row, size_t *length)
{
	for (;;) {
		int more = r->next != r->seen ? 1 : hr_look(r);
		if (more <= 0)
			return more;
		uint64_t at = r->next & (r->size - 1), left = r->seen - r->next, end = r->size - at;
		const uint8_t *rec = r->memory + HR_RECORDS + at;
		uint32_t n = hr_u32(rec), sum = hr_u32(rec + 4);
		if (n == UINT32_MAX && sum == 0 && end <= left) {
			r->next += end; /* the next record is at the start */
			continue;
		}
		uint64_t whole = ((uint64_t)n + 16 + 7) & ~(uint64_t)7;
		if (n > HR_ROW_MAX || whole > left || whole > end)
			return hr_wrong(r, "the ring is damaged: a row is longer than its place");
		if (hr_crc(r, rec + 8, (size_t)n + 8) != sum)
			return hr_wrong(r, "the ring is damaged: a row has a wrong checksum");
		if (r->sequence != 0 && hr_u64(rec + 8) != r->sequence + 1)
			return hr_wrong(r, "the ring is damaged: a row is missing");
		r->sequence = hr_u64(rec + 8);
		r->next += whole;
		*row = rec + 16, *length = n;
		return 1;
	}
}

/* hr_ring_release gives the room of all rows so far back to the receiver. */
static inline void hr_ring_release(hr_ring *r)
{
	atomic_store_explicit(HR_WORD(64, r->own), r->next, memory_order_release);
}

/* hr_ring_wait waits for a row, up to some nanoseconds, or for ever if that is negative:
 * 1 if there is one, 0 if there is none yet, -1 and r->error. It may return early. */
static inline int hr_ring_wait(hr_ring *r, int64_t nanoseconds)
{
	const uint8_t *bell = r->memory + 192;
	struct timespec t = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
	int more = r->next != r->seen ? 1 : hr_look(r);
	if (more != 0 || nanoseconds == 0)
		return more;
	atomic_store(HR_WORD(32, r->own + 64), 1); /* before the bell and the head are looked at: see memory.go */
	uint32_t v = atomic_load(HR_WORD(32, bell));
	if (hr_look(r) == 0)
		syscall(SYS_futex, bell, FUTEX_WAIT, v, nanoseconds < 0 ? NULL : &t, NULL, 0);
	atomic_store(HR_WORD(32, r->own + 64), 0);
	return hr_look(r);
}

#endif
