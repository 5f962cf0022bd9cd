//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// pause waits for a moment of a test that is about moments.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// fires posts with an answer that nobody need wait for.
func (r *runner) fires(ctx context.Context, path string, body any) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		a, err := r.post(ctx, path, body)
		if err != nil {
			a = answer{body: []byte(err.Error())}
		}
		out <- a
	}()
	return out
}

func ofPool(id string) map[string]any {
	body := buildSetup(id)
	body["pool_id"] = "p"
	return body
}

// pidOfLease is the process of a stage's machine.
func (r *runner) pidOfLease(id string) int {
	r.t.Helper()
	pid, ok := r.children()[r.instanceOf(id).Name]
	if !ok {
		r.t.Fatalf("no process of lease %s: %v", id, r.children())
	}
	return pid
}

// TestCallerHangsUpInEachPhase: whoever hangs up and never comes back costs no
// machine for ever, and whoever comes back gets one.
func TestCallerHangsUpInEachPhase(t *testing.T) {
	t.Parallel()
	const slow = "instances:\n  - {name: p, type: noop, pool: 0, limit: 2, wait: 5s, spec: {process: true, create_delay: 500ms, boot_delay: 500ms, destroy_delay: 300ms}}\n"
	for _, c := range []struct {
		name     string
		patience time.Duration
		busy     bool // the limit is reached by others
	}{
		{"at once", time.Millisecond, false},
		{"while the cloud makes the machine", 200 * time.Millisecond, false},
		{"while it boots", 750 * time.Millisecond, false},
		{"when it is about to be given", 1010 * time.Millisecond, false},
		{"while it waits for the limit", 300 * time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newPretend(t, slow)
			r.start()
			if c.busy {
				r.take("a")
				r.take("b")
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.patience)
			defer cancel()
			_, _ = r.post(ctx, "/setup", ofPool("h")) // usually cut off
			if c.busy {
				for _, id := range []string{"a", "b"} {
					r.must(200, "/destroy", map[string]string{"id": id})
				}
			}
			r.destroyedAfter("h")

			// The same again for the other calls, and the same id.
			ctx, cancel = context.WithTimeout(t.Context(), c.patience)
			defer cancel()
			_, _ = r.post(ctx, "/setup", ofPool("i")) // usually cut off
			r.take("i")
			<-r.fires(ctx, "/step", stepBody("i", "s", "true", nil))
			ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			<-r.fires(ctx, "/destroy", map[string]string{"id": "i"})
			r.destroyedAfter("i")
			r.auditPretend()
		})
	}
}

// destroyedAfter ends a stage as callers do that gave a setup up, and waits
// until no machine is left.
func (r *runner) destroyedAfter(id string) {
	r.t.Helper()
	r.must(200, "/destroy", map[string]string{"id": id})
	r.eventually(30*time.Second, "no machine is left", func() error {
		if rows, processes := r.instances(), r.children(); len(rows)+len(processes) > 0 {
			return fmt.Errorf("rows %+v, processes %v", rows, processes)
		}
		return nil
	})
}

// TestStopWhileTheDatabaseIsLocked: a signal is acted on while the start waits
// for the database, and while it is served.
func TestStopWhileTheDatabaseIsLocked(t *testing.T) {
	t.Parallel()
	r := newPretend(t, pretend)
	r.start()
	r.waitWarm(1)
	if code := r.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	// The start waits 1.3 s for the database; a busy host may be later.
	code := -1
	for range 5 {
		release := holdDatabase(t, filepath.Join(r.dir, "database.sqlite3"))
		r.launch()
		began := time.Now()
		code = r.stop()
		release()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s to stop", took)
		}
		if code == 0 {
			break
		}
	}
	if code != 0 {
		t.Errorf("exit code %d of a start that was told to stop:\n%s", code, r.log)
	}
	r.start()
	r.waitWarm(1)
	r.auditPretend()

	release := holdBytes(t, filepath.Join(r.dir, "database.sqlite3-shm"), 120, 1) // WAL's write lock
	defer release()
	asked := r.fires(t.Context(), "/setup", ofPool("s"))
	began := time.Now()
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d while another program writes to the database:\n%s", code, r.log)
	}
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	<-asked
}

// TestKillPretendRunnerAtRandomMoments: the runner is killed again and again
// under a little load; afterwards processes and rows are the same machines,
// and a held lease and its running step are as they were.
func TestKillPretendRunnerAtRandomMoments(t *testing.T) {
	t.Parallel()
	r := newPretend(t, "instances:\n  - {name: p, type: noop, pool: 2, limit: 6, spec: {process: true, create_delay: 20ms, boot_delay: 50ms}}\n")
	const stepTime = 25 * time.Second // of the keeper's long step
	r.env = []string{"DRONE_LITE_ENGINE_ENABLE_MOCK=true", fmt.Sprintf("DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS=%d", stepTime/time.Second)}
	r.start()
	r.waitWarm(2)
	keeper := r.take("keeper")
	began := time.Now()
	ctx, hangUp := context.WithCancel(t.Context())
	first := r.fires(ctx, "/step", stepBody("keeper", "long", "true", nil))
	r.eventually(10*time.Second, "the step runs", func() error {
		var out string
		return r.get("/v1/leases/keeper", &out)
	})
	pid := r.pidOfLease("keeper")

	var used []string
	for round := range 15 {
		load, end := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for c := range 3 {
			id := fmt.Sprintf("r%d-%d", round, c)
			used = append(used, id)
			clients.Go(func() {
				// Errors are the point: the runner dies under these.
				if a, err := r.post(load, "/setup", ofPool(id)); err != nil || a.status != 200 {
					return
				}
				_, _ = r.post(load, "/destroy", map[string]string{"id": id})
			})
		}
		pause(t, time.Duration(rand.Int64N(int64(250*time.Millisecond))))
		r.kill()
		end()
		clients.Wait()
		r.start()
	}
	hangUp()
	<-first
	for _, id := range used {
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	if again := r.take("keeper"); again.InstanceID != keeper.InstanceID {
		t.Errorf("the held lease has %s, before %s", again.InstanceID, keeper.InstanceID)
	}
	if now := r.pidOfLease("keeper"); now != pid {
		t.Errorf("its machine is process %d, before %d", now, pid)
	}
	// The same step is asked for again: it was not started anew.
	var got stepAnswer
	r.must(200, "/step", stepBody("keeper", "long", "true", nil)).json(t, &got)
	if took := time.Since(began); !got.Exited || got.ExitCode != 0 || took > 2*stepTime-time.Second {
		t.Errorf("the running step's result after %s: %+v", took, got)
	}
	r.waitWarm(2)
	r.auditPretend()
	r.must(200, "/destroy", map[string]string{"id": "keeper"})
	r.waitWarm(2)
	r.auditPretend()
	if n := len(r.children()); n != 2 {
		t.Errorf("%d machines at the end, want 2", n)
	}
}

// TestKillPretendMachine: a warm machine that dies is replaced; a leased one
// fails its steps with a cause and its id gets another.
func TestKillPretendMachine(t *testing.T) {
	t.Parallel()
	r := newPretend(t, strings.ReplaceAll(pretend, "pool: 1", "pool: 2"))
	r.env = []string{"DRONE_LITE_ENGINE_ENABLE_MOCK=true", "DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS=60"}
	r.start()
	r.waitWarm(2)
	for name, pid := range r.children() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.eventually(time.Minute, "the dead machine is replaced", func() error {
			for _, i := range r.instances() {
				if i.Name == name {
					return fmt.Errorf("%s is still %s", i.Name, i.State)
				}
			}
			return nil
		})
		break
	}
	r.waitWarm(2)
	r.auditPretend()

	got := r.take("s")
	running := r.fires(t.Context(), "/step", stepBody("s", "long", "true", nil))
	pause(t, 200*time.Millisecond)
	killed := time.Now()
	if err := syscall.Kill(r.pidOfLease("s"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-running:
		if a.status != 500 || !bytes.Contains(a.body, []byte("died")) {
			t.Errorf("the running step was answered %d %s", a.status, a.body)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the running step was not answered within 20 s of its machine's death")
	}
	t.Logf("the running step was answered after %s", time.Since(killed).Round(time.Millisecond))
	if a := r.must(500, "/step", stepBody("s", "later", "true", nil)); !bytes.Contains(a.body, []byte("died")) {
		t.Errorf("a later step: %s", a.body)
	}
	if again := r.take("s"); again.InstanceID == got.InstanceID {
		t.Errorf("the id was given its dead machine again: %s", again.InstanceID)
	}
	r.must(200, "/destroy", map[string]string{"id": "s"})
	r.waitWarm(2)
	r.auditPretend()
}

// TestAgentThatNeverAnswers: a hung warm machine is not given away, and a step
// on a hung leased one fails with a cause in time.
func TestAgentThatNeverAnswers(t *testing.T) {
	t.Parallel()
	r := newPretend(t, strings.ReplaceAll(pretend, "wait: 1s", "wait: 30s"))
	r.env = []string{"HEALTH_CHECK_HOTPOOL_TIMEOUT=1s", "START_STEP_TIMEOUT=2s", "SETUP_TIMEOUT=2s"}
	r.start()
	r.waitWarm(1)
	for name, pid := range r.children() {
		r.freeze(pid)
		r.take("a")
		if i := r.instanceOf("a"); i.Name == name {
			t.Errorf("the hung machine %s was given away", name)
		}
		break
	}
	r.freeze(r.pidOfLease("a"))
	asked := time.Now()
	a := r.failsInTime(r.fires(t.Context(), "/step", stepBody("a", "s", "true", nil)))
	t.Logf("a step on a hung machine was answered after %s: %s", time.Since(asked).Round(time.Millisecond), a.body)
	// Its end is not held up.
	asked = time.Now()
	r.must(200, "/destroy", map[string]string{"id": "a"})
	if took := time.Since(asked); took > 5*time.Second {
		t.Errorf("the destroy of a hung machine was answered after %s", took)
	}
	r.waitWarm(1)
	r.auditPretend()
}

// freeze stops a process and waits until all its threads have.
func (r *runner) freeze(pid int) {
	r.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	r.eventually(10*time.Second, "the process is stopped", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads of %d: %v", pid, err)
		}
		for _, file := range threads {
			text, err := os.ReadFile(file)
			if err == nil && !bytes.Contains(text, []byte(") T ")) {
				return fmt.Errorf("%s: %s", file, text)
			}
		}
		return nil
	})
}

// inTime is when the step of a machine that hangs must have been answered.
const inTime = 90 * time.Second

// failsInTime wants the answer of a step on a hung machine, with a cause.
func (r *runner) failsInTime(step <-chan answer) answer {
	r.t.Helper()
	select {
	case a := <-step:
		if a.status != 500 || !bytes.Contains(a.body, []byte("agent")) {
			r.t.Errorf("the answer gives no cause: %d %s", a.status, a.body)
		}
		return a
	case <-time.After(inTime):
		r.t.Fatalf("the step was not answered within %s", inTime)
		return answer{}
	}
}

// TestAgentThatHangsDuringAStep: the agent has taken a step and then never
// answers again, while its machine lives.
func TestAgentThatHangsDuringAStep(t *testing.T) {
	t.Parallel()
	r := newPretend(t, pretend)
	r.env = []string{"DRONE_LITE_ENGINE_ENABLE_MOCK=true", "DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS=5"}
	r.start()
	r.waitWarm(1)
	r.take("a")
	running := r.fires(t.Context(), "/step", stepBody("a", "s", "true", nil))
	pause(t, 500*time.Millisecond)
	r.freeze(r.pidOfLease("a"))
	asked := time.Now()
	a := r.failsInTime(running)
	t.Logf("the step was answered after %s: %s", time.Since(asked).Round(time.Millisecond), a.body)
	r.must(200, "/destroy", map[string]string{"id": "a"})
	r.waitWarm(1)
	r.auditPretend()
}

// TestFullDisk: requests fail and name the database, the runner lives, and
// works again when there is space.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := folder(t, nil)
	if err := syscall.Mount("e2e", dir, "tmpfs", 0, "size=16m"); err != nil {
		testhost.Lacks(t, "a small file system is missing: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "pool.yml"), []byte(strings.NewReplacer("limit: 3", "limit: 8", "process: true", "process: true, boot_delay: 300ms").Replace(pretend)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, dir: dir, log: &lockedBuffer{}}
	t.Cleanup(r.cleanup)
	r.pretend()
	r.start()
	r.waitWarm(1)
	r.take("held")
	// The disk is full when the machine that replaces it has booted.
	r.eventually(10*time.Second, "a machine boots", func() error {
		if r.countState("booting") == 0 {
			return fmt.Errorf("%+v", r.instances())
		}
		return nil
	})
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	failed := false
	for i := 0; i < 50 && !failed; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		a, err := r.post(ctx, "/setup", ofPool(fmt.Sprint("full", i)))
		cancel()
		if err != nil {
			t.Fatalf("setup on a full disk: %v", err)
		}
		if a.status == 200 {
			continue // the last page had room
		}
		failed = true
		for _, want := range []string{"database.sqlite3", "full"} {
			if a.status != 500 || !bytes.Contains(a.body, []byte(want)) {
				t.Errorf("setup on a full disk: %d %s, want %q in it", a.status, a.body, want)
			}
		}
	}
	if !failed {
		t.Error("no request failed on a full disk")
	}
	pause(t, time.Second) // the machine's boot ends on the full disk
	for _, path := range []string{"/healthz", "/readyz", "/v1/leases/held"} {
		res, err := http.Get("http://" + r.addr + path)
		if err != nil {
			t.Fatalf("%s on a full disk: %v", path, err)
		}
		_ = res.Body.Close()
		if path != "/readyz" && res.StatusCode != 200 {
			t.Errorf("%s on a full disk: %d", path, res.StatusCode)
		}
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.eventually(time.Minute, "setups work again", func() error {
		a, err := r.post(t.Context(), "/setup", ofPool("after"))
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	if a, err := r.post(t.Context(), "/step", stepBody("held", "s", "true", nil)); err != nil || a.status != 200 {
		t.Errorf("a step of the stage that was held: %d %s %v", a.status, a.body, err)
	}
	for i := range 50 {
		r.must(200, "/destroy", map[string]string{"id": fmt.Sprint("full", i)})
	}
	for _, id := range []string{"held", "after"} {
		r.must(200, "/destroy", map[string]string{"id": id})
	}
	r.eventually(time.Minute, "the pool is as it should be", func() error {
		if n := r.countState("warm"); n != 1 {
			return fmt.Errorf("%d warm: %+v", n, r.instances())
		}
		return nil
	})
	r.auditPretend()
	if n := len(r.children()); n != 1 {
		t.Errorf("%d machines at the end, want 1", n)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// fill writes until nothing more fits.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err == nil {
			continue
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		size /= 2
	}
}
