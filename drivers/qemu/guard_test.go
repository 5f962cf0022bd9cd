//go:build linux

package qemu_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startGuard starts this program once more, to end what the tests leave running
// and remove their folder: also when they panic, run into their time limit or
// are killed. It notices by the end of its input, which only this process
// holds. end tells it and waits.
func startGuard(root string) (end func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "QEMU_TEST_CHILD=guard", "QEMU_TEST_DIR="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		_ = in.Close() // what is written is nothing
		return cmd.Wait()
	}, nil
}

// guard is the process startGuard starts.
func guard(root string) int {
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the tests, however they end
	deadline := time.Now().Add(patience)
	for {
		left := append(runnersIn(root), qemusIn(root+"/")...)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return 1
		}
		for _, pid := range left {
			killIf(pid, func() bool { return isRunnerIn(pid, root) || isQEMUIn(pid, root+"/") })
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := os.RemoveAll(root); err != nil {
		return 1
	}
	return 0
}

// killIf kills a process if it still is the one meant.
func killIf(pid int, meant func() bool) {
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(handle)
	if meant() {
		_ = unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0) // looked at again
	}
}

// qemusIn are the processes of machines with an open file whose path begins so,
// zombies left out: they have neither files nor arguments.
func qemusIn(prefix string) []int {
	return pids(func(pid int) bool { return isQEMUIn(pid, prefix) })
}

func isQEMUIn(pid int, prefix string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || !bytes.Contains(args, []byte("\x00-name\x00guest=")) {
		return false
	}
	files, err := filepath.Glob(filepath.Join(proc, "fd", "*"))
	if err != nil {
		return false
	}
	for _, f := range files {
		if target, err := os.Readlink(f); err == nil && strings.HasPrefix(target, prefix) {
			return true
		}
	}
	return false
}

// runnersIn are the processes that asRunner has started on a data directory
// below a folder.
func runnersIn(folder string) []int {
	return pids(func(pid int) bool { return isRunnerIn(pid, folder) })
}

func isRunnerIn(pid int, folder string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && pid != os.Getpid() && bytes.Contains(env, []byte("\x00QEMU_TEST_DIR="+folder+"/"))
}

func pids(is func(pid int) bool) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		panic(err) // there is no Linux without
	}
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && is(pid) {
			found = append(found, pid)
		}
	}
	return found
}
