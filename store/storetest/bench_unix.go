//go:build unix

package storetest

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used of the processors, the kernel's work
// for it included.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
