//go:build unix

package agent

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// procEntry is what the system says about a process.
type procEntry struct {
	pid, parent, group, session int
	start                       uint64 // when it was started, in a unit of the system's
	dead                        bool   // a zombie
}

// job is nothing here: descent, sessions and markers tell what a step has
// started.
type job struct{}

// confine does nothing here; a process runs as soon as it is started.
func confine(*os.Process) (*job, error) { return nil, nil }

// startTime is when a process was started, 0 if it is not there.
func startTime(pid int) uint64 {
	e, ok := readProc(pid)
	if !ok {
		return 0
	}
	return e.start
}

// isRunning says whether the process of that number and start has not ended. One that
// was killed and that nobody has waited for yet, which may last, has.
func isRunning(pid int, start uint64) bool {
	e, ok := readProc(pid)
	return ok && start != 0 && e.start == start && !e.dead
}

// signalAll asks or forces all processes of the targets to end and returns how
// many it found.
func signalAll(targets []target, force bool) int {
	sig := unix.SIGTERM
	if force {
		sig = unix.SIGKILL
	}
	members := findMembers(targets)
	for _, pid := range members {
		_ = unix.Kill(pid, sig) // gone meanwhile, or looked at again by the caller
	}
	return len(members)
}

func countAlive(targets []target) int { return len(findMembers(targets)) }

// findMembers looks for the processes of the targets.
func findMembers(targets []target) []int {
	return membersOf(listProcs(), targets, os.Getpid(), hasMarker)
}

// membersOf are the processes of the targets that live: those of their sessions
// and groups, those that descend from one, and those that marked says to carry one
// of their markers. Neither self nor the first process is ever among them.
func membersOf(all []procEntry, targets []target, self int, marked func(pid int, markers [][]byte) bool) []int {
	byPID := make(map[int]procEntry, len(all))
	children := make(map[int][]int)
	for _, e := range all {
		byPID[e.pid] = e
		children[e.parent] = append(children[e.parent], e.pid)
	}
	sessions := make(map[int]bool, len(targets))
	markers := make([][]byte, 0, len(targets))
	for _, t := range targets {
		// A leader with another start time is a stranger who got the number.
		if leader, ok := byPID[t.PID]; t.PID > 1 && (!ok || leader.start == t.Start) {
			sessions[t.PID] = true
		}
		if t.Marker != "" {
			markers = append(markers, []byte(t.Marker))
		}
	}
	found := make(map[int]bool)
	var add func(pid int)
	add = func(pid int) {
		if pid <= 1 || pid == self || found[pid] {
			return
		}
		found[pid] = true
		for _, c := range children[pid] {
			add(c)
		}
	}
	for pid, e := range byPID {
		if sessions[e.session] || sessions[e.group] || (!e.dead && pid != self && len(markers) > 0 && marked(pid, markers)) {
			add(pid)
		}
	}
	var members []int
	for pid := range found {
		if !byPID[pid].dead {
			members = append(members, pid)
		}
	}
	slices.Sort(members) // parents first: a shell that is gone reports no dead children
	return members
}

// carries says whether one of the variables is one of the markers.
func carries(environ, markers [][]byte) bool {
	for _, v := range environ {
		for _, m := range markers {
			if bytes.Equal(v, m) {
				return true
			}
		}
	}
	return false
}

// parseProcArgs returns the environment in what macOS says of a process: the
// number of its arguments, its program's path, zeros, the arguments and the
// variables, each with a zero behind it.
func parseProcArgs(text []byte) [][]byte {
	const countBytes = 4
	if len(text) < countBytes {
		return nil
	}
	args := int(int32(binary.LittleEndian.Uint32(text)))
	_, rest, ok := bytes.Cut(text[countBytes:], []byte{0})
	if !ok {
		return nil
	}
	rest = bytes.TrimLeft(rest, "\x00")
	for ; args > 0; args-- {
		if _, rest, ok = bytes.Cut(rest, []byte{0}); !ok {
			return nil
		}
	}
	var environ [][]byte
	for {
		var v []byte
		if v, rest, ok = bytes.Cut(rest, []byte{0}); !ok || len(v) == 0 {
			return environ
		}
		environ = append(environ, v)
	}
}
