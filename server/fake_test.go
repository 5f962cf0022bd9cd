package server_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

var update = flag.Bool("update", false, "write golden files")

// fake is a service made of functions; those that are nil say ErrNotFound.
type fake struct {
	setup    func(context.Context, pool.SetupRequest) (pool.SetupResult, error)
	step     func(context.Context, pool.StepRequest) (json.RawMessage, error)
	destroy  func(context.Context, pool.DestroyRequest) error
	suspend  func(context.Context, pool.SuspendRequest) error
	owns     func(context.Context, string, string) (bool, error)
	pending  []string
	status   func(context.Context) ([]pool.PoolStatus, error)
	list     func(pool.InstanceQuery) ([]pool.Instance, error)
	leases   func(pool.LeaseQuery) ([]pool.Lease, error)
	lease    func(string) (pool.Lease, error)
	instance func(string) (pool.Instance, error)
	events   func(pool.EventQuery) ([]pool.Event, error)
	explain  func(pool.Subject, string) (pool.Story, error)
	output   func(ctx context.Context, lease, step string, offset int64, follow bool, w io.Writer) (int64, error)
	steps    func(string) ([]string, error)
	counters pool.Counters

	// Operator is what tests of orders set; nil panics.
	pool.Operator
}

func (f *fake) Setup(ctx context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
	if f.setup == nil {
		return pool.SetupResult{}, pool.ErrNotFound
	}
	return f.setup(ctx, r)
}

func (f *fake) Step(ctx context.Context, r pool.StepRequest) (json.RawMessage, error) {
	if f.step == nil {
		return nil, fmt.Errorf("stage %s: %w", r.Lease, pool.ErrNotFound)
	}
	return f.step(ctx, r)
}

func (f *fake) Destroy(ctx context.Context, r pool.DestroyRequest) error {
	if f.destroy == nil {
		return nil
	}
	return f.destroy(ctx, r)
}

func (f *fake) Suspend(ctx context.Context, r pool.SuspendRequest) error {
	if f.suspend == nil {
		return fmt.Errorf("lease %s: %w", r.Lease, pool.ErrNotFound)
	}
	return f.suspend(ctx, r)
}

func (f *fake) Owns(ctx context.Context, name, lease string) (bool, error) {
	if f.owns == nil {
		return false, nil
	}
	return f.owns(ctx, name, lease)
}

func (f *fake) Pending(context.Context) []string { return f.pending }

func (f *fake) PoolStatus(ctx context.Context) ([]pool.PoolStatus, error) {
	if f.status == nil {
		return nil, nil
	}
	return f.status(ctx)
}

func (f *fake) Instances(_ context.Context, q pool.InstanceQuery) ([]pool.Instance, error) {
	if f.list == nil {
		return nil, nil
	}
	return f.list(q)
}

func (f *fake) Leases(_ context.Context, q pool.LeaseQuery) ([]pool.Lease, error) {
	if f.leases == nil {
		return nil, nil
	}
	return f.leases(q)
}

func (f *fake) Lease(_ context.Context, id string) (pool.Lease, error) {
	if f.lease == nil {
		return pool.Lease{}, fmt.Errorf("lease %s: %w", id, pool.ErrNotFound)
	}
	return f.lease(id)
}

func (f *fake) Instance(_ context.Context, id string) (pool.Instance, error) {
	if f.instance == nil {
		return pool.Instance{}, fmt.Errorf("instance %s: %w", id, pool.ErrNotFound)
	}
	return f.instance(id)
}

func (f *fake) Events(_ context.Context, q pool.EventQuery) ([]pool.Event, error) {
	if f.events == nil {
		return nil, nil
	}
	return f.events(q)
}

func (f *fake) Explain(_ context.Context, subject pool.Subject, id string) (pool.Story, error) {
	if f.explain == nil {
		return pool.Story{}, fmt.Errorf("%s: %w", id, pool.ErrNotFound)
	}
	return f.explain(subject, id)
}

func (f *fake) StepOutput(ctx context.Context, lease, step string, offset int64, follow bool, w io.Writer) (int64, error) {
	if f.output == nil {
		return 0, fmt.Errorf("step %s of %s: %w", step, lease, pool.ErrNotFound)
	}
	return f.output(ctx, lease, step, offset, follow, w)
}

func (f *fake) StepIDs(_ context.Context, lease string) ([]string, error) {
	if f.steps == nil {
		return nil, fmt.Errorf("lease %s: %w", lease, pool.ErrNotFound)
	}
	return f.steps(lease)
}

func (f *fake) Counters() pool.Counters { return f.counters }

// testPools is what the tests' engine is configured with.
var testPools = []pool.PoolConfig{{
	Name: "linux", Driver: "noop", Platform: drivers.Platform{OS: "linux", Arch: "amd64"}, Image: "images/family/tiny",
}}

// machine is a leased machine with all that a setup answers.
func machine() pool.Instance {
	return pool.Instance{
		ID: "i1", Name: "runner-linux-i1", Pool: "linux", Driver: "noop", State: pool.Leased, Kind: pool.Build,
		Variant: "default", Tenant: "default", OS: "linux", Arch: "amd64", Image: "tiny", Zone: "zone-a",
		CloudID: "cloud-1", Address: "10.0.3.7", Port: 9079, AgentVersion: "1.2.3",
		Identity: drivers.Identity{
			Machine: "i1", ServerName: "runner",
			CAKey: []byte("-CAKEY-"), CACert: []byte("-CACERT-"), Key: []byte("-KEY-"), Cert: []byte("-CERT-"),
		},
		LeaseID: "st1", LeaseGeneration: 2, Created: day, Since: day.Add(time.Second), Deadline: day.Add(time.Hour),
	}
}

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func newServer(t testing.TB, c server.Config) *server.Server {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if c.Pools == nil {
		c.Pools = testPools
	}
	if c.Version == "" {
		c.Version = "test"
	}
	return server.New(c)
}

// exchange is one request in the short form of the tests: method, target, body.
func exchange(t testing.TB, h http.Handler, method, target, body string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:40000"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func bodyOf(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dump is an answer as it stands in golden files: status, headers without
// those that differ each time, body.
func dump(t testing.TB, resp *http.Response) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", resp.StatusCode)
	for _, k := range slices.Sorted(func(yield func(string) bool) {
		for k := range resp.Header {
			if !yield(k) {
				return
			}
		}
	}) {
		if k != "X-Request-Id" && k != "Date" {
			fmt.Fprintf(&b, "%s: %s\n", k, strings.Join(resp.Header[k], ", "))
		}
	}
	fmt.Fprintf(&b, "\n%s", bodyOf(t, resp))
	return b.String()
}

// golden compares got with testdata/name.
func golden(t testing.TB, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", filepath.FromSlash(name))
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", file, diff)
	}
}

// within waits for c, which a test expects soon.
func within[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(2 * time.Minute):
		t.Fatalf("no %s within 2 min", what)
		panic("unreachable")
	}
}

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }
