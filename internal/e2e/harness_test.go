//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// built is where TestMain put the binaries and the image.
var built struct {
	runner, agent, images string
}

func TestMain(m *testing.M) {
	code, err := withBinaries(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// withBinaries builds both programs and the image once for all tests. Packages
// for the image are kept in the user's cache, so that they are fetched once.
func withBinaries(run func() int) (int, error) {
	qemu := "qemu-system-" + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	if _, err := exec.LookPath(qemu); err != nil {
		return 0, fmt.Errorf("%s is missing: make test installs it", qemu)
	}
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	built.runner, built.agent = filepath.Join(dir, "drone-runner-aws"), filepath.Join(dir, "runner-agent")
	for _, b := range []struct{ out, pkg, cgo string }{
		{built.runner, "../../cmd/drone-runner-aws", "CGO_ENABLED=1"},
		{built.agent, "../../cmd/runner-agent", "CGO_ENABLED=0"},
	} {
		cmd := exec.Command("go", "build", "-o", b.out, b.pkg)
		cmd.Env = append(os.Environ(), b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w\n%s", b.pkg, err, out)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = dir
	}
	built.images = filepath.Join(cache, "drone-runner-aws", "e2e")
	if err := os.MkdirAll(built.images, 0o700); err != nil {
		return 0, err
	}
	// The packages other tests have fetched are not fetched again.
	if shared := os.Getenv("TEST_IMAGE_DIR"); shared != "" {
		if err := os.MkdirAll(filepath.Join(built.images, "images"), 0o700); err != nil {
			return 0, err
		}
		cached := filepath.Join(built.images, "images", ".cache")
		if err := os.Symlink(filepath.Join(shared, "packages"), cached); err != nil && !errors.Is(err, fs.ErrExist) {
			return 0, err
		}
	}
	cmd := exec.Command(built.runner, "image", "build", "tiny", "--data-dir", built.images, "--agent", built.agent)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("image build tiny: %w", err)
	}
	return run(), nil
}

// runner is one data directory and the process that serves it now.
type runner struct {
	t    *testing.T
	dir  string
	addr string
	env  []string

	cmd  *exec.Cmd
	exit chan error
	log  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// ranges gives every test a range of loopback addresses of its own.
var ranges struct {
	sync.Mutex
	n int
}

func addressRange() string {
	ranges.Lock()
	defer ranges.Unlock()
	ranges.n++
	return fmt.Sprintf("127.80.%d.0/24", ranges.n)
}

// newRunner makes a data directory with a pool of real machines. RANGE in the
// pool file becomes a range of addresses of the test's own.
func newRunner(t *testing.T, poolFile string) *runner {
	t.Helper()
	dir := t.TempDir()
	poolFile = strings.ReplaceAll(poolFile, "RANGE", addressRange())
	if err := os.WriteFile(filepath.Join(dir, "pool.yml"), []byte(poolFile), 0o600); err != nil {
		t.Fatal(err)
	}
	// The same images for all: a link, and templates are made once.
	if err := os.Symlink(filepath.Join(built.images, "images"), filepath.Join(dir, "images")); err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, dir: dir, log: &lockedBuffer{}}
	t.Cleanup(r.cleanup)
	return r
}

// newRunnerWithOwnImages has a folder of images that no other test shares.
func newRunnerWithOwnImages(t *testing.T, poolFile string) *runner {
	t.Helper()
	r := newRunner(t, poolFile)
	images := filepath.Join(r.dir, "images")
	if err := os.Remove(images); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

const twoWarm = `
version: "1"
instances:
  - name: local
    default: true
    type: qemu
    pool: 2
    limit: 4
    platform: {os: linux}
    spec: {image: tiny, address_range: RANGE}
`

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// exec runs the program, on a port of its own.
func (r *runner) exec() {
	r.t.Helper()
	r.addr = freePort(r.t)
	cmd := exec.Command(built.runner, "delegate", "--pool", filepath.Join(r.dir, "pool.yml"))
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), append([]string{"DRONE_HTTP_BIND=" + r.addr}, r.env...)...)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	exit := make(chan error, 1)
	go func() { exit <- cmd.Wait() }()
	r.cmd, r.exit = cmd, exit
}

// start runs the program and waits until it answers.
func (r *runner) start() {
	r.t.Helper()
	r.exec()
	r.eventually(time.Minute, "readyz", func() error {
		res, err := http.Get("http://" + r.addr + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != 200 {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	})
}

// kill ends the program as power loss would.
func (r *runner) kill() {
	r.t.Helper()
	_ = r.cmd.Process.Kill() // it may have ended by itself
	<-r.exit
	r.cmd = nil
}

// stop asks the program to stop and returns its exit code.
func (r *runner) stop() int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	select {
	case err := <-r.exit:
		r.cmd = nil
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			return ee.ExitCode()
		}
		return 0
	case <-time.After(60 * time.Second):
		r.t.Fatal("the runner did not stop within a minute of SIGTERM")
		return -1
	}
}

// cleanup leaves no process behind, whatever the test did.
func (r *runner) cleanup() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		<-r.exit
	}
	for _, p := range r.machineProcesses() {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	if r.t.Failed() {
		r.t.Logf("log of the runner:\n%s", r.log)
		consoles, _ := filepath.Glob(filepath.Join(r.dir, "machines", "*", "console*"))
		for _, c := range consoles {
			b, _ := os.ReadFile(c)
			r.t.Logf("%s:\n%s", c, b[max(0, len(b)-2000):])
		}
	}
}

// machineProcesses are the QEMU processes of this data directory, found as an
// auditor would: by looking at every process of the host.
func (r *runner) machineProcesses() []int {
	var out []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range procs {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(b, []byte("qemu-system")) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			continue
		}
		if bytes.Contains(b, []byte(r.dir)) || r.opens(pid) {
			out = append(out, pid)
		}
	}
	return out
}

// opens says whether a process has a file of the data directory open.
func (r *runner) opens(pid int) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, r.dir+"/") {
			return true
		}
	}
	return false
}

// folders are the machines on disk.
func (r *runner) folders() []string {
	dirs, _ := filepath.Glob(filepath.Join(r.dir, "machines", "*", "meta.json"))
	return dirs
}

func (r *runner) eventually(d time.Duration, what string, f func() error) {
	r.t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %s: %v", what, d, err)
		}
		if r.exit != nil {
			select {
			case werr := <-r.exit:
				r.exit <- werr
				r.t.Fatalf("%s: the runner has ended (%v): %v\n%s", what, werr, err, r.log)
			case <-tick.C:
			}
			continue
		}
		<-tick.C
	}
}

// answer is one HTTP answer.
type answer struct {
	status int
	body   []byte
}

func (a answer) json(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("answer %d %q: %v", a.status, a.body, err)
	}
}

func (r *runner) post(ctx context.Context, path string, body any) (answer, error) {
	b, err := json.Marshal(body)
	if s, ok := body.(string); ok {
		b, err = []byte(s), nil
	}
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.addr+path, bytes.NewReader(b))
	if err != nil {
		return answer{}, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, out}, err
}

// must posts and wants the status.
func (r *runner) must(status int, path string, body any) answer {
	r.t.Helper()
	a, err := r.post(r.t.Context(), path, body)
	if err != nil {
		r.t.Fatalf("POST %s: %v", path, err)
	}
	if a.status != status {
		r.t.Fatalf("POST %s: status %d, want %d: %s", path, a.status, status, a.body)
	}
	return a
}

func (r *runner) get(path string, v any) error {
	res, err := http.Get("http://" + r.addr + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("GET %s: %d %s", path, res.StatusCode, b)
	}
	if s, ok := v.(*string); ok {
		*s = string(b)
		return nil
	}
	return json.Unmarshal(b, v)
}

// instance is a row as /v1 shows it, as far as tests look.
type instance struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	State   string `json:"state"`
	LeaseID string `json:"lease_id"`
}

func (r *runner) instances() []instance {
	r.t.Helper()
	var out struct {
		Instances []instance `json:"instances"`
	}
	if err := r.get("/v1/instances", &out); err != nil {
		r.t.Fatal(err)
	}
	live := out.Instances[:0]
	for _, i := range out.Instances {
		if i.State != "gone" {
			live = append(live, i)
		}
	}
	return live
}

func (r *runner) countState(state string) int {
	n := 0
	for _, i := range r.instances() {
		if i.State == state {
			n++
		}
	}
	return n
}

func (r *runner) waitWarm(n int) {
	r.t.Helper()
	r.eventually(4*time.Minute, fmt.Sprintf("%d warm machines", n), func() error {
		if got := r.countState("warm"); got < n {
			return fmt.Errorf("%d warm: %+v", got, r.instances())
		}
		return nil
	})
}

// audit compares processes, folders and rows: each machine has one of each.
func (r *runner) audit() {
	r.t.Helper()
	r.eventually(time.Minute, "processes, folders and rows agree", func() error {
		rows := 0
		for _, i := range r.instances() {
			switch i.State {
			case "warm", "leased":
				rows++
			case "suspended":
			default:
				return fmt.Errorf("%s is %s", i.Name, i.State)
			}
		}
		if procs := len(r.machineProcesses()); procs != rows {
			return fmt.Errorf("%d QEMU processes, %d rows of running machines", procs, rows)
		}
		if dirs := len(r.folders()); dirs != len(r.instances()) {
			return fmt.Errorf("%d folders, %d rows", dirs, len(r.instances()))
		}
		return nil
	})
}

// setup takes a machine for a build.
func (r *runner) setup(id string) setupAnswer {
	r.t.Helper()
	var out setupAnswer
	r.must(200, "/setup", buildSetup(id)).json(r.t, &out)
	return out
}

type setupAnswer struct {
	IPAddress  string          `json:"ip_address"`
	InstanceID string          `json:"instance_id"`
	Ports      map[string]int  `json:"gitspaces_port_mappings"`
	Info       json.RawMessage `json:"instance_info"`
}

func buildSetup(id string) map[string]any {
	return map[string]any{
		"id": id, "pool_id": "local",
		"setup_request": map[string]any{
			"envs": map[string]string{"CI": "true", "STAGE_VAR": "from-setup"}, "network": map[string]string{"id": "drone"},
			"mount_docker_socket": false, "log_config": map[string]any{}, "ti_config": map[string]any{},
		},
	}
}

// stepAnswer is the part of a PollStepResponse tests look at.
type stepAnswer struct {
	Exited   bool              `json:"exited"`
	ExitCode int               `json:"exit_code"`
	Error    string            `json:"error"`
	Outputs  map[string]string `json:"outputs"`
}

func stepBody(stage, step, script string, more map[string]any) map[string]any {
	s := map[string]any{
		"id": step, "name": step, "kind": "Run", "log_key": step, "mount_docker_socket": false,
		"run": map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{script}},
	}
	for k, v := range more {
		s[k] = v
	}
	return map[string]any{"stage_runtime_id": stage, "start_step_request": s}
}

func (r *runner) step(stage, step, script string, more map[string]any) stepAnswer {
	r.t.Helper()
	var out stepAnswer
	r.must(200, "/step", stepBody(stage, step, script, more)).json(r.t, &out)
	return out
}

func (r *runner) output(stage, step string) string {
	r.t.Helper()
	var out string
	if err := r.get("/v1/leases/"+stage+"/steps/"+step+"/log?offset=0", &out); err != nil {
		r.t.Fatal(err)
	}
	return out
}
