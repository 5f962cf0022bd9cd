package agent

import (
	"golang.org/x/sys/unix"
)

// zombie is SZOMB of the system's sys/proc.h.
const zombie = 5

// entryOf reads what the kernel says of a process. A process that has just gone has
// no session.
func entryOf(info *unix.KinfoProc) procEntry {
	pid := int(info.Proc.P_pid)
	session, err := unix.Getsid(pid)
	if err != nil {
		session = 0
	}
	at := info.Proc.P_starttime
	return procEntry{
		pid: pid, parent: int(info.Eproc.Ppid), group: int(info.Eproc.Pgid), session: session,
		start: uint64(at.Sec)*1e6 + uint64(at.Usec), dead: info.Proc.P_stat == zombie,
	}
}

func readProc(pid int) (procEntry, bool) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid {
		return procEntry{}, false
	}
	return entryOf(info), true
}

func listProcs() []procEntry {
	infos, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil
	}
	all := make([]procEntry, 0, len(infos))
	for i := range infos {
		all = append(all, entryOf(&infos[i]))
	}
	return all
}

// hasMarker says whether a process was started with one of the variables. A
// process we may not read is none of ours; nor are the system's own programs
// read, which are found by descent and session.
func hasMarker(pid int, markers [][]byte) bool {
	text, err := unix.SysctlRaw("kern.procargs2", pid)
	return err == nil && carries(parseProcArgs(text), markers)
}

// bootID tells boots apart.
func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}
