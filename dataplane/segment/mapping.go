package segment

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file is the only one of the package that turns mapped bytes into typed
// values. Everything that it hands out lies in a mapping that lives as long as
// the segment.

// view returns the T at byte at of mem.
func view[T any](mem []byte, at int) *T { return &views[T](mem, at, 1)[0] }

// views returns n values of T from byte at of mem on.
func views[T any](mem []byte, at, n int) []T {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if at < 0 || n < 0 || at+n*size > len(mem) || at%8 != 0 {
		panic(fmt.Sprintf("segment: %d × %d bytes at %d of %d", n, size, at, len(mem)))
	}
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[at])), n)
}

// wordsOf returns v as the words that it is made of. T holds nothing but uint64.
func wordsOf[T any](v *T) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(v)), unsafe.Sizeof(*v)/8)
}

// countWord returns the word inside an atomic value, for a store that a test counts.
func countWord(a *atomic.Uint64) *uint64 { return (*uint64)(unsafe.Pointer(a)) }

// seals forbid every change of a memory file's size, and of its seals: without
// them the other side could truncate the file and turn our loads into SIGBUS.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// newFile makes a sealed memory file of the given size.
func newFile(name string, size int) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("ftruncate", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return fd, nil
}

// checkFile makes sure that a file from the other process is sealed and has the
// size that the plan asks for.
func checkFile(fd, size int) error {
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("not a memory file: %w", os.NewSyscallError("fcntl F_GET_SEALS", err))
	}
	if got&seals != seals {
		return errors.New("not sealed against a change of its size")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Size != int64(size) {
		return &MismatchError{Field: "size", Got: fmt.Sprint(st.Size), Want: fmt.Sprint(size)}
	}
	return nil
}

func mapFile(fd, size int, write bool) ([]byte, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(fd, 0, size, prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	return mem, os.NewSyscallError("mmap", err)
}

// Words of [WorkerCounters] that are looked at by themselves.
const (
	framesWord    = unsafe.Offsetof(WorkerCounters{}.Frames) / 8
	cyclesWord    = unsafe.Offsetof(WorkerCounters{}.Cycles) / 8
	busyWord      = unsafe.Offsetof(WorkerCounters{}.BusyCycles) / 8
	heartbeatWord = unsafe.Offsetof(WorkerCounters{}.HeartbeatNanos) / 8
)

// Frames returns how many frames the worker has taken, as last published.
func (w *Worker) Frames() uint64 { return atomic.LoadUint64(&w.worker[framesWord]) }

// Heartbeat returns CLOCK_MONOTONIC, in nanoseconds, when the worker published last; 0
// before the first time.
func (w *Worker) Heartbeat() uint64 { return atomic.LoadUint64(&w.worker[heartbeatWord]) }

// Load returns how many cycles the worker has done, and how many of them found work.
func (w *Worker) Load() (cycles, busy uint64) {
	return atomic.LoadUint64(&w.worker[cyclesWord]), atomic.LoadUint64(&w.worker[busyWord])
}
