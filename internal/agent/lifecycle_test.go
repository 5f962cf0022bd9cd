//go:build unix

package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// stubborn starts processes that ignore TERM: the shell, a child of it, and,
// where the system has the tool, one in a session of its own. Their ids go to
// a file.
func stubborn(file string) (script string, processes int) {
	script = `trap '' TERM; echo $$ >> ` + file + `; (trap '' TERM; sleep 300) & echo $! >> ` + file + `; `
	processes = 2
	if _, err := exec.LookPath("setsid"); err == nil && runtime.GOOS == "linux" {
		script += `setsid sh -c 'trap "" TERM; echo $$ >> ` + file + `; sleep 300' & `
		processes++
	}
	return script + `sleep 300; sleep 300`, processes
}

func TestATimeoutEndsTheWholeStepForReal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	script, n := stubborn(r.path("pids"))
	s := ci("s", "echo begun; "+script)
	s.Timeout = 1
	r.start(s)
	pids := r.pids(r.path("pids"), n)
	want := agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: "context deadline exceeded"}
	if diff := cmp.Diff(want, r.poll("s")); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	r.gone(pids)
	if out := r.output("s"); !strings.Contains(out, "\nbegun\n") {
		t.Errorf("output %q", out)
	}
}

func TestEveryWayToBeKilledIsSafe(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cases := []struct {
		name   string
		config agentapi.ProcessConfig
	}{
		{"all zero", agentapi.ProcessConfig{}},
		{"interval zero", agentapi.ProcessConfig{KillProcessOnContextCancel: true, KillProcessMaxSigtermAttempts: 2}},
		{"attempts zero", agentapi.ProcessConfig{KillProcessOnContextCancel: true, KillProcessRetryIntervalSecs: 1}},
		{"negative", agentapi.ProcessConfig{KillProcessOnContextCancel: true, KillProcessMaxSigtermAttempts: -1, KillProcessRetryIntervalSecs: -5}},
		{"negative interval", agentapi.ProcessConfig{KillProcessOnContextCancel: true, KillProcessMaxSigtermAttempts: 1, KillProcessRetryIntervalSecs: -5}},
		{"explicit tree, waiting for the group", agentapi.ProcessConfig{WaitOnProcessGroup: true, KillProcessExplicitTreeStrategy: true, KillProcessOnContextCancel: true}},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := r.path(fmt.Sprintf("pids-%d", i))
			script, n := stubborn(file)
			s := sh(fmt.Sprintf("case-%d", i), script)
			s.Timeout, s.ProcessConfig = 1, c.config
			r.start(s)
			pids := r.pids(file, n)
			if got := r.poll(s.ID); got.Error != "context deadline exceeded" {
				t.Errorf("result %+v", got)
			}
			r.gone(pids)
		})
	}
}

func TestATimedOutStepIsAnsweredWhileItsProcessesAreStillBeingAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := sh("s", "trap '' TERM; echo $$ > "+r.path("pid")+"; while :; do sleep 1; done")
	s.Timeout = 1
	s.ProcessConfig = agentapi.ProcessConfig{KillProcessOnContextCancel: true, KillProcessMaxSigtermAttempts: 1, KillProcessRetryIntervalSecs: 5}
	r.start(s)
	pids := r.pids(r.path("pid"), 1)
	if got := r.poll("s"); got.Error != "context deadline exceeded" {
		t.Fatalf("result %+v", got)
	}
	if !alive(pids[0]) {
		t.Error("the process got none of the time its caller asked for")
	}
	r.gone(pids)
}

func TestAStepThatEndsInTimeKeepsItsResult(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := sh("s", "exit 3")
	s.Timeout = 3600
	if got := r.run(s); got.ExitCode != 3 {
		t.Errorf("result %+v", got)
	}
}

func TestAllPollersOfAStepAreWoken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := r.path("gate")
	r.start(sh("s", "while ! [ -e "+gate+" ]; do sleep 0.02; done; exit 7"))
	const pollers = 12
	before := r.agent.Waiting()
	var wg sync.WaitGroup
	got := make([]agentapi.PollStepResponse, pollers)
	for i := range pollers {
		wg.Go(func() { got[i] = r.poll("s") })
	}
	eventually(t, "all pollers", func() bool { return r.agent.Waiting() == before+pollers })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i := range got {
		if got[i].ExitCode != 7 {
			t.Errorf("poller %d got %+v", i, got[i])
		}
	}
}

func TestConcurrentStartsOfOneIDRunItOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { r.start(sh("s", "echo ran >> "+r.path("count"))) })
	}
	wg.Wait()
	r.poll("s")
	if got := r.read(r.path("count")); got != "ran\n" {
		t.Errorf("the step ran %d times", strings.Count(got, "\n"))
	}
}

func TestStepsWorkBeforeAnySetup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if got := r.run(sh("s", "echo works")); got.ExitCode != 0 {
		t.Errorf("result %+v", got)
	}
	if got := r.output("s"); got != "works\n" {
		t.Errorf("output %q", got)
	}
}

func TestDestroyMayBeCalledAtAnyTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, when := range []string{"before any setup", "again"} {
		if got := r.destroy(); got.OSStats.CPUCores < 1 || got.OSStats.MemGraph.YMetric != "mem_mb" {
			t.Errorf("%s: %+v", when, got)
		}
	}
	r.setup(agentapi.SetupRequest{})
	r.run(sh("s", "exit 9"))
	first := r.destroy()
	if diff := cmp.Diff(first, r.destroy()); diff != "" {
		t.Errorf("a second destroy answers differently:\n%s", diff)
	}
	if got := r.poll("s"); got.ExitCode != 9 {
		t.Errorf("result after destroy: %+v", got)
	}
	if got := r.output("s"); got != "" {
		t.Errorf("output after destroy: %q", got)
	}
	// A start of a step nobody knows is refused clearly, one that is known is fine.
	r.start(sh("s", "exit 1"))
	if a := r.post("/start_step", `{"id":"late"}`); a.status != http.StatusBadRequest || !strings.Contains(a.body, "the stage is destroyed") {
		t.Errorf("start after destroy: %+v", a)
	}
}

func TestANewSetupAfterADestroyStartsANewTable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 3 {
		r.setup(agentapi.SetupRequest{})
		if got := r.run(sh("same-id", fmt.Sprintf("echo stage %d; exit %d", i, i))); got.ExitCode != i {
			t.Fatalf("stage %d: %+v", i, got)
		}
		if got, want := r.output("same-id"), fmt.Sprintf("stage %d\n", i); got != want {
			t.Fatalf("stage %d: output %q", i, got)
		}
		r.destroy()
	}
	files, err := filepath.Glob(filepath.Join(r.state, "runs", "*", "*.output"))
	if err != nil || len(files) != 1 {
		t.Errorf("outputs of ended stages stay: %v, %v", files, err)
	}
}

func TestDestroyEndsEverythingAStageHasStarted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{})
	script, n := stubborn(r.path("running"))
	r.start(sh("running", script))
	script, m := stubborn(r.path("detached"))
	detached := sh("detached", script)
	detached.Detach = true
	r.start(detached)
	r.run(sh("finished", "sleep 300 >/dev/null 2>&1 & echo $! > "+r.path("background")))
	pids := append(r.pids(r.path("running"), n), r.pids(r.path("detached"), m)...)
	pids = append(pids, r.pids(r.path("background"), 1)...)
	for _, pid := range pids {
		if !alive(pid) {
			t.Fatalf("process %d does not live before the destroy", pid)
		}
	}
	if got := r.destroy(); len(got.Leftover) > 0 {
		t.Errorf("left: %v", got.Leftover)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d outlives the destroy", pid)
		}
	}
	want := agentapi.PollStepResponse{Exited: true, ExitCode: -1, Error: framed("exit status -1")}
	if diff := cmp.Diff(want, r.poll("running")); diff != "" {
		t.Errorf("result of the running step (-want +got):\n%s", diff)
	}
}

func TestDetachedSteps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{})
	s := ci("s", "echo up; sleep 300")
	s.Detach = true
	if diff := cmp.Diff(agentapi.PollStepResponse{}, r.run(s)); diff != "" {
		t.Errorf("poll of a detached step (-want +got):\n%s", diff)
	}
	a := r.post("/poll_step", `{"id":"s"}`)
	if a.body != "{}\n" {
		t.Errorf("body %q", a.body)
	}
	failing := s
	failing.ID, failing.WorkingDir = "f", r.path("missing")
	if got := r.run(failing); got.ExitCode != 255 || !strings.Contains(got.Error, "chdir") {
		t.Errorf("a detached step that cannot start: %+v", got)
	}
	streamed := make(chan string, 1)
	go func() { streamed <- r.output("s") }()
	r.destroy()
	if got := <-streamed; !strings.HasSuffix(got, "up\n") {
		t.Errorf("output %q", got)
	}
}

func TestAStepDoesNotWaitForWhatItLeavesInTheBackground(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{})
	// The child keeps the step's output open and goes on printing.
	script := "(while :; do echo noise || exit; sleep 0.01; done) & echo $! > " + r.path("pid") + "; head -c 60000 /dev/zero | tr '\\0' x; echo; echo last"
	if got := r.run(sh("s", script)); got.ExitCode != 0 {
		t.Fatalf("result %+v", got)
	}
	out := r.output("s")
	if strings.Count(out, "x") != 60000 || !strings.Contains(out, "\nlast\n") {
		t.Errorf("%d bytes of output lack something the step has printed", len(out))
	}
	pid := r.pids(r.path("pid"), 1)[0]
	if !alive(pid) {
		t.Error("the background process died with its step")
	}
	// Whoever asks for it gets the wait, which the timeout still bounds.
	s := sh("w", "sleep 0.3 & exit 4")
	s.ProcessConfig.WaitOnProcessGroup = true
	if got := r.run(s); got.ExitCode != 4 {
		t.Errorf("waiting for the group: %+v", got)
	}
	r.destroy()
	r.gone([]int{pid})
}

func TestVolumesAreMadeAndRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	kept, removed, existing := r.path("kept"), r.path("sub/removed"), r.path("existing")
	if err := os.Mkdir(existing, 0o700); err != nil {
		t.Fatal(err)
	}
	r.setup(agentapi.SetupRequest{
		Volumes: []agentapi.Volume{
			{Host: &agentapi.HostVolume{Name: "k", Path: kept, Create: true}},
			{Host: &agentapi.HostVolume{Name: "r", Path: removed, Create: true, Remove: true}},
			{Host: &agentapi.HostVolume{Name: "e", Path: existing}},
			{Host: &agentapi.HostVolume{Name: "root", Path: "/", Remove: true}},
			{},
		},
		Files:      []agentapi.File{{Path: r.path("file"), Mode: 384, Data: "text"}},
		MTLSConfig: agentapi.MTLSConfig{ClientCert: "Y2VydA==", ClientCertKey: "a2V5", ClientCertDirPath: r.path("mtls")},
	})
	r.setup(agentapi.SetupRequest{}) // does not forget what the first one made
	for path, want := range map[string]os.FileMode{kept: 0o777, removed: 0o777, existing: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, want mode %v", path, err, want)
		}
	}
	if got := r.read(r.path("mtls/client.crt")) + r.read(r.path("mtls/client.key")); got != "certkey" {
		t.Errorf("client pair %q", got)
	}
	if got := r.destroy(); len(got.Leftover) > 0 {
		t.Errorf("left: %v", got.Leftover)
	}
	for path, want := range map[string]bool{kept: true, removed: false, existing: true, r.path("file"): true, "/etc": true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s exists: %v, want %v", path, err == nil, want)
		}
	}
}

func TestAStalledReaderDoesNotHoldUpItsStep(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *agent.Options) { o.OutputLimit = 4 << 20 })
	// The stream is opened and never read.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/stream_output", strings.NewReader(`{"id":"s"}`))
	if err != nil {
		t.Fatal(err)
	}
	stalled := clientOf(t, r.certs, false)
	defer stalled.CloseIdleConnections()
	opened := make(chan *http.Response, 1)
	go func() {
		res, err := stalled.Do(req)
		if err != nil {
			t.Error(err)
		}
		opened <- res
	}()
	r.start(sh("s", "head -c 64000000 /dev/zero | tr '\\0' x; echo; echo last"))
	res := <-opened
	if res == nil {
		return
	}
	defer res.Body.Close()
	if got := r.poll("s"); got.ExitCode != 0 {
		t.Errorf("result %+v", got)
	}
	out := r.output("s")
	if len(out) > 5<<20 || !strings.HasSuffix(out, "\nlast\n") || !strings.Contains(out, "[runner-agent] The output is longer than 4194304 bytes") {
		t.Errorf("%d bytes kept, ending %q", len(out), out[max(0, len(out)-40):])
	}
}

func TestMemoryStaysBoundedUnderMuchOutput(t *testing.T) { // not parallel: it measures the heap
	r := newRig(t, func(o *agent.Options) { o.OutputLimit = 1 << 20 })
	const total = 256 << 20
	peak := peakHeap(r, sh("s", fmt.Sprintf("head -c %d /dev/zero", total)))
	const bound = 64 << 20 // a quarter of the output; in fact a few MiB
	if peak > bound {
		t.Errorf("heap of %d MiB for %d MiB of output", peak>>20, total>>20)
	}
	if out := r.output("s"); len(out) > 2<<20 || !strings.Contains(out, strconv.Itoa(total-1<<20-64<<10)+" bytes left out") {
		t.Errorf("%d bytes kept", len(out))
	}
}

// peakHeap runs a step and returns how much memory more than before was in use
// meanwhile at most, in bytes. What is garbage already hardly counts: how much of
// it there is depends on how busy the host is.
func peakHeap(r *rig, s agentapi.StartStepRequest) (peak uint64) {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	r.start(s)
	done := make(chan agentapi.PollStepResponse, 1)
	go func() { done <- r.poll(s.ID) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc-min(m.HeapAlloc, before.HeapAlloc))
		select {
		case <-done:
			return peak
		case <-tick.C:
		}
	}
}

func TestReadersMayComeAndGo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(sh("s", "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.05; done"))
	const want = "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nline 7\nline 8\nline 9\n"
	// A reader whose connection breaks every few bytes goes on at its offset.
	var got strings.Builder
	for got.Len() < len(want) {
		ctx, cancel := context.WithCancel(t.Context())
		body := fmt.Sprintf(`{"id":"s","offset":%d}`, got.Len())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/stream_output", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		piece := make([]byte, 5)
		n, err := io.ReadFull(res.Body, piece)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		got.Write(piece[:n])
		cancel()
		_ = res.Body.Close() // cut off on purpose
	}
	if got.String() != want {
		t.Errorf("read %q, want %q", got.String(), want)
	}
}

func TestStoppingTheAgentEndsItsSteps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	script, n := stubborn(r.path("pids"))
	r.start(sh("s", script))
	pids := r.pids(r.path("pids"), n)
	polled := make(chan agentapi.PollStepResponse, 1)
	before := r.agent.Waiting()
	go func() { polled <- r.poll("s") }()
	eventually(t, "a waiting poll", func() bool { return r.agent.Waiting() == before+1 })
	r.stop()
	if got := <-polled; got.ExitCode != -1 {
		t.Errorf("the poll got %+v", got)
	}
	r.gone(pids)
	eventually(t, "the agent's files to go", func() bool {
		left, err := os.ReadDir(filepath.Join(r.state, "runs"))
		return err == nil && len(left) == 0
	})
}

// The environment of the children that tests of killed agents start.
const (
	childVariable = "RUNNER_AGENT_TEST_CHILD" // what it does: childProcesses, childContainers
	childDir      = "RUNNER_AGENT_TEST_DIR"
	childNumber   = "RUNNER_AGENT_TEST_NUMBER"

	childProcesses  = "processes"
	childContainers = "containers"
)

// waitTogether lets more tests run at a time than there are processors: these
// wait for timeouts and kill graces far more than they compute.
func waitTogether() {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		if err := flag.Set("test.parallel", "16"); err != nil {
			panic(err)
		}
	}
}

// TestMain is also the program of an agent that is killed, and one that steps
// run.
func TestMain(m *testing.M) {
	if address := os.Getenv(fetchVariable); address != "" {
		os.Exit(fetch(address))
	}
	if file := os.Getenv(pacedVariable); file != "" {
		os.Exit(paced(file))
	}
	if os.Getenv(childVariable) == "" {
		waitTogether()
		os.Exit(m.Run())
	}
	dir := os.Getenv(childDir)
	a, err := agent.New(agent.Options{SharedDir: filepath.Join(dir, "engine"), StateDir: filepath.Join(dir, "state")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	if os.Getenv(childVariable) == childContainers {
		err = setUpContainers(ctx, a, os.Getenv(childNumber))
	} else {
		script, _ := stubborn(filepath.Join(dir, "pids"))
		s := sh("s", script)
		s.Detach = true
		err = a.Start(ctx, &s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {} // until it is killed
}

// setUpContainers sets a stage up that has a network and a volume, and, as the
// first of many, a container that runs.
func setUpContainers(ctx context.Context, a *agent.Agent, number string) error {
	err := a.Setup(ctx, &agentapi.SetupRequest{
		Network: agentapi.Network{ID: "net-" + number},
		Volumes: []agentapi.Volume{{Temp: &agentapi.TempVolume{ID: "vol-" + number, Name: "v"}}},
	})
	if err != nil || number != "0" {
		return err
	}
	s := agentapi.StartStepRequest{
		ID: "ctr-" + number, Image: dockertest.Image, Detach: true,
		Run: agentapi.RunConfig{Entrypoint: []string{"sh", "-c"}, Commands: []string{"sleep 300"}},
	}
	if err := a.Start(ctx, &s); err != nil {
		return err
	}
	_, err = a.Poll(ctx, s.ID)
	return err
}

func TestAKilledAgentsProcessesEndAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self)
	child.Env = append(os.Environ(), childVariable+"="+childProcesses, childDir+"="+dir)
	child.Stderr = t.Output()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_, n := stubborn("")
	r := &rig{t: t}
	pids := r.pids(filepath.Join(dir, "pids"), n)

	// Beside a living agent another one leaves its processes alone.
	other, err := agent.New(agent.Options{SharedDir: filepath.Join(dir, "engine2"), StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if !alive(pid) {
			t.Errorf("process %d of a living agent was ended", pid)
		}
	}

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	for _, pid := range pids {
		if !alive(pid) {
			t.Errorf("process %d ended with its agent; the test shows nothing", pid)
		}
	}
	next, err := agent.New(agent.Options{SharedDir: filepath.Join(dir, "engine"), StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	}()
	r.gone(pids)
	left, err := os.ReadDir(filepath.Join(dir, "state", "runs"))
	if err != nil || len(left) != 1 {
		t.Errorf("runs left: %v, %v; want only the present one", left, err)
	}
}

func TestSuspendAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if a := r.post("/suspend", `{}`); a.status != http.StatusOK || a.body != "{}\n" {
		t.Errorf("suspend: %+v", a)
	}
}

func FuzzRequests(f *testing.F) {
	for _, body := range []string{`{}`, `null`, `{"id":"x","run":{"entrypoint":["true"]}}`, `{"id":"x","offset":-9}`, `{"volumes":[{}]}`, `[`, `{"ID":"x","Detach":true}`} {
		for path := range 6 {
			f.Add(path, []byte(body))
		}
	}
	r := newRig(f)
	paths := []string{"/poll_step", "/stream_output", "/suspend", "/destroy", "/mint_workload_token", "/healthz"}
	f.Fuzz(func(t *testing.T, path int, body []byte) {
		if path < 0 || path >= len(paths) {
			return
		}
		if paths[path] == "/stream_output" || paths[path] == "/poll_step" {
			var in agentapi.StreamOutputRequest
			if json.Unmarshal(body, &in) == nil && in.ID != "" {
				return // waits for a step
			}
		}
		a := (&rig{t: t, url: r.url, client: r.client}).post(paths[path], string(body))
		if a.status >= 500 {
			t.Errorf("%s %q: %d %s", paths[path], body, a.status, a.body)
		}
		if a.status != http.StatusMethodNotAllowed && !json.Valid([]byte(a.body)) {
			t.Errorf("%s %q: body %q", paths[path], body, a.body)
		}
	})
}
