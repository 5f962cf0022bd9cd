package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Freeze stops every process of the machine, as a cloud does that keeps its
// memory: nothing in it knows that time passes. Freezing twice is no error.
func (m *Machine) Freeze() error {
	// A process may have made another before it was stopped itself.
	for before := -1; ; {
		n, err := m.signal(unix.SIGSTOP)
		if err != nil {
			return fmt.Errorf("freeze machine: %w", err)
		}
		if n == before {
			return nil
		}
		before = n
	}
}

// Thaw lets them go on. Thawing a machine that runs is no error.
func (m *Machine) Thaw() error {
	if _, err := m.signal(unix.SIGCONT); err != nil {
		return fmt.Errorf("thaw machine: %w", err)
	}
	return nil
}

// signal sends a signal to every process of the machine, and counts them. They
// are those in its first process's namespace of processes.
func (m *Machine) signal(s unix.Signal) (int, error) {
	m.mu.Lock()
	first := m.init.Process.Pid
	m.mu.Unlock()
	space := func(pid string) string {
		link, err := os.Readlink(filepath.Join("/proc", pid, "ns/pid"))
		if err != nil {
			return "" // gone, or somebody else's
		}
		return link
	}
	own := space(strconv.Itoa(first))
	if own == "" {
		return 0, os.ErrProcessDone
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || space(e.Name()) != own {
			continue
		}
		if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
			return n, err
		}
		n++
	}
	return n, nil
}
