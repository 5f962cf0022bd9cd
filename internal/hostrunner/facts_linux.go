package hostrunner

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// memory is the host's, or what the control group of this process leaves of it.
func memory() (total, available uint64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	total, available = meminfo(text)
	limit, ok := cgroupNumber("memory.max")
	if !ok || limit >= total {
		return total, available, nil
	}
	used, _ := cgroupNumber("memory.current") // without it all of the limit counts as free
	return limit, min(available, limit-min(limit, used)), nil
}

func meminfo(text []byte) (total, available uint64) {
	for line := range bytes.Lines(text) {
		name, rest, _ := strings.Cut(string(line), ":")
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			total = kib << 10
		case "MemAvailable":
			available = kib << 10
		}
	}
	return total, available
}

// cgroupNumber reads a file of the control group that a container sees as its
// root. "max" is no number.
func cgroupNumber(name string) (uint64, bool) {
	text, err := os.ReadFile("/sys/fs/cgroup/" + name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}
