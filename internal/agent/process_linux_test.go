package agent

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const tail = " 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 100"
	cases := []struct {
		name, text string
		want       procEntry
		ok         bool
	}{
		{"plain", "42 (sh) S" + tail, procEntry{pid: 42, parent: 1, group: 2, session: 3, start: 4711}, true},
		{"a command with blanks and parentheses", "42 (a) b (c) S 9) S" + tail, procEntry{pid: 42, parent: 1, group: 2, session: 3, start: 4711}, true},
		{"a zombie", "42 (sh) Z" + tail, procEntry{pid: 42, parent: 1, group: 2, session: 3, start: 4711, dead: true}, true},
		{"cut off", "42 (sh) S 1 2", procEntry{}, false},
		{"no numbers", "42 (sh) S" + strings.Repeat(" x", 22), procEntry{}, false},
		{"nothing", "", procEntry{}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, ok := parseStat(42, c.text)
			if ok != c.ok || (ok && got != c.want) {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

// TestMembersOfATarget is the same on Linux and macOS, which tell of processes
// in their own ways.
func TestMembersOfATarget(t *testing.T) {
	t.Parallel()
	const self = 90
	all := []procEntry{
		{pid: 1, session: 1, group: 1, start: 1},
		{pid: self, parent: 1, session: self, group: self, start: 5},
		{pid: 100, parent: self, session: 100, group: 100, start: 10},  // a step
		{pid: 101, parent: 100, session: 100, group: 101, start: 11},   // in a group of its own, as of set -m
		{pid: 102, parent: 101, session: 102, group: 102, start: 12},   // has left the session
		{pid: 103, parent: 1, session: 100, group: 103, start: 13},     // its parent has gone
		{pid: 104, parent: 1, session: 104, group: 104, start: 14},     // a daemon: neither parent nor session
		{pid: 105, parent: 104, session: 104, group: 104, start: 15},   // the daemon's child
		{pid: 106, parent: 100, session: 100, group: 100, dead: true},  // a zombie
		{pid: 107, parent: 1, session: 99, group: 99, start: 16},       // of a step whose first process has gone
		{pid: 200, parent: self, session: 200, group: 200, start: 20},  // another step
		{pid: 300, parent: 1, session: 300, group: 300, start: 30},     // somebody's
		{pid: 301, parent: self, session: self, group: self, start: 1}, // of the agent itself
	}
	marked := func(pid int, markers [][]byte) bool {
		return pid == 104 && carries([][]byte{[]byte("A=1"), []byte("DRONE_ENV=x")}, markers)
	}
	cases := []struct {
		name    string
		targets []target
		want    []int
	}{
		{"all of a step, but for what is dead", []target{{PID: 100, Start: 10, Marker: "DRONE_ENV=x"}}, []int{100, 101, 102, 103, 104, 105}},
		{"without its marker a daemon is not found", []target{{PID: 100, Start: 10}}, []int{100, 101, 102, 103}},
		{"a step that was killed before its number was written down", []target{{Marker: "DRONE_ENV=x"}}, []int{104, 105}},
		{"a stranger has got the number", []target{{PID: 100, Start: 9}}, nil},
		{"the leader has gone, its session has not", []target{{PID: 99, Start: 9}}, []int{107}},
		{"two steps", []target{{PID: 200, Start: 20}, {PID: 300, Start: 30}}, []int{200, 300}},
		{"neither the agent nor the first process", []target{{PID: 1, Start: 1}, {PID: self, Start: 5}}, []int{301}},
		{"nothing", []target{{}}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := membersOf(all, c.targets, self, marked); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestParseProcArgs(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, text string
		want       []string
	}{
		{"arguments and variables", "\x02\x00\x00\x00/bin/sh\x00\x00\x00\x00sh\x00-c\x00A=1\x00B=two words\x00\x00rest\x00", []string{"A=1", "B=two words"}},
		{"a variable among the arguments is none", "\x02\x00\x00\x00/bin/echo\x00\x00echo\x00A=1\x00B=2\x00\x00", []string{"B=2"}},
		{"no variables", "\x01\x00\x00\x00/bin/sh\x00sh\x00\x00", nil},
		{"hidden", "\x01\x00\x00\x00/bin/sh\x00sh\x00", nil},
		{"more arguments than there are", "\x09\x00\x00\x00/bin/sh\x00sh\x00A=1\x00", nil},
		{"a negative number", "\xff\xff\xff\xff/bin/sh\x00A=1\x00", []string{"A=1"}},
		{"cut off", "\x01\x00", nil},
		{"nothing", "", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, v := range parseProcArgs([]byte(c.text)) {
				got = append(got, string(v))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (sh) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 100")
	f.Fuzz(func(t *testing.T, text string) {
		if e, ok := parseStat(7, text); ok && e.pid != 7 {
			t.Errorf("entry %+v", e)
		}
	})
}

func TestParseUsage(t *testing.T) {
	t.Parallel()
	got, err := parseUsage("MemTotal:  100 kB\nMemFree: 5 kB\nMemAvailable:   40 kB\nOdd\nX: y\n", "cpu  10 20 30 40 5 6 7 8 900 900\ncpu0 1\n")
	want := usage{memTotal: 100 << 10, memFree: 40 << 10, cpuAll: 126, cpuBusy: 81}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, broken := range [][2]string{{"", "cpu 1 2 3 4 5"}, {"MemTotal: 1 kB\n", "intr 1"}, {"MemTotal: 1 kB\n", "cpu a b c d e"}} {
		if _, err := parseUsage(broken[0], broken[1]); err == nil {
			t.Errorf("no error for %q", broken)
		}
	}
}

// TestAStrangerWhoGotANumberIsLeftAlone is about a process id that was used
// again: the record names another start.
func TestAStrangerWhoGotANumberIsLeftAlone(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sleep", "300")
	cmd.SysProcAttr = sessionAttr("")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // may be gone
		_ = cmd.Wait()         // killed
	}()
	pid := cmd.Process.Pid
	if got := findMembers([]target{{PID: pid, Start: startTime(pid) + 1}}); len(got) != 0 {
		t.Errorf("found %v for a process that is gone", got)
	}
	if got := findMembers([]target{{PID: pid, Start: startTime(pid)}}); !slices.Contains(got, pid) {
		t.Errorf("found %v, want %d", got, pid)
	}
	if got := findMembers([]target{{}}); len(got) != 0 {
		t.Errorf("found %v for nothing", got)
	}
	if got := findMembers([]target{{PID: 1, Start: startTime(1)}, {PID: os.Getpid(), Start: 1}}); slices.Contains(got, os.Getpid()) || slices.Contains(got, 1) {
		t.Errorf("found %v: process 1 or ourselves", got)
	}
}

// TestAKilledProcessNobodyHasWaitedForDoesNotRun: an agent whose parent does not
// wait for it would else be taken for alive, and what it has left be kept.
func TestAKilledProcessNobodyHasWaitedForDoesNotRun(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // killed
	pid := cmd.Process.Pid
	start := startTime(pid)
	if !isRunning(pid, start) || isRunning(pid, start+1) || isRunning(pid, 0) {
		t.Error("a process that runs does not, or a stranger does")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for isRunning(pid, start) && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	if isRunning(pid, start) || startTime(pid) != start {
		t.Errorf("running %v, start %d, want a zombie of %d", isRunning(pid, start), startTime(pid), start)
	}
}
