package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// agentHere is a driver whose one machine is this host: a real agent with the
// machine's own identity on a loopback port.
type agentHere struct {
	b  *testing.B
	mu sync.Mutex
	m  *drivers.Instance
}

func (d *agentHere) Scope() string              { return "here" }
func (d *agentHere) Ping(context.Context) error { return nil }

func (d *agentHere) Create(_ context.Context, spec drivers.Spec) (drivers.Ref, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, err := agent.New(agent.Options{SharedDir: filepath.Join(d.b.TempDir(), "engine"), StateDir: filepath.Join(d.b.TempDir(), "state")})
	if err != nil {
		return drivers.Ref{}, err
	}
	conf, err := a.TLSConfig(spec.Identity.CACert, spec.Identity.Cert, spec.Identity.Key)
	if err != nil {
		return drivers.Ref{}, err
	}
	ln, err := (&net.ListenConfig{}).Listen(d.b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return drivers.Ref{}, err
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- a.Serve(ctx, ln, conf) }()
	d.b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			d.b.Error(err)
		}
		if err := a.Close(); err != nil {
			d.b.Error(err)
		}
	})
	d.m = &drivers.Instance{
		Ref: drivers.Ref{Name: spec.Name, ID: "here"}, Tags: spec.Tags, Status: drivers.StatusRunning,
		Address: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port,
	}
	return d.m.Ref, nil
}

func (d *agentHere) Destroy(_ context.Context, refs []drivers.Ref, _ drivers.DestroyOptions) []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.m = nil
	return make([]error, len(refs))
}

func (d *agentHere) List(context.Context, drivers.Query) (drivers.Listing, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := drivers.Listing{Complete: true, At: time.Now()}
	if d.m != nil {
		l.Instances = append(l.Instances, *d.m)
	}
	return l, nil
}

// BenchmarkStepThrough is a step that runs true, from the delegate's request
// to its answer: HTTP, engine, durable store, mutual TLS, a real agent on this
// host; beside the bare command. p50-ms is the median of the calls.
func BenchmarkStepThrough(b *testing.B) {
	b.Run("bare command", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			t := time.Now()
			if err := exec.CommandContext(b.Context(), "sh", "-c", "true").Run(); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(t))
		}
		reportMedian(b, took)
	})
	for _, dir := range []bool{false, true} {
		b.Run(fmt.Sprintf("runner and agent, working_dir %t", dir), func(b *testing.B) { benchmarkStepThrough(b, dir) })
	}
}

func reportMedian(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}

func benchmarkStepThrough(b *testing.B, dir bool) {
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	st, err := sqlite.Open(b.Context(), sqlite.Options{Path: filepath.Join(b.TempDir(), "database.sqlite3"), Seal: sealer})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	client := agentclient.New(agentclient.Config{})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	pools := []pool.PoolConfig{{Name: "p", Driver: "here", Max: 1, SpecJSON: json.RawMessage(`{}`), Platform: drivers.Platform{OS: "linux"}}}
	m, err := pool.New(ctx, pool.ManagerConfig{
		Store: st, Agent: client, Solo: true, Pools: pools,
		Open: func(p pool.PoolConfig) (pool.Opened, error) {
			return pool.Opened{Client: drivers.NewClient(&agentHere{b: b}, drivers.ClientOptions{Pool: p.Name}), Local: true}, nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	web := httptest.NewServer(server.New(server.Config{Service: m, Pools: pools}).Handler())
	defer web.Close()
	post := func(path, body string) {
		res, err := http.Post(web.URL+path, "application/json", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b.Fatalf("%s: %s", path, res.Status)
		}
	}
	post("/setup", `{"id":"s","pool_id":"p","setup_request":{"mount_docker_socket":false}}`)
	where := ""
	if dir {
		where = fmt.Sprintf(`"working_dir":%q,`, b.TempDir())
	}
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		t := time.Now()
		post("/step", fmt.Sprintf(`{"stage_runtime_id":"s","start_step_request":{"id":"s%d","kind":"Run",%s"run":{"entrypoint":["sh","-c"],"commands":["true"]}}}`, n, where))
		took = append(took, time.Since(t))
	}
	reportMedian(b, took)
}
