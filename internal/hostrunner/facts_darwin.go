package hostrunner

import "golang.org/x/sys/unix"

// memory does not know what is available: the system tells it in pieces that
// change meaning between its versions.
func memory() (total, available uint64, err error) {
	total, err = unix.SysctlUint64("hw.memsize")
	return total, 0, err
}
