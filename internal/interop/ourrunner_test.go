package interop_test

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

var update = flag.Bool("update", false, "write the golden files")

// redirected is the runner's real client; machines exist only as an agent each,
// which is made when it is first called, with the certificates of its machine.
type redirected struct {
	*agentclient.Client
	boot func(drivers.Identity) *net.TCPAddr

	mu     sync.Mutex
	booted map[string]*net.TCPAddr // by instance
}

// at is where a machine's agent really is.
func (r *redirected) at(t pool.Target) pool.Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	addr := r.booted[t.Instance]
	if addr == nil {
		addr = r.boot(t.Identity)
		r.booted[t.Instance] = addr
	}
	t.Address, t.Port = addr.IP.String(), addr.Port
	return t
}

// existing makes machines with an existing agent, which change may alter before
// it is called first. What it returns is the agent of the only machine there is.
func existing(t *testing.T, change func(*existingAgent)) (boot func(drivers.Identity) *net.TCPAddr, only func() *existingAgent) {
	made := make(chan *existingAgent, 8)
	boot = func(id drivers.Identity) *net.TCPAddr {
		a := newExistingAgent(t, id)
		change(a)
		made <- a
		return a.addr()
	}
	return boot, func() *existingAgent {
		t.Helper()
		if len(made) != 1 {
			t.Fatalf("%d machines, want one", len(made))
		}
		return <-made
	}
}

func (r *redirected) Health(ctx context.Context, t pool.Target) (pool.Health, error) {
	return r.Client.Health(ctx, r.at(t))
}

func (r *redirected) Rehearse(ctx context.Context, t pool.Target) error {
	return r.Client.Rehearse(ctx, r.at(t))
}

func (r *redirected) Setup(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return r.Client.Setup(ctx, r.at(t), body)
}

func (r *redirected) StartStep(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return r.Client.StartStep(ctx, r.at(t), body)
}

func (r *redirected) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	return r.Client.PollStep(ctx, r.at(t), step)
}

func (r *redirected) Output(ctx context.Context, t pool.Target, step string, offset int64, w io.Writer) (int64, error) {
	return r.Client.Output(ctx, r.at(t), step, offset, w)
}

func (r *redirected) Renew(ctx context.Context, t pool.Target, next drivers.Identity) error {
	return r.Client.Renew(ctx, r.at(t), next)
}

func (r *redirected) Suspend(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return r.Client.Suspend(ctx, r.at(t), body)
}

func (r *redirected) Destroy(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return r.Client.Destroy(ctx, r.at(t), body)
}

// runner is a whole runner of ours, in this process, over HTTP.
type runner struct {
	t   *testing.T
	api *client.Client
}

// newRunner is one with a pool of machines that boot makes, of a spec.
func newRunner(t *testing.T, spec any, boot func(drivers.Identity) *net.TCPAddr) *runner {
	t.Helper()
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "database.sqlite3"), Seal: sealer, Sync: sqlite.SyncOff})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	agents := &redirected{
		Client: agentclient.New(agentclient.Config{RetryMin: 5 * time.Millisecond, RetryMax: 50 * time.Millisecond, ProbeFirst: 100 * time.Millisecond, Log: log}),
		boot:   boot, booted: map[string]*net.TCPAddr{},
	}
	pools := []pool.PoolConfig{{
		Name: "linux", Driver: "noop", Max: 4, Platform: drivers.Platform{OS: "linux", Arch: "amd64"}, Spec: spec, SpecJSON: json.RawMessage(`{}`),
	}}
	world := noop.NewWorld()
	m, err := pool.New(t.Context(), pool.ManagerConfig{
		Store: st, Agent: agents, Pools: pools, Solo: true, NamePrefix: "runner", ServerName: "runner", Log: log,
		Open: func(p pool.PoolConfig) (pool.Opened, error) {
			d, err := noop.New(drivers.Options{Pool: p.Name, Platform: p.Platform, Config: &noop.Config{}, DataDir: "/interop", Log: log}, noop.Setup{World: world})
			if err != nil {
				return pool.Opened{}, err
			}
			return pool.Opened{Client: drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name, Type: "noop"}), Local: true}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- m.Run(ctx) }()
	srv := httptest.NewServer(server.New(server.Config{Service: m, Pools: pools, Log: log}).Handler())
	c, err := client.New(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := agents.Close(); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return &runner{t, c}
}

func (r *runner) setup(id, body string) {
	r.t.Helper()
	if _, err := r.api.Setup(within(r.t), api.SetupRequest{ID: id, PoolID: "linux", SetupRequest: json.RawMessage(body)}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *runner) step(ctx context.Context, stage, body string) (string, error) {
	raw, err := r.api.Step(ctx, api.StepRequest{StageRuntimeID: stage, StartStepRequest: json.RawMessage(body)})
	return string(raw), err
}

func (r *runner) mustStep(stage, body string) string {
	r.t.Helper()
	answer, err := r.step(within(r.t), stage, body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

func (r *runner) destroy(id string) {
	r.t.Helper()
	if err := r.api.Destroy(within(r.t), api.DestroyRequest{ID: id}); err != nil {
		r.t.Fatal(err)
	}
}

// patience bounds every wait; none of them measures time.
const patience = 60 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

func (a *existingAgent) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.seen...)
}

func (a *existingAgent) traps() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.fell...)
}

// A whole stage as a delegate asks for it, with everything in it that an
// existing agent hangs on, crashes at or is slow with: what the agent is sent is
// the golden file, and it fell into no trap.
func TestOurRunnerInFrontOfAnExistingAgent(t *testing.T) {
	t.Parallel()
	const failed = `{"exited":true,"exit_code":7,"error":"1 error occurred:\n\t* exit status 7\n\n","outputs":{"A":"1"}}`
	boot, only := existing(t, func(a *existingAgent) {
		a.answers["fails"] = failed
		a.answers["exports"] = `{"exited":true,"envs":{"FROM":"earlier"}}`
	})
	r := newRunner(t, &noop.Config{}, boot)
	r.setup("stage-1", `{"network":{"id":"n"},"mtls_config":{"client_cert":"QQ==","client_cert_key":"QQ=="},"unknown":[1.50]}`)
	for _, s := range []struct{ body, want string }{
		{`{"id":"bare","run":{"entrypoint":["sh","-c"],"commands":["true"]}}`, `{"exited":true,"optimization_state":"DISABLED"}`},
		{`{"id":"fails","environment":{},"working_dir":"","stage_runtime_id":"stage-1","timeout":30,"process_config":{"kill_process_on_context_cancel":true,"kill_process_max_sigterm_attempts":2}}`, failed},
		{`{"id":"exports","environment":{"A":"1"},"working_dir":"/w"}`, `{"exited":true,"envs":{"FROM":"earlier"}}`},
		{`{"id":"later","environment":{"A":"1"},"working_dir":"/w"}`, `{"exited":true,"optimization_state":"DISABLED"}`},
		{`{"id":"service","image":"redis","detach":true}`, `{}`},
	} {
		if got := strings.TrimSpace(r.mustStep("stage-1", s.body)); !sameJSON(t, got, s.want) {
			t.Errorf("%s: %s, want %s", s.body, got, s.want)
		}
	}
	a := only()
	r.destroy("stage-1")
	r.destroy("stage-1")
	eventually(t, "the agent's destroy", func() bool {
		seen := a.requests()
		return strings.HasPrefix(seen[len(seen)-1], "POST /destroy")
	})
	if traps := a.traps(); len(traps) > 0 {
		t.Errorf("traps: %q", traps)
	}
	golden(t, "to-existing-agent.txt", strings.Join(a.requests(), "\n\n")+"\n")
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return cmp.Equal(x, y)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; write it with -update):\n%s", name, diff)
	}
}

// An existing agent wakes only the newest of a step's pollers, and does not
// notice that one has gone.
func TestOurRunnerAsksAnExistingAgentForAStepOnce(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(*testing.T, *runner, *existingAgent){
		"many callers of one step": func(*testing.T, *runner, *existingAgent) {},
		"the connection breaks while it runs": func(t *testing.T, _ *runner, a *existingAgent) {
			before := len(a.requests())
			a.srv.CloseClientConnections()
			eventually(t, "another poll", func() bool { return len(a.requests()) > before })
		},
		"a caller that hangs up": func(t *testing.T, r *runner, _ *existingAgent) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if answer, err := r.step(ctx, "stage", `{"id":"long"}`); err == nil {
				t.Errorf("answered with %s before its end", answer)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			boot, only := existing(t, func(a *existingAgent) { a.held["long"] = true })
			r := newRunner(t, &noop.Config{}, boot)
			r.setup("stage", `{}`)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if answer, err := r.step(within(t), "stage", `{"id":"long"}`); err != nil || !sameJSON(t, answer, `{"exited":true,"optimization_state":"DISABLED"}`) {
						t.Errorf("%s, %v", answer, err)
					}
				})
			}
			a := only()
			eventually(t, "a poll", func() bool { return a.polled("long") })
			meddle(t, r, a)
			eventually(t, "a poll", func() bool { return a.polled("long") })
			a.end("long")
			wg.Wait()
			if traps := a.traps(); len(traps) > 0 {
				t.Errorf("traps: %q", traps)
			}
		})
	}
}
