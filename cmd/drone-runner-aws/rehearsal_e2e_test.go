//go:build e2e && linux

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// rehearsalOf is a fake cloud that is a process of its own, and a runner on it.
type rehearsalOf struct {
	t      *testing.T
	runner *realRunner
	api    string   // of the cloud
	env    []string // that leads to it
	cloud  *exec.Cmd
	said   *lockedBuffer
}

var apiAddress = regexp.MustCompile(`This is \w+ at (http://\S+);`)

func newRehearsal(t *testing.T, cloud string) *rehearsalOf {
	t.Helper()
	dir := t.TempDir()
	agent := filepath.Join(dir, "runner-agent")
	build := exec.Command("go", "build", "-tags", "urfave_cli_no_docs", "-o", agent, "../runner-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	r := &rehearsalOf{t: t, said: &lockedBuffer{}}
	r.cloud = exec.Command(thisProgram, "fakecloud", cloud, "--listen", "127.0.0.1:0", "--agent", agent, "--network", "127.89.0.0/16")
	r.cloud.Stdout, r.cloud.Stderr = io.Discard, r.said
	if err := r.cloud.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.cloud.Wait() // how it ends is looked at where it matters
	}()
	t.Cleanup(func() {
		_ = r.cloud.Process.Signal(syscall.SIGINT)
		<-ended
		if t.Failed() {
			t.Logf("the cloud said:\n%s", r.said)
		}
	})
	until(t, patience, "the cloud to answer", func() bool {
		if m := apiAddress.FindStringSubmatch(r.said.String()); m != nil {
			r.api = m[1]
		}
		return r.api != ""
	})
	for _, line := range regexp.MustCompile(`(?m)^   export (\S+)$`).FindAllStringSubmatch(r.said.String(), -1) {
		r.env = append(r.env, line[1])
	}
	file, err := os.ReadFile("../../examples/rehearsal-" + cloud + ".yml")
	if err != nil {
		t.Fatal(err)
	}
	r.runner = startReal(t, thisProgram, realFolder(t, string(file)), r.env...)
	return r
}

// setup gives a stage a machine.
func (r *rehearsalOf) setup(req api.SetupRequest) api.SetupResponse {
	r.t.Helper()
	req.SetupRequest = json.RawMessage(`{"network":{"id":"n"}}`)
	got, err := r.runner.api.Setup(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// step runs a shell command on a stage's machine, which must succeed and export
// OUT, and returns that.
func (r *rehearsalOf) step(stage, id, command string) string {
	r.t.Helper()
	start, err := json.Marshal(map[string]any{
		"id": id, "kind": "Run", "output_vars": []string{"OUT"},
		"run": map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{command}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := r.runner.api.Step(r.t.Context(), api.StepRequest{StageRuntimeID: stage, StartStepRequest: start})
	if err != nil {
		r.t.Fatal(err)
	}
	var out struct {
		ExitCode int               `json:"exit_code"`
		Error    string            `json:"error"`
		Outputs  map[string]string `json:"outputs"`
	}
	if err := json.Unmarshal(raw, &out); err != nil || out.ExitCode != 0 || out.Error != "" {
		r.t.Fatalf("step %s: %v %s", id, err, raw)
	}
	return out.Outputs["OUT"]
}

// living are the names of the things of a kind that cost money now.
func (r *rehearsalOf) living(kind string) []string {
	r.t.Helper()
	var names []string
	for _, t := range r.books() {
		if t.Kind == kind {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	return names
}

// books are all things that cost money now.
func (r *rehearsalOf) books() []fakecloud.Thing {
	r.t.Helper()
	resp, err := http.Get(r.api + booksPath)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var books struct{ Living []fakecloud.Thing }
	if err := json.NewDecoder(resp.Body).Decode(&books); err != nil {
		r.t.Fatal(err)
	}
	return books.Living
}

// TestE2ERehearsalOfAGitspace is the life of a gitspace in each fake cloud, whose
// machines boot what the runner renders and run the real agent: what was written
// to its disk is there after suspend and resume and on the machine that replaces
// the first, and nothing is left in the end.
func TestE2ERehearsalOfAGitspace(t *testing.T) {
	for cloud, c := range map[string]struct {
		pool, zone, kind string // of the disk
		volume           string // the cloud's word for a disk
		account          string // the tag with the account's id
	}{
		"gce": {"gitspaces-us-east1", "us-east1-b", "pd-balanced", "disk", "accountid"},
		"ec2": {"gitspaces-us-east-1", "us-east-1b", "gp3", "volume", "accountID"},
	} {
		t.Run(cloud, func(t *testing.T) {
			r := newRehearsal(t, cloud)
			req := api.SetupRequest{
				ID: "gs-1", PoolID: c.pool, Zone: c.zone, Tags: map[string]string{"accountID": "acc-1"},
				GitspaceAgentConfig: api.GitspaceAgentConfig{Ports: []int{8089, 3000}, GitspaceConfigIdentifier: "demo-x1y2"},
				StorageConfig:       api.StorageConfig{Identifier: "demo-disk", Size: "20", Type: c.kind},
			}
			first := r.setup(req)
			if len(first.GitspacesPortMappings) != 2 {
				t.Errorf("ports %v", first.GitspacesPortMappings)
			}
			const file = "/mnt/disks/mountdevcontainer/work"
			r.step("gs-1", "write", "echo precious > "+file)
			if got := r.living(c.volume); !slices.Contains(got, "demo-disk") {
				t.Errorf("disks %v", got)
			}
			if !slices.ContainsFunc(r.books(), func(t fakecloud.Thing) bool {
				return t.Kind == "instance" && t.Tags["name"] == "demo-x1y2" && t.Tags[c.account] == "acc-1"
			}) {
				t.Errorf("no machine has the request's labels: %v", r.books())
			}

			err := r.runner.api.Suspend(t.Context(), api.SuspendRequest{PoolID: req.PoolID, StageRuntimeID: "gs-1", InstanceInfo: first.InstanceInfo})
			if err != nil {
				t.Fatal(err)
			}
			req.InstanceInfo = first.InstanceInfo
			again := r.setup(req)
			if again.InstanceID != first.InstanceID {
				t.Errorf("resumed as %s, want %s", again.InstanceID, first.InstanceID)
			}
			if got := r.step("gs-1", "read", "export OUT=$(cat "+file+")"); got != "precious" {
				t.Errorf("after suspend and resume the file has %q", got)
			}

			req.InstanceInfo, req.IsMarkedForInfraReset = again.InstanceInfo, true
			reset := r.setup(req)
			if reset.InstanceID == first.InstanceID {
				t.Error("the reset kept the machine")
			}
			if got := r.step("gs-1", "read again", "export OUT=$(cat "+file+")"); got != "precious" {
				t.Errorf("after the reset the file has %q", got)
			}

			err = r.runner.api.Destroy(t.Context(), api.DestroyRequest{ID: "gs-1", StorageCleanupType: api.CleanupDelete, InstanceInfo: reset.InstanceInfo})
			if err != nil {
				t.Fatal(err)
			}
			for _, kind := range []string{"instance", c.volume} {
				for _, name := range r.living(kind) {
					if !strings.Contains(name, "-builds-") {
						t.Errorf("%s %s is left", kind, name)
					}
				}
			}
		})
	}
}

// tried is what setup says of the cloud that the environment names, and that it
// prints a pool file that may be served and leaves nothing.
func (r *rehearsalOf) tried() {
	r.t.Helper()
	dir := r.t.TempDir()
	cmd := exec.CommandContext(r.t.Context(), thisProgram, "setup", "--data-dir", dir)
	cmd.Env = append(os.Environ(), r.env...)
	var said strings.Builder
	cmd.Stderr = &said
	file, err := cmd.Output()
	r.t.Logf("%s%s", &said, file)
	if err != nil {
		r.t.Fatalf("setup: %v", err)
	}
	for _, part := range []string{"credentials", "machine", "agent", "step", "clean-up"} {
		if !strings.Contains(said.String(), "ok      "+part) {
			r.t.Errorf("setup says nothing good of %s", part)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pool.yml"), file, 0o600); err != nil {
		r.t.Fatal(err)
	}
	check := exec.CommandContext(r.t.Context(), thisProgram, "check", "--strict", "--pool", filepath.Join(dir, "pool.yml"))
	check.Env = cmd.Env
	if out, err := check.CombinedOutput(); err != nil {
		r.t.Errorf("check of what setup printed: %v\n%s", err, out)
	}
	for _, thing := range r.books() {
		if strings.HasPrefix(thing.Name, "doctor-") || strings.HasPrefix(thing.Tags["Name"], "doctor-") {
			r.t.Errorf("setup left %s %s", thing.Kind, thing.Name)
		}
	}
}

// TestE2ERehearsalOfABuild is a stage on each fake cloud, on a machine that was
// warm; and a cloud that setup finds in order.
func TestE2ERehearsalOfABuild(t *testing.T) {
	for _, cloud := range []string{"gce", "ec2"} {
		t.Run(cloud, func(t *testing.T) {
			r := newRehearsal(t, cloud)
			until(t, patience, "a warm machine", func() bool {
				got, err := r.runner.api.Instances(t.Context(), client.InstanceQuery{})
				return err == nil && len(got.Instances) > 0 && got.Instances[0].State == "warm"
			})
			r.setup(api.SetupRequest{ID: "b-1", PoolID: "builds"})
			if got := r.step("b-1", "s", "export OUT=$((6*7))"); got != "42" {
				t.Errorf("the step answers %q", got)
			}
			if err := r.runner.api.Destroy(t.Context(), api.DestroyRequest{ID: "b-1"}); err != nil {
				t.Error(err)
			}
			r.tried()
		})
	}
}
