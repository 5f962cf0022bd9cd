package agent

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
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
