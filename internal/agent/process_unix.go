//go:build unix

package agent

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var errNotDir error = syscall.ENOTDIR

func isTextBusy(err error) bool { return errors.Is(err, syscall.ETXTBSY) }

// sessionAttr starts a process in a session of its own, as user if that is a
// numeric id. Other users are ignored, as callers expect.
func sessionAttr(user string) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(os.Getgid()), NoSetGroups: true}
	}
	return attr
}

// settlePipe ends the pump of a process that has ended: it reads what is in
// the pipe and does not wait for children that still have it open.
func settlePipe(out *os.File, pumped <-chan struct{}) {
	if err := out.SetReadDeadline(time.Now()); err != nil {
		return // closed: the pump has ended
	}
	<-pumped
}

// maxDrain bounds what is read after a process's end, in bytes: a pipe holds
// at most this, so everything written before the end is read, and a child that
// goes on printing does not keep the step.
const maxDrain = 1 << 20

// drainPipe reads what is in the pipe now. Every byte the process wrote before
// it ended is there.
func drainPipe(out *os.File, sink io.Writer, buf []byte) {
	conn, err := out.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { // fails only if closed: then there is nothing to read
		for total := 0; total < maxDrain; {
			n, err := unix.Read(int(fd), buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n <= 0 {
				return
			}
			_, _ = sink.Write(buf[:n]) // an output never fails
			total += n
		}
	})
}
