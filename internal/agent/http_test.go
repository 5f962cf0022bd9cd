//go:build unix

package agent_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// golden compares an answer, headers included, with a file.
func golden(t *testing.T, name string, a answer) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", a.status)
	for _, h := range []string{"Allow", "Content-Type", "Expires", "Cache-Control", "Pragma", "X-Accel-Expires", "X-Content-Type-Options"} {
		if v := a.header.Get(h); v != "" {
			fmt.Fprintf(&b, "%s: %s\n", h, v)
		}
	}
	b.WriteString("\n" + a.body)
	path := filepath.Join("testdata", "http", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestAnswersKeepTheirShape(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *agent.Options) { o.Env = []string{"PATH=" + os.Getenv("PATH")} })
	if a := r.post("/setup", `{"mount_docker_socket":false,"network":{"id":"drone"},"volumes":[],"log_config":{},"ti_config":{}}`); a.status != 200 {
		t.Fatalf("setup: %+v", a)
	}
	r.run(sh("done", "printf 'hi <&>'"))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, method, path, body string }{
		{"setup", "POST", "/setup", `{"mount_docker_socket":false}`},
		{"setup_null", "POST", "/setup", `null`},
		{"setup_slash", "POST", "/setup/", `{}`},
		{"setup_broken", "POST", "/setup", `{bad`},
		{"setup_array", "POST", "/setup", `[]`},
		{"setup_wrong_type", "POST", "/setup", `{"timeout":"x"}`},
		{"setup_unknown_key", "POST", "/setup", `{"not_a_key":{"deep":[1,{}]}}`},
		{"setup_gzip", "POST", "/setup", zipped.String()},
		{"start_no_id", "POST", "/start_step", `{}`},
		{"start_empty", "POST", "/start_step", ``},
		{"start_twice", "POST", "/start_step", `{"id":"done"}`},
		{"start_odd_case", "POST", "/start_step", `{"ID":"odd","LOG_DRONE":true,"Run":{"EntryPoint":["true"]}}`},
		{"poll", "POST", "/poll_step", `{"id":"done"}`},
		{"poll_slash", "POST", "/poll_step/", `{"id":"done"}`},
		{"poll_no_id", "POST", "/poll_step", `{}`},
		{"poll_unknown", "POST", "/poll_step", `{"id":"nobody"}`},
		{"stream", "POST", "/stream_output", `{"id":"done","offset":3}`},
		{"stream_at_end", "POST", "/stream_output", `{"id":"done","offset":6}`},
		{"stream_beyond", "POST", "/stream_output", `{"id":"done","offset":7}`},
		{"stream_negative", "POST", "/stream_output", `{"id":"done","offset":-1}`},
		{"stream_no_id", "POST", "/stream_output", `{}`},
		{"stream_unknown", "POST", "/stream_output", `{"id":"nobody"}`},
		{"suspend", "POST", "/suspend", `{"log_key":"k","labels":{"a":"b"},"lite_engine_path":"/x"}`},
		{"destroy_empty_body", "POST", "/destroy", ``},
		{"mint", "POST", "/mint_workload_token", `{"handle":"h"}`},
		{"unknown_route", "GET", "/nothing", ``},
		{"root", "GET", "/", ``},
		{"wrong_method_get", "GET", "/setup", ``},
		{"wrong_method_post", "POST", "/healthz", ``},
		{"wrong_method_delete", "DELETE", "/destroy/", ``},
		{"temp_volume", "POST", "/setup", `{"volumes":[{"temp":{"id":"v","name":"cache"}}]}`},
		{"egress", "POST", "/setup", `{"egress_policy":{"proxy_url":"ftp://p"}}`},
		{"health_bad_number", "GET", "/healthz?perform_dns_lookup=true&connectivity_check_duration_seconds=x", ``},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			golden(t, c.name+".txt", r.do(c.method, c.path, c.body))
		})
	}
}

func TestHealthTellsWhatItKnows(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *agent.Options) { o.Version, o.Machine, o.DockerHost = "1.2.3", "m-9", "tcp://x" })
	r.setup(agentapi.SetupRequest{})
	s := sh("bg", "sleep 300")
	s.Run.Entrypoint[0] = "/bin/sh"
	s.Detach = true
	s.Environment = map[string]string{"PATH": os.Getenv("PATH")}
	r.start(s)
	var got agentapi.HealthResponse
	a := r.do(http.MethodGet, "/healthz/", "")
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	want := agentapi.HealthResponse{Version: "1.2.3", OK: true, Docker: "present", RunningSteps: 1, Machine: "m-9", Used: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("health (-want +got):\n%s", diff)
	}
}

func TestNothingIsServedWhileTheAgentPrepares(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.agent.Preparing("clock")
	golden(t, "health_preparing.txt", r.do(http.MethodGet, "/healthz", ""))
	golden(t, "setup_preparing.txt", r.post("/setup", "{}"))
	r.agent.Preparing("")
	if a := r.do(http.MethodGet, "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("health when prepared: %+v", a)
	}
}

func TestHealthChecksTheWayOutOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	r := newRig(t, func(o *agent.Options) {
		o.CheckOut = func(context.Context) error {
			if calls.Add(1) == 2 {
				return errors.New("connectivity check: no way out")
			}
			return nil
		}
	})
	if a := r.do(http.MethodGet, "/healthz?connectivity_check_duration_seconds=3", ""); a.status != http.StatusOK || calls.Load() != 0 {
		t.Fatalf("not asked for: %d after %d checks", a.status, calls.Load())
	}
	golden(t, "health_no_way_out.txt", r.do(http.MethodGet, "/healthz?perform_dns_lookup=true&connectivity_check_duration_seconds=60", ""))
	if a := r.do(http.MethodGet, "/healthz?perform_dns_lookup=true&connectivity_check_duration_seconds=1", ""); a.status != http.StatusOK {
		t.Errorf("with a way out: %+v", a)
	}
	if calls.Load() < 4 {
		t.Errorf("%d checks in all, want several in a second", calls.Load())
	}
}

// panicking is a spawner with a bug, which shows at one program.
type panicking struct{}

func (panicking) Start(cmd *exec.Cmd) error {
	if cmd.Path == "/crash" {
		panic("spawner is broken")
	}
	return cmd.Start()
}
func (panicking) Exited(*exec.Cmd) {}

func TestAPanicTakesNeitherTheAgentNorAnotherStepDown(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *agent.Options) {
		o.CheckOut = func(context.Context) error { panic("check is broken") }
		o.Spawner = panicking{}
	})
	gate := r.path("gate")
	r.start(sh("other", "echo first; while ! [ -e "+gate+" ]; do sleep 0.02; done; echo last; exit 4"))
	r.shows("other", "first\n")
	a := r.do(http.MethodGet, "/healthz?perform_dns_lookup=true", "")
	golden(t, "panic.txt", a)
	crash := sh("s", "true")
	crash.Run.Entrypoint = []string{"/crash"}
	got := r.run(crash)
	want := agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: "1 error occurred:\n\t* internal error: spawner is broken\n\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("step (-want +got):\n%s", diff)
	}
	if a := r.do(http.MethodGet, "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("health afterwards: %+v", a)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, out := r.poll("other"), r.output("other"); got.ExitCode != 4 || out != "first\nlast\n" {
		t.Errorf("the other step: %+v, output %q", got, out)
	}
}

func TestStreamIsHeldForAStepThatIsAboutToStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	got := make(chan answer, 1)
	go func() { got <- r.post("/stream_output", `{"id":"later"}`) }()
	r.run(sh("other", "true")) // wakes the waiting stream for nothing
	r.start(sh("later", "echo hello"))
	if a := <-got; a.status != http.StatusOK || a.body != "hello\n" {
		t.Errorf("stream: %+v", a)
	}
}

func TestStreamFollowsLiveInSmallPieces(t *testing.T) {
	t.Parallel()
	for _, proto := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP/%d", proto), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			client := clientOf(t, r.certs, proto == 2)
			defer client.CloseIdleConnections()
			gate := r.path("gate")
			r.start(sh("s", "echo one; while ! [ -e "+gate+" ]; do sleep 0.02; done; printf 'two, no newline'"))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/stream_output", strings.NewReader(`{"id":"s"}`))
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.ProtoMajor != proto {
				t.Errorf("protocol %s", res.Proto)
			}
			in := bufio.NewReader(res.Body)
			if line, err := in.ReadString('\n'); err != nil || line != "one\n" {
				t.Fatalf("first line %q, %v", line, err)
			}
			if err := os.WriteFile(gate, nil, 0o600); err != nil { // only now may it go on
				t.Fatal(err)
			}
			var rest bytes.Buffer
			if _, err := in.WriteTo(&rest); err != nil {
				t.Fatal(err)
			}
			if rest.String() != "two, no newline" {
				t.Errorf("rest %q", rest.String())
			}
		})
	}
}

func TestAPollEndsWhenItsClientGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(sh("s", "sleep 300"))
	before := r.agent.Waiting()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/poll_step", strings.NewReader(`{"id":"s"}`))
		if err != nil {
			done <- err
			return
		}
		_, err = r.client.Do(req)
		done <- err
	}()
	eventually(t, "a waiting poll", func() bool { return r.agent.Waiting() == before+1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("poll: %v", err)
	}
	eventually(t, "the poll's end in the agent", func() bool { return r.agent.Waiting() == before })
}

func TestPingsAreAnsweredDuringALongPoll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	client := clientOf(t, r.certs, true)
	defer client.CloseIdleConnections()
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		t.Fatal("no transport")
	}
	// Far more often than any caller: a ping after each 20 ms of silence.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 20 * time.Millisecond, PingTimeout: 20 * time.Second}
	r.start(sh("s", "sleep 1"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/poll_step", strings.NewReader(`{"id":"s"}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("poll: %v", err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 || res.StatusCode != http.StatusOK {
		t.Errorf("%s %s", res.Proto, res.Status)
	}
}
