//go:build linux

package qemu

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

const (
	mib = int64(1) << 20
	// overhead is what QEMU itself takes beside the guest's memory and the code it
	// translates: measured 16 MiB for a clone that was proven, see translationMB.
	overhead = 48 * mib
	// leastReserve is the memory always left to the host; a twentieth of the
	// host's memory if that is more.
	leastReserve = 256 * mib
	// diskReserve is the disk space always left: folders, logs and consoles.
	diskReserve = 64 * mib
)

// host is what the driver asks of the machine it runs on. Tests replace it.
type host struct {
	// memory returns total and available memory in bytes.
	memory func() (total, available int64, err error)
	// disk returns what this user may still write at path, in bytes.
	disk func(path string) (int64, error)
	// formatter is the path of the program that makes file systems; its error
	// says how to install it.
	formatter func() (string, error)
}

func realHost() host { return host{memory: readMeminfo, disk: diskFree, formatter: findFormatter} }

// checkMemory fails with ErrCapacity if a machine with so much memory cannot be
// started without pressing the host.
func (h host) checkMemory(accel string, memoryMB int) error {
	total, available, err := h.memory()
	if err != nil {
		return fmt.Errorf("memory of this host: %w", err)
	}
	need := int64(memoryMB)*mib + overhead
	if accel == AccelTCG {
		need += int64(translationMB(memoryMB)) * mib
	}
	reserve := max(leastReserve, total/20)
	if available-reserve < need {
		return &drivers.CapacityError{Err: fmt.Errorf("this host has %d MiB of memory available and keeps %d MiB; the machine needs %d MiB",
			available/mib, reserve/mib, need/mib)}
	}
	return nil
}

// checkDisk fails with ErrCapacity if need bytes do not fit at path.
func (h host) checkDisk(path string, need int64) error {
	free, err := h.disk(path)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", path, err)
	}
	if free-diskReserve < need {
		return &drivers.CapacityError{Err: fmt.Errorf("%s has %d MiB free and keeps %d MiB; %d MiB are needed", path, free/mib, diskReserve/mib, (need+mib-1)/mib)}
	}
	return nil
}

func readMeminfo() (total, available int64, err error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	return parseMeminfo(raw)
}

// parseMeminfo reads MemTotal and MemAvailable, given in kB.
func parseMeminfo(raw []byte) (total, available int64, err error) {
	found := 0
	s := bufio.NewScanner(bytes.NewReader(raw))
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ":")
		to := map[string]*int64{"MemTotal": &total, "MemAvailable": &available}[key]
		if to == nil {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		if err != nil || kb < 0 || kb > 1<<50 {
			return 0, 0, fmt.Errorf("/proc/meminfo: %s is %q", key, value)
		}
		*to = kb << 10
		found++
	}
	if found < 2 {
		return 0, 0, fmt.Errorf("/proc/meminfo: MemTotal or MemAvailable is missing")
	}
	return total, available, nil
}

func diskFree(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
