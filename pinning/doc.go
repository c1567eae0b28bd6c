// Package pinning decides which thread belongs on which CPU.
//
// [Place] takes what [topology] has read of a machine, the cards that packets come from
// and the number of workers, and gives each worker a physical core of its own near its
// card. The control plane, interrupts and everything else stay on the housekeeping CPUs,
// of which there is always at least one. It touches nothing: affinity is set by whoever
// runs the threads, and the host is changed by package stage.
//
//	Place, Placement   place.go      the decision, with a reason for every part of it
//	topology           how the machine is built
//	stage              what is changed on a host so that the workers are left alone
//	profile            named sets of such wishes
//	noise              what interrupts a CPU, counted by cause
package pinning
