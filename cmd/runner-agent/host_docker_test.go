//go:build docker

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// ask runs the daemon's own client and returns what it prints.
func ask(t *testing.T, host string, words ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", append([]string{"--host", host}, words...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %v: %v: %s", words, err, out)
	}
	return string(out)
}

// TestDockerAKilledRunnerIsFollowedByOneThatRemovesItsContainers kills the real
// program while a container of a step runs.
func TestDockerAKilledRunnerIsFollowedByOneThatRemovesItsContainers(t *testing.T) {
	t.Parallel()
	host := dockertest.Start(t)
	networks := ask(t, host, "network", "ls", "--quiet")
	dir := t.TempDir()
	args := []string{"runner-agent", "host", "--bind", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data")}
	first := startHostOn(t, host, args...)
	setup := fmt.Sprintf(`{"id":"st1","setup_request":{"network":{"id":"n"},"volumes":[{"host":{"id":"harness","name":"harness","path":%q}},{"temp":{"id":"v","name":"v"}}]}}`, filepath.Join(dir, "harness"))
	if status, body := first.post(t, "/setup", setup); status != 200 {
		t.Fatalf("setup: %d %s", status, body)
	}
	step := fmt.Sprintf(`{"stage_runtime_id":"st1","start_step_request":{"id":"s","detach":true,"image":%q,"pull":"Never","volumes":[{"name":"v","path":"/v"}],"run":{"entrypoint":["sleep","300"]}}}`, dockertest.Image)
	if status, body := first.post(t, "/step", step); status != 200 || strings.TrimSpace(body) != "{}" {
		t.Fatalf("step: %d %s", status, body)
	}
	if ps := ask(t, host, "ps", "--format", "{{.Names}}"); !strings.Contains(ps, "st1-s") {
		t.Errorf("the container's name has not the stage in it: %s", ps)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.cmd.Wait() // it was killed

	second := startHostOn(t, host, args...)
	deadline := time.Now().Add(time.Minute)
	for ask(t, host, "ps", "--all", "--quiet") != "" && time.Now().Before(deadline) {
		<-time.After(100 * time.Millisecond)
	}
	if ps := ask(t, host, "ps", "--all"); strings.Count(ps, "\n") != 1 {
		t.Errorf("containers of the killed runner: %s", ps)
	}
	if status, body := second.post(t, "/destroy", `{"id":"st1"}`); status != 200 || body != "{}\n" {
		t.Errorf("destroy: %d %s", status, body)
	}
	if left := ask(t, host, "network", "ls", "--quiet"); strings.Count(left, "\n") != strings.Count(networks, "\n") {
		t.Errorf("networks: %s, before %s", left, networks)
	}
	if left := ask(t, host, "volume", "ls", "--quiet"); left != "" {
		t.Errorf("volumes: %s", left)
	}
}
