package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

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

// bootID tells boots apart.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// listProcs are the processes there are.
func listProcs() []procEntry {
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := make([]procEntry, 0, len(dir))
	for _, d := range dir {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if e, ok := readProc(pid); ok {
			all = append(all, e)
		}
	}
	return all
}

// hasMarker says whether a process was started with one of the variables. A
// process we may not read is none of ours.
func hasMarker(pid int, markers [][]byte) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && carries(bytes.Split(env, []byte{0}), markers)
}
