//go:build ignore

// The C++ side of the replay benchmark: the same bars from the same bytes, by one
// loop over the capture in memory that knows this capture's format and this query.
//
//	bars FILE
//
// FILE is an uncompressed pcap file. It obeys lines on standard input:
//
//	N     go through the capture N times, each time from nothing to rows; answers
//	      nanoseconds, nanoseconds of processor time, messages, epochs, messages missing
//	rows  answers the last time's rows, a line each, and an empty line
#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

typedef unsigned __int128 u128;

template <typename T> static inline T le(const uint8_t *p)
{
	T v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint16_t be16(const uint8_t *p) { return p[0] << 8 | p[1]; }

static uint64_t clock_nanos(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

struct bar {
	uint64_t symbol;
	int64_t minute;
	// Of the first and last trade: time, then epoch and sequence number.
	int64_t first_time, last_time;
	uint64_t first_order, last_order;
	int64_t open, high, low, close;
	uint64_t volume, trades;
	u128 notional;
};

static const int64_t width = 60000000000;
static const uint64_t slots = 4096; // a power of two, far more than there are bars

static std::vector<uint8_t> file;
static std::vector<bar> table(slots);
static std::string rows;
static uint64_t messages, epochs, missing;

static inline bar *find(uint64_t symbol, int64_t minute)
{
	uint64_t h = (symbol ^ (uint64_t)minute * 0xc2b2ae3d27d4eb4f) * 0x9e3779b185ebca87;
	for (uint64_t at = (h ^ h >> 32) & (slots - 1);; at = (at + 1) & (slots - 1)) {
		bar *b = &table[at];
		if (b->symbol == symbol && b->minute == minute)
			return b;
		if (!b->trades) {
			b->symbol = symbol, b->minute = minute;
			b->first_time = INT64_MAX, b->last_time = INT64_MIN;
			b->high = INT64_MIN, b->low = INT64_MAX;
			return b;
		}
	}
}

static inline void trade(const uint8_t *m, uint64_t order)
{
	int64_t t = le<int64_t>(m + 2), price = le<int64_t>(m + 22);
	uint32_t size = le<uint32_t>(m + 18);
	bar *b = find(le<uint64_t>(m + 10), t / width);
	if (t < b->first_time || (t == b->first_time && order < b->first_order))
		b->first_time = t, b->first_order = order, b->open = price;
	if (t > b->last_time || (t == b->last_time && order > b->last_order))
		b->last_time = t, b->last_order = order, b->close = price;
	b->high = std::max(b->high, price);
	b->low = std::min(b->low, price);
	b->volume += size;
	b->trades++;
	b->notional += (u128)((__int128)price * size);
}

// payload returns the UDP payload of a frame of the feed.
static inline const uint8_t *payload(const uint8_t *f, size_t n, size_t *length)
{
	if (n < 42 || be16(f + 12) != 0x0800 || f[14] >> 4 != 4 || f[23] != 17 || be16(f + 20) & 0x3fff)
		return nullptr;
	size_t at = 14 + (f[14] & 15) * 4;
	if (n < at + 8 || memcmp(f + 30, "\xe0\x02\x03\x0a", 4) || be16(f + at + 2) != 16648)
		return nullptr;
	*length = std::min<size_t>(be16(f + at + 4) - 8, n - at - 8);
	return f + at + 8;
}

struct sequence {
	uint64_t next, epoch;
	int64_t sent;
};

static inline void packet(const uint8_t *p, size_t n, sequence *s)
{
	if (n < 40 || p[0] != 1 || le<uint16_t>(p + 2) != 0x8004)
		return;
	uint64_t seq = le<uint64_t>(p + 24), count = le<uint16_t>(p + 14);
	int64_t sent = le<int64_t>(p + 32);
	if (!count)
		return;
	if (!s->epoch)
		s->next = seq;
	if (!s->epoch || (seq < s->next && sent > s->sent)) {
		missing += s->epoch ? seq - 1 : 0;
		s->next = seq;
		s->epoch++;
	}
	if (seq > s->next)
		missing += seq - s->next;
	size_t at = 40, end = std::min<size_t>(n, 40 + le<uint16_t>(p + 12));
	for (uint64_t i = 0; i < count && at + 2 <= end; i++) {
		size_t length = le<uint16_t>(p + at);
		const uint8_t *m = p + at + 2;
		if (at + 2 + length > end)
			break;
		at += 2 + length;
		messages++;
		if (seq + i >= s->next && length >= 38 && m[0] == 'T')
			trade(m, s->epoch << 48 | (seq + i));
	}
	s->next = std::max(s->next, seq + count);
	s->sent = std::max(s->sent, sent);
}

// decimal appends v times 10^-scale.
static void decimal(u128 v, int scale)
{
	char text[48];
	int n = sizeof(text);
	for (int digits = 0; v || digits <= scale; digits++) {
		if (digits == scale && scale)
			text[--n] = '.';
		text[--n] = '0' + (int)(v % 10);
		v /= 10;
	}
	rows.append(" ").append(text + n, sizeof(text) - n);
}

static void make_rows()
{
	std::vector<const bar *> bars;
	for (const bar &b : table)
		if (b.trades)
			bars.push_back(&b);
	std::sort(bars.begin(), bars.end(), [](const bar *a, const bar *b) {
		if (a->minute != b->minute)
			return a->minute < b->minute;
		return memcmp(&a->symbol, &b->symbol, 8) < 0;
	});
	rows.clear();
	for (const bar *b : bars) {
		const char *symbol = (const char *)&b->symbol;
		size_t n = 8;
		while (n && symbol[n - 1] == ' ')
			n--;
		rows.append(symbol, n);
		u128 product = b->notional * 10000, quotient = product / b->volume, rest = product % b->volume * 2;
		quotient += rest > b->volume || (rest == b->volume && quotient & 1);
		decimal(b->minute * width, 0);
		for (int64_t price : {b->open, b->high, b->low, b->close})
			decimal(price, 4);
		decimal(b->volume, 0);
		decimal(b->trades, 0);
		decimal(b->notional, 4);
		decimal(quotient, 8);
		rows.append("\n");
	}
}

static void once()
{
	std::fill(table.begin(), table.end(), bar{});
	sequence s = {};
	messages = missing = 0;
	const uint8_t *f = file.data();
	for (size_t at = 24, size = file.size(); at + 16 <= size;) {
		size_t n = std::min<size_t>(le<uint32_t>(f + at + 8), size - at - 16), length;
		if (const uint8_t *p = payload(f + at + 16, n, &length))
			packet(p, length, &s);
		at += 16 + n;
	}
	epochs = s.epoch;
	make_rows();
}

int main(int argc, char **argv)
{
	FILE *in = argc == 2 ? fopen(argv[1], "rb") : nullptr;
	if (!in) {
		fprintf(stderr, "bars: one argument: a pcap file\n");
		return 64;
	}
	uint8_t chunk[1 << 16];
	for (size_t n; (n = fread(chunk, 1, sizeof(chunk), in));)
		file.insert(file.end(), chunk, chunk + n);
	uint32_t magic = file.size() < 24 ? 0 : le<uint32_t>(file.data());
	if (magic != 0xa1b2c3d4 && magic != 0xa1b23c4d) {
		fprintf(stderr, "bars: not a little-endian pcap file\n");
		return 1;
	}
	char line[64];
	setvbuf(stdout, nullptr, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "rows\n")) {
			printf("%s\n", rows.c_str());
			continue;
		}
		uint64_t wall = clock_nanos(CLOCK_MONOTONIC), cpu = clock_nanos(CLOCK_PROCESS_CPUTIME_ID);
		for (long i = strtol(line, nullptr, 10); i > 0; i--)
			once();
		wall = clock_nanos(CLOCK_MONOTONIC) - wall, cpu = clock_nanos(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", wall, cpu, messages, epochs, missing);
	}
	return 0;
}
