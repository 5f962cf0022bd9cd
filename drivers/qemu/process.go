//go:build linux

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quitPatience is how long a QEMU that was told to quit may take.
	quitPatience = time.Second
	// killPatience is how long the kernel may take to end a killed process.
	killPatience = 10 * time.Second
)

// spawn starts QEMU in a session of its own. files become its descriptors from
// 3 on.
func spawn(binary string, args []string, uid *uint32, output *os.File, files []*os.File) (int, error) {
	cmd := exec.Command(binary, args...) // outlives every context: the machine is to survive the runner
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = files
	// Nothing of the runner's environment, which may have secrets.
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: *uid, Gid: *uid, Groups: []uint32{}}
	}
	if err := startWithoutHugePages(cmd); err != nil {
		return 0, fmt.Errorf("start %s: %w", binary, err)
	}
	pid := cmd.Process.Pid
	// Never waited for here; see children.
	return pid, cmd.Process.Release()
}

// spawning is held while the process has huge pages switched off.
var spawning sync.Mutex

// startWithoutHugePages starts a program whose memory is all in small pages.
// QEMU asks for huge ones for each block of memory of its own, and 2 MiB of
// every machine would go for ACPI's tables, which take 128 KiB. Only a process
// can switch them off, and only for itself; what it starts inherits that. So
// for the moment of the start the runner does without them too. A kernel that
// refuses costs memory, nothing else.
func startWithoutHugePages(cmd *exec.Cmd) error {
	spawning.Lock()
	defer spawning.Unlock()
	if unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }() // what could be switched off can be on
	}
	return cmd.Start()
}

// kill ends the QEMU of a seat: it is asked to quit, then killed, and gone when
// kill returns nil. It works without knowing the process, whatever pids say.
func (s seat) kill(ctx context.Context, guest string, reap func()) error {
	alive, err := s.alive()
	if err != nil || !alive {
		return err
	}
	quit, cancel := context.WithTimeout(ctx, quitPatience)
	if m, err := s.monitor(quit); err == nil {
		// The answer may be lost with the process: only its end counts.
		_ = m.Execute(quit, "quit", nil, nil)
		_ = m.Close()
		err = s.waitGone(quit, reap)
		cancel()
		if err == nil {
			return nil
		}
	} else {
		cancel()
	}
	ctx, cancel = context.WithTimeoutCause(ctx, killPatience, fmt.Errorf("QEMU still lives %s after it was killed", killPatience))
	defer cancel()
	return poll(ctx, func() (bool, error) {
		// Again each time: a runner that has died may have started it just now.
		if err := s.killHolder(guest); err != nil {
			return false, err
		}
		reap()
		alive, err := s.alive()
		return !alive, err
	})
}

// waitGone waits until nobody holds the seat's lock.
func (s seat) waitGone(ctx context.Context, reap func()) error {
	return poll(ctx, func() (bool, error) {
		reap()
		alive, err := s.alive()
		return !alive, err
	})
}

// killHolder sends SIGKILL to the QEMU that holds the seat's lock, if there is
// one. The pid file is tried first and all processes after it.
func (s seat) killHolder(guest string) error {
	lock, err := os.Stat(s.file(lockName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if raw, err := os.ReadFile(s.file(pidName)); err == nil {
		if pid, err := strconv.Atoi(string(raw)); err == nil {
			if done, err := killIf(pid, guest, lock); done || err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if done, err := killIf(pid, guest, lock); done || err != nil {
				return err
			}
		}
	}
	return nil
}

// killIf kills a process that was started as this guest's QEMU and has this
// lock file open. The handle is taken before it is looked at, so what dies is
// what was looked at, also if the number is used anew meanwhile.
func killIf(pid int, guest string, lock os.FileInfo) (bool, error) {
	if pid <= 1 || pid == os.Getpid() {
		return false, nil
	}
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil //nolint:nilerr // it has ended, or is not ours to see
	}
	defer unix.Close(handle)
	if !isGuest(pid, guest) || !hasOpen(pid, lock) {
		return false, nil
	}
	err = unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("kill QEMU, process %d: %w", pid, err)
	}
	return true, nil
}

// isGuest looks for "-name guest=..." in a process' arguments.
func isGuest(pid int, guest string) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && bytes.Contains(raw, []byte("\x00-name\x00guest="+guest+"\x00"))
}

// hasOpen says whether a process has the file open.
func hasOpen(pid int, file os.FileInfo) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && os.SameFile(info, file) {
			return true
		}
	}
	return false
}

// reap collects children that have ended, so that they do not stay zombies. No
// goroutine waits for them, because they are meant to outlive us; every listing
// and every destroy comes by here. why, by name, is kept for what List says.
func (d *Driver) reap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for pid, name := range d.children {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
		switch {
		case err == nil && got == 0, errors.Is(err, syscall.EINTR):
			continue
		case err == nil && status.Signaled():
			d.ends[name] = ending{"QEMU was ended by signal " + status.Signal().String(), true}
		case err == nil:
			d.ends[name] = ending{"QEMU ended with code " + strconv.Itoa(status.ExitStatus()), false}
		}
		delete(d.children, pid)
	}
}

// ending is how a QEMU of ours ended.
type ending struct {
	text string
	// killed: by a signal, so it says nothing about what QEMU was given.
	killed bool
}

// endOfDead is endOf for a machine whose lock is free. The lock is so a moment
// before the kernel reports the end to the parent; the moment is waited for,
// but no longer than twice mournMost.
func (d *Driver) endOfDead(name string) ending {
	for pause := pollFirst; pause < mournMost; pause *= 2 {
		end := d.endOf(name)
		d.mu.Lock()
		ours := slices.Contains(slices.Collect(maps.Values(d.children)), name)
		d.mu.Unlock()
		if !ours {
			return end
		}
		<-time.After(pause)
	}
	return d.endOf(name)
}

// mournMost is the longest pause between two looks at a process that is ending.
const mournMost = 100 * time.Millisecond

// endOf is how a machine's QEMU ended, if it was ours and is known.
func (d *Driver) endOf(name string) ending {
	d.reap()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ends[name]
}

// born notes a child to reap.
func (d *Driver) born(pid int, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.children[pid] = name
	delete(d.ends, name)
}

// version is QEMU's own, as it says it.
type version struct {
	text         string
	major, minor int
}

// parseVersion reads the first line of qemu -version.
func parseVersion(out string) (version, error) {
	line, _, _ := strings.Cut(out, "\n")
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "QEMU emulator version ")
	if !ok {
		return version{}, fmt.Errorf("not QEMU: it says %q", line)
	}
	number, _, _ := strings.Cut(rest, " ")
	parts := strings.SplitN(number, ".", 3)
	v := version{text: rest}
	var err1, err2 error
	v.major, err1 = strconv.Atoi(parts[0])
	if len(parts) > 1 {
		v.minor, err2 = strconv.Atoi(parts[1])
	}
	if err := errors.Join(err1, err2); err != nil {
		return version{}, fmt.Errorf("version %q: %w", rest, err)
	}
	return v, nil
}

// atLeast compares with a version that has what we use.
func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}
