package pool_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// A build past its busy age with a running step goes on; an hour after its
// last step and call it ends.
func TestBusyAgeNeverEndsRunningWork(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour, BusyAge: 2 * time.Hour, Idle: 20 * time.Minute}
		e.pools[0].min = 0
		long := 5 * time.Hour
		e.hook = func(ctx context.Context, op string, _ pool.Target, _ string) error {
			if op == "poll_step" {
				select {
				case <-time.After(long):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}
		e.start()
		e.setup("a")
		for i := range 4 { // the caller hangs up and asks again
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			_, err := e.m.Step(ctx, step("a", "long"))
			cancel()
			l, lerr := e.store.Lease(t.Context(), "a")
			if lerr != nil || l.State != pool.LeaseActive {
				t.Fatalf("after %d h the lease is %s (%v, step: %v)", i+1, l.State, lerr, err)
			}
		}
		pass(15 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1})
		pass(30 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
		e.wantReason("busy_age")
	})
}

func TestLeasedMachineThatDies(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.hook = func(ctx context.Context, op string, tg pool.Target, _ string) error {
			if op != "poll_step" {
				return nil
			}
			for { // a poll outlasts its connection
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Second):
				}
			}
		}
		e.start()
		first := e.setup("a")
		res := make(chan error, 1)
		go func() {
			_, err := e.m.Step(context.Background(), step("a", "s"))
			res <- err
		}()
		pass(time.Minute)
		e.world.Kill(first.Instance.Name, "pre-empted")
		died := time.Now()
		err := <-res
		if !errors.Is(err, pool.ErrLost) || !strings.Contains(err.Error(), "pre-empted") {
			t.Errorf("the running step: %v", err)
		}
		if d := time.Since(died); d > 15*time.Second {
			t.Errorf("answered %s after the death", d)
		}
		if _, err := e.m.Step(t.Context(), step("a", "later")); !errors.Is(err, pool.ErrLost) {
			t.Errorf("a later step: %v", err)
		}
		if again := e.setup("a"); again.Instance.ID == first.Instance.ID || again.Lease.Generation != first.Lease.Generation+1 {
			t.Errorf("set up again on %s generation %d", again.Instance.ID, again.Lease.Generation)
		}
		pass(time.Minute)
		for _, name := range e.machines() {
			if name == first.Instance.Name {
				t.Error("the dead machine still exists")
			}
		}
	})
}

func TestGitspaceWhoseMachineDiesKeepsIt(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour
		e.pools[0].min, e.pools[0].cfg.Hibernate = 0, true
		e.start()
		first, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil {
			t.Fatal(err)
		}
		e.world.Kill(first.Instance.Name, "host error")
		pass(10 * time.Hour)
		if _, err := e.m.Step(t.Context(), step("g", "s")); !errors.Is(err, pool.ErrLost) {
			t.Errorf("a step of a dead gitspace: %v", err)
		}
		e.wantRows(map[pool.InstanceState]int{pool.Failed: 1})
		again, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil || again.Instance.ID != first.Instance.ID {
			t.Errorf("set up again on %s, want %s restarted (%v)", again.Instance.ID, first.Instance.ID, err)
		}
		if _, err := e.m.Step(t.Context(), step("g", "s2")); err != nil {
			t.Errorf("a step after the restart: %v", err)
		}
	})
}

func TestWarmMachineWhoseAgentIsDeadIsNotGivenAway(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		dead := e.world.Machines()[0].Tags.Instance
		e.hook = func(_ context.Context, _ string, tg pool.Target, _ string) error {
			if tg.Instance == dead {
				return errors.New("connection refused")
			}
			return nil
		}
		for _, id := range []string{"a", "b"} {
			if got := e.setup(id).Instance.ID; got == dead {
				t.Errorf("%s was given the dead machine", id)
			}
		}
		pass(time.Minute)
		for _, m := range e.world.Machines() {
			if m.Tags.Instance == dead {
				t.Error("the dead machine still exists")
			}
		}
	})
}

func TestAgentThatNeverAnswersEndsTheSetupWithItsConsole(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min = 0
		e.hook = func(_ context.Context, op string, _ pool.Target, _ string) error {
			if op == "healthz" || op == "health" {
				return errors.New("connection refused")
			}
			return nil
		}
		e.start()
		begun := time.Now()
		_, err := e.m.Setup(t.Context(), e.request("a"))
		if err == nil || !strings.Contains(err.Error(), "not healthy") || !strings.Contains(err.Error(), "console tail") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(begun); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("gave up after %s, want the boot limit of 3 minutes", d)
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
		if m := e.machines(); len(m) != 0 {
			t.Errorf("machines left: %v", m)
		}
	})
}

// Machines that end with the process: the next start finds them dead, and a
// request that was given one before that is found out gets another.
func TestClaimOfAMachineThatIsGoneTakesAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		pass(time.Minute)
		for _, mach := range e.world.Machines() {
			e.world.Vanish(mach.Name)
		}
		res := e.setup("a")
		if _, err := e.m.Step(t.Context(), step("a", "s")); err != nil {
			t.Errorf("step on %s: %v", res.Instance.Name, err)
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1, pool.Warm: 2})
	})
}
