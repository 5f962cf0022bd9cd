package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// asProgram makes the test's binary be the program itself.
const asProgram = "TEST_RUN_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// hostProcess is a local runner that runs as a process.
type hostProcess struct {
	cmd *exec.Cmd
	url string
	// lines are what it has logged since.
	lines *lockedBuffer
}

// startHost starts the program by a name, on a host without docker, and waits
// until it listens.
func startHost(t *testing.T, args ...string) *hostProcess {
	t.Helper()
	return startHostOn(t, "unix:///nowhere/docker.sock", args...)
}

func startHostOn(t *testing.T, docker string, args ...string) *hostProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &hostProcess{lines: &lockedBuffer{lines: make(chan string, 10000)}}
	p.cmd = exec.CommandContext(t.Context(), self)
	p.cmd.Args = args
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "DOCKER_HOST="+docker)
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		for s := bufio.NewScanner(out); s.Scan(); {
			_, _ = p.lines.Write(s.Bytes()) // never fails
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-pumped
		_ = p.cmd.Wait() // it may have been waited for
	})
	_, addr, _ := strings.Cut(p.lines.await(t, "msg=listening"), "addr=")
	addr, _, _ = strings.Cut(addr, " ")
	p.url = "http://" + addr
	return p
}

func (p *hostProcess) post(t *testing.T, path, body string) (int, string) {
	t.Helper()
	status, text, err := call(t.Context(), http.MethodPost, p.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, text
}

func call(ctx context.Context, method, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// awaitFile returns what a file holds once it holds something.
func awaitFile(t *testing.T, path string) string {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		text, err := os.ReadFile(path)
		if s := strings.TrimSpace(string(text)); err == nil && s != "" {
			return s
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: nothing in it: %v", path, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestAKilledRunnerIsFollowedByOneThatCleansUp kills the real program while a
// step runs that neither hears TERM nor dies with its parent.
func TestAKilledRunnerIsFollowedByOneThatCleansUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"/opt/harness-docker-runner-linux-amd64", "server", "--bind", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data")}
	first := startHost(t, args...)
	volume := filepath.Join(dir, "harness")
	setup := fmt.Sprintf(`{"id":"st1","pool_id":"p","setup_request":{"envs":{"A":"1"},"volumes":[{"host":{"id":"harness","name":"harness","path":%q}}]}}`, volume)
	if status, body := first.post(t, "/setup", setup); status != 200 {
		t.Fatalf("setup: %d %s", status, body)
	}
	const step = `{"stage_runtime_id":"st1","start_step_request":{"id":"long","run":{"entrypoint":["sh","-c"],"commands":["trap '' TERM; echo $$ > pid; while :; do sleep 1; done"]}}}`
	cut := make(chan error, 1)
	go func() {
		_, _, err := call(t.Context(), http.MethodPost, first.url+"/step", step)
		cut <- err
	}()
	pid := awaitFile(t, filepath.Join(volume+"-st1", "pid"))
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err == nil {
		t.Error("the call of a killed runner has an answer")
	}
	// It is not waited for: its number stays taken.

	second := startHost(t, args...)
	if _, err := os.Stat("/proc/" + pid + "/exe"); err == nil {
		t.Errorf("process %s of the killed runner still runs", pid)
	}
	status, body := second.post(t, "/step", step)
	var answer struct {
		Exited   bool   `json:"exited"`
		ExitCode int    `json:"exit_code"`
		Error    string `json:"error"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 || answer.ExitCode != 255 || !strings.Contains(answer.Error, "runner was stopped while the step ran") {
		t.Errorf("the step that was killed: %d %s, %v", status, body, err)
	}
	status, body = second.post(t, "/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"next","output_vars":["OUT"],"run":{"entrypoint":["sh","-c"],"commands":["export OUT=$A$(wc -l < pid)"]}}}`)
	if status != 200 || !strings.Contains(body, `"OUT": "11"`) {
		t.Errorf("the next step: %d %s", status, body)
	}
	if status, body := second.post(t, "/destroy", `{"id":"st1"}`); status != 200 || body != "{}\n" {
		t.Errorf("destroy: %d %s", status, body)
	}
	if left, err := filepath.Glob(volume + "*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestARunnerThatIsToldToStopDrains: stages go on until they end, or until
// somebody is in a hurry, and those that are left are kept.
func TestARunnerThatIsToldToStopDrains(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"runner-agent", "host", "--bind", "127.0.0.1:0", "--data-dir", dir}
	p := startHost(t, args...)
	for _, id := range []string{"a", "b"} {
		if status, body := p.post(t, "/setup", `{"id":"`+id+`","setup_request":{}}`); status != 200 {
			t.Fatalf("setup: %d %s", status, body)
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.lines.await(t, "draining")
	status, body, err := call(t.Context(), http.MethodGet, p.url+"/healthz", "")
	if err != nil || status != 503 || !strings.Contains(body, `"state": "draining"`) {
		t.Errorf("health: %d %s, %v", status, body, err)
	}
	if status, body := p.post(t, "/setup", `{"id":"c","setup_request":{}}`); status != 500 || !strings.Contains(body, "takes no new stages") {
		t.Errorf("a new stage: %d %s", status, body)
	}
	if status, _ := p.post(t, "/destroy", `{"id":"a"}`); status != 200 {
		t.Errorf("destroy: %d", status)
	}
	cut := make(chan string, 1)
	go func() {
		_, text, err := call(t.Context(), http.MethodPost, p.url+"/step", `{"stage_runtime_id":"b","start_step_request":{"id":"s","run":{"entrypoint":["sh","-c"],"commands":["echo $$ > pid; sleep 300"]}}}`)
		cut <- fmt.Sprint(text, err)
	}()
	awaitFile(t, filepath.Join(dir, "work", "w-b", "pid"))
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if answer := <-cut; !strings.Contains(answer, `"exited": true`) || !strings.Contains(answer, "exit_code") {
		t.Errorf("a step that runs when the time is up: %s", answer)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after the second SIGTERM: %v", err)
	}
	p = startHost(t, args...)
	if status, body := p.post(t, "/destroy", `{"id":"b"}`); status != 200 || body != "{}\n" {
		t.Errorf("destroy of a stage of the earlier run: %d %s", status, body)
	}
}

func TestHostStatusAndItsToken(t *testing.T) { // not parallel: urfave/cli shares its own flags
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startHost(t, "runner-agent", "host", "--bind", "0.0.0.0:0", "--data-dir", filepath.Join(dir, "data"), "--token-file", token, "--max-stages", "3")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	at := "http://127.0.0.1:" + port
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"runner-agent", "host", "status", "--url", at}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "RUNNER_HOST_TOKEN") {
		t.Errorf("without the token: %d %s %s", code, &out, &errs)
	}
	out.Reset()
	errs.Reset()
	if code := run(t.Context(), []string{"runner-agent", "host", "status", "--url", at, "--token-file", token}, &out, &errs); code != 0 || !strings.Contains(out.String(), "serving, version dev: stages running: 0, waiting: 0") {
		t.Errorf("exit %d: %s %s", code, &out, &errs)
	}
	out.Reset()
	var s map[string]any
	code := run(t.Context(), []string{"runner-agent", "host", "status", "--json", "--url", at, "--token-file", token}, &out, &errs)
	if err := json.Unmarshal(out.Bytes(), &s); code != 0 || err != nil || s["limits"].(map[string]any)["stages"] != 3.0 {
		t.Errorf("exit %d: %v, %s", code, err, &out)
	}
}

func TestHostRefusesWhatItCannotServe(t *testing.T) { // not parallel: urfave/cli shares its own flags
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cases := []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"all interfaces without protection", []string{"--bind", ":3000"}, 1, []string{"listen on :3000", "--token-file", "SERVER_INSECURE=false", "DRONE_HTTP_ALLOW"}},
		{"settings of the wrong type, all at once", []string{"--wait", "10", "--stage-memory", "much", "--max-stages", "x", "--allow", "nobody"}, 1, []string{`--wait is "10", want a duration`, `--stage-memory is "much"`, `--max-stages is "x"`, `"nobody"`}},
		{"a mount without target", []string{"--mount-volumes", "/a;/b,/c"}, 1, []string{`CI_MOUNT_VOLUMES: entry 2 (column 7) "/c": has no target`}},
		{"a mount whose source is missing", []string{"--mount-volumes", filepath.Join(dir, "none") + ":/b"}, 1, []string{filepath.Join(dir, "none"), "does not exist"}},
		{"an empty token", []string{"--token-file", empty}, 1, []string{"is empty"}},
		{"mutual TLS without certificates", []string{"--insecure", "false", "--ca-file", filepath.Join(dir, "none")}, 1, []string{"runner-agent certs"}},
		{"an address that is taken", []string{"--bind", taken.Addr().String()}, 1, []string{"address already in use", "--bind"}},
		{"an unknown word", []string{"dance"}, 2, []string{`unknown command "dance"`}},
		{"an unknown flag", []string{"--dance"}, 2, []string{"dance"}},
		{"an unknown flag of a part", []string{"doctor", "--dance"}, 2, []string{"dance"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append([]string{"runner-agent", "host"}, c.args...)
			if c.args[0] != "dance" && c.args[0] != "doctor" {
				args = slices.Insert(args, 2, "--data-dir", filepath.Join(dir, "data"))
			}
			code := run(t.Context(), args, &out, &errs)
			for _, want := range c.want {
				if code != c.code || !strings.Contains(errs.String(), want) {
					t.Errorf("exit %d, want %d and %q: %s", code, c.code, want, &errs)
				}
			}
		})
	}
}

func TestHostDoctorEndsWithOneWhereStagesFail(t *testing.T) { // not parallel: urfave/cli shares its own flags
	t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"runner-agent", "host", "doctor", "--json", "--data-dir", t.TempDir()}, &out, &errs)
	var found []struct{ Check, Level, Text, Remedy string }
	if err := json.Unmarshal(out.Bytes(), &found); code != 1 || err != nil || len(found) < 3 {
		t.Fatalf("exit %d, %v: %s %s", code, err, &out, &errs)
	}
	last := found[len(found)-1]
	if last.Check != "docker" || last.Level != "failure" || last.Remedy == "" {
		t.Errorf("%+v", last)
	}
}

func TestHostSettings(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		".env":      "SERVER_HTTPS_BIND=127.0.0.1:1\nNETWORK_DRIVER=from-dot-env\nRUNNER_HOST_WAIT=1m\nDELEGATE_SECRET=x\n",
		"other.env": "NETWORK_DRIVER=from-file\nDELEGATE_CAPACITY=7\nRUNNER_HOST_WAIT=2m\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SERVER_HTTPS_BIND", "127.0.0.1:2")
	t.Setenv("HTTPS_BIND", "127.0.0.1:3")
	t.Setenv("CI_MOUNT_VOLUMES", "/a;/b")
	t.Setenv("RUNNER_HOST_DRAIN", "")
	var got hostSettings
	app := &cli.App{Flags: hostFlags(), Action: func(c *cli.Context) (err error) {
		got, err = readHostSettings(c, slog.New(slog.DiscardHandler))
		return err
	}}
	if err := app.Run([]string{"x", "--env-file", "other.env", "--stage-cpus", "2", "--stage-memory", "3GiB", "--data-dir", "state"}); err != nil {
		t.Fatal(err)
	}
	if got.bind != "127.0.0.1:2" {
		t.Errorf("bind is %q: the environment wins over .env, the prefixed name over the other", got.bind)
	}
	if got.networkDriver != "from-dot-env" || got.wait != time.Minute {
		t.Errorf("driver %q, wait %s: .env wins over the file", got.networkDriver, got.wait)
	}
	if got.limits.Stages != 7 || got.limits.CPUs != 2 || got.limits.Memory != 3<<30 || got.limits.Disk != 2<<30 {
		t.Errorf("limits %+v", got.limits)
	}
	if got.drain != 10*time.Minute || len(got.mounts) != 1 || got.dataDir != filepath.Join(dir, "state") || got.certs != nil {
		t.Errorf("%+v", got)
	}
	if len(got.notices) != 1 || !strings.Contains(got.notices[0], "DELEGATE_SECRET has no effect") {
		t.Errorf("notices %q", got.notices)
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{"0": 0, "5": 5, "2KiB": 2048, "1500MiB": 1500 << 20, "2 GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, ok := parseSize(text); !ok || got != want {
			t.Errorf("%q: %d %v, want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "-1", "1GB", "GiB", "1.5GiB", "99999999TiB", "99999999999999999999"} {
		if got, ok := parseSize(text); ok {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestHostInstallPrintsWhatItWouldWrite(t *testing.T) { // not parallel: urfave/cli shares its own flags
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"runner-agent", "host", "install", "--print", "--env-file", "settings.env", "--drain", "1m"}, &out, &errs)
	wd, err := os.Getwd()
	if code != 0 || err != nil || !strings.Contains(out.String(), filepath.Join(wd, "settings.env")) || !strings.Contains(out.String(), "1m0s") || !strings.Contains(errs.String(), "harness-docker-runner") {
		t.Errorf("exit %d, %v: %s %s", code, err, &out, &errs)
	}
}
