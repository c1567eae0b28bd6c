package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/handover"
)

// placing is where workers are put, and what came of it. Each worker's is written by its
// own thread until it is built.
type placing struct {
	regions []*arena.Region // by worker
	placed  []handover.Placed
	why     [][]error
}

func (p *process) initPlacing() {
	n := p.plan.Workers
	p.placing = placing{make([]*arena.Region, n), make([]handover.Placed, n), make([][]error, n)}
	for w := range n {
		place := handover.Place{CPU: -1, Node: -1}
		if w < len(p.start.Places) {
			place = p.start.Places[w]
		}
		p.placed[w].Place = place
	}
	p.moveOthers()
}

// moveOthers keeps all threads that are no worker's off the workers' CPUs. Those that come
// later do as the thread does that makes them, and no worker makes any.
func (p *process) moveOthers() {
	if len(p.start.Others) == 0 {
		return
	}
	var set unix.CPUSet
	for _, cpu := range p.start.Others {
		set.Set(cpu)
	}
	threads, _ := os.ReadDir("/proc/self/task") // a wish: without proc they stay where they are
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(tid, &set)
		}
	}
}

// takePlace puts the calling thread, worker w's, on its CPU.
func (p *process) takePlace(w int) {
	x := &p.placed[w]
	var set unix.CPUSet
	if x.CPU >= 0 {
		set.Set(x.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			p.excuse(w, fmt.Errorf("CPU %d: %w; is it in this process's cpuset?", x.CPU, os.NewSyscallError("sched_setaffinity", err)))
		}
	}
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		p.excuse(w, os.NewSyscallError("sched_getaffinity", err))
		return
	}
	for cpu, left := 0, set.Count(); left > 0; cpu++ {
		if set.IsSet(cpu) {
			x.CPUs = append(x.CPUs, cpu)
			left--
		}
	}
}

// excuse notes why something that was asked for is not so.
func (p *process) excuse(w int, err error) {
	if err != nil {
		p.why[w] = append(p.why[w], err)
	}
}

// readyRegion says of a region, before anything is taken from it, what its memory is to be.
func (p *process) readyRegion(w int, r *arena.Region) {
	p.regions[w] = r
	if node := p.placed[w].Node; node >= 0 {
		p.excuse(w, r.Prefer(node))
	}
	if p.start.Resident {
		p.excuse(w, r.Huge())
	}
}

// settle makes the workers' memory stay, if that is asked for, and reports where it is.
func (p *process) settle() {
	for w, r := range p.regions {
		x := &p.placed[w]
		var err error
		if p.start.Resident {
			x.Resident = true
			x.Locked, err = r.Settle()
			p.excuse(w, err)
			x.Huge, err = r.InHuge()
			p.excuse(w, err)
		}
		where, err := r.Where(x.Node)
		p.excuse(w, err)
		x.Recorder = p.workers[w].Recorder()
		x.Bytes, x.Pages, x.Remote = r.Used(), where.Pages, where.Remote
		if x.Node >= 0 && x.Remote > 0 {
			p.excuse(w, fmt.Errorf("%d of %d pages are not on node %d", x.Remote, x.Pages, x.Node))
		}
		if err := errors.Join(p.why[w]...); err != nil {
			x.Why = err.Error()
		}
	}
	p.ready.Placed = p.placed
}
