package agent

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// readUsage reads /proc/meminfo and /proc/stat.
func readUsage() (usage, error) {
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return usage{}, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(mem), string(stat))
}

func parseUsage(meminfo, stat string) (usage, error) {
	var u usage
	for line := range strings.SplitSeq(meminfo, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			u.memTotal = kib << 10
		case "MemAvailable:":
			u.memFree = kib << 10
		}
	}
	first, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(first)
	if u.memTotal == 0 || len(f) < 5 || f[0] != "cpu" {
		return usage{}, errors.New("unexpected /proc/meminfo or /proc/stat")
	}
	const user, idle, iowait, steal = 1, 4, 5, 8
	for i, text := range f {
		if i < user || i > steal { // guest times are in user time already
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return usage{}, err
		}
		u.cpuAll += n
		if i != idle && i != iowait {
			u.cpuBusy += n
		}
	}
	return u, nil
}

// readDisk reads /proc/diskstats.
func readDisk() (diskUsage, error) {
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return diskUsage{}, err
	}
	return parseDisk(string(text), func(name string) bool {
		_, err := os.Stat("/sys/block/" + name) // has whole disks, no partitions
		return err == nil
	}), nil
}

// parseDisk sums up the disks that whole takes for whole ones. Devices that
// only pass on to others, or have no disk behind them, do not count.
func parseDisk(diskstats string, whole func(string) bool) diskUsage {
	const sector = 512
	var d diskUsage
	for line := range strings.SplitSeq(diskstats, "\n") {
		const name, read, written = 2, 5, 9
		f := strings.Fields(line)
		if len(f) <= written || virtualDisk(f[name]) || !whole(f[name]) {
			continue
		}
		r, err := strconv.ParseUint(f[read], 10, 64)
		w, werr := strconv.ParseUint(f[written], 10, 64)
		if err == nil && werr == nil {
			d.read += r * sector
			d.written += w * sector
		}
	}
	return d
}

func virtualDisk(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "dm-", "md"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
