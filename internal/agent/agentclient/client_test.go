package agentclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestHealthReadsWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   pool.Health
		err    string
	}{
		{"an existing agent", say(200, "{\n  \"version\": \"dev\",\n  \"ok\": true\n}"), pool.Health{Version: "dev", RunningSteps: -1}, ""},
		{"our agent with steps", say(200, `{"version":"1","ok":true,"docker":"absent","running_steps":3}`), pool.Health{Version: "1", RunningSteps: 3}, ""},
		{"our agent without steps", say(200, `{"version":"1","ok":true,"docker":"absent"}`), pool.Health{Version: "1", RunningSteps: 0}, ""},
		{"our agent, never used", say(200, `{"version":"1","ok":true,"running_steps":0,"used":false}`), pool.Health{Version: "1", Used: pool.UsedNever}, ""},
		{"our agent, used", say(200, `{"version":"1","ok":true,"running_steps":0,"used":true}`), pool.Health{Version: "1", Used: pool.UsedOnce}, ""},
		{"only the status counts", say(200, `{"version":"1","ok":false}`), pool.Health{Version: "1", RunningSteps: -1}, ""},
		{"a body that is no JSON", say(200, "fine"), pool.Health{RunningSteps: -1}, ""},
		{"no body", say(200, ""), pool.Health{RunningSteps: -1}, ""},
		{"not ready", say(503, `{"error_msg":"preparing: certificates"}`), pool.Health{}, "agent healthz: 503: preparing: certificates"},
		{"an error page", say(500, "oops\n"), pool.Health{}, "agent healthz: 500: oops"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/healthz": tc.answer})
			cfg := hasty()
			cfg.ProbeFirst = time.Hour // a probe would be counted
			got, err := newClient(t, cfg).Health(t.Context(), r.target)
			if (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if n := r.count("/healthz"); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
		})
	}
}

func TestSetupRepeatsWhatCanBeRepeated(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		calls  int
		err    string
	}{
		{"at once", say(200, "{}"), 1, ""},
		{"no content is fine", say(204, ""), 1, ""},
		{"errors, then success", inTurn(say(500, `{"error_msg":"not yet"}`), say(502, ""), say(200, "{}")), 3, ""},
		{"connections that break, then success", inTurn(cut, cut, say(200, "{}")), 3, ""},
		{"a success without a body is none", inTurn(say(200, ""), say(200, "{}")), 2, ""},
		{"a success that is no JSON is none", inTurn(say(200, "ok"), say(200, "{}")), 2, ""},
		{"too many requests is no refusal", inTurn(say(429, ""), say(200, "{}")), 2, ""},
		{"a refusal is final", say(400, `{"error_msg":"invalid character 'b'"}`), 1, "agent setup: 400: invalid character 'b'"},
		{"an unknown route is final", say(404, "404 page not found\n"), 1, "agent setup: 404: 404 page not found"},
		{"a refusal without words is final", say(405, ""), 1, "agent setup: 405: Method Not Allowed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/setup": tc.answer})
			err := newClient(t, hasty()).Setup(t.Context(), r.target, json.RawMessage(`{"envs":{"A":"b"}}`))
			if (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if n := r.count("/setup"); n != tc.calls {
				t.Errorf("asked %d times, want %d", n, tc.calls)
			}
		})
	}
}

func TestTheAgentsLastWordIsInTheError(t *testing.T) {
	t.Parallel()
	docker := say(500, `{"error_msg":"Cannot connect to the Docker daemon at unix:///var/run/docker.sock."}`)
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   []string
	}{
		{"it answers until time is up", docker, []string{"500: Cannot connect to the Docker daemon", "gave up after", "context deadline exceeded"}},
		{"it answers once and then hangs", inTurn(docker, hang), []string{"500: Cannot connect to the Docker daemon", "gave up after 1 try", "context deadline exceeded"}},
		{"it answers once and then breaks every connection", inTurn(docker, cut), []string{"500: Cannot connect to the Docker daemon", "; then agent at 127.0.0.1:", "gave up after"}},
		{"it hangs from the start", hang, []string{"agent setup at 127.0.0.1:", "context deadline exceeded"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/setup": tc.answer})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := newClient(t, hasty()).Setup(ctx, r.target, nil)
			if err == nil {
				t.Fatal("setup succeeds")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %q is no time-out", err)
			}
			if _, ok := errors.AsType[*pool.AgentError](err); ok != strings.Contains(tc.name, "answers") {
				t.Errorf("error %q carries the agent's answer: %v", err, ok)
			}
		})
	}
}

func TestStartStepHasLimitsOfItsOwn(t *testing.T) {
	t.Parallel()
	var ids sync.Map
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/start_step": inTurn(hang, func(w http.ResponseWriter, req *http.Request) {
		var body struct{ ID string }
		bodyOf(t, req, &body)
		ids.Store(body.ID, true)
		say(200, "{}")(w, req)
	})})
	cfg := hasty()
	cfg.StartTry = 200 * time.Millisecond
	if err := newClient(t, cfg).StartStep(t.Context(), r.target, json.RawMessage(`{"id":"s1"}`)); err != nil {
		t.Fatalf("a first try that hangs is not repeated: %v", err)
	}
	if _, ok := ids.Load("s1"); !ok || r.count("/start_step") < 2 {
		t.Errorf("started %v in %d tries, want s1 in the second", ok, r.count("/start_step"))
	}

	dead := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/start_step": hang})
	cfg.StartTotal = 500 * time.Millisecond
	err := newClient(t, cfg).StartStep(t.Context(), dead.target, json.RawMessage(`{"id":"s1"}`))
	if err == nil || !strings.Contains(err.Error(), "agent start_step in all took longer than 500ms") {
		t.Errorf("error %v, want one that names the limit", err)
	}
}

func TestSuspendAndDestroy(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		err    string
	}{
		{"done", say(200, `{"os_stats":{}}`), ""},
		{"an existing agent's second destroy", say(500, ""), ""},
		{"a failure with words", say(500, `{"error_msg":"destroy error: x"}`), "agent destroy: 500: destroy error: x"},
		{"another failure without words", say(502, ""), "agent destroy: 502: Bad Gateway"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/destroy": func(w http.ResponseWriter, req *http.Request) {
				var body map[string]any
				bodyOf(t, req, &body) // {} and not nothing
				tc.answer(w, req)
			}})
			err := newClient(t, hasty()).Destroy(t.Context(), r.target, nil)
			if (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if n := r.count("/destroy"); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
		})
	}
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/suspend": inTurn(say(500, `{"error_msg":"busy"}`), say(200, "{}"))})
	if err := newClient(t, hasty()).Suspend(t.Context(), r.target, nil); err != nil || r.count("/suspend") != 2 {
		t.Errorf("suspend: %v in %d tries", err, r.count("/suspend"))
	}
}

func TestOneConnectionCarriesEverything(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{
		"/setup":     say(200, "{}"),
		"/poll_step": func(w http.ResponseWriter, req *http.Request) { <-release; say(200, `{"exited":true}`)(w, req) },
	})
	cfg := hasty()
	cfg.ProbeTimeout = time.Minute // a busy host is no dead connection
	c := newClient(t, cfg)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := c.PollStep(t.Context(), r.target, string(rune('a'+i))); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "20 polls", func() bool { return r.count("/poll_step") == 20 })
	for range 20 {
		wg.Go(func() {
			if err := c.Setup(t.Context(), r.target, nil); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "20 setups", func() bool { return r.count("/setup") == 20 })
	close(release)
	wg.Wait()
	if n := r.net.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestMoreCallsThanOneConnectionTakes(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	r := newRig(t, rigOptions{streams: 5}, map[string]http.HandlerFunc{
		"/poll_step": func(w http.ResponseWriter, req *http.Request) { <-release; say(200, `{"exited":true}`)(w, req) },
	})
	cfg := hasty()
	cfg.ProbeTimeout = time.Second
	c := newClient(t, cfg)
	if _, err := c.Health(t.Context(), r.target); err != nil { // so that the limit is known
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if _, err := c.PollStep(t.Context(), r.target, string(rune('a'+i))); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "another poll", func() bool { return r.count("/poll_step") >= i+1 })
	}
	// Both connections are full. A probe that waited for a place on one would
	// take it for dead by now, and the polls would start over.
	timer := time.NewTimer(1500 * time.Millisecond)
	<-timer.C
	if n := r.count("/poll_step"); n != 10 {
		t.Errorf("polled %d times, want 10", n)
	}
	close(release)
	wg.Wait()
	c.Forget(r.target.Instance)
	eventually(t, "every connection closed", func() bool { return len(r.net.wires()) == 0 })
}

func TestConnectionIsKeptOverAPause(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{}, nil)
	cfg := hasty()
	cfg.FirstTry, cfg.ProbeTimeout = time.Minute, time.Minute // a busy host is no dead connection
	cfg.HealthTry = time.Minute
	c := newClient(t, cfg)
	if _, err := c.Health(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	r.net.freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Health(ctx, r.target); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("health of a paused machine: %v, want its own deadline", err)
	}
	// Long enough for probes, if there were any on an idle connection.
	timer := time.NewTimer(300 * time.Millisecond)
	<-timer.C
	r.net.thaw()
	if _, err := c.Health(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	if n := r.net.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestDeadConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		end  func(*network)
	}{
		{"it was reset", (*network).cutAll},
		{"it has silently gone", (*network).blackhole},
	} {
		for _, call := range []struct {
			name string
			do   func(context.Context, *agentclient.Client, pool.Target) error
		}{
			{"health", func(ctx context.Context, c *agentclient.Client, t pool.Target) error {
				_, err := c.Health(ctx, t)
				return err
			}},
			{"setup", func(ctx context.Context, c *agentclient.Client, t pool.Target) error { return c.Setup(ctx, t, nil) }},
			{"destroy", func(ctx context.Context, c *agentclient.Client, t pool.Target) error { return c.Destroy(ctx, t, nil) }},
			{"poll", func(ctx context.Context, c *agentclient.Client, t pool.Target) error {
				_, err := c.PollStep(ctx, t, "s1")
				return err
			}},
		} {
			t.Run(tc.name+", then "+call.name, func(t *testing.T) {
				t.Parallel()
				ok := say(200, "{}")
				r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/setup": ok, "/destroy": ok, "/poll_step": ok})
				cfg := hasty()
				cfg.ProbeTimeout = 200 * time.Millisecond
				c := newClient(t, cfg)
				if _, err := c.Health(t.Context(), r.target); err != nil {
					t.Fatal(err)
				}
				tc.end(r.net)
				if err := call.do(t.Context(), c, r.target); err != nil {
					t.Fatal(err)
				}
				if n := r.net.connections(); n < 2 {
					t.Errorf("%d connections, want a new one", n)
				}
			})
		}
	}
}

func TestMachineThatMovedIsAnotherConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{}, nil)
	c := newClient(t, hasty())
	if _, err := c.Health(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	elsewhere := newNetwork(t, r.net.to)
	moved := elsewhere.target(r.id)
	if _, err := c.Health(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old connection closed", func() bool { return len(r.net.wires()) == 0 })
	if n := elsewhere.connections(); n != 1 {
		t.Errorf("%d connections at the new address, want 1", n)
	}
}

func TestForgetClosesAndEndsCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/setup": hang})
	c := newClient(t, hasty())
	failed := make(chan error, 1)
	go func() { failed <- c.Setup(t.Context(), r.target, nil) }()
	eventually(t, "the call", func() bool { return r.count("/setup") == 1 })
	c.Forget(r.target.Instance)
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "forgotten") {
		t.Errorf("the call under way: %v, want that the machine was forgotten", err)
	}
	eventually(t, "the connection closed", func() bool { return len(r.net.wires()) == 0 })
	if n := r.count("/setup"); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	c.Forget("never heard of")
	if _, err := c.Health(t.Context(), r.target); err != nil {
		t.Errorf("a later call: %v, want a new connection", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/poll_step": hang})
	c := agentclient.New(hasty())
	failed := make(chan error, 1)
	go func() {
		_, err := c.PollStep(t.Context(), r.target, "s1")
		failed <- err
	}()
	eventually(t, "the poll", func() bool { return r.count("/poll_step") == 1 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("the poll has succeeded")
	}
	if _, err := c.Health(t.Context(), r.target); err == nil {
		t.Error("a closed client asks for health")
	}
}

func TestAgentThatSpeaksOnlyHTTP1(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	var once sync.Once
	r := newRig(t, rigOptions{http1: true}, map[string]http.HandlerFunc{
		"/setup": say(200, "{}"),
		"/start_step": func(w http.ResponseWriter, req *http.Request) {
			once.Do(func() { close(started) })
			say(200, "{}")(w, req)
		},
		"/poll_step": func(w http.ResponseWriter, req *http.Request) { <-started; say(200, `{"exited":true}`)(w, req) },
	})
	c := newClient(t, hasty())
	if _, err := c.Health(t.Context(), r.target); err != nil {
		t.Fatal(err)
	}
	polled := make(chan error, 1)
	go func() {
		_, err := c.PollStep(t.Context(), r.target, "s1")
		polled <- err
	}()
	eventually(t, "the poll", func() bool { return r.count("/poll_step") == 1 })
	if err := c.StartStep(t.Context(), r.target, json.RawMessage(`{"id":"s1"}`)); err != nil {
		t.Fatal(err)
	}
	if err := <-polled; err != nil {
		t.Fatal(err)
	}
	eventually(t, "no connection kept", func() bool { return len(r.net.wires()) == 0 })
}

func TestMachineWithoutAddressIsNotThisHost(t *testing.T) {
	t.Parallel()
	_, err := newClient(t, hasty()).Health(t.Context(), pool.Target{Instance: "m1", Port: 9079, Identity: identity(t, "m1")})
	if err == nil || err.Error() != "machine m1 has no address yet" {
		t.Errorf("error %v, want that there is no address yet", err)
	}
}

// TestNothingIsLeftRunning is not parallel, so that it counts only its own.
func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("use", func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{
			"/setup":         say(200, "{}"),
			"/poll_step":     func(w http.ResponseWriter, req *http.Request) { <-release; say(200, "{}")(w, req) },
			"/stream_output": hang,
		})
		c := newClient(t, hasty())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 5 {
			target := r.target
			target.Instance = string(rune('a' + i))
			wg.Go(func() { _ = c.Setup(ctx, target, nil) })
			wg.Go(func() { _, _ = c.PollStep(ctx, target, "s1") })
			wg.Go(func() { _, _ = c.Output(ctx, target, "s1", 0, io.Discard) })
		}
		eventually(t, "all calls", func() bool {
			return r.count("/setup") == 5 && r.count("/poll_step") == 5 && r.count("/stream_output") == 5
		})
		close(release)
		cancel()
		wg.Wait()
	})
	eventually(t, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestManyMachinesAtOnce(t *testing.T) {
	t.Parallel()
	c := newClient(t, hasty())
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/setup": say(200, "{}")})
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range 32 {
		wg.Go(func() {
			target := r.target
			target.Instance = string(rune('A' + i))
			for range 5 {
				if err := c.Setup(t.Context(), target, nil); err != nil {
					failed.Add(1)
					t.Error(err)
				}
				c.Forget(target.Instance)
			}
		})
	}
	wg.Wait()
	eventually(t, "all closed", func() bool { return len(r.net.wires()) == 0 })
}
