//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

var update = flag.Bool("update", false, "write the golden files")

const serverName = "runner.test"

// patience bounds every wait of these tests; none of them measures time.
const patience = 60 * time.Second

// noDocker is where there is no daemon.
const noDocker = "unix:///no/docker.sock"

// rig is an agent that listens on loopback with mutual TLS, and its caller.
type rig struct {
	t      testing.TB
	agent  *agent.Agent
	url    string
	addr   string
	client *http.Client
	certs  *agent.Certificates
	shared string
	state  string
	work   string
	stop   context.CancelFunc
}

func newRig(t testing.TB, change ...func(*agent.Options)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, shared: filepath.Join(dir, "engine"), state: filepath.Join(dir, "state"), work: filepath.Join(dir, "work")}
	if err := os.Mkdir(r.work, 0o755); err != nil {
		t.Fatal(err)
	}
	// A Docker daemon of the host is none of these tests' business.
	o := agent.Options{SharedDir: r.shared, StateDir: r.state, DockerHost: noDocker, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&o)
	}
	if o.DockerHost == noDocker {
		o.DockerPatience = time.Millisecond // none will come
	}
	var err error
	if r.agent, err = agent.New(o); err != nil {
		t.Fatal(err)
	}
	if r.certs, err = agent.NewCertificates(serverName, time.Now()); err != nil {
		t.Fatal(err)
	}
	conf, err := r.agent.TLSConfig(r.certs.CACert, r.certs.Cert, r.certs.Key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	r.url = "https://" + r.addr
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r.stop = cancel
	served := make(chan error, 1)
	go func() { served <- r.agent.Serve(ctx, ln, conf) }()
	r.client = clientOf(t, r.certs, true)
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

func clientOf(t testing.TB, certs *agent.Certificates, h2 bool) *http.Client {
	t.Helper()
	pair, err := tls.X509KeyPair(certs.Cert, certs.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certs.CACert)
	return &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: h2,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (r *rig) do(method, path, body string) answer {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

func (r *rig) post(path, body string) answer { r.t.Helper(); return r.do(http.MethodPost, path, body) }

// ok posts in and decodes the answer into out, which must be a success.
func (r *rig) ok(path string, in, out any) {
	r.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		r.t.Fatal(err)
	}
	a := r.post(path, string(body))
	if a.status != http.StatusOK {
		r.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), out); err != nil {
		r.t.Fatalf("%s: %q: %v", path, a.body, err)
	}
}

func (r *rig) setup(s agentapi.SetupRequest) {
	r.t.Helper()
	r.ok(agentapi.PathSetup, s, &agentapi.Empty{})
}

func (r *rig) start(s agentapi.StartStepRequest) {
	r.t.Helper()
	r.ok(agentapi.PathStartStep, s, &agentapi.Empty{})
}

func (r *rig) poll(id string) agentapi.PollStepResponse {
	r.t.Helper()
	var res agentapi.PollStepResponse
	r.ok(agentapi.PathPollStep, agentapi.PollStepRequest{ID: id}, &res)
	return res
}

func (r *rig) run(s agentapi.StartStepRequest) agentapi.PollStepResponse {
	r.t.Helper()
	r.start(s)
	return r.poll(s.ID)
}

func (r *rig) output(id string) string {
	r.t.Helper()
	a := r.post(agentapi.PathStream, `{"id":`+strconv.Quote(id)+`}`)
	if a.status != http.StatusOK {
		r.t.Fatalf("stream of %s: %d %s", id, a.status, a.body)
	}
	return a.body
}

func (r *rig) destroy() agentapi.DestroyResponse {
	r.t.Helper()
	var res agentapi.DestroyResponse
	r.ok(agentapi.PathDestroy, agentapi.DestroyRequest{}, &res)
	return res
}

// sh is a step that runs a script and reports its output and result only.
func sh(id, script string) agentapi.StartStepRequest {
	return agentapi.StartStepRequest{
		ID: id, LogDrone: true,
		Run: agentapi.RunConfig{Entrypoint: []string{"sh", "-c"}, Commands: []string{script}},
	}
}

// ci is sh as a pipeline's step, with outputs and a printed command.
func ci(id, script string) agentapi.StartStepRequest {
	s := sh(id, script)
	s.LogDrone = false
	return s
}

func (r *rig) path(name string) string { return filepath.Join(r.work, name) }

func (r *rig) read(path string) string {
	r.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// eventually polls until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("timeout waiting: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
		<-tick.C
	}
}

// pids reads numbers a script has written, one a line, once there are n.
func (r *rig) pids(path string, n int) []int {
	r.t.Helper()
	var out []int
	eventually(r.t, "process ids in "+path, func() bool {
		text, err := os.ReadFile(path)
		if err != nil || strings.Count(string(text), "\n") < n {
			return false
		}
		out = nil
		for f := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return false
			}
			out = append(out, pid)
		}
		return true
	})
	return out
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return runtime.GOOS != "linux"
	}
	_, rest, _ := bytes.Cut(text, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

func (r *rig) gone(pids []int) {
	r.t.Helper()
	for _, pid := range pids {
		eventually(r.t, "the end of process "+strconv.Itoa(pid), func() bool { return !alive(pid) })
	}
}
