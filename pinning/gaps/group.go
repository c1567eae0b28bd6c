package gaps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// reachable reports whether a thread of this process may run on all cores.
func reachable(cores topology.CPUSet) bool {
	result := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its affinity
		for _, cpu := range cores.List() {
			var only unix.CPUSet
			only.Set(cpu)
			if unix.SchedSetaffinity(0, &only) != nil {
				result <- false
				return
			}
		}
		result <- true
	}()
	return <-result
}

// join moves this process, all threads of it, into a control group of version 2, and
// returns what moves it back.
func join(dir string) (restore func(), err error) {
	now, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	was := ""
	for line := range strings.Lines(string(now)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			was = strings.TrimSpace(path)
		}
	}
	// The groups' root is the first directory above that is a group no more.
	root := dir
	for exists(filepath.Join(filepath.Dir(root), "cgroup.procs")) {
		root = filepath.Dir(root)
	}
	if was == "" {
		return nil, errors.New("/proc/self/cgroup names no group of version 2")
	}
	pid := []byte(strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0); err != nil {
		return nil, fmt.Errorf("join the partition: %w", err)
	}
	return func() { _ = os.WriteFile(filepath.Join(root, was, "cgroup.procs"), pid, 0) }, nil // its end is near in any case
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
