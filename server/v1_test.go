package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

func v1Fake() *fake {
	lease := pool.Lease{
		ID: "../st ä", Generation: 2, Kind: pool.Build, State: pool.LeaseWaiting,
		Choices: []pool.Choice{{Pool: "linux", Shape: "secret-free"}, {Pool: "linux-spot"}},
		Digest:  "d", Arrived: day, WaitUntil: day.Add(10 * time.Minute), Reason: "limit_reached", Detail: "pool linux is at its limit",
		Causes: []pool.Cause{{Pool: "linux", Phase: "create", Kind: "capacity", Message: "stockout"}},
	}
	return &fake{
		pending: []string{"ping of pool linux"},
		status: func(context.Context) ([]pool.PoolStatus, error) {
			return []pool.PoolStatus{
				{
					PoolRow: pool.PoolRow{
						Name: "linux", Driver: "noop", Scope: "s", Min: 2, Max: 10, Counted: 3, LastSpec: []byte(`{"password":"hunter2"}`),
						Platform: drivers.Platform{OS: "linux", Arch: "amd64"},
						Hold:     pool.Hold{Pool: "linux", Replica: "run-1", Generation: 3},
					},
					Here: true, Default: true, Counts: map[pool.InstanceState]int{pool.Warm: 2, pool.Leased: 1, pool.Failed: 0}, Waiting: 1,
				},
				{PoolRow: pool.PoolRow{Name: "old", Driver: "noop", Retired: true}, Problem: "breaker is open: 5 creations failed"},
			}, nil
		},
		list: func(q pool.InstanceQuery) ([]pool.Instance, error) {
			return []pool.Instance{machine(), machine(), machine()}[:min(3, q.Limit)], nil
		},
		instance: func(id string) (pool.Instance, error) {
			if id != "i1" {
				return pool.Instance{}, fmt.Errorf("instance %s: %w", id, pool.ErrNotFound)
			}
			return machine(), nil
		},
		leases: func(pool.LeaseQuery) ([]pool.Lease, error) { return []pool.Lease{lease}, nil },
		lease: func(id string) (pool.Lease, error) {
			if id != lease.ID {
				return pool.Lease{}, fmt.Errorf("lease %s: %w", id, pool.ErrNotFound)
			}
			return lease, nil
		},
		steps: func(id string) ([]string, error) {
			if id != lease.ID {
				return nil, fmt.Errorf("lease %s: %w", id, pool.ErrNotFound)
			}
			return []string{"s1", "s2"}, nil
		},
		explain: func(subject pool.Subject, id string) (pool.Story, error) {
			if id == "nothing" {
				return pool.Story{}, fmt.Errorf("%w: no lease, instance or pool is called %q", pool.ErrNotFound, id)
			}
			if subject == "" {
				subject = pool.SubjectLease
			}
			at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			return pool.Story{
				Subject: subject, ID: id, State: "waiting", Summary: "it waits",
				Why:   []pool.Why{{Code: "breaker_open", Pool: "linux", Message: "boots fail", Position: 2, Until: at.Add(time.Minute)}},
				Lines: []pool.StoryLine{{At: at, Code: "arrived", Message: "a build asks for linux"}},
			}, nil
		},
		events: func(q pool.EventQuery) ([]pool.Event, error) {
			if q.Pool == "broken" {
				return nil, fmt.Errorf("list events: %w: database.sqlite3", pool.ErrUnavailable)
			}
			var all []pool.Event
			for id := q.After + 1; id <= 5 && len(all) < q.Limit; id++ {
				all = append(all, pool.Event{ID: id, At: day, Pool: "linux", Lease: "st1", Generation: 1, Reason: "limit_reached", Message: "waits"})
			}
			return all, nil
		},
		output: func(_ context.Context, lease, step string, offset int64, follow bool, w io.Writer) (int64, error) {
			const text = "one\ntwo\nthree\n"
			if step != "s1" {
				return 0, fmt.Errorf("step %s of %s: %w", step, lease, pool.ErrNotFound)
			}
			if offset >= int64(len(text)) {
				return int64(len(text)), nil
			}
			_, err := io.WriteString(w, text[offset:])
			return int64(len(text)), err
		},
	}
}

func TestV1Answers(t *testing.T) {
	t.Parallel()
	const lease = "/v1/leases/..%2Fst%20%C3%A4"
	for _, tc := range []struct{ name, method, target string }{
		{"pools", "GET", "/v1/pools"},
		{"instances", "GET", "/v1/instances?pool=linux&state=warm,leased&live=true&limit=2"},
		{"instances all", "GET", "/v1/instances"},
		{"instance", "GET", "/v1/instances/i1"},
		{"instance unknown", "GET", "/v1/instances/no"},
		{"leases", "GET", "/v1/leases?live=true"},
		{"lease with an odd id", "GET", lease},
		{"lease unknown", "GET", "/v1/leases/no"},
		{"steps", "GET", lease + "/steps"},
		{"steps of an unknown lease", "GET", "/v1/leases/no/steps"},
		{"log", "GET", lease + "/steps/s1/log"},
		{"log from an offset", "GET", lease + "/steps/s1/log?offset=4"},
		{"log at its end", "GET", lease + "/steps/s1/log?offset=14"},
		{"log of an unknown step", "GET", lease + "/steps/no/log"},
		{"log with a negative offset", "GET", lease + "/steps/s1/log?offset=-1"},
		{"events", "GET", "/v1/events?after=1&limit=2&pool=linux"},
		{"explain", "GET", "/v1/explain/l1"},
		{"explain as a pool", "GET", "/v1/explain/linux?subject=pool"},
		{"explain what is unknown", "GET", "/v1/explain/nothing"},
		{"events at the end", "GET", "/v1/events?after=5"},
		{"events while the store is down", "GET", "/v1/events?pool=broken"},
		{"unknown parameter", "GET", "/v1/leases?staet=active"},
		{"parameter where there are none", "GET", "/v1/pools?x=1"},
		{"repeated parameter", "GET", "/v1/leases?pool=a&pool=b"},
		{"broken query", "GET", "/v1/leases?pool=%zz"},
		{"unknown state", "GET", "/v1/instances?state=warm,cold"},
		{"limit too large", "GET", "/v1/instances?limit=1001"},
		{"no bool", "GET", "/v1/instances?live=yes"},
		{"write", "POST", "/v1/pools"},
		{"unknown resource", "GET", "/v1/machines"},
		{"root", "GET", "/v1"},
		{"trailing slash", "GET", "/v1/pools/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newServer(t, server.Config{Service: v1Fake()}).Handler()
			resp := exchange(t, h, tc.method, tc.target, "")
			got := dump(t, resp)
			golden(t, "v1/"+strings.ReplaceAll(tc.name, " ", "_")+".txt", fmt.Sprintf("%s %s\n\n%s", tc.method, tc.target, got))
			for _, secret := range []string{"CAKEY", "-KEY-", "LUNBS0VZ", "hunter2"} {
				if strings.Contains(got, secret) {
					t.Errorf("%q is shown", secret)
				}
			}
		})
	}
}

func TestV1Version(t *testing.T) {
	t.Parallel()
	h := newServer(t, server.Config{Service: v1Fake()}).Handler()
	body := bodyOf(t, exchange(t, h, "GET", "/v1/version", ""))
	if !strings.HasPrefix(body, `{"version":"test","go":"go1.`) || !strings.HasSuffix(body, `"pending":["ping of pool linux"]}`+"\n") {
		t.Error(body)
	}
}

func TestV1QueriesReachTheEngine(t *testing.T) {
	t.Parallel()
	var instances pool.InstanceQuery
	var leases pool.LeaseQuery
	var events pool.EventQuery
	f := &fake{
		list:   func(q pool.InstanceQuery) ([]pool.Instance, error) { instances = q; return nil, nil },
		leases: func(q pool.LeaseQuery) ([]pool.Lease, error) { leases = q; return nil, nil },
		events: func(q pool.EventQuery) ([]pool.Event, error) { events = q; return nil, nil },
	}
	h := newServer(t, server.Config{Service: f}).Handler()
	for target, want := range map[string]string{
		"/v1/instances?pool=p&lease=l&state=warm,failed&live=true&limit=7": `{"instances":[],"more":false}`,
		"/v1/leases?pool=p&state=active&live=true":                         `{"leases":[],"more":false}`,
		"/v1/events?pool=p&instance=i&lease=l&after=9223372036854775807":   `{"events":[],"next":9223372036854775807,"more":false}`,
	} {
		if got := bodyOf(t, exchange(t, h, "GET", target, "")); got != want+"\n" {
			t.Errorf("%s: %s", target, got)
		}
	}
	if diff := cmp.Diff(pool.InstanceQuery{Pool: "p", Lease: "l", States: []pool.InstanceState{pool.Warm, pool.Failed}, Live: true, Limit: 8}, instances); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(pool.LeaseQuery{Pool: "p", States: []pool.LeaseState{pool.LeaseActive}, Live: true, Limit: 101}, leases); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(pool.EventQuery{Pool: "p", Instance: "i", Lease: "l", After: 1<<63 - 1, Limit: 101}, events); diff != "" {
		t.Error(diff)
	}
}

func TestAFollowedLogEndsWhenTheRunnerStops(t *testing.T) {
	t.Parallel()
	f := &fake{output: func(ctx context.Context, _, _ string, _ int64, _ bool, w io.Writer) (int64, error) {
		_, _ = io.WriteString(w, "begun\n")
		<-ctx.Done()
		return 6, ctx.Err()
	}}
	r := serve(t, server.Config{Service: f, Grace: time.Minute})
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/v1/leases/l/steps/s/log?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "begun\n" {
		t.Fatalf("%q, %v: the output must be there before the step has ended", first, err)
	}
	r.stop()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the log ended as if it were whole, want it cut")
	}
	if err := within(t, r.ended, "end, long before the grace"); err != nil {
		t.Error(err)
	}
	r.ended <- nil
}
