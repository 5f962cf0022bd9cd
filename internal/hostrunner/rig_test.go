package hostrunner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rig is a runner over HTTP whose data directory is the test's.
type rig struct {
	t    *testing.T
	r    *Runner
	url  string
	dir  string // of the test
	stop func() // the server and the runner; the stages stay
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, dir: t.TempDir()}
	g.start(change...)
	t.Cleanup(func() { g.stop() })
	return g
}

// start begins a run over the data directory.
func (g *rig) start(change ...func(*Config)) {
	g.t.Helper()
	c := Config{
		DataDir: filepath.Join(g.dir, "data"), Environ: os.Environ(),
		Facts:  func() (Facts, error) { return Facts{CPUs: 64}, nil },
		Docker: func(context.Context) error { return errors.New("no docker here") },
		Log:    slog.New(slog.NewTextHandler(g.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	if g.r, err = New(g.t.Context(), c); err != nil {
		g.t.Fatal(err)
	}
	srv := httptest.NewServer(g.r.Handler(Access{}))
	g.url = srv.URL
	stopped := false
	g.stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := g.r.Close(); err != nil {
			g.t.Errorf("close: %v", err)
		}
		srv.Close()
	}
}

// answer is what a call was answered.
type answer struct {
	status int
	header http.Header
	body   string
}

func (g *rig) call(method, path, body string) answer {
	g.t.Helper()
	a, err := request(g.t.Context(), method, g.url+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

func request(ctx context.Context, method, url, body string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(text)}, err
}

func (g *rig) post(path, format string, args ...any) answer {
	g.t.Helper()
	return g.call(http.MethodPost, path, fmt.Sprintf(format, args...))
}

// setup sets a stage up whose harness volume is below the test's directory.
func (g *rig) setup(id string) answer {
	g.t.Helper()
	a := g.post("/setup", `{"id":%q,"pool_id":"any","setup_request":{"network":{"id":"n"},"volumes":[{"host":{"id":"harness","name":"harness","path":%q,"create":true,"remove":true}}]}}`, id, g.harness())
	if a.status != http.StatusOK {
		g.t.Fatalf("setup of %s: %d %s", id, a.status, a.body)
	}
	return a
}

func (g *rig) harness() string { return filepath.Join(g.dir, "harness") }

// stageDir is the folder of a stage with a plain id.
func (g *rig) stageDir(id string) string { return g.harness() + "-" + id }

// shell is the body of a step that runs a script.
func shell(stage, id, script string) string {
	text, _ := json.Marshal(script) // a string
	return fmt.Sprintf(`{"stage_runtime_id":%q,"start_step_request":{"id":%q,"run":{"entrypoint":["sh","-c"],"commands":[%s]}}}`, stage, id, text)
}

// stepAnswer is the part of a step's answer tests look at.
type stepAnswer struct {
	Exited    bool              `json:"exited"`
	ExitCode  int               `json:"exit_code"`
	Error     string            `json:"error"`
	Outputs   map[string]string `json:"outputs"`
	Telemetry json.RawMessage   `json:"telemetry"`
	Data      json.RawMessage   `json:"telemetry_data"`
	Message   string            `json:"error_msg"`
	status    int
}

func (a answer) step(t *testing.T) stepAnswer {
	t.Helper()
	s := stepAnswer{status: a.status}
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
	return s
}

// run runs a step with an output variable OUT.
func (g *rig) run(stage, id, script string) stepAnswer {
	g.t.Helper()
	text, _ := json.Marshal(script) // a string
	return g.post("/step", `{"stage_runtime_id":%q,"start_step_request":{"id":%q,"output_vars":["OUT"],"run":{"entrypoint":["sh","-c"],"commands":[%s]}}}`, stage, id, text).step(g.t)
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within 20 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// oneDocument checks that a body is one JSON object with a message in it.
func oneDocument(t *testing.T, a answer) string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader([]byte(a.body)))
	var doc struct {
		Message string `json:"error_msg"`
	}
	if err := dec.Decode(&doc); err != nil || doc.Message == "" {
		t.Errorf("%q: %v", a.body, err)
	}
	if dec.More() {
		t.Errorf("%q is more than one document", a.body)
	}
	if a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-cache, private, max-age=0" {
		t.Errorf("headers %v", a.header)
	}
	return doc.Message
}
