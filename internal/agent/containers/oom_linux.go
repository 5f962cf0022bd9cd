package containers

import (
	"errors"

	"golang.org/x/sys/unix"
)

// oomKilled says whether this machine's kernel has written down that it killed a
// process of the container for want of memory. It is asked of containers that
// were killed and of which the daemon knows no reason: a daemon learns of it from
// a control group that goes away with the container, so that it misses some, it
// says nothing of machines that are out of memory, and Podman's interface never
// says it. False too where the log cannot be read, or is another machine's.
func oomKilled(id string) bool {
	// Not an os.File: the runtime would wait for what is not written yet.
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	record := make([]byte, 8<<10)         // one is read at a time, and has less than that
	for {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE): // the second: what came next is overwritten already
			continue
		case err != nil || n == 0: // EAGAIN: this was the last
			return false
		case namesOOM(string(record[:n]), id):
			return true
		}
	}
}
