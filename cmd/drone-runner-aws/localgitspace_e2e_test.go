//go:build e2e && linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// TestE2EGitspaceOnLocalMachines is the life of a gitspace on real virtual
// machines of this host: what was written to its disk is there after suspend and
// resume, after runner and machine were killed and it booted anew, and on the
// machine that replaces the first; and nothing is left in the end.
func TestE2EGitspaceOnLocalMachines(t *testing.T) {
	data := localData(t)
	r := &rehearsalOf{t: t, runner: startReal(t, thisProgram, data)}
	req := api.SetupRequest{
		ID: "gs-1", PoolID: "local",
		GitspaceAgentConfig: api.GitspaceAgentConfig{Ports: []int{8089}, GitspaceConfigIdentifier: "demo-x1y2"},
		StorageConfig:       api.StorageConfig{Identifier: "demo-disk", Size: "1", Type: "pd-balanced"},
	}
	first := r.setup(req)
	const file = "/mnt/disks/mountdevcontainer/work"
	r.step("gs-1", "write", "echo precious > "+file)
	read := func(step, when string) {
		t.Helper()
		if got := r.step("gs-1", step, "export OUT=$(cat "+file+")"); got != "precious" {
			t.Errorf("%s the file has %q", when, got)
		}
	}

	if err := r.runner.api.Suspend(t.Context(), api.SuspendRequest{PoolID: req.PoolID, StageRuntimeID: "gs-1", InstanceInfo: first.InstanceInfo}); err != nil {
		t.Fatal(err)
	}
	if left := localProcesses(t, data); len(left) != 0 {
		t.Errorf("processes of a sleeping gitspace: %v", left)
	}
	req.InstanceInfo = first.InstanceInfo
	again := r.setup(req)
	if again.InstanceID != first.InstanceID {
		t.Errorf("resumed as %s, want %s", again.InstanceID, first.InstanceID)
	}
	read("read after resume", "after suspend and resume")

	// As after a crash of the host, runner and all: the machine boots again on its
	// disk.
	r.step("gs-1", "sync", "sync; export OUT=done")
	r.runner.signal(t, syscall.SIGKILL)
	<-r.runner.ended
	for _, pid := range localProcesses(t, data) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.runner = startReal(t, thisProgram, data)
	until(t, patience, "the runner to notice that the machine has ended", func() bool {
		got, err := r.runner.api.Instances(t.Context(), client.InstanceQuery{})
		return err == nil && len(got.Instances) == 1 && got.Instances[0].State == "failed"
	})
	booted := r.setup(req)
	if booted.InstanceID != first.InstanceID {
		t.Errorf("booted again as %s, want %s", booted.InstanceID, first.InstanceID)
	}
	read("read after crash", "after a crash")

	req.InstanceInfo, req.IsMarkedForInfraReset = booted.InstanceInfo, true
	reset := r.setup(req)
	if reset.InstanceID == first.InstanceID {
		t.Error("the reset kept the machine")
	}
	read("read after reset", "after the reset")

	if err := r.runner.api.Destroy(t.Context(), api.DestroyRequest{ID: "gs-1", StorageCleanupType: api.CleanupDelete, InstanceInfo: reset.InstanceInfo}); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"machines/[^.]*", "disks/[^.]*"} {
		left, err := filepath.Glob(filepath.Join(data, pattern))
		if err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if left := localProcesses(t, data); len(left) != 0 {
		t.Errorf("processes left: %v", left)
	}
}

// localData is a data directory with the image of this clone's agent and a pool
// that has no warm machines. What is left in it ends with the test.
func localData(t *testing.T) string {
	t.Helper()
	data, err := os.MkdirTemp("", "gs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range localProcesses(t, data) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // the test has failed
		}
		clean(t, data)
	})
	cache := filepath.Join(os.Getenv("TEST_IMAGE_DIR"), "packages")
	if os.Getenv("TEST_IMAGE_DIR") == "" {
		// What make run has fetched is not fetched again.
		if cache, err = filepath.Abs("../../.run/images/.cache"); err != nil {
			t.Fatal(err)
		}
	}
	file := strings.Replace(testPool, "pool: 2", "pool: 0", 1)
	for _, err := range []error{
		os.Chmod(data, 0o755), // machines of other users read their image below it
		os.MkdirAll(cache, 0o755),
		os.Mkdir(filepath.Join(data, "images"), 0o755),
		os.Symlink(cache, filepath.Join(data, "images", ".cache")),
		os.WriteFile(filepath.Join(data, "pool.yml"), []byte(file), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	agent := filepath.Join(data, "runner-agent")
	build := exec.Command("go", "build", "-tags", "urfave_cli_no_docs", "-o", agent, "../runner-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	if out, err := exec.Command(thisProgram, "image", "build", "tiny", "--data-dir", data, "--agent", agent).CombinedOutput(); err != nil {
		t.Fatalf("build the image: %v\n%s", err, out)
	}
	return data
}

// localProcesses are the processes of machines whose folders are below a data
// directory, by the lock they hold open.
func localProcesses(t *testing.T, data string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Error(err)
	}
	var pids []int
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(to, filepath.Join(data, "machines")+"/") || !strings.HasSuffix(to, "/lock") {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}
