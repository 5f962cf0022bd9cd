package hostrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

func TestAStageFromSetupToDestroy(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	first := g.setup("st1")
	if want := "{\n  \"ip_address\": \"127.0.0.1\",\n  \"instance_id\": \"\"\n}\n"; first.body != want {
		t.Errorf("setup answers %q, want %q", first.body, want)
	}
	if again := g.setup("st1"); again.body != first.body {
		t.Errorf("a second setup answers %q", again.body)
	}
	s := g.run("st1", "s1", "touch made; export OUT=$(pwd)")
	if s.Outputs["OUT"] != g.stageDir("st1") || !exists(filepath.Join(g.stageDir("st1"), "made")) {
		t.Errorf("the step ran in %q, want %q: %+v", s.Outputs["OUT"], g.stageDir("st1"), s)
	}
	if !s.Exited || len(s.Telemetry) == 0 || string(s.Telemetry) != string(s.Data) {
		t.Errorf("telemetry under both names: %s, %s", s.Telemetry, s.Data)
	}
	failed := g.run("st1", "s2", "exit 3")
	if failed.status != 200 || failed.ExitCode != 3 || failed.Error != "1 error occurred:\n\t* exit status 3\n\n" {
		t.Errorf("a step that fails: %+v", failed)
	}
	for range 2 {
		if a := g.post("/destroy", `{"id":"st1"}`); a.status != 200 || a.body != "{}\n" {
			t.Errorf("destroy: %d %q", a.status, a.body)
		}
	}
	if a := g.post("/destroy", `{"stage_runtime_id":"never"}`); a.status != 200 {
		t.Errorf("destroy of a stage that never was: %d %q", a.status, a.body)
	}
	if a := g.call(http.MethodPost, "/step", shell("st1", "s3", "true")); a.status != 404 {
		t.Errorf("a step afterwards: %d %s", a.status, a.body)
	}
	nothingLeft(t, g)
}

// nothingLeft checks that no stage has left anything on the disk.
func nothingLeft(t *testing.T, g *rig) {
	t.Helper()
	for _, pattern := range []string{g.harness() + "*", filepath.Join(g.dir, "data", "stages", "*"), filepath.Join(g.dir, "data", "work", "*"), filepath.Join(g.dir, "data", "shared", "*")} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

func TestBodiesOfTheVMRunnerAreAccepted(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	a := g.post("/setup", `{"ID":"st1","pool_id":"linux","fallback_pool_ids":["b"],"tags":{"a":"b"},"context":{"account_id":"x"},"resource_class":"large","vm_image_config":{"image_name":"i"},
		"gitspace_agent_config":{},"instance_info":{"id":"i"},"setup_request":{"tty":false,"vm_image_config":{"image_name":"i"},"timeout":5,"le_log_key":"k"}} trailing`)
	if a.status != 200 {
		t.Fatalf("setup: %d %s", a.status, a.body)
	}
	s := g.post("/step", `{"stage_runtime_id":"st1","instance_id":"i","task_id":"t","distributed":true,"instance_info":{"id":"i"},
		"start_step_request":{"id":"s","stage_runtime_id":"st1","kind":"Run","run":{"entrypoint":["sh","-c"],"commands":["true"],"binary":{"name":"n"}}}}`).step(t)
	if s.status != 200 || !s.Exited {
		t.Errorf("step: %+v", s)
	}
	if a := g.post("/suspend", `{"stage_runtime_id":"st1","suspend_request":{"labels":{"a":"b"}}}`); a.status != 200 || a.body != "{}\n" {
		t.Errorf("suspend: %d %s", a.status, a.body)
	}
	if a := g.post("/destroy", `{"id":"st1","storage_cleanup_type":"DELETE","instance_info":{"id":"i"}}`); a.status != 200 {
		t.Errorf("destroy: %d %s", a.status, a.body)
	}
}

func TestTwoStagesWithEqualStepsDoNotMeet(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			id := fmt.Sprintf("st%d", i)
			a := g.post("/setup", `{"id":%q,"setup_request":{"envs":{"HTTP_PROXY":"http://proxy-%s","SAME":"%s"},"secrets":["x"],"volumes":[{"host":{"id":"harness","name":"harness","path":%q}}]}}`, id, id, id, g.harness())
			if a.status != 200 {
				t.Errorf("setup: %d %s", a.status, a.body)
				return
			}
			s := g.run(id, "same", `echo "$SAME" > file; sleep 0.2; export OUT="$(cat file) $HTTP_PROXY $(pwd)"`)
			if want := id + " http://proxy-" + id + " " + g.stageDir(id); s.Outputs["OUT"] != want {
				t.Errorf("%s: %q, want %q", id, s.Outputs["OUT"], want)
			}
			if a := g.post("/destroy", `{"id":%q}`, id); a.status != 200 {
				t.Errorf("destroy: %d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
	if v, ok := os.LookupEnv("SAME"); ok {
		t.Errorf("a variable of a stage is the runner's: %q", v)
	}
	nothingLeft(t, g)
}

func TestHostileStageIDsStayInTheirFolder(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	victim := filepath.Join(g.dir, "victim")
	if err := os.Mkdir(victim, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"../victim", "x/../../victim", "..", "a\tb", strings.Repeat("é", 300), `..\victim`} {
		g.setup(id)
		s := g.run(id, id, "export OUT=$(pwd)")
		if got := s.Outputs["OUT"]; filepath.Dir(got) != g.dir || !strings.HasPrefix(got, g.harness()+"-"+hashedPrefix) {
			t.Errorf("%q runs in %q: %+v", id, got, s)
		}
		body, _ := json.Marshal(map[string]string{"id": id})
		if a := g.call(http.MethodPost, "/destroy", string(body)); a.status != 200 {
			t.Errorf("destroy of %q: %s", id, a.body)
		}
	}
	if !exists(victim) {
		t.Error("a folder that was nobody's is gone")
	}
	nothingLeft(t, g)
}

func TestWhatIsThereAlreadyIsNotAStages(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	theirs := filepath.Join(g.stageDir("st1"), "theirs")
	if err := os.MkdirAll(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	g.setup("st1")
	s := g.run("st1", "s", "export OUT=$(pwd)")
	if want := filepath.Join(g.dir, "data", "work", "w-st1"); s.Outputs["OUT"] != want {
		t.Errorf("the stage is in %q, want %q", s.Outputs["OUT"], want)
	}
	g.post("/destroy", `{"id":"st1"}`)
	if !exists(theirs) {
		t.Error("a folder that was there before the stage is gone after it")
	}
}

func TestTheSameStepAttachesToTheRunningOne(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("st1")
	gate := filepath.Join(g.dir, "gate")
	script := fmt.Sprintf("echo run >> runs; while [ ! -e '%s' ]; do sleep 0.02; done; exit 7", gate)
	var wg sync.WaitGroup
	call := func(path, body string) {
		wg.Go(func() {
			if s := g.call(http.MethodPost, path, body).step(t); s.ExitCode != 7 {
				t.Errorf("%s: %+v", path, s)
			}
		})
	}
	hangUp, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := request(hangUp, http.MethodPost, g.url+"/step", shell("st1", "s", script))
		gone <- err
	}()
	eventually(t, "the step runs", func() bool { return exists(filepath.Join(g.stageDir("st1"), "runs")) })
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that hung up: %v", err)
	}
	call("/step", shell("st1", "s", script))
	call("/step", shell("st1", "s", script))
	call("/poll_step", `{"id":"s"}`)
	call("/poll_step", `{"id":"s","stage_runtime_id":"st1"}`)
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	call("/step", shell("st1", "s", script))
	wg.Wait()
	if text, err := os.ReadFile(filepath.Join(g.stageDir("st1"), "runs")); err != nil || string(text) != "run\n" {
		t.Errorf("the step ran as often as %q says, %v", text, err)
	}
	g.setup("st2")
	g.run("st2", "s", "true")
	if a := g.post("/poll_step", `{"id":"s"}`); a.status != 400 || !strings.Contains(a.body, "2 stages have a step s") {
		t.Errorf("a poll that means two steps: %d %s", a.status, a.body)
	}
}

func TestAHostStepHeedsItsTimeoutAndEndsWithItsStage(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("st1")
	began := time.Now()
	s := g.post("/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"slow","timeout":1,"run":{"entrypoint":["sh","-c"],"commands":["sleep 30"]}}}`).step(t)
	if took := time.Since(began); s.ExitCode != 255 || s.Error != "context deadline exceeded" || took > 10*time.Second {
		t.Errorf("after %s: %+v", took, s)
	}
	done := make(chan stepAnswer, 1)
	go func() {
		done <- g.call(http.MethodPost, "/step", shell("st1", "long", "trap '' TERM; (trap '' TERM; echo $$ > child; sleep 300) & echo up > up; wait; sleep 300")).step(t)
	}()
	eventually(t, "the step runs", func() bool { return exists(filepath.Join(g.stageDir("st1"), "up")) })
	detached := g.post("/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"d","detach":true,"run":{"entrypoint":["sh","-c"],"commands":["echo $$ > pid; sleep 300"]}}}`)
	if detached.status != 200 || strings.TrimSpace(detached.body) != "{}" {
		t.Errorf("a detached step: %d %s", detached.status, detached.body)
	}
	var pid string
	eventually(t, "the detached step runs", func() bool {
		text, _ := os.ReadFile(filepath.Join(g.stageDir("st1"), "pid"))
		pid = strings.TrimSpace(string(text))
		return pid != ""
	})
	if a := g.post("/destroy", `{"id":"st1"}`); a.status != 200 || a.body != "{}\n" {
		t.Errorf("destroy: %d %s", a.status, a.body)
	}
	if s := <-done; s.status != 200 || s.ExitCode == 0 {
		t.Errorf("the step that was running: %+v", s)
	}
	if exists("/proc/" + pid + "/exe") {
		t.Errorf("process %s outlives its stage", pid)
	}
	nothingLeft(t, g)
}

func TestFilesOfASetupGoWithTheLastStageThatNamesThem(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	path := func(name string) string { return filepath.Join(g.dir, name) }
	if err := os.WriteFile(path("before"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		body := fmt.Sprintf(`{"id":%q,"setup_request":{"files":[{"path":%q,"data":"x","mode":384},{"path":%q,"data":"new"}],"volumes":[{"host":{"id":"v","name":"v","path":%q,"create":true,"remove":true}}]}}`,
			id, path("made"), path("before"), path("volume"))
		if a := g.call(http.MethodPost, "/setup", body); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	g.post("/destroy", `{"id":"a"}`)
	for _, name := range []string{"made", "before", "volume"} {
		if !exists(path(name)) {
			t.Errorf("%s of a stage that lives is gone with another", name)
		}
	}
	g.post("/destroy", `{"id":"b"}`)
	if exists(path("made")) || exists(path("volume")) || !exists(path("before")) {
		t.Errorf("after the last: made %v, volume %v, before %v", exists(path("made")), exists(path("volume")), exists(path("before")))
	}
}

func TestAFailedSetupLeavesNothingAndGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Limits.Stages, c.Wait = 1, 30*time.Second })
	made := filepath.Join(g.dir, "made")
	for range 3 {
		a := g.post("/setup", `{"id":"st1","setup_request":{"files":[{"path":%q,"data":"x"},{"path":""}],"volumes":[{"host":{"id":"harness","name":"harness","path":%q}}]}}`, made, g.harness())
		if msg := oneDocument(t, a); a.status != 500 || !strings.Contains(msg, "has no path") {
			t.Errorf("%d %s", a.status, msg)
		}
	}
	if exists(made) {
		t.Error("a file of a setup that failed is still there")
	}
	nothingLeft(t, g)
	g.setup("st2")
}

func TestStagesBeyondTheLimitAreToldWhatForTheyWaited(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Limits.Stages, c.Wait = 1, 200*time.Millisecond })
	g.setup("st1")
	a := g.post("/setup", `{"id":"st2","setup_request":{}}`)
	if msg := oneDocument(t, a); a.status != 500 || !strings.Contains(msg, "stages: 1 run, the limit is 1 (--max-stages)") {
		t.Errorf("%d %s", a.status, msg)
	}
	g.post("/destroy", `{"id":"st1"}`)
	g.setup("st2")
}

func TestADestroyEndsASetupThatWaits(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Limits.Stages = 1 })
	g.setup("st1")
	waiting := make(chan answer, 2)
	for range 2 {
		go func() { waiting <- g.post("/setup", `{"id":"st2","setup_request":{}}`) }()
	}
	eventually(t, "st2 waits", func() bool { return len(g.r.room.list()) == 1 })
	var s Status
	if err := json.Unmarshal([]byte(g.call(http.MethodGet, PathStatus, "").body), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Running) != 1 || s.Running[0].ID != "st1" || s.Stages != 1 || s.Waiting != 1 || len(s.Queue) != 1 || s.Queue[0].ID != "st2" || !strings.Contains(s.Queue[0].Reason, "the limit is 1") {
		t.Errorf("status: %+v", s)
	}
	if a := g.post("/destroy", `{"id":"st2"}`); a.status != 200 {
		t.Errorf("destroy: %d %s", a.status, a.body)
	}
	for range 2 {
		if a := <-waiting; a.status != 500 || !strings.Contains(a.body, "the stage was destroyed") {
			t.Errorf("a setup that waited: %d %s", a.status, a.body)
		}
	}
}

func TestACallerThatHangsUpGivesItsPlaceInTheQueueUp(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Limits.Stages = 1 })
	g.setup("st1")
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := request(ctx, http.MethodPost, g.url+"/setup", `{"id":"st2","setup_request":{}}`)
		gone <- err
	}()
	eventually(t, "st2 waits", func() bool { return len(g.r.room.list()) == 1 })
	hangUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	eventually(t, "nobody waits", func() bool { return len(g.r.room.list()) == 0 })
	eventually(t, "st2 is not known", func() bool { return g.r.find("st2") == nil })
}

func TestARunnerThatFollowsAnotherKnowsItsStages(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	file := filepath.Join(g.dir, "file")
	a := g.post("/setup", `{"id":"st1","setup_request":{"envs":{"A":"from setup"},"secrets":["hunter2"],"files":[{"path":%q,"data":"x"}],"volumes":[{"host":{"id":"harness","name":"harness","path":%q}}]}}`, file, g.harness())
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	before := g.run("st1", "done", "echo once >> runs; export OUT=$A")
	if err := os.WriteFile(file, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.stop()
	info, err := os.Stat(filepath.Join(g.dir, "data", "stages", "s-st1", "stage.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the record of a stage, which has its secrets: %v, %v", info, err)
	}
	g.start()
	if diff := cmp.Diff(before.Outputs, g.run("st1", "done", "echo once >> runs").Outputs); diff != "" {
		t.Errorf("the result of a step that had ended: %s", diff)
	}
	s := g.run("st1", "next", `export OUT="$A $(cat runs)"`)
	if s.Outputs["OUT"] != "from setup once" {
		t.Errorf("a further step: %+v", s)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "changed" {
		t.Errorf("a file steps have changed is %q, %v", text, err)
	}
	g.setup("st1")
	if a := g.post("/destroy", `{"id":"st1"}`); a.status != 200 || a.body != "{}\n" {
		t.Errorf("destroy: %d %s", a.status, a.body)
	}
	nothingLeft(t, g)
	if exists(file) {
		t.Error("a file of the setup is still there")
	}
}

func TestHalfDestroyedStagesAreFinishedAtTheStart(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("ending")
	g.setup("building")
	g.stop()
	dirs := folders{filepath.Join(g.dir, "data")}
	for id, change := range map[Key]func(*record){
		"ending":   func(r *record) { r.Ending = true },
		"building": func(r *record) { r.Ready = false },
	} {
		rec, err := readJSON[record](dirs.recordFile(id))
		if err != nil {
			t.Fatal(err)
		}
		change(&rec)
		if err := agent.ReplaceJSON(dirs.recordFile(id), rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dirs.steps("begun"), 0o700); err != nil {
		t.Fatal(err)
	}
	broken := dirs.recordFile("broken")
	if err := os.MkdirAll(filepath.Dir(broken), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	g.start()
	left, err := filepath.Glob(filepath.Join(g.dir, "data", "stages", "*"))
	if diff := cmp.Diff([]string{filepath.Dir(broken)}, left); diff != "" || err != nil {
		t.Errorf("only what cannot be read is left alone: %s %v", diff, err)
	}
	if dirs, err := filepath.Glob(g.harness() + "*"); err != nil || len(dirs) > 0 {
		t.Errorf("left: %v, %v", dirs, err)
	}
}

func TestTwoRunnersDoNotShareADataDirectory(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	_, err := New(t.Context(), Config{DataDir: filepath.Join(g.dir, "data")})
	if err == nil || !strings.Contains(err.Error(), "another runner uses it") || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("error %v", err)
	}
}

func TestStepsDoNotInheritTheRunnersSecrets(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) {
		c.Environ = append(c.Environ, "RUNNER_HOST_TOKEN=t0ken", "DELEGATE_SECRET=s3cret", "KEPT=yes")
	})
	g.setup("st1")
	if s := g.run("st1", "s", `export OUT="$KEPT-$RUNNER_HOST_TOKEN-$DELEGATE_SECRET"`); s.Outputs["OUT"] != "yes--" {
		t.Errorf("%+v", s)
	}
}

func TestStagesNobodyAsksForAreEnded(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const age = 24 * time.Hour
	cases := []struct {
		name   string
		change func(*stage)
		after  time.Duration
		want   string
	}{
		{"a young stage in silence", nil, 23 * time.Hour, ""},
		{"an old one in silence", nil, age, "it is older than 24h0m0s, no step runs and nobody has called for 1h0m0s"},
		{"an old one somebody has just called for", func(st *stage) { st.lastCall = began.Add(age - time.Minute) }, age, ""},
		{"an old one whose step runs", func(st *stage) { st.running = 1 }, 100 * age, ""},
		{"one whose caller has hung up, within its grace", func(st *stage) { st.heard = false }, time.Minute, ""},
		{"one whose caller has not come back", func(st *stage) { st.heard = false }, grace, "its caller hung up during the setup"},
		{"one that left something behind", func(st *stage) { st.leftover = []string{"x"} }, 0, "tried again"},
		{"one that is being set up", func(st *stage) { st.ready = make(chan struct{}) }, 100 * age, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := newStage(&record{ID: "a", Created: began, Ready: true}, began)
			close(st.ready)
			if c.change != nil {
				c.change(st)
			}
			if got := st.over(began.Add(c.after), age); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatCannotBeRemovedIsTriedAgain(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("st1")
	st := g.r.find("st1")
	st.mu.Lock()
	st.leftover = []string{"a container"}
	st.mu.Unlock()
	a := g.post("/setup", `{"id":"st1","setup_request":{}}`)
	if msg := oneDocument(t, a); a.status != 500 || !strings.Contains(msg, "still being destroyed") {
		t.Errorf("a setup meanwhile: %d %s", a.status, msg)
	}
	g.r.care(t.Context(), time.Now())
	if g.r.find("st1") != nil {
		t.Error("the stage is still known")
	}
	nothingLeft(t, g)
	g.setup("st1")
}

func TestDrainingLetsStagesEndAndTakesNoNewOnes(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("st1")
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		g.r.Drain(t.Context())
	}()
	eventually(t, "it drains", func() bool { return g.r.Health(t.Context()).State == StateDraining })
	a := g.post("/setup", `{"id":"st2","setup_request":{}}`)
	if msg := oneDocument(t, a); a.status != 500 || !strings.Contains(msg, "takes no new stages") {
		t.Errorf("a new stage: %d %s", a.status, msg)
	}
	if s := g.run("st1", "s", "export OUT=1"); s.Outputs["OUT"] != "1" {
		t.Errorf("a step of an old one: %+v", s)
	}
	select {
	case <-drained:
		t.Error("drained while a stage is there")
	default:
	}
	g.post("/destroy", `{"id":"st1"}`)
	select {
	case <-drained:
	case <-time.After(20 * time.Second):
		t.Error("not drained without stages")
	}
}

func TestUsesAreCounted(t *testing.T) {
	t.Parallel()
	u := newUses()
	u.add([]string{"/a", "/b"}, []string{"/a"})
	u.add([]string{"/a", "/c"}, nil)
	if got := u.release([]string{"/a", "/b"}); len(got) != 0 {
		t.Errorf("%v goes while it is used", got)
	}
	if diff := cmp.Diff([]string{"/a"}, u.release([]string{"/a", "/c"})); diff != "" {
		t.Error(diff)
	}
	used, removed := hostPaths(&agentapi.SetupRequest{
		Files:   []agentapi.File{{Path: "/no/such/file"}, {Path: "/"}, {Path: "/no/such/dir", IsDir: true}, {Path: "relative"}},
		Volumes: []agentapi.Volume{{Host: &agentapi.HostVolume{Path: "/", Remove: true}}, {Host: &agentapi.HostVolume{Path: "/v/../w", Remove: true}}, {Host: &agentapi.HostVolume{Path: "/kept"}}, {}},
	}, nil)
	if diff := cmp.Diff([][]string{{"/no/such/file", "/w", "/kept"}, {"/no/such/file", "/w"}}, [][]string{used, removed}); diff != "" {
		t.Error(diff)
	}
}
