package status

import (
	"fmt"
	"io"
	"strings"
)

// Placement is where the workers and their memory were to be, and where they are.
type Placement struct {
	// Reasons say why the workers are where they are, or why they are anywhere.
	Reasons []string          `json:"reasons"`
	Workers []WorkerPlacement `json:"workers"`
	Frames  []FramePlacement  `json:"frames"`
}

// WorkerPlacement is where one worker is.
type WorkerPlacement struct {
	Worker int `json:"worker"`
	// CPU and Node were asked for, -1: any; CPUs is the list that its thread may run on.
	CPU  int    `json:"asked_cpu"`
	Node int    `json:"asked_node"`
	CPUs string `json:"cpus"`
	// Bytes is the size of its memory. Of as many Pages of that, Remote are not on the node.
	Bytes  int `json:"memory_bytes"`
	Pages  int `json:"pages_looked_at"`
	Remote int `json:"pages_elsewhere"`
	// Resident says that memory was to be there beforehand, in huge pages, and locked.
	Resident bool `json:"asked_resident"`
	Huge     int  `json:"huge_page_bytes"`
	Locked   bool `json:"locked"`
	// Why is why something is not as it was asked for.
	Why string `json:"why,omitempty"`
}

// FramePlacement is where the memory of one queue's frames is.
type FramePlacement struct {
	Interface string `json:"interface"`
	Queue     int    `json:"queue"`
	// Huge says that pages of 2 MiB were asked for, Node of which node, -1: any.
	Huge      bool `json:"asked_huge"`
	Node      int  `json:"asked_node"`
	PageBytes int  `json:"page_bytes"`
	Pages     int  `json:"pages"`
	// Remote is how many of them are not on the node, -1: not known.
	Remote int    `json:"pages_elsewhere"`
	Why    string `json:"why,omitempty"`
}

// asked reports whether anything was asked for.
func (p *Placement) asked() bool {
	if p == nil {
		return false
	}
	for i := range p.Workers {
		if w := &p.Workers[i]; w.CPU >= 0 || w.Node >= 0 || w.Resident {
			return true
		}
	}
	for i := range p.Frames {
		if f := &p.Frames[i]; f.Huge || f.Node >= 0 {
			return true
		}
	}
	return false
}

// write prints what was asked for and what was got, if anything was.
func (p *Placement) write(w io.Writer) error {
	if !p.asked() {
		return nil
	}
	rows := [][]string{{"placed", "cpus", "memory", "pages elsewhere", ""}}
	for i := range p.Workers {
		x := &p.Workers[i]
		rows = append(rows, []string{fmt.Sprintf("worker %d", x.Worker), asked(x.CPUs, x.CPU), x.memory(), elsewhere(x.Remote, x.Pages, x.Node), x.Why})
	}
	for i := range p.Frames {
		x := &p.Frames[i]
		rows = append(rows, []string{fmt.Sprintf("frames of %s queue %d", x.Interface, x.Queue), "", x.memory(), elsewhere(x.Remote, x.Pages, x.Node), x.Why})
	}
	fmt.Fprintln(w)
	return writeTable(w, rows)
}

// asked is what was got, and in brackets what was asked for if that is another thing.
func asked(got string, want int) string {
	if want < 0 || got == fmt.Sprint(want) {
		return got
	}
	return fmt.Sprintf("%s (asked: %d)", got, want)
}

// elsewhere says how many pages are not where they should be.
func elsewhere(remote, pages, node int) string {
	switch {
	case node < 0:
		return ""
	case remote < 0:
		return fmt.Sprintf("not known (asked: node %d)", node)
	}
	return fmt.Sprintf("%d of %d (node %d)", remote, pages, node)
}

func (x *WorkerPlacement) memory() string {
	var parts []string
	switch {
	case !x.Resident:
	case x.Huge == 0:
		parts = append(parts, "no huge pages")
	default:
		parts = append(parts, size(x.Huge)+" in huge pages")
	}
	switch {
	case x.Locked:
		parts = append(parts, "locked")
	case x.Resident:
		parts = append(parts, "not locked")
	}
	return strings.Join(append([]string{size(x.Bytes)}, parts...), ", ")
}

func (x *FramePlacement) memory() string {
	s := fmt.Sprintf("pages of %s", size(x.PageBytes))
	if x.Huge && x.PageBytes < 2<<20 {
		s += " (asked: 2 MiB)"
	}
	return s
}

// size writes a number of bytes in the largest unit that leaves something before the point.
func size(bytes int) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return strings.Replace(fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)), ".0 ", " ", 1)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}
