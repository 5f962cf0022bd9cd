//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFirstLight is the whole path: from pool.yml to steps in real machines,
// a gitspace that sleeps and wakes, and nothing left at the end.
func TestFirstLight(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.start()
	r.waitWarm(2)

	asked := time.Now()
	got := r.setup("stage-1")
	t.Logf("warm setup answered in %s", time.Since(asked))
	if !strings.HasPrefix(got.IPAddress, "127.80.") || got.InstanceID == "" || got.Ports != nil {
		t.Errorf("setup answered %+v", got)
	}
	if again := r.setup("stage-1"); again.InstanceID != got.InstanceID {
		t.Errorf("a second setup of the same id got another machine: %s, then %s", got.InstanceID, again.InstanceID)
	}

	if s := r.step("stage-1", "hello", `echo "hello from $(uname -s), $STAGE_VAR"; hostname`, nil); !s.Exited || s.ExitCode != 0 {
		t.Errorf("step hello: %+v", s)
	}
	if out := r.output("stage-1", "hello"); !strings.Contains(out, "hello from Linux, from-setup") {
		t.Errorf("output of hello: %q", out)
	}
	if s := r.step("stage-1", "version", `export VERSION=1.2.3`, map[string]any{"output_vars": []string{"VERSION"}}); s.Outputs["VERSION"] != "1.2.3" {
		t.Errorf("step version: %+v", s)
	}
	if s := r.step("stage-1", "fails", `echo before; exit 3`, nil); s.ExitCode != 3 || !s.Exited {
		t.Errorf("step fails: %+v", s)
	}
	if s := r.step("stage-1", "slow", `sleep 60`, map[string]any{"timeout": 1}); s.ExitCode != 255 || s.Error != "context deadline exceeded" {
		t.Errorf("step slow: %+v", s)
	}
	if s := r.step("stage-1", "export", `echo TOKEN=abc >> "$DRONE_ENV"`, nil); s.ExitCode != 0 {
		t.Errorf("step export: %+v", s)
	}
	if r.step("stage-1", "import", `echo "token is $TOKEN"`, nil); !strings.Contains(r.output("stage-1", "import"), "token is abc") {
		t.Errorf("an exported variable did not reach the next step: %q", r.output("stage-1", "import"))
	}
	if r.step("stage-1", "secret", `echo s3cr3t; printf 's3c'; sleep 0.3; echo 'r3t'`, map[string]any{"secrets": []string{"s3cr3t"}}); strings.Contains(r.output("stage-1", "secret"), "s3cr3t") {
		t.Errorf("a secret is in the log: %q", r.output("stage-1", "secret"))
	}
	r.waitWarm(2) // the pool was refilled

	r.must(200, "/destroy", map[string]string{"id": "stage-1"})
	r.must(200, "/destroy", map[string]string{"id": "stage-1"})
	r.must(404, "/step", stepBody("stage-1", "late", "true", nil))
	r.must(200, "/destroy", map[string]string{"id": "never-seen"})

	gitspace := map[string]any{
		"id": "gs-1", "pool_id": "local", "gitspace_agent_config": map[string]any{"ports": []int{8089, 3000}},
		"setup_request": buildSetup("")["setup_request"],
	}
	var first, second setupAnswer
	r.must(200, "/setup", gitspace).json(t, &first)
	if first.Ports["8089"] != 8089 || first.Ports["3000"] != 3000 {
		t.Errorf("ports: %v", first.Ports)
	}
	r.step("gs-1", "write", `echo kept > /root/file; cat /proc/sys/kernel/random/boot_id > /root/boot`, nil)
	suspend := map[string]any{
		"stage_runtime_id": "gs-1", "pool_id": "local", "suspend_request": map[string]any{},
		"instance_info": map[string]any{"id": first.InstanceID, "pool_name": "local"},
	}
	r.must(200, "/suspend", suspend)
	r.must(200, "/suspend", suspend)
	if n := r.countState("suspended"); n != 1 {
		t.Errorf("%d suspended machines, want 1: %+v", n, r.instances())
	}
	r.must(200, "/setup", gitspace).json(t, &second)
	if second.InstanceID != first.InstanceID {
		t.Errorf("resumed on another machine: %s, then %s", first.InstanceID, second.InstanceID)
	}
	if r.step("gs-1", "read", `cat /root/file; cmp /root/boot /proc/sys/kernel/random/boot_id && echo same boot; date +%s`, nil); !strings.Contains(r.output("gs-1", "read"), "kept\nsame boot") {
		t.Errorf("after the resume: %q", r.output("gs-1", "read"))
	}
	r.must(200, "/destroy", map[string]any{"id": "gs-1", "storage_cleanup_type": "DELETE"})
	for _, i := range r.instances() {
		if i.LeaseID == "gs-1" {
			t.Errorf("a gitspace's destroy was answered while its machine is %s", i.State)
		}
	}
	r.waitWarm(2)
	r.audit()

	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if n := len(r.machineProcesses()); n != 2 {
		t.Errorf("%d machines live after a clean stop, want the 2 warm ones", n)
	}
	for _, name := range []string{"database.sqlite3", "database.sqlite3-wal"} {
		b, err := os.ReadFile(filepath.Join(r.dir, name))
		if err == nil && strings.Contains(string(b), "PRIVATE KEY") {
			t.Errorf("%s holds a private key in the clear", name)
		}
	}
	if strings.Contains(r.log.String(), "PRIVATE KEY") || strings.Contains(r.log.String(), "s3cr3t") {
		t.Error("the log holds a secret")
	}

	// The next start finds both again, and makes none.
	before := r.machineProcesses()
	r.start()
	r.waitWarm(2)
	r.audit()
	after := r.machineProcesses()
	if len(before) != 2 || len(after) != 2 || before[0]+before[1] != after[0]+after[1] {
		t.Errorf("processes before %v, after the restart %v", before, after)
	}
	r.setup("stage-2")
	if s := r.step("stage-2", "hi", "true", nil); s.ExitCode != 0 {
		t.Errorf("step after a restart: %+v", s)
	}
}
