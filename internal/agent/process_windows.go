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

// sessionAttr starts a process in a group of its own and holds it until confine
// lets it run. Users are ignored on Windows, as callers expect.
func sessionAttr(string) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.CREATE_SUSPENDED}
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

// isRunning says whether the process of that number and start has not ended.
func isRunning(pid int, start uint64) bool { return start != 0 && startTime(pid) == start }

func bootID() string { return "" }

// signalAll asks or forces the processes of the targets to end and returns how
// many it found. Only programs of the agent's own console can be asked; a
// service has none.
func signalAll(targets []target, force bool) int {
	alive := countAlive(targets)
	if alive == 0 {
		return 0
	}
	for _, t := range targets {
		leads := t.Start != 0 && startTime(t.PID) == t.Start
		switch {
		case !force && leads:
			_ = windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(t.PID)) // it has another console, or none
		case !force:
		case t.job != nil:
			t.job.end()
		case leads:
			_ = exec.Command("taskkill", "/t", "/f", "/pid", strconv.Itoa(t.PID)).Run() // looked at again by the caller
		}
	}
	return alive
}

// countAlive counts what is in the targets' jobs, and the first processes of
// those that have none.
func countAlive(targets []target) int {
	n := 0
	for _, t := range targets {
		if t.job != nil {
			n += t.job.active()
		} else if t.Start != 0 && startTime(t.PID) == t.Start {
			n++
		}
	}
	return n
}
