package pool_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// free counts the warm machines of a variant.
func (e *engine) free(variant string, states ...pool.InstanceState) int {
	e.t.Helper()
	if len(states) == 0 {
		states = []pool.InstanceState{pool.Warm}
	}
	rows, err := e.store.Instances(e.t.Context(), pool.InstanceQuery{States: states})
	if err != nil {
		e.t.Fatal(err)
	}
	n := 0
	for _, i := range rows {
		if i.Variant == variant {
			n++
		}
	}
	return n
}

func (e *engine) row(name string) pool.PoolStatus {
	e.t.Helper()
	all, err := e.m.PoolStatus(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range all {
		if p.Name == name {
			return p
		}
	}
	e.t.Fatalf("no pool %s", name)
	return pool.PoolStatus{}
}

func TestWarmMachineOfAVariantOrTenantIsClaimedByTheRequestThatFitsItAndMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 1, max: 10, tune: func(c *pool.PoolConfig) {
			c.Image = "ci"
			c.Variants = []pool.VariantConfig{{ID: "large", ResourceClass: "large", MachineType: "8x", Min: 2, Max: 3}}
			c.Tenants = []pool.TenantConfig{{
				ID: "acme", Accounts: []string{"acct-1"}, Min: 1, Max: -1, Image: "acme", Spec: c.Spec, SpecJSON: c.SpecJSON,
			}}
		}}}
		e.start()
		pass(time.Minute)
		if e.free("default") != 2 || e.free("large") != 2 {
			t.Fatalf("warm: %d default, %d large; want one of each tenant and 2", e.free("default"), e.free("large"))
		}
		for _, tc := range []struct {
			id, class, account, tenant, variant string
		}{
			{"a", "", "", "default", "default"},
			{"b", "large", "", "default", "large"},
			{"c", "", "acct-1", "acme", "default"},
		} {
			r := e.request(tc.id)
			r.Want.ResourceClass, r.Want.Account = tc.class, tc.account
			begun := time.Now()
			res, err := e.m.Setup(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if res.Instance.Cold || time.Since(begun) > 0 {
				t.Errorf("%s was not given a warm machine", tc.id)
			}
			if res.Instance.Tenant != tc.tenant || res.Instance.Variant != tc.variant {
				t.Errorf("%s was given %s/%s", tc.id, res.Instance.Tenant, res.Instance.Variant)
			}
		}
		pass(time.Minute)
		if e.free("default") != 2 || e.free("large") != 2 {
			t.Errorf("refilled to %d default and %d large", e.free("default"), e.free("large"))
		}
		// The variant's own limit holds although the pool has room.
		r := e.request("d")
		r.Want.ResourceClass, r.Want.MachineType, r.Timeout = "large", "other", time.Minute
		if _, err := e.m.Setup(t.Context(), r); err == nil {
			t.Error("a fourth large machine was made")
		}
	})
}

func TestWaitingRequestBeatsTheRefillAtTheLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		// pool: 1, limit: 1 is a documented example: the only place is taken by
		// a machine that does not fit.
		e.pools = []poolSpec{{name: "p", min: 1, max: 1}}
		e.start()
		r := e.request("a")
		r.Want.Image = "other"
		res, err := e.m.Setup(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if res.Instance.Image != "other" {
			t.Errorf("given image %q", res.Instance.Image)
		}
		e.destroy("a")
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1})
	})
}

func TestBrokenImageOpensTheBreakerWhichProbesByCanary(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var broken atomic.Bool
		broken.Store(true)
		e.pools = []poolSpec{{name: "p", min: 8, max: 20}, {name: "q", max: 4}}
		e.hook = func(_ context.Context, op string, tg pool.Target, _ string) error {
			if broken.Load() && strings.Contains(tg.Identity.Hostname, "-p-") && (op == "health" || op == "healthz") {
				return errors.New("kernel panic")
			}
			return nil
		}
		e.start()
		pass(10 * time.Minute)
		e.wantReason("breaker_opened")
		first := e.world.Made()
		if first > 20 {
			t.Errorf("%d machines were made before the breaker opened and after", first)
		}
		if got := e.row("p"); got.Gate.Reason != pool.GateBreaker || !strings.Contains(got.Problem, "kernel panic") || got.Counts[pool.Failed] != 1 {
			t.Errorf("gate %+v, problem %q, machines %v", got.Gate, got.Problem, got.Counts)
		}
		// Another pool of a request is tried at once.
		if got := e.setup("a", "p", "q").Instance.Pool; got != "q" {
			t.Errorf("served by %s", got)
		}
		pass(3 * time.Hour)
		e.restart()
		pass(3 * time.Hour)
		if n := e.world.Made() - first; n > 16 {
			t.Errorf("%d canaries in six hours with pauses of up to half an hour", n)
		}
		if got := e.row("p"); got.Gate.Reason != pool.GateBreaker || got.Gate.Trips < 3 {
			t.Errorf("after a restart the gate is %+v", got.Gate)
		}
		broken.Store(false)
		pass(time.Hour)
		e.wantReason("breaker_closed")
		pass(time.Hour)
		if got := e.row("p"); got.Counts[pool.Warm] != 8 || got.Problem != "" || got.Counts[pool.Failed] > 0 {
			t.Errorf("after the repair: %v, problem %q", got.Counts, got.Problem)
		}
	})
}

func TestRequestsWaitForTheBreakerAndCarryItsReason(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 4, wait: 90 * time.Second, tune: func(c *pool.PoolConfig) { c.Guards.Failures = 1 }}}
		var broken atomic.Bool
		broken.Store(true)
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "create" && broken.Load() {
				return fmt.Errorf("%w: key is revoked", drivers.ErrAuth)
			}
			return nil
		}}
		e.start()
		if _, err := e.m.Setup(t.Context(), e.request("a")); err == nil || !strings.Contains(err.Error(), "key is revoked") {
			t.Fatalf("got %v", err)
		}
		short := e.request("b")
		short.Timeout = 20 * time.Second
		if _, err := e.m.Setup(t.Context(), short); err == nil || !strings.Contains(err.Error(), "breaker_open") || !strings.Contains(err.Error(), "key is revoked") {
			t.Errorf("a request that waited in vain is told %v", err)
		}
		broken.Store(false)
		e.setup("c") // waits for the pause to end, and is the canary
	})
}

func TestAGitspaceWhoseDisksAreWrongClosesThePoolForNobodyElse(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 4, tune: func(c *pool.PoolConfig) { c.Guards.Failures = 1 }}}
		var twice atomic.Bool
		twice.Store(true)
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "create" && twice.Load() {
				return fmt.Errorf("%w: there are two disks home", drivers.ErrInvalid)
			}
			return nil
		}}
		e.start()
		for range 3 {
			if _, err := e.m.Setup(t.Context(), e.space("space", "home")); err == nil || !strings.Contains(err.Error(), "two disks") {
				t.Fatalf("got %v", err)
			}
		}
		if got := e.row("p"); got.Gate.Reason != "" || got.Gate.Failures != 0 {
			t.Errorf("gate %+v", got.Gate)
		}
		twice.Store(false)
		e.setup("build")
	})
}

func TestPoolReachesZeroByScheduleAndLeavesIt(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) { // the bubble begins on a Saturday at midnight UTC
		e.limits = pool.Timeouts{SweepLocal: time.Hour}
		e.pools = []poolSpec{{name: "p", min: 0, max: 9, tune: func(c *pool.PoolConfig) {
			c.Schedules = []pool.Schedule{{From: 8 * time.Hour, To: 18 * time.Hour, Zone: time.UTC, Min: 3}}
		}}}
		e.start()
		for day := range 2 {
			pass(time.Until(time.Date(2000, 1, 1+day, 7, 59, 59, 0, time.UTC)))
			e.wantRows(map[pool.InstanceState]int{})
			pass(2 * time.Second)
			e.wantRows(map[pool.InstanceState]int{pool.Warm: 3})
			pass(time.Until(time.Date(2000, 1, 1+day, 18, 0, 1, 0, time.UTC)))
			e.wantRows(map[pool.InstanceState]int{})
		}
	})
}

func TestAStopOfEveryPoolScalesToZeroNow(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 3, max: 9, wait: 30 * time.Second}, {name: "q", min: 2, max: 9, wait: 30 * time.Second}}
		e.start()
		e.setup("a")
		order := func(o pool.Override) {
			t.Helper()
			for _, name := range []string{"p", "q"} {
				if err := e.m.OverridePool(t.Context(), name, o); err != nil {
					t.Fatal(err)
				}
			}
		}
		order(pool.Override{Stopped: true, By: "ops", Why: "the bill"})
		synctest.Wait()
		pass(time.Second)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1})
		e.wantReason("pool_stopped")
		e.restart()
		pass(time.Hour)
		if _, err := e.m.Setup(t.Context(), e.request("b")); err == nil || !strings.Contains(err.Error(), "stopped by an operator: the bill") {
			t.Errorf("a request is told %v", err)
		}
		if got := e.row("p").Problem; !strings.Contains(got, "stopped by ops") {
			t.Errorf("problem %q", got)
		}
		order(pool.Override{By: "ops", Why: "the bill is paid"})
		pass(time.Minute)
		if o := e.row("p").Override; o != (pool.Override{}) {
			t.Errorf("an order that was taken back is still there: %+v", o)
		}
		if got := e.row("p").Counts[pool.Warm] + e.row("q").Counts[pool.Warm]; got != 5 {
			t.Errorf("%d warm machines after the order was taken back", got)
		}
	})
}

func TestSlowBootIsNotKilledWhileThePoolShrinks(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		zero := 0
		e.pools = []poolSpec{{name: "p", min: 2, max: 4, cfg: noop.Config{BootDelay: 175 * time.Second}}}
		e.start()
		if err := e.m.OverridePool(t.Context(), "p", pool.Override{Min: &zero}); err != nil {
			t.Fatal(err)
		}
		pass(170 * time.Second)
		e.wantRows(map[pool.InstanceState]int{pool.Booting: 2})
		if err := e.m.OverridePool(t.Context(), "p", pool.Override{}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2})
		if n := e.world.Made(); n != 2 {
			t.Errorf("%d machines were made", n)
		}
	})
}

func TestPartOfThePoolSleepsOnDiskAndWakesForARequest(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 3, max: 6, cfg: noop.Config{BootDelay: 5 * time.Second}, tune: func(c *pool.PoolConfig) {
			c.Hibernate, c.Running = true, 1
		}}}
		e.start()
		pass(time.Minute)
		rest := map[pool.InstanceState]int{pool.Warm: 1, pool.Hibernated: 2}
		e.wantRows(rest)
		made := e.world.Made()
		pass(3 * time.Hour)
		e.wantRows(rest)
		if n := e.world.Made(); n != made {
			t.Errorf("an idle pool made %d machines", n-made)
		}
		for i := range 3 { // more than are in memory
			e.setup(fmt.Sprint("s", i))
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1, pool.Hibernated: 2, pool.Leased: 3})
		for i := range 3 {
			e.destroy(fmt.Sprint("s", i))
		}
		pass(time.Minute)
		e.wantRows(rest)
	})
}

func TestBuildWhoseMachineDoesNotWakeGetsAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var broken atomic.Bool
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "resume" && broken.Load() {
				return errors.New("the state file is damaged")
			}
			return nil
		}}
		e.pools = []poolSpec{{name: "p", min: 1, max: 4, tune: func(c *pool.PoolConfig) { c.Hibernate = true }}}
		e.start()
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Hibernated: 1})
		broken.Store(true)
		asleep := e.machines()[0]
		res := e.setup("a")
		if res.Instance.Name == asleep {
			t.Error("given the machine that did not wake")
		}
		broken.Store(false)
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Hibernated: 1, pool.Leased: 1})
		e.wantReason("machine_failed")
	})
}

func TestMachineThatCannotBeHibernatedIsLeftRunningForAnHour(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var tries atomic.Int64
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "suspend" {
				tries.Add(1)
				return errors.New("no room on disk")
			}
			return nil
		}}
		e.pools = []poolSpec{{name: "p", min: 1, max: 4, tune: func(c *pool.PoolConfig) { c.Hibernate = true }}}
		e.start()
		pass(30 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1})
		e.wantReason("hibernate_failed")
		if n := tries.Load(); n != 3 {
			t.Errorf("tried %d times in half an hour, want 3", n)
		}
		e.setup("a")
	})
}

func TestCostCapRefusesRequestsUntilMidnightAndLetsWorkGoOn(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour}
		e.pools = []poolSpec{{name: "p", max: 4, tune: func(c *pool.PoolConfig) { c.Guards.HoursPerDay = 2 }}}
		e.start()
		e.setup("a")
		pass(3 * time.Hour)
		begun := time.Now()
		if _, err := e.m.Setup(t.Context(), e.request("b")); err == nil || !strings.Contains(err.Error(), "cost_cap") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(begun); d > time.Minute {
			t.Errorf("refused after %s", d)
		}
		if got := e.row("p"); got.SpentHours < 2 || got.Counts[pool.Leased] != 1 {
			t.Errorf("spent %.1f hours, machines %v", got.SpentHours, got.Counts)
		}
		pass(time.Until(time.Date(2000, 1, 2, 0, 2, 0, 0, time.UTC)))
		e.setup("c")
	})
}

func TestRefillAfterARestartRampsUp(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 40, max: 60, cfg: noop.Config{BootDelay: 10 * time.Second}}}
		e.start()
		for _, want := range []int{4, 12, 36} {
			pass(5 * time.Second)
			if n := e.world.Made(); n != want {
				t.Errorf("%d machines begun, want %d", n, want)
			}
			pass(5 * time.Second)
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 40})
	})
}

func TestIdlePassWritesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		counting := &writes{Store: e.store}
		e.store = counting
		e.start()
		pass(time.Minute)
		before := counting.n.Load()
		pass(time.Hour)
		if n := counting.n.Load() - before; n > 0 {
			t.Errorf("%d writes of the planner's in an idle hour", n)
		}
	})
}

// writes counts what a planner may write.
type writes struct {
	pool.Store
	n atomic.Int64
}

func (w *writes) Intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	w.n.Add(1)
	return w.Store.Intend(ctx, in)
}

func (w *writes) Change(ctx context.Context, c pool.Change) (pool.Instance, error) {
	w.n.Add(1)
	return w.Store.Change(ctx, c)
}

func (w *writes) SetGate(ctx context.Context, p string, g pool.Gate, now time.Time, ev ...pool.Event) error {
	w.n.Add(1)
	return w.Store.SetGate(ctx, p, g, now, ev...)
}

func (w *writes) Postpone(ctx context.Context, id string, s pool.InstanceState, p pool.Postponement) error {
	w.n.Add(1)
	return w.Store.Postpone(ctx, id, s, p)
}
