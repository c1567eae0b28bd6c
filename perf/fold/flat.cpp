//go:build ignore

// The C++ side of the fold benchmark: the same windows over the same events, in a
// flat open-addressed table.
//
//	flat KEYS WINDOW
//
// KEYS is the number of distinct keys, WINDOW the number of events in a window. It
// obeys lines on standard input, answering each with a line:
//
//	N      fold the next N events (a multiple of 256):
//	       nanoseconds of folding, nanoseconds of closing, rows, checksum of all rows so far
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sys/mman.h>
#include <vector>

typedef unsigned __int128 u128;

// The stream of events: stream.go.
static const uint64_t step = 1000, jitter = 4096;
static uint64_t keys, window;

static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static const int batch_max = 256, batches = 16;

struct batch {
	int64_t time[batch_max], key[batch_max], value[batch_max];
};

static void generate(batch &b, uint64_t from)
{
	for (int i = 0; i < batch_max; i++) {
		uint64_t n = from + i, r = mix(n);
		b.time[i] = (jitter + n) * step - (r >> 16 & (jitter - 1)) * step;
		b.key[i] = (uint64_t)((u128)r * keys >> 64) * 0x9e3779b97f4a7c15;
		b.value[i] = (int64_t)(r & 0xffff) - 30000;
	}
}

// XXH64 of eight bytes with seed 0.
static inline uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }
static inline uint64_t hash(uint64_t x)
{
	const uint64_t p1 = 0x9e3779b185ebca87, p2 = 0xc2b2ae3d27d4eb4f, p3 = 0x165667b19e3779f9,
		       p4 = 0x85ebca77c2b2ae63, p5 = 0x27d4eb2f165667c5;
	uint64_t h = p5 + 8;
	h ^= rotate(x * p2, 31) * p1;
	h = rotate(h, 27) * p1 + p4;
	h = (h ^ h >> 33) * p2;
	h = (h ^ h >> 29) * p3;
	return h ^ h >> 32;
}

// An entry is free while its count is 0.
struct entry {
	int64_t key;
	uint64_t count;
	__int128 sum;
};
static_assert(sizeof(entry) == 32);

struct pane {
	entry *entries;
	int64_t index;
	bool open;
};

struct row {
	int64_t key, start;
	uint64_t count;
	__int128 sum;
};

static std::vector<pane> panes;
static uint64_t mask;
static const uint64_t slack = 1 << 16; // slots behind the last, so that no search wraps
static int64_t start = 1, end = 0; // of the pane of the last event
static entry *current;
static int64_t greatest = INT64_MIN, closed; // windows before closed are closed
static uint64_t rows, checksum, close_nanos;
static std::vector<row> out(4096);

// now is the processor time of this thread: what neighbors take is not counted.
static uint64_t now()
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

// turn makes the pane of the window that holds t the current one; false if it is late.
static bool turn(int64_t t)
{
	int64_t width = window * step, index = t / width;
	if (index < closed)
		return false;
	pane *unused = nullptr;
	start = index * width, end = start + width;
	for (pane &p : panes) {
		if (p.open && p.index == index) {
			current = p.entries;
			return true;
		}
		if (!p.open && !unused)
			unused = &p;
	}
	if (!unused) {
		size_t bytes = (mask + 1 + slack) * sizeof(entry);
		void *m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (m == MAP_FAILED) {
			perror("flat: table");
			exit(1);
		}
		panes.push_back({(entry *)m, 0, false});
		unused = &panes.back();
	}
	unused->index = index, unused->open = true;
	current = unused->entries;
	return true;
}

// fold brings a batch into the panes: first the pane and slot of every event, with a
// prefetch so that the cache misses run side by side, then the search and the sums.
static void fold(const batch &b)
{
	entry *at[batch_max];
	uint16_t which[batch_max];
	int n = 0;
	int64_t latest = greatest;
	for (int i = 0; i < batch_max; i++) {
		int64_t t = b.time[i];
		if ((t < start || t >= end) && !turn(t))
			continue;
		at[n] = current + (hash(b.key[i]) & mask);
		__builtin_prefetch(at[n], 1);
		which[n++] = i;
		latest = t > latest ? t : latest;
	}
	for (int j = 0; j < n; j++) {
		int i = which[j];
		int64_t key = b.key[i];
		entry *e = at[j];
		while (e->key != key || !e->count) {
			if (!e->count) {
				e->key = key;
				break;
			}
			e++; // there is room behind the last slot, and the table is never full
		}
		e->count++;
		e->sum += b.value[i];
	}
	greatest = latest;
}

static void flush(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const row &r = out[i];
		checksum += mix(r.key + mix(r.start + mix(r.count + mix((uint64_t)r.sum))));
	}
	rows += n;
}

// watermark returns the number of the window that it is in.
static int64_t watermark()
{
	return (greatest - (int64_t)(jitter * step)) / (int64_t)(window * step);
}

// close_panes puts out and empties the panes that the watermark has passed.
static void close_panes()
{
	int64_t width = window * step, until = watermark();
	closed = until;
	start = 1, end = 0;
	for (pane &p : panes) {
		if (!p.open || p.index >= until)
			continue;
		uint64_t from = now();
		size_t n = 0;
		for (entry *e = p.entries; e < p.entries + mask + 1 + slack; e++) {
			if (!e->count)
				continue;
			out[n++] = {e->key, p.index * width, e->count, e->sum};
			*e = {};
			if (n == out.size()) {
				close_nanos += now() - from;
				flush(n);
				n = 0;
				from = now();
			}
		}
		p.open = false;
		close_nanos += now() - from;
		flush(n);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "flat: two arguments: keys, window\n");
		return 64;
	}
	keys = strtoull(argv[1], nullptr, 10), window = strtoull(argv[2], nullptr, 10);
	uint64_t slots = 1024;
	while (slots * 3 < keys * 4)
		slots *= 2;
	mask = slots - 1;
	static batch b[batches];
	uint64_t made = 0;
	char line[64];
	setvbuf(stdout, nullptr, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t fold_nanos = 0;
		close_nanos = 0;
		for (uint64_t to = made + strtoull(line, nullptr, 10); made < to;) {
			int n = 0;
			for (; n < batches && made < to; made += batch_max)
				generate(b[n++], made);
			uint64_t from = now();
			for (int i = 0; i < n; i++) {
				fold(b[i]);
				if (watermark() <= closed)
					continue;
				fold_nanos += now() - from;
				close_panes();
				from = now();
			}
			fold_nanos += now() - from;
		}
		printf("%lu %lu %lu %lu\n", fold_nanos, close_nanos, rows, checksum);
	}
	return 0;
}
