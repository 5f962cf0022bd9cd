package agentclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// realAgent serves our own agent in this process.
func realAgent(t testing.TB) pool.Target {
	t.Helper()
	target, _ := serveAgent(t, identity(t, "m1"), t.TempDir())
	return target
}

// serveAgent serves one with an identity and a state directory until stop.
func serveAgent(t testing.TB, id drivers.Identity, state string) (target pool.Target, stop func()) {
	t.Helper()
	return serveMachine(t, id, agent.Options{StateDir: state})
}

func serveMachine(t testing.TB, id drivers.Identity, o agent.Options) (target pool.Target, stop func()) {
	t.Helper()
	o.SharedDir = t.TempDir()
	a, err := agent.New(o)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := a.TLSConfig(id.CACert, id.Cert, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln, conf) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	addr := ln.Addr().(*net.TCPAddr)
	return pool.Target{Instance: "m1", Address: addr.IP.String(), Port: addr.Port, Identity: id, OS: runtime.GOOS}, stop
}

// TestOurAgent is a whole stage against the agent of this tree.
func TestOurAgent(t *testing.T) {
	t.Parallel()
	target := realAgent(t)
	c := newClient(t, agentclient.Config{})
	h, err := c.Health(t.Context(), target)
	if err != nil || h.RunningSteps != 0 {
		t.Fatalf("health %+v, %v; want no steps", h, err)
	}
	dir := t.TempDir()
	if err := c.Setup(t.Context(), target, json.RawMessage(`{"envs":{"STAGE":"from-setup"},"mount_docker_socket":false}`)); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"id": "s1", "log_drone": true, "working_dir": dir, "environment": map[string]string{"A": "b"},
		"run": map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{`echo "$STAGE $A"; exit 7`}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() { // opened before the step is started, as the delegate's path does
		_, err := c.Output(t.Context(), target, "s1", 0, &out)
		read <- err
	}()
	for range 2 {
		if err := c.StartStep(t.Context(), target, body); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.PollStep(t.Context(), target, "s1")
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		Exited   bool `json:"exited"`
		ExitCode int  `json:"exit_code"`
	}
	if err := json.Unmarshal(r.Body, &result); err != nil || !result.Exited || result.ExitCode != 7 {
		t.Errorf("result %s, %v; want exit code 7", r.Body, err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("from-setup b\n", out.String()); d != "" {
		t.Error(d)
	}
	if _, err := c.PollStep(t.Context(), target, "never"); err == nil {
		t.Error("a step that was never started has a result")
	}
	if err := c.Suspend(t.Context(), target, nil); err != nil {
		t.Errorf("suspend: %v", err)
	}
	for range 2 {
		if err := c.Destroy(t.Context(), target, nil); err != nil {
			t.Errorf("destroy: %v", err)
		}
	}
}

func BenchmarkHealth(b *testing.B) {
	r := newRig(b, rigOptions{}, nil)
	c := newClient(b, agentclient.Config{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Health(b.Context(), r.target); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKeptConnection is the heap a warm machine's connection costs,
// the server's side in the same process included.
func BenchmarkKeptConnection(b *testing.B) {
	r := newRig(b, rigOptions{}, nil)
	c := newClient(b, agentclient.Config{})
	const machines = 100
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range machines {
			target := r.target
			target.Instance = string(rune(i))
			if _, err := c.Health(b.Context(), target); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		for i := range machines {
			c.Forget(string(rune(i)))
		}
	}
	b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/machines, "B/machine")
}
