package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// describe says on what the benchmarks run.
func describe() []string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	model, kind := processor()
	lines := []string{
		fmt.Sprintf("%d × %s, %s; Linux %s; %s %s/%s%s", runtime.NumCPU(), model, kind, kernel, runtime.Version(), runtime.GOOS, runtime.GOARCH, variant()),
		"compilers: " + compiler("gcc") + "; " + compiler("g++"),
		"shared machine: processor time where it says so, both sides in turns; load before: " + load(),
	}
	return lines
}

// processor returns the CPU's name and whether it is a virtual one.
func processor() (model, kind string) {
	model, kind = "unknown CPU", "bare metal"
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return model, "unknown"
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			if strings.Contains(value, " hypervisor ") {
				kind = "virtual machine"
			}
		}
	}
	return model, kind
}

func variant() string {
	if v := os.Getenv("GOAMD64"); v != "" {
		return " GOAMD64=" + v
	}
	return ""
}

func compiler(name string) string {
	out, err := exec.Command(name, "-dumpfullversion").Output()
	if err != nil {
		return "no " + name
	}
	return name + " " + strings.TrimSpace(string(out))
}

// load returns the load averages of the last 1, 5 and 15 minutes.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], " ")
}
