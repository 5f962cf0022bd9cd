package agent

import (
	"errors"

	"golang.org/x/sys/unix"
)

// startTime is when a process was started, 0 if it is not there.
func startTime(pid int) uint64 {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid {
		return 0
	}
	at := info.Proc.P_starttime
	return uint64(at.Sec)*1e6 + uint64(at.Usec)
}

// bootID tells boots apart.
func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}

// signalAll asks or forces each target's process group to end and returns how
// many are there.
func signalAll(targets []target, force bool) int {
	sig := unix.SIGTERM
	if force {
		sig = unix.SIGKILL
	}
	return eachGroup(targets, sig)
}

func countAlive(targets []target) int { return eachGroup(targets, 0) }

func eachGroup(targets []target, sig unix.Signal) int {
	n := 0
	for _, t := range targets {
		if now := startTime(t.PID); now != 0 && now != t.Start {
			continue // the number belongs to another process by now
		}
		// EPERM: a group of nothing but zombies.
		if err := unix.Kill(-t.PID, sig); err == nil || (!errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM)) {
			n++
		}
	}
	return n
}
