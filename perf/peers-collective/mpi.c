//go:build ignore

// The Open MPI side of the collectives' benchmark. Every call is timed at rank 0, after
// a barrier, and what it came to is checked. It prints lines
//
//	allreduce BYTES P50 P99 CALLS      microseconds
//	exchange RECORDS P50 P99 CALLS     microseconds; keyed records of 104 bytes
//
// as rank.go does.
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORD 104

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static int rank, ranks;

static void report(const char *what, long size, double *t, int calls)
{
	qsort(t, calls, sizeof(*t), compare);
	if (rank == 0)
		printf("%s %ld %.3f %.3f %d\n", what, size, t[calls / 2], t[calls * 99 / 100], calls);
	fflush(stdout);
}

static void wrong(const char *what)
{
	fprintf(stderr, "wrong %s\n", what);
	MPI_Abort(MPI_COMM_WORLD, 1);
}

static void allreduce(long bytes, int calls)
{
	long n = bytes / 8;
	int64_t *a = malloc(bytes), *b = malloc(bytes);
	double *t = malloc(sizeof(*t) * calls);
	for (long i = 0; i < n; i++)
		a[i] = rank + i;
	for (int i = -200; i < calls; i++) { // the first 200 warm up
		MPI_Barrier(MPI_COMM_WORLD);
		double began = MPI_Wtime();
		MPI_Allreduce(a, b, n, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
		if (i >= 0)
			t[i] = (MPI_Wtime() - began) * 1e6;
	}
	for (long i = 0; i < n; i++)
		if (b[i] != ranks * i + (long)ranks * (ranks - 1) / 2)
			wrong("sum");
	report("allreduce", bytes, t, calls);
	free(a);
	free(b);
	free(t);
}

static void exchange(long records, int calls)
{
	long each = records / ranks / ranks; // from one rank to another
	int *counts = malloc(sizeof(int) * ranks), *offsets = malloc(sizeof(int) * ranks);
	int *theirs = malloc(sizeof(int) * ranks), *places = malloc(sizeof(int) * ranks);
	char *out = malloc(each * ranks * RECORD), *in = malloc(each * ranks * RECORD);
	double *t = malloc(sizeof(*t) * calls);
	for (int r = 0; r < ranks; r++) {
		counts[r] = each * RECORD;
		offsets[r] = r * each * RECORD;
		memset(out + offsets[r], 1 + rank * ranks + r, counts[r]);
	}
	for (int i = -1; i < calls; i++) {
		memset(in, 0, each * ranks * RECORD);
		MPI_Barrier(MPI_COMM_WORLD);
		double began = MPI_Wtime();
		MPI_Alltoall(counts, 1, MPI_INT, theirs, 1, MPI_INT, MPI_COMM_WORLD);
		for (int r = 0, at = 0; r < ranks; at += theirs[r++])
			places[r] = at;
		MPI_Alltoallv(out, counts, offsets, MPI_BYTE, in, theirs, places, MPI_BYTE, MPI_COMM_WORLD);
		if (i >= 0)
			t[i] = (MPI_Wtime() - began) * 1e6;
		for (int r = 0; r < ranks; r++)
			for (long b = 0; b < theirs[r]; b += RECORD)
				if (in[places[r] + b] != (char)(1 + r * ranks + rank))
					wrong("record");
	}
	report("exchange", records, t, calls);
}

int main(int argc, char **argv)
{
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	int calls = atoi(argv[1]);
	allreduce(8, calls);
	allreduce(1024, calls);
	allreduce(65536, calls / 4);
	exchange(atol(argv[2]), 5);
	MPI_Finalize();
	return 0;
}
