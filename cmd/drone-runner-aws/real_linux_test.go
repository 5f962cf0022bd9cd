package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/client"
)

// thisProgram is the program under test, which testscript puts on the path.
const thisProgram = "drone-runner-aws"

// realRunner is a runner that is a process of its own.
type realRunner struct {
	api   *client.Client
	cmd   *exec.Cmd
	said  *lockedBuffer
	ended chan struct{}
}

// startReal starts a program on a data directory that has a pool.yml, and waits
// until it is ready. It is killed at the test's end.
func startReal(t *testing.T, program, dir string, env ...string) *realRunner {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := &realRunner{said: &lockedBuffer{}, ended: make(chan struct{})}
	r.cmd = exec.Command(program, "delegate", "--pool", filepath.Join(dir, "pool.yml"), "--data-dir", dir)
	r.cmd.Env = append(append(os.Environ(), "DRONE_HTTP_BIND="+address), env...)
	r.cmd.Stdout, r.cmd.Stderr = io.Discard, r.said
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // how it ends is looked at where it matters
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		if t.Failed() {
			t.Logf("the runner at %s said:\n%s", address, r.said)
		}
	})
	if r.api, err = client.New("http://" + address); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the runner to be ready", func() bool {
		pending, err := r.api.Pending(t.Context())
		return err == nil && len(pending) == 0
	})
	return r
}

func (r *realRunner) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%s to the runner: %v", sig, err)
	}
}

// until waits for d at most until ok, and returns how long that was.
func until(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(begun) > d {
			t.Fatalf("waited %s for %s", d, what)
		}
		<-tick.C
	}
	return time.Since(begun)
}

// realFolder is a data directory whose machines end with the test. Its name is
// short, since a socket's path has 107 characters.
func realFolder(t *testing.T, poolFile string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "r")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeMachines(t, dir) })
	if err := os.WriteFile(filepath.Join(dir, "pool.yml"), []byte(poolFile), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// realMachines are the machines of a data directory by name.
func realMachines(t *testing.T, dir string) []string {
	t.Helper()
	states, err := filepath.Glob(filepath.Join(dir, "noop", "*", "*", "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range states {
		names = append(names, filepath.Base(filepath.Dir(s)))
	}
	slices.Sort(names)
	return names
}

// removeMachines ends the processes that are left and removes the directory.
func removeMachines(t *testing.T, dir string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(line, []byte("noop-machine\x00--dir\x00"+dir+"/")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
