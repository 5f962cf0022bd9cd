package pool_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/testclock"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// A destroy that was to be tried again in a minute is not left alone for a day
// because somebody set the clock back by one.
func TestAClockThatIsSetBackPutsNothingOff(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var clock testclock.Clock
		var refuse atomic.Bool
		refuse.Store(true)
		e.now = clock.Now
		e.pools = []poolSpec{{name: "p", min: 0, max: 2}}
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "destroy" && refuse.Load() {
				return errors.New("not now")
			}
			return nil
		}}
		e.start()
		e.setup("a")
		e.destroy("a")
		pass(5 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Destroying: 1})
		clock.Set(-24 * time.Hour)
		refuse.Store(false)
		pass(2 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
	})
}

// A gitspace's machine that never booted is kept for inspection for an hour, not
// for a day longer because somebody set the clock back by one.
func TestAClockThatIsSetBackKeepsNoFailedMachine(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var clock testclock.Clock
		e.now = clock.Now
		e.pools = []poolSpec{{
			name: "p", max: 2, cfg: noop.Config{BootDelay: time.Hour}, tune: func(c *pool.PoolConfig) { c.Guards.Failures = 1 },
		}}
		e.start()
		if _, err := e.m.Setup(t.Context(), e.gitspace("g")); err == nil {
			t.Fatal("a machine that does not boot was given away")
		}
		e.wantRows(map[pool.InstanceState]int{pool.Failed: 1})
		clock.Set(-24 * time.Hour)
		pass(2 * time.Hour)
		e.wantRows(map[pool.InstanceState]int{})
	})
}

// A clock that is set forward makes every lease look old and silent. None is
// ended for that: not at once, and not by the next process, to which the clock
// looks right.
func TestAClockThatIsSetForwardEndsNoLease(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var clock testclock.Clock
		e.now = clock.Now
		e.pools = []poolSpec{{name: "p", min: 0, max: 1}}
		e.start()
		e.setup("a")
		pass(25 * time.Second)
		clock.Set(72 * time.Hour)
		pass(30 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1})
		e.restart()
		pass(59 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Leased: 1})
		// Nobody has called for an hour now, by this process's own watch.
		pass(20 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
	})
}

// The steps of a lease that ended without a destroy here (it was lost) are not
// remembered for ever.
func TestStepsOfLostLeasesAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 0, max: 1}}
		e.start()
		res := e.setup("a")
		if _, err := e.m.Step(t.Context(), step("a", "s1")); err != nil {
			t.Fatal(err)
		}
		ids := func() []string {
			ids, err := e.m.StepIDs(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		if got := ids(); len(got) != 1 {
			t.Fatalf("steps %v, want one", got)
		}
		e.world.Kill(res.Instance.Name, "power cut")
		pass(3 * time.Minute)
		if got := ids(); len(got) != 0 {
			t.Errorf("steps %v of a lost lease are remembered", got)
		}
	})
}
