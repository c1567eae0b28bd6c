package stage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// StateDir is where records are kept unless said otherwise: in memory, for a boot
// restores everything that was changed.
const StateDir = "/run/headrace-tune"

// ErrHeld reports records that another process has open.
var ErrHeld = errors.New("another tuner is at work")

// A Record is a setting that was changed.
type Record struct {
	Stage   string  `json:"stage"`
	Setting Setting `json:"setting"`
	// Old is the value of before the first apply, as it was read; New the last one
	// written.
	Old string `json:"old"`
	New string `json:"new"`
	// Later reports a setting that shows its value only after a while.
	Later bool `json:"later,omitempty"`
}

// entry is one line of the file. A line that is not whole was not finished, and what it
// announces has not happened.
type entry struct {
	// Boot is the identity of the boot that the records are of, Profile what is applied
	// from here on, CPUs the workers'.
	Boot    string   `json:"boot,omitempty"`
	Profile string   `json:"profile,omitempty"`
	CPUs    string   `json:"cpus,omitempty"`
	Applied *Record  `json:"applied,omitempty"`
	Undone  *Setting `json:"undone,omitempty"`
}

// A Journal is the file of records.
type Journal struct {
	dir     string
	lock    *os.File
	file    *os.File // nil until the first record, and of a journal that is only read
	boot    string
	profile string
	cpus    string
	records []Record
}

const (
	journalName = "applied.jsonl"
	lockName    = "lock"
)

// ReadJournal reads the records of a directory, which need not exist. It takes no
// privilege and no lock.
func ReadJournal(dir string) (*Journal, error) {
	j := &Journal{dir: dir}
	text, err := os.ReadFile(j.path())
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stage: records: %w", err)
	}
	if err := j.parse(text); err != nil {
		return nil, fmt.Errorf("stage: records: %w", err)
	}
	return j, nil
}

// OpenJournal opens the records of a directory for writing, and makes the directory.
//
// It returns an error wrapping [ErrHeld] if another process has them open.
func OpenJournal(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("stage: records: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("stage: records: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(lock, 32))
		return nil, errors.Join(fmt.Errorf("stage: %s: %w: process %s; stop it, and it puts back what it holds", dir, ErrHeld, strings.TrimSpace(string(pid))), lock.Close())
	}
	j, err := ReadJournal(dir)
	if err == nil {
		err = errors.Join(lock.Truncate(0), writeAt(lock, fmt.Sprintf("%d\n", os.Getpid())))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	j.lock = lock
	return j, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// Close gives the records free. They stay.
func (j *Journal) Close() error {
	var bad []error
	if j.file != nil {
		bad = append(bad, j.file.Close())
	}
	if j.lock != nil {
		bad = append(bad, j.lock.Close())
	}
	return errors.Join(bad...)
}

// Records are the settings that were changed and not put back, in the order in which
// they were changed first.
func (j *Journal) Records() []Record { return j.records }

// Profile is the name of the profile applied last; "" if there are no records.
func (j *Journal) Profile() string { return j.profile }

// WorkerCPUs are the workers' CPUs of the last apply.
func (j *Journal) WorkerCPUs() topology.CPUSet {
	cpus, err := topology.ParseCPUs(j.cpus)
	if err != nil { // somebody has written in the file
		return topology.CPUSet{}
	}
	return cpus
}

func (j *Journal) path() string { return filepath.Join(j.dir, journalName) }

// parse reads the whole lines of the file's text.
func (j *Journal) parse(text []byte) error {
	n := 0
	for line := range bytes.Lines(text[:bytes.LastIndexByte(text, '\n')+1]) {
		n++
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%s:%d: %w; what was applied cannot be read: a boot restores all of it", j.path(), n, err)
		}
		j.take(e)
	}
	return nil
}

func (j *Journal) take(e entry) {
	if e.Boot != "" {
		j.boot = e.Boot
	}
	if e.Profile != "" {
		j.profile, j.cpus = e.Profile, e.CPUs
	}
	if e.Applied != nil {
		if at := j.find(e.Applied.Setting); at >= 0 {
			j.records[at].New = e.Applied.New // the old value is that of the first
		} else {
			j.records = append(j.records, *e.Applied)
		}
	}
	if e.Undone != nil {
		if at := j.find(*e.Undone); at >= 0 {
			j.records = append(j.records[:at:at], j.records[at+1:]...)
		}
	}
}

func (j *Journal) find(s Setting) int {
	for i, r := range j.records {
		if r.Setting == s {
			return i
		}
	}
	return -1
}

// original returns the value of a setting from before the first apply.
func (j *Journal) original(s Setting) (string, bool) {
	if at := j.find(s); at >= 0 {
		return j.records[at].Old, true
	}
	return "", false
}

// append writes one line and returns when it is on the disk.
func (j *Journal) append(e entry) error {
	if j.file == nil {
		if err := j.create(); err != nil {
			return fmt.Errorf("stage: records: %w", err)
		}
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("stage: records: %w", err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("stage: records: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("stage: records: %w", err)
	}
	j.take(e)
	return nil
}

// create opens the file, cuts off a line that is not whole, and sees to it that the
// directory remembers the file.
func (j *Journal) create() error {
	f, err := os.OpenFile(j.path(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	whole := bytes.LastIndexByte(text, '\n') + 1
	if err := f.Truncate(int64(whole)); err != nil {
		return errors.Join(err, f.Close())
	}
	if _, err := f.Seek(int64(whole), io.SeekStart); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := syncDir(j.dir); err != nil {
		return errors.Join(err, f.Close())
	}
	j.file = f
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove forgets everything: all is put back.
func (j *Journal) remove() error {
	if j.file != nil {
		if err := j.file.Close(); err != nil {
			return fmt.Errorf("stage: records: %w", err)
		}
		j.file = nil
	}
	j.records, j.boot, j.profile, j.cpus = nil, "", "", ""
	if err := os.Remove(j.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stage: records: %w", err)
	}
	return syncDir(j.dir)
}
