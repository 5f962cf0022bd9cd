package agent

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

var errNotDir error = syscall.ENOTDIR

func isTextBusy(error) bool { return false }

// sessionAttr starts a process in a group of its own. Users are ignored on
// Windows, as callers expect.
func sessionAttr(string) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// settleFor is how long children that still have the pipe open may keep a step
// whose process has ended: pipes have no deadlines here.
const settleFor = time.Second

func settlePipe(_ *os.File, pumped <-chan struct{}) {
	select {
	case <-pumped:
	case <-time.After(settleFor):
	}
}

func drainPipe(*os.File, io.Writer, []byte) {}

// startTime is when a process was created, 0 if it is not there.
func startTime(pid int) uint64 {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return 0
	}
	defer windows.CloseHandle(h)
	var created, exited, kernel, user windows.Filetime
	var code uint32
	if windows.GetProcessTimes(h, &created, &exited, &kernel, &user) != nil || windows.GetExitCodeProcess(h, &code) != nil || code != 259 { // STILL_ACTIVE
		return 0
	}
	return uint64(created.Nanoseconds())
}

func bootID() string { return "" }

// signalAll ends the process trees by force; there is no asking.
func signalAll(targets []target, force bool) int {
	alive := countAlive(targets)
	if alive == 0 || !force {
		return alive
	}
	for _, t := range targets {
		if startTime(t.PID) == t.Start {
			_ = exec.Command("taskkill", "/t", "/f", "/pid", strconv.Itoa(t.PID)).Run() // looked at again by the caller
		}
	}
	return alive
}

func countAlive(targets []target) int {
	n := 0
	for _, t := range targets {
		if s := startTime(t.PID); s != 0 && s == t.Start {
			n++
		}
	}
	return n
}
