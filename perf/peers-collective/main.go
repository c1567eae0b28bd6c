// Command peers-collective measures the rounds of package rdma over TCP on the loopback
// beside Open MPI's, and prints a Markdown table:
//
//	go run ./perf/peers-collective [-readings 5] [-ranks 2,4] [-side poll,netpoll,sealed]
//
// Every rank is a process. Readings of the sides take turns within the same minutes, for
// a shared machine is now fast and now slow: look at the ratios. One reading is one run
// of all ranks; its figure for a size is the median over some thousand calls, each timed
// alone after a barrier, as osu_allreduce does; the table has the median over readings.
//
//	poll      headrace, each rank polls; it yields when nothing comes
//	netpoll   headrace, a rank that waits sleeps in the kernel
//	sealed    poll, and every frame encrypted and authenticated
//	mpi       mpirun --mca pml ob1 --mca btl self,tcp on lo; mpi.c, which polls too
//
// allreduce sums int64. exchange is Exchange beside MPI_Alltoall of the counts and
// MPI_Alltoallv: a million records of 104 bytes, spread over all pairs. Two ranks have a
// processor each; more ranks than processors are left to the scheduler.
//
// It needs mpicc and mpirun (make deps-peers); without them it says so and exits 1.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	c := config{}
	ranks := flag.String("ranks", "2,4", "comma-separated `numbers` of processes")
	sides := flag.String("side", "poll,netpoll,sealed", "comma-separated `sides` of headrace: poll, netpoll, sealed")
	flag.IntVar(&c.readings, "readings", 5, "readings of each side")
	flag.IntVar(&c.calls, "calls", 2000, "calls of a reading at 8 B and 1 KiB; a quarter at 64 KiB")
	flag.IntVar(&c.records, "records", 1_000_000, "keyed records of an exchange")
	flag.StringVar(&c.profile, "profile", "", "write a CPU profile of rank 0 to this `file`, each run anew")
	flag.BoolVar(&c.alone, "alone", false, "without Open MPI")
	rank := flag.Bool("rank", false, "be one rank, as told on standard input")
	flag.Parse()
	if *rank {
		if err := beRank(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "peers-collective:", err)
			os.Exit(1)
		}
		return
	}
	c.sides = strings.Split(*sides, ",")
	for _, n := range strings.Split(*ranks, ",") {
		r, err := strconv.Atoi(n)
		if err != nil || r < 1 || r > 16 {
			fmt.Fprintf(os.Stderr, "peers-collective: -ranks %q: numbers from 1 to 16\n", *ranks)
			os.Exit(64)
		}
		c.ranks = append(c.ranks, r)
	}
	if err := c.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "peers-collective:", err)
		os.Exit(1)
	}
}
