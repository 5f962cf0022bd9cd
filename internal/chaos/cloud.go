package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is one pretend machine, seen from the host.
type Machine struct {
	Name, Pool string
	// PID is its process, 0 if there is none.
	PID int
	// Folder says whether it has one.
	Folder bool
}

func (m Machine) String() string {
	switch {
	case m.PID == 0:
		return fmt.Sprintf("machine %s (a folder without a process)", m.Name)
	case !m.Folder:
		return fmt.Sprintf("machine %s (process %d without a folder)", m.Name, m.PID)
	default:
		return fmt.Sprintf("machine %s (process %d)", m.Name, m.PID)
	}
}

// Cloud is all machines of one folder of machines.
type Cloud struct {
	// At is a moment before the look.
	At       time.Time
	Machines map[string]Machine
	// Leftovers are folders that crashes left half made or half removed. They
	// are no machines, and are swept after an hour.
	Leftovers int
}

// noopFolder is where the noop driver has its machines below a data directory.
const noopFolder = "noop"

// LookAround finds the machines below root, the noop driver's folder, by the
// host's process table and the folders. It asks nobody.
func LookAround(root string) (Cloud, error) {
	c := Cloud{At: time.Now(), Machines: map[string]Machine{}}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return c, err
	}
	for _, file := range procs {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		dir := args[len(args)-1]
		if !slices.Contains(args, "noop-machine") || !strings.HasPrefix(dir, root+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return c, fmt.Errorf("process %s: %w", file, err)
		}
		name := filepath.Base(dir)
		if first, twice := c.Machines[name]; twice {
			return c, fmt.Errorf("machine %s is two processes, %d and %d", name, first.PID, pid)
		}
		c.Machines[name] = Machine{Name: name, Pool: filepath.Base(filepath.Dir(dir)), PID: pid}
	}
	folders, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		return c, err
	}
	hidden, err := filepath.Glob(filepath.Join(root, "*", ".[dg]*-*"))
	if err != nil {
		return c, err
	}
	c.Leftovers = len(hidden)
	for _, dir := range folders {
		name := filepath.Base(dir)
		if strings.HasPrefix(name, ".") {
			continue
		}
		m := c.Machines[name]
		m.Name, m.Pool, m.Folder = name, filepath.Base(filepath.Dir(dir)), true
		c.Machines[name] = m
	}
	return c, nil
}

// endMachines kills every machine below root, again until there is none: a
// machine may be on its way while its maker is killed.
func endMachines(ctx context.Context, root string) error {
	for range 50 {
		c, err := LookAround(root)
		if err != nil {
			return err
		}
		left := 0
		for _, m := range c.Machines {
			if m.PID > 0 {
				left++
				_ = syscall.Kill(m.PID, syscall.SIGKILL) // it may have ended
			}
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("machines are left that cannot be killed")
}

// pause waits for a time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
