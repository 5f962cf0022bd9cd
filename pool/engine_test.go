package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestPoolIsFilledAndRefilledAtTheClaimsOwnInstant(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2})
		pass(time.Hour + 3*time.Second) // not at a tick of the planner
		claimed := time.Now()
		res := e.setup("a")
		synctest.Wait()
		if d := time.Since(claimed); d > 0 {
			t.Errorf("a warm setup took %s of fake time", d)
		}
		live, err := e.store.Instances(t.Context(), pool.InstanceQuery{Live: true})
		if err != nil {
			t.Fatal(err)
		}
		refills := 0
		for _, i := range live {
			if i.ID != res.Instance.ID && i.Created.Equal(claimed.UTC().Truncate(time.Millisecond)) {
				refills++
			}
		}
		if refills != 1 {
			t.Errorf("%d refills have their intent at the claim's instant, want 1: %v", refills, live)
		}
	})
}

func TestEveryPoolTriedIsInTheErrorWithItsCause(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{
			{name: "full", max: 4, cfg: noop.Config{Capacity: 1}},
			{name: "sick", max: 4},
			{name: "broken", max: 4},
		}
		e.faults = &noop.Faults{Before: func(_ context.Context, op, name string) error {
			if op == "create" && strings.Contains(name, "broken") {
				return fmt.Errorf("%w: quota CPUS exceeded", drivers.ErrQuota)
			}
			return nil
		}}
		e.hook = func(_ context.Context, op string, tg pool.Target, _ string) error {
			if op == "setup" && strings.Contains(tg.Identity.Hostname, "sick") {
				return &pool.AgentError{Op: "setup", Status: 500, Message: "Cannot connect to the Docker daemon"}
			}
			return nil
		}
		e.start()
		e.setup("holder", "full")
		_, err := e.m.Setup(t.Context(), e.request("a", "nosuch", "full", "sick", "broken"))
		var se *pool.SetupError
		if !errors.As(err, &se) {
			t.Fatalf("got %v, want a SetupError", err)
		}
		var pools []string
		for _, c := range se.Causes {
			pools = append(pools, c.Pool+" "+c.Phase)
		}
		want := "nosuch claim, full create, sick setup, broken create"
		if got := strings.Join(pools, ", "); got != want {
			t.Errorf("causes %q, want %q", got, want)
		}
		for _, text := range []string{"could not find pool: nosuch", "no capacity", "Cannot connect to the Docker daemon", "quota CPUS exceeded"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("the error lacks %q: %v", text, err)
			}
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1})
	})
}

func TestFallbackPoolServesWhenTheFirstCannot(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 1}, {name: "q", max: 1}}
		e.start()
		if got := e.setup("a", "p", "q").Instance.Pool; got != "p" {
			t.Errorf("first request got pool %s", got)
		}
		if got := e.setup("b", "p", "q").Instance.Pool; got != "q" {
			t.Errorf("second request got pool %s, want the fallback", got)
		}
	})
}

// A caller that hangs up in any phase costs no machine, and one that returns
// within the grace gets the machine that was made for it.
func TestCallerHangsUpInEachPhase(t *testing.T) {
	for _, phase := range []string{"create", "health", "setup"} {
		for _, returns := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/returns=%t", phase, returns), func(t *testing.T) {
				inBubble(t, func(t *testing.T, e *engine) {
					e.pools[0].min = 0
					var stalled atomic.Bool // one call of the phase is slow, not each
					stall := func(ctx context.Context) error {
						if stalled.Swap(true) {
							return nil
						}
						select {
						case <-time.After(20 * time.Second):
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					e.faults = &noop.Faults{Before: func(ctx context.Context, op, _ string) error {
						if op == phase {
							return stall(ctx)
						}
						return nil
					}}
					e.hook = func(ctx context.Context, op string, _ pool.Target, _ string) error {
						if op == phase || (phase == "health" && op == "healthz") {
							return stall(ctx)
						}
						return nil
					}
					e.start()
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					if _, err := e.m.Setup(ctx, e.request("a")); !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("got %v, want the caller's own time-out", err)
					}
					if returns {
						pass(time.Minute)
						e.setup("a")
						if n := e.world.Made(); n != 1 {
							t.Errorf("%d machines were made for one lease", n)
						}
						e.destroy("a")
					}
					pass(10 * time.Minute)
					e.wantRows(map[pool.InstanceState]int{})
					if m := e.machines(); len(m) != 0 {
						t.Errorf("machines left: %v", m)
					}
				})
			})
		}
	}
}

func TestDestroyDuringSetupEndsBoth(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min, e.pools[0].cfg.BootDelay = 0, time.Minute
		e.start()
		res := make(chan error, 1)
		go func() {
			_, err := e.m.Setup(context.Background(), e.request("a"))
			res <- err
		}()
		pass(10 * time.Second)
		e.destroy("a")
		if err := <-res; err == nil || !strings.Contains(err.Error(), "destroyed") {
			t.Errorf("the setup was answered %v", err)
		}
		pass(5 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
	})
}

// A setup whose caller has gone is not kept waiting for its return when its
// lease was destroyed: nothing of it is left.
func TestDestroyEndsASetupThatWaitsForItsCallersReturn(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min, e.pools[0].cfg.BootDelay = 0, time.Minute
		e.start()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.m.Setup(ctx, e.request("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the caller's own time-out", err)
		}
		pass(time.Second)
		if n := e.m.Counters().Setups["abandoned"]; n != 0 {
			t.Fatalf("%d setups given up before the grace was over", n)
		}
		e.destroy("a")
		pass(time.Second)
		if n := e.m.Counters().Setups["abandoned"]; n != 1 {
			t.Errorf("%d setups given up a second after the destroy, want 1", n)
		}
	})
}

func TestDestroyBeforeItsSetupRefusesABuild(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		e.destroy("late")
		if _, err := e.m.Setup(t.Context(), e.request("late")); !errors.Is(err, pool.ErrDestroyedFirst) {
			t.Errorf("got %v, want ErrDestroyedFirst", err)
		}
		pass(11 * time.Minute)
		e.setup("late")
		e.destroy("late")
		e.setup("late") // an id that had a machine leaves no tombstone
	})
}

func TestTwoSetupsOfOneIDShareOneMachine(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min, e.pools[0].cfg.CreateDelay = 0, 5*time.Second
		e.start()
		var wg sync.WaitGroup
		ids := make([]string, 8)
		for i := range ids {
			wg.Go(func() {
				res, err := e.m.Setup(context.Background(), e.request("a"))
				if err != nil {
					t.Errorf("setup: %v", err)
				}
				ids[i] = res.Instance.ID
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] || id == "" {
				t.Errorf("one id holds several machines: %v", ids)
			}
		}
		if again := e.setup("a"); again.Instance.ID != ids[0] || !again.Joined {
			t.Errorf("a later setup got %s, joined %t", again.Instance.ID, again.Joined)
		}
	})
}

func TestRequestsAtTheLimitAreServedInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 2, max: 2, wait: time.Hour}}
		e.start()
		e.setup("a")
		e.setup("b")
		order := make(chan string, 3)
		for _, id := range []string{"c", "d", "e"} {
			go func() {
				if _, err := e.m.Setup(context.Background(), e.request(id)); err != nil {
					t.Errorf("setup %s: %v", id, err)
				}
				order <- id
			}()
			pass(time.Second)
		}
		l, err := e.store.Lease(t.Context(), "e")
		if err != nil || l.State != pool.LeaseWaiting || !strings.Contains(l.Reason, "limit") {
			t.Errorf("the waiting lease is %s with reason %q (%v)", l.State, l.Reason, err)
		}
		got := ""
		for _, next := range []string{"a", "b", "c"} {
			pass(time.Minute)
			e.destroy(next)
			got += <-order
			if n := e.world.Machines(); len(n) > 2 {
				t.Errorf("%d machines with a limit of 2", len(n))
			}
		}
		if got != "cde" {
			t.Errorf("served in order %q, want cde", got)
		}
	})
}

func TestWaitingEndsWithEachPoolsLimitInTheError(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 1, wait: 2 * time.Minute}, {name: "q", max: 1, wait: 3 * time.Minute}}
		e.start()
		e.setup("a", "p")
		e.setup("b", "q")
		begun := time.Now()
		_, err := e.m.Setup(t.Context(), e.request("c", "p", "q"))
		if err == nil || !strings.Contains(err.Error(), "pool p is at its limit (1 of 1 machines)") || !strings.Contains(err.Error(), "pool q is at its limit (1 of 1 machines)") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(begun); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("waited %s, want the longest wait of its pools", d)
		}
	})
}

func TestRefillNeverTakesTheLastPlaceFromAWaitingRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 3, max: 3, wait: time.Hour, cfg: noop.Config{BootDelay: time.Minute}}}
		e.start()
		pass(2 * time.Minute)
		for _, id := range []string{"a", "b", "c"} {
			e.setup(id)
		}
		served := make(chan string, 1)
		go func() {
			if _, err := e.m.Setup(context.Background(), e.request("d")); err == nil {
				served <- "d"
			}
		}()
		pass(time.Second)
		e.destroy("a")
		pass(2 * time.Minute)
		select {
		case <-served:
		default:
			t.Error("the free place did not go to the request that waits")
		}
	})
}

// The cloud refuses every destroy for two hours: builds are answered at once,
// the rows stay, counted and retried, and go when the cloud relents.
func TestDestroyIsRetriedForEver(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour
		var refuse atomic.Bool
		var tries atomic.Int64
		refuse.Store(true)
		e.pools[0].min = 0
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "destroy" && refuse.Load() {
				tries.Add(1)
				return errors.New("backend error")
			}
			return nil
		}}
		e.start()
		e.setup("a")
		begun := time.Now()
		e.destroy("a")
		if d := time.Since(begun); d > time.Second {
			t.Errorf("the destroy of a build was answered after %s", d)
		}
		pass(2 * time.Hour)
		e.wantRows(map[pool.InstanceState]int{pool.Destroying: 1})
		if n := tries.Load(); n < 100 { // about one a minute
			t.Errorf("tried %d times in two hours", n)
		}
		live, err := e.store.Instances(t.Context(), pool.InstanceQuery{Live: true})
		if err != nil || !strings.Contains(live[0].Detail, "backend error") || live[0].Attempts < 100 {
			t.Errorf("the row does not show it: %+v (%v)", live, err)
		}
		refuse.Store(false)
		pass(2 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
	})
}

func TestGitspaceDestroyWaitsForTheCloudAndSaysWhyNot(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].cfg.Hibernate = true
		e.pools[0].min = 0
		var refuse atomic.Bool
		refuse.Store(true)
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "destroy" && refuse.Load() {
				return errors.New("disk is in use")
			}
			return nil
		}}
		e.start()
		if _, err := e.m.Setup(t.Context(), e.gitspace("g")); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g"})
		if err == nil || !strings.Contains(err.Error(), "disk is in use") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(begun); d < 9*time.Minute || d > 11*time.Minute {
			t.Errorf("answered after %s, want its budget of 10 minutes", d)
		}
		e.wantRows(map[pool.InstanceState]int{pool.Destroying: 1})
		refuse.Store(false)
		e.destroy("g")
		e.wantRows(map[pool.InstanceState]int{})
	})
}

func TestSuspendedGitspaceIsItsOwnersAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour, BusyAge: time.Hour, FreeAge: 3 * time.Hour}
		e.pools[0].cfg.Hibernate = true
		e.start()
		first, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Body: json.RawMessage(`{}`)}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			id := fmt.Sprintf("b%d", i)
			if got := e.setup(id).Instance.ID; got == first.Instance.ID {
				t.Fatalf("%s was given the suspended gitspace", id)
			}
			e.destroy(id)
		}
		pass(8 * time.Hour)
		e.restart()
		again, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil || again.Instance.ID != first.Instance.ID {
			t.Fatalf("after days and a restart: %s, want %s (%v)", again.Instance.ID, first.Instance.ID, err)
		}
		if again.Ports[3000] != 3000 {
			t.Errorf("ports %v", again.Ports)
		}
	})
}

func TestResumeThatFailsDestroysNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour
		e.pools[0].cfg.Hibernate = true
		e.pools[0].min = 0
		var fail atomic.Bool
		fail.Store(true)
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "resume" && fail.Load() {
				return errors.New("ZONE_RESOURCE_POOL_EXHAUSTED")
			}
			return nil
		}}
		e.start()
		first, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g"}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := e.m.Setup(t.Context(), e.gitspace("g")); err == nil || !strings.Contains(err.Error(), "ZONE_RESOURCE_POOL_EXHAUSTED") {
				t.Fatalf("got %v, want the cloud's own words", err)
			}
		}
		pass(6 * time.Hour)
		e.wantRows(map[pool.InstanceState]int{pool.Suspended: 1})
		fail.Store(false)
		again, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil || again.Instance.ID != first.Instance.ID {
			t.Errorf("resumed on %s, want %s (%v)", again.Instance.ID, first.Instance.ID, err)
		}
	})
}

func TestFreeAgeReplacesWarmMachines(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour, BusyAge: time.Hour, FreeAge: 4 * time.Hour}
		e.start()
		before := e.machines()
		pass(4*time.Hour - time.Minute)
		if after := e.machines(); strings.Join(before, " ") != strings.Join(after, " ") {
			t.Errorf("replaced before the free age: %v, %v", before, after)
		}
		pass(2 * time.Minute)
		after := e.machines()
		for _, name := range before {
			if strings.Contains(strings.Join(after, " "), name) {
				t.Errorf("%s outlived the free age", name)
			}
		}
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2})
	})
}

func TestStepsShareWhatTheyExport(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		e.setup("a")
		if err := e.store.Export(t.Context(), pool.LeaseKey{ID: "a", Generation: 1}, map[string]string{"TOKEN": "x"}, time.Now()); err != nil {
			t.Fatal(err)
		}
		e.restart()
		var seen map[string]string
		r := step("a", "s")
		body := r.Body
		r.Body = func(vars map[string]string) (json.RawMessage, error) {
			seen = vars
			return body(vars)
		}
		if _, err := e.m.Step(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if seen["TOKEN"] != "x" {
			t.Errorf("the step saw %v", seen)
		}
	})
}

func TestPoolStatusTellsMachinesByState(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].max, e.pools[0].cfg.Hibernate = 8, true
		e.start()
		e.setup("a")
		for _, id := range []string{"g", "h"} {
			if _, err := e.m.Setup(t.Context(), e.gitspace(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g"}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		status, err := e.m.PoolStatus(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(status[0].Counts[pool.Warm], status[0].Counts[pool.Leased], status[0].Counts[pool.Suspended], status[0].Counted)
		if got != "2 2 1 5" {
			t.Errorf("warm, leased, suspended, counted: %s, want 2 2 1 5 (%v)", got, status[0].Counts)
		}
	})
}

// A cold start is answered when its machine is ready, not when somebody
// happens to look again.
func TestColdStartsAreAnsweredAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0] = poolSpec{name: "p", max: 50}
		e.start()
		pass(time.Second)
		var wg sync.WaitGroup
		begun := time.Now()
		for i := range 40 {
			wg.Go(func() {
				if _, err := e.m.Setup(context.Background(), e.request(fmt.Sprintf("s%d", i))); err != nil {
					t.Errorf("setup: %v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(begun); d > time.Second {
			t.Errorf("instant machines took %s", d)
		}
		if made := e.world.Made(); made != 40 {
			t.Errorf("%d machines for 40 leases", made)
		}
	})
}
