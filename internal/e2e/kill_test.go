//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKillRunnerDuringStep: the runner is killed while a step runs; the next
// one answers the same step with its result.
func TestKillRunnerDuringStep(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.start()
	r.waitWarm(1)
	got := r.setup("s")
	machines := r.machineProcesses()
	broken := make(chan error, 1)
	go func() {
		_, err := r.post(context.Background(), "/step", stepBody("s", "long", "echo begun; sleep 6; export R=done; echo over", map[string]any{"output_vars": []string{"R"}}))
		broken <- err
	}()
	r.eventually(20*time.Second, "the step has begun", func() error {
		var out string
		if err := r.get("/v1/leases/s/steps/long/log?offset=0", &out); err != nil {
			return err
		}
		if !strings.Contains(out, "begun") {
			return fmt.Errorf("output %q", out)
		}
		return nil
	})
	r.kill()
	if err := <-broken; err == nil {
		t.Error("the step was answered by a killed runner")
	}
	r.start()
	if again := r.setup("s"); again.InstanceID != got.InstanceID {
		t.Errorf("after the restart the lease has %s, before %s", again.InstanceID, got.InstanceID)
	}
	if s := r.step("s", "long", "echo begun; sleep 6; export R=done; echo over", map[string]any{"output_vars": []string{"R"}}); s.Outputs["R"] != "done" {
		t.Errorf("the step's result after the restart: %+v", s)
	}
	if out := r.output("s", "long"); strings.Count("\n"+out, "\nbegun\n") != 1 {
		t.Errorf("the step ran twice: %q", out)
	}
	for _, pid := range machines {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("machine process %d did not survive: %v", pid, err)
		}
	}
	r.must(200, "/destroy", map[string]string{"id": "s"})
	r.waitWarm(2)
	r.audit()
}

// pidOf finds a machine's process by its lock: the file it holds open.
func (r *runner) pidOf(name string) int {
	r.t.Helper()
	for _, pid := range r.machineProcesses() {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && strings.Contains(target, name) {
				return pid
			}
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(b), name) {
			return pid
		}
	}
	r.t.Fatalf("no process of machine %s", name)
	return 0
}

func (r *runner) instanceOf(lease string) instance {
	r.t.Helper()
	for _, i := range r.instances() {
		if i.LeaseID == lease && i.State == "leased" {
			return i
		}
	}
	r.t.Fatalf("no machine of lease %s: %+v", lease, r.instances())
	return instance{}
}

// TestKillMachine: a leased machine's process is killed; its running step and
// every later one say so soon, and the same id gets a new machine. A warm one
// is replaced.
func TestKillMachine(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.start()
	r.waitWarm(2)
	got := r.setup("s")
	running := make(chan answer, 1)
	go func() {
		a, _ := r.post(context.Background(), "/step", stepBody("s", "long", "echo begun; sleep 600", nil))
		running <- a
	}()
	r.eventually(20*time.Second, "the step has begun", func() error {
		var out string
		if err := r.get("/v1/leases/s/steps/long/log?offset=0", &out); err != nil {
			return err
		}
		if !strings.Contains(out, "begun") {
			return fmt.Errorf("output %q", out)
		}
		return nil
	})
	victim := r.instanceOf("s")
	killed := time.Now()
	if err := syscall.Kill(r.pidOf(victim.Name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-running:
		if a.status != 500 || !strings.Contains(string(a.body), "died") {
			t.Errorf("the running step was answered %d %s", a.status, a.body)
		}
		t.Logf("the running step was answered %s after its machine died: %s", time.Since(killed).Round(time.Millisecond), a.body)
	case <-time.After(15 * time.Second):
		t.Fatal("the running step was not answered within 15 s of its machine's death")
	}
	asked := time.Now()
	if a := r.must(500, "/step", stepBody("s", "later", "true", nil)); !strings.Contains(string(a.body), "died") || time.Since(asked) > 5*time.Second {
		t.Errorf("a later step was answered after %s: %s", time.Since(asked), a.body)
	}
	if again := r.setup("s"); again.InstanceID == got.InstanceID {
		t.Errorf("the id was given its dead machine again: %s", again.InstanceID)
	}
	if s := r.step("s", "fresh", "true", nil); s.ExitCode != 0 {
		t.Errorf("step on the new machine: %+v", s)
	}

	r.waitWarm(2)
	for _, i := range r.instances() {
		if i.State == "warm" {
			if err := syscall.Kill(r.pidOf(i.Name), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			victim = i
			break
		}
	}
	r.eventually(time.Minute, "the dead warm machine is replaced", func() error {
		for _, i := range r.instances() {
			if i.Name == victim.Name {
				return fmt.Errorf("%s is still %s", i.Name, i.State)
			}
		}
		return nil
	})
	r.waitWarm(2)
	r.audit()
}

// TestKillGitspaceMachine: nothing is destroyed when a gitspace's machine
// dies; its steps say so.
func TestKillGitspaceMachine(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.start()
	r.waitWarm(1)
	r.must(200, "/setup", map[string]any{
		"id": "gs", "pool_id": "local", "gitspace_agent_config": map[string]any{"ports": []int{3000}},
		"setup_request": buildSetup("")["setup_request"],
	})
	victim := r.instanceOf("gs")
	if err := syscall.Kill(r.pidOf(victim.Name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.eventually(20*time.Second, "a step says that the machine died", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		a, err := r.post(ctx, "/step", stepBody("gs", fmt.Sprint("s", rand.Uint64()), "true", nil))
		if err != nil {
			return err
		}
		if a.status != 500 || !strings.Contains(string(a.body), "died") {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	for _, dir := range r.folders() {
		if strings.Contains(dir, victim.Name) {
			r.must(200, "/destroy", map[string]any{"id": "gs"})
			r.waitWarm(2)
			r.audit()
			return
		}
	}
	t.Error("the folder of a dead gitspace was removed by nobody's wish")
}

// TestHungMachine: a warm machine that does not answer any more is not given
// away; the request gets another.
func TestHungMachine(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.env = []string{"HEALTH_CHECK_HOTPOOL_TIMEOUT=3s"}
	r.start()
	r.waitWarm(2)
	pid := r.pidOf(r.instances()[0].Name)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	r.setup("a")
	r.setup("b")
	for _, id := range []string{"a", "b"} {
		if s := r.step(id, "x", "true", nil); s.ExitCode != 0 {
			t.Errorf("step of %s: %+v", id, s)
		}
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	r.waitWarm(2)
	r.audit()
}

// TestKillRunnerAtRandomMoments: the runner is killed again and again while
// stages come and go; afterwards every process has a row, every row a process,
// and no lease was lost.
func TestKillRunnerAtRandomMoments(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.start()
	r.waitWarm(2)
	r.setup("keeper") // held all the time
	r.step("keeper", "mark", "echo mine > /root/mark", nil)
	rounds := 8
	for i := range rounds {
		id := fmt.Sprintf("s%d", i)
		done := make(chan struct{})
		go func() {
			defer close(done)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			// Errors are the point: the runner dies under these.
			if a, err := r.post(ctx, "/setup", buildSetup(id)); err != nil || a.status != 200 {
				return
			}
			if _, err := r.post(ctx, "/step", stepBody(id, "x", "true", nil)); err != nil {
				return
			}
			_, _ = r.post(ctx, "/destroy", map[string]string{"id": id})
		}()
		wait := time.NewTimer(time.Duration(rand.Int64N(int64(1500 * time.Millisecond))))
		<-wait.C
		r.kill()
		<-done
		r.start()
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	r.waitWarm(2)
	r.audit()
	var row struct {
		State string `json:"state"`
	}
	if err := r.get("/v1/leases/keeper", &row); err != nil || row.State != "active" {
		t.Errorf("the lease that was held all the time is %q (%v)", row.State, err)
	}
	if r.step("keeper", "read", "cat /root/mark", nil); !strings.Contains(r.output("keeper", "read"), "mine") {
		t.Errorf("its machine is another: %q", r.output("keeper", "read"))
	}
	r.must(200, "/destroy", map[string]string{"id": "keeper"})
	r.waitWarm(2)
	r.audit()
}

// TestCallerHangsUp: a caller that hangs up during a setup costs no machine.
func TestCallerHangsUp(t *testing.T) {
	r := newRunner(t, twoWarm)
	r.start()
	r.waitWarm(2)
	for i, patience := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond} {
		id := fmt.Sprintf("h%d", i)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, _ = r.post(ctx, "/setup", buildSetup(id)) // usually cut off
		cancel()
		// It comes back with the same id and gets its machine.
		r.setup(id)
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	r.waitWarm(2)
	r.audit()
}

// TestLimitMakesRequestsWait: at the limit a request waits, and is served when
// a machine is given back.
func TestLimitMakesRequestsWait(t *testing.T) {
	r := newRunner(t, strings.ReplaceAll(twoWarm, "limit: 4", "limit: 2"))
	r.start()
	r.waitWarm(2)
	r.setup("a")
	r.setup("b")
	third := make(chan answer, 1)
	go func() {
		a, _ := r.post(context.Background(), "/setup", buildSetup("c"))
		third <- a
	}()
	r.eventually(10*time.Second, "the third waits and says why", func() error {
		var row map[string]json.RawMessage
		if err := r.get("/v1/leases/c", &row); err != nil {
			return err
		}
		if string(row["state"]) != `"waiting"` || !strings.Contains(string(row["reason"])+string(row["detail"]), "limit") {
			return fmt.Errorf("%s", row)
		}
		return nil
	})
	r.must(200, "/destroy", map[string]string{"id": "a"})
	select {
	case a := <-third:
		if a.status != 200 {
			t.Errorf("the third was answered %d %s", a.status, a.body)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the third was never served")
	}
	for _, id := range []string{"b", "c"} {
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	r.waitWarm(2)
	r.audit()
}
