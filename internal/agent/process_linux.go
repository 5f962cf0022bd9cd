package agent

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// procEntry is what /proc says about a process.
type procEntry struct {
	pid, parent, group, session int
	start                       uint64 // clock ticks since boot
	dead                        bool   // a zombie
}

// readProc reads /proc/<pid>/stat.
func readProc(pid int) (procEntry, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procEntry{}, false
	}
	return parseStat(pid, string(text))
}

// parseStat reads a stat line. The command, the second field, is in
// parentheses and may contain anything.
func parseStat(pid int, text string) (procEntry, bool) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return procEntry{}, false
	}
	f := strings.Fields(text[end+1:]) // f[0] is field 3, the state
	const startField = 22 - 3
	if len(f) <= startField {
		return procEntry{}, false
	}
	e := procEntry{pid: pid, dead: f[0] == "Z" || f[0] == "X"}
	for i, to := range []*int{&e.parent, &e.group, &e.session} {
		n, err := strconv.Atoi(f[1+i])
		if err != nil {
			return procEntry{}, false
		}
		*to = n
	}
	start, err := strconv.ParseUint(f[startField], 10, 64)
	if err != nil {
		return procEntry{}, false
	}
	e.start = start
	return e, true
}

// startTime is when a process was started in ticks since boot, 0 if it is not
// there.
func startTime(pid int) uint64 {
	e, ok := readProc(pid)
	if !ok {
		return 0
	}
	return e.start
}

// bootID tells boots apart.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
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

// findMembers looks for the processes of the targets: those of their sessions
// and groups, those that descend from one, and those that carry a marker.
func findMembers(targets []target) []int {
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := make(map[int]procEntry, len(dir))
	children := make(map[int][]int)
	for _, d := range dir {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if e, ok := readProc(pid); ok {
			all[pid] = e
			children[e.parent] = append(children[e.parent], pid)
		}
	}
	sessions := make(map[int]bool, len(targets))
	markers := make([][]byte, 0, len(targets))
	for _, t := range targets {
		// A leader with another start time is a stranger who got the number.
		if leader, ok := all[t.PID]; t.PID > 1 && (!ok || leader.start == t.Start) {
			sessions[t.PID] = true
		}
		if t.Marker != "" {
			markers = append(markers, []byte(t.Marker))
		}
	}
	self := os.Getpid()
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
	for pid, e := range all {
		if sessions[e.session] || sessions[e.group] || (!e.dead && pid != self && hasMarker(pid, markers)) {
			add(pid)
		}
	}
	var members []int
	for pid := range found {
		if !all[pid].dead {
			members = append(members, pid)
		}
	}
	slices.Sort(members) // parents first: a shell that is gone reports no dead children
	return members
}

// hasMarker says whether a process was started with one of the variables. A
// process we may not read is none of ours.
func hasMarker(pid int, markers [][]byte) bool {
	if len(markers) == 0 {
		return false
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		for _, m := range markers {
			if bytes.Equal(v, m) {
				return true
			}
		}
	}
	return false
}
