package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// service answers what these tests ask; the rest says that it is starting.
type service struct {
	pool.Service
	output func(ctx context.Context, offset int64, follow bool, w io.Writer) (int64, error)
}

func (service) Setup(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
	if r.ID == "no" {
		return pool.SetupResult{}, pool.ErrDestroyedFirst
	}
	return pool.SetupResult{Instance: pool.Instance{Name: "m1", Pool: r.Pools[0], Address: "10.0.0.1", Port: 9079}}, nil
}

func (service) Step(_ context.Context, r pool.StepRequest) (json.RawMessage, error) {
	return json.RawMessage(`{"exited":true,"step":"` + r.Step + `"}`), nil
}
func (service) Destroy(context.Context, pool.DestroyRequest) error { return nil }
func (service) Suspend(context.Context, pool.SuspendRequest) error { return nil }
func (service) Owns(_ context.Context, name, lease string) (bool, error) {
	return name == "linux" && lease == "", nil
}
func (service) Pending(context.Context) []string { return []string{strings.Repeat("x", 2000)} }
func (service) Lease(_ context.Context, id string) (pool.Lease, error) {
	return pool.Lease{ID: id}, nil
}

func (service) Instance(_ context.Context, id string) (pool.Instance, error) {
	return pool.Instance{}, fmt.Errorf("instance %s: %w", id, pool.ErrNotFound)
}

func (service) Events(_ context.Context, q pool.EventQuery) ([]pool.Event, error) {
	return []pool.Event{{ID: q.After + 1, Lease: q.Lease, Reason: "limit_reached"}}, nil
}

func (service) Explain(_ context.Context, subject pool.Subject, id string) (pool.Story, error) {
	return pool.Story{Subject: subject, ID: id, Why: []pool.Why{{Code: "limit", Pool: "linux"}}}, nil
}

func (s service) StepOutput(ctx context.Context, _, _ string, offset int64, follow bool, w io.Writer) (int64, error) {
	return s.output(ctx, offset, follow, w)
}

// connect serves svc and returns a client for it.
func connect(t *testing.T, svc pool.Service) *client.Client {
	t.Helper()
	s := httptest.NewServer(server.New(server.Config{Service: svc}).Handler())
	t.Cleanup(s.Close)
	c, err := client.New(s.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestDelegateCalls(t *testing.T) {
	t.Parallel()
	c := connect(t, service{Service: server.Starting()})
	ctx := t.Context()
	got, err := c.Setup(ctx, api.SetupRequest{ID: "st1", PoolID: "linux", SetupRequest: json.RawMessage(`{}`)})
	if err != nil || got.InstanceID != "m1" || got.InstanceInfo.PoolName != "linux" || got.GitspacesPortMappings != nil {
		t.Errorf("setup: %+v, %v", got, err)
	}
	_, err = c.Setup(ctx, api.SetupRequest{ID: "no", PoolID: "linux"})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Status != 500 || e.Message != "could not provision a VM from the pool: a destroy for this id came first" {
		t.Errorf("refused setup: %v", err)
	}
	out, err := c.Step(ctx, api.StepRequest{StageRuntimeID: "st1", StartStepRequest: json.RawMessage(`{"id":"s1"}`)})
	if err != nil || string(out) != `{"exited":true,"step":"s1"}` {
		t.Errorf("step: %s, %v", out, err)
	}
	if err := c.Suspend(ctx, api.SuspendRequest{StageRuntimeID: "st1", InstanceInfo: api.InstanceInfo{ID: "m1", PoolName: "linux"}}); err != nil {
		t.Errorf("suspend: %v", err)
	}
	if err := c.Suspend(ctx, api.SuspendRequest{StageRuntimeID: "st1"}); err == nil || err.Error() != `invalid instance info: field "ID" is not populated` {
		t.Errorf("suspend without info: %v", err)
	}
	if err := c.Destroy(ctx, api.DestroyRequest{ID: "st1", StorageCleanupType: api.CleanupDelete}); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if owner, err := c.PoolOwner(ctx, "linux", ""); err != nil || !owner {
		t.Errorf("owner: %t, %v", owner, err)
	}
	if owner, err := c.PoolOwner(ctx, "linux", "a&b"); err != nil || owner {
		t.Errorf("owner of a stage: %t, %v", owner, err)
	}
	if err := c.Healthy(ctx); err != nil {
		t.Errorf("healthy: %v", err)
	}
	if missing, err := c.Pending(ctx); err != nil || len(missing) != 1 || len(missing[0]) != 2000 {
		t.Errorf("pending: %d %v", len(missing), err)
	}
}

func TestOddIDsArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	c := connect(t, service{Service: server.Starting()})
	for _, id := range []string{"01", "1", "../x", "..", ".", "a/b", "ä %2F?#&", strings.Repeat("y", 1000), "\u2028"} {
		if l, err := c.Lease(t.Context(), id); err != nil || l.ID != id {
			t.Errorf("%q: %q, %v", id, l.ID, err)
		}
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	c := connect(t, service{Service: server.Starting("the store")})
	ctx := t.Context()
	events, err := c.Events(ctx, client.EventQuery{Lease: "l", After: 6, Limit: 3})
	want := api.EventList{Events: []api.Event{{ID: 7, Lease: "l", Reason: "limit_reached"}}, Next: 7}
	if diff := cmp.Diff(want, events); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if _, err := c.Instance(ctx, "i"); !client.NotFound(err) {
		t.Errorf("unknown instance: %v", err)
	}
	_, err = c.Instances(ctx, client.InstanceQuery{States: []string{"warm", "leased"}, Live: true, Limit: 5})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != "starting" || e.RetryAfter <= 0 {
		t.Errorf("while starting: %#v", err)
	}
	if _, err = c.Leases(ctx, client.LeaseQuery{States: []string{"sleepy"}}); err == nil || !strings.Contains(err.Error(), "sleepy") {
		t.Errorf("unknown state: %v", err)
	}
	if v, err := c.Version(ctx); err != nil || v.Version != "dev" {
		t.Errorf("version: %+v, %v", v, err)
	}
}

const text = "one\ntwo\nthree\n"

func TestAFollowedLogIsWholeAcrossBreaks(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := connect(t, service{Service: server.Starting(), output: func(_ context.Context, offset int64, follow bool, w io.Writer) (int64, error) {
		if !follow {
			return 0, errors.New("follow was not asked for")
		}
		switch calls.Add(1) {
		case 1: // some of it, then a break
			_, _ = io.WriteString(w, text[offset:6])
			return 6, errors.New("connection lost")
		case 2: // the runner is restarting
			return 0, fmt.Errorf("read lease: %w", pool.ErrUnavailable)
		default:
			_, err := io.WriteString(w, text[offset:])
			return int64(len(text)), err
		}
	}})
	var out strings.Builder
	next, err := c.StepLog(t.Context(), "l", "s", 0, true, &out)
	if err != nil || next != int64(len(text)) || out.String() != text {
		t.Errorf("%q, %d, %v", out.String(), next, err)
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
}

func TestALogThatIsNotFollowedBreaksOff(t *testing.T) {
	t.Parallel()
	c := connect(t, service{Service: server.Starting(), output: func(_ context.Context, offset int64, _ bool, w io.Writer) (int64, error) {
		if offset == 4 {
			_, err := io.WriteString(w, text[4:])
			return int64(len(text)), err
		}
		_, _ = io.WriteString(w, text[:4])
		return 4, errors.New("agent gone")
	}})
	var out strings.Builder
	next, err := c.StepLog(t.Context(), "l", "s", 0, false, &out)
	if err == nil || next != 4 {
		t.Errorf("%d, %v; want offset 4 and an error", next, err)
	}
	if next, err = c.StepLog(t.Context(), "l", "s", next, false, &out); err != nil || next != int64(len(text)) || out.String() != text {
		t.Errorf("%q, %d, %v", out.String(), next, err)
	}
}

func TestFollowingEnds(t *testing.T) {
	t.Parallel()
	for name, output := range map[string]func(context.Context, int64, bool, io.Writer) (int64, error){
		"when there is no such step": func(context.Context, int64, bool, io.Writer) (int64, error) { return 0, pool.ErrNotFound },
	} {
		c := connect(t, service{Service: server.Starting(), output: output})
		if _, err := c.StepLog(t.Context(), "l", "s", 0, true, io.Discard); !client.NotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := errors.New("disk full")
	c := connect(t, service{Service: server.Starting(), output: func(_ context.Context, _ int64, _ bool, w io.Writer) (int64, error) {
		_, err := io.WriteString(w, text)
		return int64(len(text)), err
	}})
	if _, err := c.StepLog(t.Context(), "l", "s", 0, true, failing{full}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	gone, err := client.New(dead.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := gone.StepLog(ctx, "l", "s", 0, true, io.Discard); err == nil || ctx.Err() != nil {
		t.Errorf("a runner that is not there: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestAddresses(t *testing.T) {
	t.Parallel()
	for target, ok := range map[string]bool{
		"http://127.0.0.1:3000": true, "http://127.0.0.1:3000/": true, "https://runner": true, "unix:///run/admin.sock": true,
		"": false, "127.0.0.1:3000": false, "unix://admin.sock": false, "ftp://x": false, "http://": false,
	} {
		if _, err := client.New(target); (err == nil) != ok {
			t.Errorf("%q: %v, want ok %t", target, err, ok)
		}
	}
}

// A runner that stops closes its idle connections; a call that is under way on
// one of them right then is made again, not failed.
func TestACallOnAConnectionThatIsJustClosedIsMadeAgain(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") != "" || len(r.Header.Values("Idempotency-Key")) != 0 {
			t.Error("the header was sent")
		}
		if calls.Add(1) == 2 {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				err = conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
			return
		}
		_, _ = io.WriteString(w, "{}")
	}))
	defer srv.Close()
	c, err := client.New(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // the second meets the closed connection
		if err := c.Destroy(t.Context(), api.DestroyRequest{ID: "a"}); err != nil {
			t.Error(err)
		}
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls arrived, want 3", n)
	}
}
