//go:build e2e && linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// replicasPool is small enough that requests wait now and then.
const replicasPool = `instances:
  - {name: p, type: noop, pool: 3, limit: 8, spec: {process: true, boot_delay: 200ms}}
`

// TestE2EReplicas runs two real runners on one real Postgres, with machines
// that are processes, under load: the one that holds the pool is killed,
// stopped for longer than its hold lasts, and both are restarted in turn.
func TestE2EReplicas(t *testing.T) {
	f := newFleet(t, replicasPool)
	f.admit(f.start("a"))
	f.admit(f.start("b"))
	f.begin(8)

	t.Run("a killed holder is replaced within ten seconds", func(t *testing.T) {
		settle(t, 3*time.Second)
		holder, other := f.roles(t)
		f.lossy.Store(true)
		f.withdraw(holder.name)
		holder.signal(t, syscall.SIGKILL)
		<-holder.ended
		f.takeover(t, other, holder.run)
		f.admit(f.start(holder.name))
		settle(t, 3*time.Second)
		f.lossy.Store(false)
	})
	t.Run("a stopped holder is replaced within ten seconds and goes on as one of several", func(t *testing.T) {
		settle(t, 3*time.Second)
		holder, other := f.roles(t)
		f.lossy.Store(true)
		f.withdraw(holder.name)
		holder.signal(t, syscall.SIGSTOP)
		f.takeover(t, other, holder.run)
		settle(t, 15*time.Second)
		holder.signal(t, syscall.SIGCONT)
		settle(t, 5*time.Second)
		if got := f.holder(t, other); got != other.run {
			t.Errorf("held by %q after the stopped one went on, want %q", got, other.run)
		}
		f.admit(holder)
		settle(t, 3*time.Second)
		f.lossy.Store(false)
	})
	t.Run("a rolling restart under load fails no request", func(t *testing.T) {
		before := f.served.Load()
		for range 2 {
			for _, name := range []string{"a", "b"} {
				settle(t, 4*time.Second)
				r := f.replica(name)
				r.signal(t, syscall.SIGTERM)
				<-r.ended
				f.admit(f.start(name))
			}
		}
		if f.served.Load() == before {
			t.Error("nothing was served meanwhile")
		}
	})
	f.finish()
	t.Logf("%d stages served", f.served.Load())
	f.audit()
}

// newFleet makes an empty store and a folder for machines; replicas are started
// by the test.
func newFleet(t *testing.T, poolFile string) *realFleet {
	t.Helper()
	return &realFleet{t: t, dir: realFolder(t, poolFile), dsn: emptyDatabase(t).Reveal(), used: map[string]string{}, open: map[string]*realReplica{}}
}

// settle lets the load go on for a while: there is no event to wait for.
func settle(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// realFleet is the replicas, and clients that use whichever is admitted.
type realFleet struct {
	t        *testing.T
	dir, dsn string
	// lossy allows a client to lose its connection in the middle of a call: a
	// replica was killed. Without it only a refused connection is tried again.
	lossy  atomic.Bool
	served atomic.Int64
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex
	open map[string]*realReplica
	used map[string]string // machine -> stage
}

// realReplica is one of a fleet.
type realReplica struct {
	*realRunner
	name string
	run  string // the name of its run, once it has held the pool
	// calls is how many of its calls clients wait for.
	calls atomic.Int64
}

func (f *realFleet) start(name string) *realReplica { return f.startAs(name, thisProgram) }

// startAs starts a replica with a program of another version.
func (f *realFleet) startAs(name, program string) *realReplica {
	f.t.Helper()
	return &realReplica{name: name, realRunner: startReal(f.t, program, f.dir, "DRONE_DATABASE_DRIVER=postgres",
		"DRONE_DATABASE_DATASOURCE="+f.dsn, "DRONE_RUNNER_HA=true", "DRONE_RUNNER_NAME=runner")}
}

func (f *realFleet) until(d time.Duration, what string, ok func() bool) time.Duration {
	f.t.Helper()
	return until(f.t, d, what, ok)
}

func (f *realFleet) admit(r *realReplica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[r.name] = r
}

// withdraw keeps new calls from a replica, as a balancer does with one that
// does not answer.
func (f *realFleet) withdraw(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, name)
}

func (f *realFleet) replica(name string) *realReplica {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open[name]
}

func (f *realFleet) any() *realReplica {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := slices.Sorted(maps.Keys(f.open))
	r := f.open[names[rand.N(len(names))]]
	r.calls.Add(1) // under the lock: once it is withdrawn no call begins
	return r
}

// empty withdraws a replica and waits for the calls that are under way.
func (f *realFleet) empty(r *realReplica) {
	f.t.Helper()
	f.withdraw(r.name)
	f.until(patience, "the calls of "+r.name, func() bool { return r.calls.Load() == 0 })
}

// holder is the run that has the pool, as one of the replicas sees it.
func (f *realFleet) holder(t *testing.T, r *realReplica) string {
	t.Helper()
	pools, err := r.api.Pools(t.Context())
	if err != nil || len(pools) != 1 {
		t.Fatalf("pools by %s: %+v, %v", r.name, pools, err)
	}
	return pools[0].Holder
}

// roles finds out which replica holds the pool: it says so in its log.
func (f *realFleet) roles(t *testing.T) (holder, other *realReplica) {
	t.Helper()
	a, b := f.replica("a"), f.replica("b")
	pools, err := a.api.Pools(t.Context())
	if err != nil || len(pools) != 1 {
		t.Fatalf("pools: %+v, %v", pools, err)
	}
	if !a.took(pools[0].Generation) {
		a, b = b, a
	}
	a.run = pools[0].Holder
	return a, b
}

// took says whether the replica has taken the pool over in that generation.
func (r *realReplica) took(generation int64) bool {
	for line := range strings.Lines(r.said.String()) {
		var said struct {
			Msg        string `json:"msg"`
			Generation int64  `json:"generation"`
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "took the pool over" && said.Generation == generation {
			return true
		}
	}
	return false
}

// takeover waits until another run than old holds the pool, as the one that is
// left sees it.
func (f *realFleet) takeover(t *testing.T, left *realReplica, old string) {
	t.Helper()
	took := f.until(10*time.Second, "takeover", func() bool {
		left.run = f.holder(t, left)
		return left.run != old && left.run != ""
	})
	t.Logf("taken over after %s", took)
}

// begin starts n clients that set up, step and destroy until finish.
func (f *realFleet) begin(n int) {
	ctx, stop := context.WithCancel(f.t.Context())
	f.stop = stop
	for c := range n {
		f.work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				f.stage(fmt.Sprintf("c%d-%d", c, i))
			}
		})
	}
}

// stage is one stage from beginning to end; each call goes to another replica.
func (f *realFleet) stage(id string) {
	var machine string
	ok := f.call("setup of "+id, func(ctx context.Context, c *client.Client) error {
		res, err := c.Setup(ctx, api.SetupRequest{ID: id, PoolID: "p"})
		machine = res.InstanceID
		return err
	})
	if ok {
		f.mu.Lock()
		if other := f.used[machine]; other != "" {
			f.t.Errorf("machine %s of %s was given to %s", machine, other, id)
		}
		f.used[machine] = id
		f.mu.Unlock()
		for _, s := range []string{"one", "two"} {
			f.call("step "+s+" of "+id, func(ctx context.Context, c *client.Client) error {
				body, err := json.Marshal(map[string]any{"id": s, "run": map[string]any{"command": []string{"true"}}})
				if err != nil {
					return err
				}
				_, err = c.Step(ctx, api.StepRequest{StageRuntimeID: id, IPAddress: "127.0.0.1", StartStepRequest: body})
				return err
			})
		}
	}
	f.call("destroy of "+id, func(ctx context.Context, c *client.Client) error {
		return c.Destroy(ctx, api.DestroyRequest{ID: id})
	})
	f.served.Add(1)
}

// callLimit is when a client gives up on a replica that does not answer.
const callLimit = 45 * time.Second

func (f *realFleet) call(what string, do func(context.Context, *client.Client) error) bool {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		r := f.any()
		lossy := f.lossy.Load()
		ctx, cancel := context.WithTimeout(f.t.Context(), callLimit)
		err := do(ctx, r.api)
		cancel()
		r.calls.Add(-1)
		if err == nil {
			return true
		}
		refused := errors.Is(err, syscall.ECONNREFUSED)
		lost := (lossy || f.lossy.Load()) && !answered(err)
		if (!refused && !lost) || time.Now().After(deadline) || f.t.Context().Err() != nil {
			f.t.Errorf("%s on %s: %v", what, r.name, err)
			return false
		}
		select {
		case <-time.After(50 * time.Millisecond): // another replica, a moment later
		case <-f.t.Context().Done():
		}
	}
}

// answered says whether an error is a replica's own answer.
func answered(err error) bool {
	_, ok := errors.AsType[*client.Error](err)
	return ok
}

func (f *realFleet) finish() {
	f.stop()
	f.work.Wait()
}

// audit compares, once all is quiet, what there is with what there should be.
func (f *realFleet) audit() {
	f.t.Helper()
	var rows []api.Instance
	f.until(patience, "the quiet pool", func() bool {
		list, err := f.replica("a").api.Instances(f.t.Context(), client.InstanceQuery{Live: true})
		rows = list.Instances
		warm := 0
		for _, row := range rows {
			if row.State == "warm" {
				warm++
			}
		}
		return err == nil && warm == 3 && len(rows) == 3
	})
	var names []string
	for _, row := range rows {
		names = append(names, row.Name)
	}
	slices.Sort(names)
	f.until(patience, "machines equal to rows", func() bool { return slices.Equal(realMachines(f.t, f.dir), names) })
}
