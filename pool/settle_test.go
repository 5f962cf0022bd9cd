package pool_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// cpus says whose CPUs stand. Like a machine it outlives the engine.
type cpus struct {
	mu      sync.Mutex
	stopped map[string]bool // by name
	// pausing, if set, is called in a pause before anything has happened.
	pausing func(ctx context.Context, name string) error
}

func (c *cpus) stop(name string, stopped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stopped {
		c.stopped[name] = true
	} else {
		delete(c.stopped, name)
	}
}

func (c *cpus) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.stopped))
}

// pauser is the pretend driver with machines that can be paused.
type pauser struct {
	*noop.Driver
	cpus *cpus
}

func (p pauser) Pause(ctx context.Context, ref drivers.Ref) error {
	if p.cpus.pausing != nil {
		if err := p.cpus.pausing(ctx, ref.Name); err != nil {
			return err
		}
	}
	p.cpus.stop(ref.Name, true)
	return nil
}

func (p pauser) Unpause(_ context.Context, ref drivers.Ref) error {
	p.cpus.stop(ref.Name, false)
	return nil
}

func (p pauser) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	l, err := p.Driver.List(ctx, q)
	l.Instances = slices.Clone(l.Instances)
	for i := range l.Instances {
		l.Instances[i] = p.cpus.see(l.Instances[i])
	}
	return l, err
}

func (p pauser) Find(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	found, err := p.Driver.Find(ctx, ref)
	return p.cpus.see(found), err
}

func (c *cpus) see(i drivers.Instance) drivers.Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped[i.Name] && i.Status == drivers.StatusRunning {
		i.Status = drivers.StatusPaused
	}
	return i
}

// settling is an engine with one warm machine that can be paused.
func settling(t *testing.T, f func(t *testing.T, e *engine)) {
	t.Helper()
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min, e.pools[0].max = 1, 1
		e.cpus = &cpus{stopped: map[string]bool{}}
		f(t, e)
	})
}

func (e *engine) wantPaused(when string, want ...string) {
	e.t.Helper()
	if got := e.cpus.names(); !slices.Equal(got, want) {
		e.t.Errorf("%s: paused are %v, want %v", when, got, want)
	}
}

// during has an agent's operation take d, or until it is broken off.
func during(op string, d time.Duration) func(context.Context, string, pool.Target, string) error {
	return func(ctx context.Context, did string, _ pool.Target, _ string) error {
		if did != op {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(d):
			return nil
		}
	}
}

func TestMachineIsWarmWhenItsAgentHasAnsweredAndIsPausedLater(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.hook = during("rehearse", 5*time.Second)
		e.start()
		pass(time.Second)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1})
		e.wantPaused("while it rehearses")
		pass(5 * time.Second)
		e.wantPaused("when it has rehearsed", e.machines()...)
	})
}

func TestClaimDuringTheRehearsalBreaksItOff(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		var brokenOff error
		e.hook = func(ctx context.Context, op string, target pool.Target, step string) error {
			err := during("rehearse", 15*time.Second)(ctx, op, target, step)
			if op == "rehearse" {
				brokenOff = err
			}
			return err
		}
		e.start()
		pass(time.Second)
		begun := time.Now()
		e.setup("a")
		if d := time.Since(begun); d > 0 {
			t.Errorf("the claim waited %s for the rehearsal", d)
		}
		if brokenOff == nil {
			t.Error("the rehearsal was not broken off")
		}
		pass(time.Minute)
		e.wantPaused("in use")
		if _, err := e.m.Step(t.Context(), step("a", "s")); err != nil {
			t.Errorf("step: %v", err)
		}
	})
}

// The claim is between the settler's last look at the row and the end of its
// pause: the machine must run when the setup is answered, and stay so.
func TestClaimDuringThePauseGetsAMachineThatRuns(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.cpus.pausing = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(2 * time.Second):
				return nil
			case <-ctx.Done():
				return nil // broken off too late: it comes true all the same
			}
		}
		e.start()
		pass(time.Second)
		begun := time.Now()
		e.setup("a")
		if d := time.Since(begun); d != time.Second {
			t.Errorf("the claim took %s, want what was left of the pause, 1s", d)
		}
		e.wantPaused("answered")
		pass(time.Minute)
		e.wantPaused("in use")
	})
}

// Another replica claims and does not know who settles: what has happened to
// its machine is undone.
func TestMachineClaimedElsewhereDuringThePauseRunsAgain(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour
		e.cpus.pausing = func(ctx context.Context, _ string) error { return e.claimElsewhere(ctx) }
		e.start()
		pass(time.Second)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1})
		e.wantPaused("claimed elsewhere")
	})
}

// claimElsewhere gives the warm machine away in the store alone.
func (e *engine) claimElsewhere(ctx context.Context) error {
	live, err := e.store.Instances(ctx, pool.InstanceQuery{Live: true})
	if err != nil || len(live) != 1 {
		return fmt.Errorf("%d machines, %w", len(live), err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	_, err = e.store.Arrive(ctx, pool.Arrival{
		ID: "elsewhere", Kind: pool.Build, Choices: []pool.Choice{{Pool: live[0].Pool, Shape: live[0].Shape}}, Waiter: "other",
		NeedUntil: now.Add(time.Hour), WaitUntil: now.Add(time.Hour), Due: now.Add(time.Hour), LeaseDue: now.Add(time.Hour), Now: now,
	})
	return err
}

func TestRunnerThatDiedBeforeThePauseIsMadeUpFor(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.hook = during("rehearse", 15*time.Second)
		e.start()
		pass(time.Second)
		e.restart()
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1})
		e.wantPaused("after the restart")
		pass(time.Minute)
		e.wantPaused("settled by the next", e.machines()...)
	})
}

func TestPauseThatFailsIsTriedAgain(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		tries := 0
		e.cpus.pausing = func(context.Context, string) error {
			if tries++; tries < 3 {
				return context.DeadlineExceeded
			}
			return nil
		}
		e.start()
		pass(time.Second)
		e.wantPaused("after one try")
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1})
		pass(5 * time.Minute)
		e.wantPaused("after more", e.machines()...)
	})
}

// Paused by one that died before it learned of the claim.
func TestLeasedMachineFoundPausedRunsAgain(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.start()
		pass(time.Second)
		res := e.setup("a")
		pass(time.Minute)
		e.cpus.stop(res.Instance.Name, true)
		pass(time.Minute)
		e.wantPaused("after a sweep")
	})
}

func TestDestroyDuringTheRehearsalLeavesNothing(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.hook = during("rehearse", 15*time.Second)
		e.start()
		pass(time.Second)
		first := e.machines()
		e.setup("a")
		e.destroy("a")
		synctest.Wait()
		pass(time.Minute)
		if now := e.machines(); len(now) != 1 || now[0] == first[0] {
			t.Errorf("machines %v, want one other than %v", now, first)
		}
		e.wantPaused("the next one", e.machines()...)
	})
}

// What is held may be in use by somebody the store has forgotten.
func TestHeldMachineIsNotPaused(t *testing.T) {
	settling(t, func(t *testing.T, e *engine) {
		e.hook = during("rehearse", 5*time.Second)
		e.start()
		pass(time.Second)
		name := e.machines()[0]
		if _, err := e.m.HoldInstance(t.Context(), name, true, pool.Order{}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		e.wantPaused("held")
		if _, err := e.m.HoldInstance(t.Context(), name, false, pool.Order{}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		e.wantPaused("let go", name)
	})
}
