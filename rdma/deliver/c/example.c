/* example prints the rows of a ring, one a line, until it has printed COUNT of them, or
 * for ever.
 *
 *	cc -std=c11 -O2 -Wall -Wextra -o example example.c
 *	./example /dev/shm/headrace-rows [COUNT]
 */
#include "headrace_ring.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	hr_ring ring;
	const void *row;
	size_t length;
	unsigned long long count = argc > 2 ? strtoull(argv[2], NULL, 10) : UINT64_MAX;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s RING [COUNT]\n", argv[0]);
		return 64;
	}
	if (hr_ring_open(&ring, argv[1]) != 0) {
		fprintf(stderr, "%s: %s: %s\n", argv[0], argv[1], ring.error);
		return 1;
	}
	while (count > 0 && hr_ring_wait(&ring, -1) >= 0) {
		int got = 0;
		while (count > 0 && (got = hr_ring_next(&ring, &row, &length)) > 0) {
			fwrite(row, 1, length, stdout);
			putchar('\n');
			count--;
		}
		/* First the rows are where they belong, then their room is given back. */
		if (fflush(stdout) != 0) {
			perror("stdout");
			return 1;
		}
		if (got < 0)
			break;
		hr_ring_release(&ring);
	}
	if (ring.error != NULL)
		fprintf(stderr, "%s: %s: %s\n", argv[0], argv[1], ring.error);
	hr_ring_close(&ring);
	return ring.error == NULL ? 0 : 1;
}
