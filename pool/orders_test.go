package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestWithoutForceALeasesMachineIsKept(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		inst := e.inState(pool.Leased)
		_, err := e.m.DestroyInstance(t.Context(), inst.ID, pool.DestroyOrder{})
		var kept *pool.KeptError
		if !errors.As(err, &kept) || kept.Why != pool.KeepLeased || !strings.Contains(err.Error(), "--force") {
			t.Errorf("error %v, want one that names the lease and --force", err)
		}
	})
}

// Rule 2: a cloud that refuses deletes for a week: rows stay, are retried,
// counted and visible.
func TestADestroyIsTriedForEverAndVisible(t *testing.T) {
	for _, how := range []string{"fails", "hangs"} {
		t.Run("the cloud "+how, func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				bad := &badCloud{}
				e.faults = bad.faults()
				e.limits.SweepLocal = time.Hour
				e.pools[0] = poolSpec{name: "p", max: 2}
				e.start()
				res := e.setup("a")
				bad.fails.Store(how == "fails")
				bad.hangs.Store(how == "hangs")
				e.destroy("a")
				pass(7 * 24 * time.Hour)
				row, err := e.store.Instance(t.Context(), res.Instance.ID)
				if err != nil || row.State != pool.Destroying || row.Attempts < 100 || row.Reason != "destroy_failed" || row.Detail == "" {
					t.Fatalf("after a week: %s, %d attempts, %q %q, %v", row.State, row.Attempts, row.Reason, row.Detail, err)
				}
				status, err := e.m.PoolStatus(t.Context())
				if err != nil || status[0].Failing != 1 || time.Since(status[0].FailingSince) < 6*24*time.Hour || status[0].Counted != 1 {
					t.Errorf("pool status: %+v, %v", status[0], err)
				}
				if failing := e.orphans().Failing; len(failing) != 1 {
					t.Errorf("reported: %+v", failing)
				}
				if n := count(e.reasons(), func(s string) bool { return s == "destroy_failed" }); n != 1 {
					t.Errorf("%d events, want one for the first failure", n)
				}
				bad.fails.Store(false)
				bad.hangs.Store(false)
				pass(10 * time.Minute)
				if len(e.machines()) != 0 {
					t.Errorf("left when the cloud is back: %v", e.machines())
				}
			})
		})
	}
}

// Rule 26 for leases: who waits gets an answer, with the causes.
func TestEveryLeaseEndsWithADeadCloud(t *testing.T) {
	for _, how := range []string{"fails", "hangs"} {
		t.Run("the cloud "+how, func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				bad := &badCloud{}
				e.faults = bad.faults()
				e.limits.SweepLocal = time.Hour
				e.pools[0] = poolSpec{name: "p", max: 1, wait: 10 * time.Minute}
				e.start()
				bad.fails.Store(how == "fails")
				bad.hangs.Store(how == "hangs")
				begun := time.Now()
				errs := make(chan error, 2)
				for _, id := range []string{"starting", "waiting"} {
					go func() {
						_, err := e.m.Setup(context.Background(), e.request(id))
						errs <- err
					}()
				}
				for range 2 {
					if err := <-errs; err == nil {
						t.Error("a machine was given by a dead cloud")
					}
				}
				if took := time.Since(begun); took > time.Hour {
					t.Errorf("the last answer came after %s", took)
				}
				for _, id := range []string{"starting", "waiting"} {
					l, err := e.store.Lease(t.Context(), id)
					if err != nil || !l.State.Final() || l.Reason == "" {
						t.Errorf("%s is %s (%q), %v", id, l.State, l.Reason, err)
					}
				}
			})
		})
	}
}

func TestALeaseIsEndedFromEveryState(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0] = poolSpec{name: "p", max: 1, cfg: noop.Config{BootDelay: time.Minute}}
		e.start()
		gone := make(chan string, 2)
		for _, id := range []string{"starting", "waiting"} {
			go func() {
				_, err := e.m.Setup(context.Background(), e.request(id))
				gone <- fmt.Sprint(id, " ", err != nil)
			}()
			pass(time.Second)
		}
		for _, id := range []string{"waiting", "starting"} {
			l, err := e.m.EndLease(t.Context(), id, pool.DestroyOrder{Order: pool.Order{By: "ann"}})
			if err != nil || l.State != pool.LeaseEnded || l.Reason != "operator" || !strings.Contains(l.Detail, "ann") {
				t.Errorf("%s: %s %q %q, %v", id, l.State, l.Reason, l.Detail, err)
			}
			if got := <-gone; got != id+" true" {
				t.Errorf("the caller of %s was answered: %s", id, got)
			}
			if _, err := e.m.EndLease(t.Context(), id, pool.DestroyOrder{}); err != nil {
				t.Errorf("%s again: %v", id, err)
			}
		}
		pass(time.Minute)
		if len(e.machines()) != 0 {
			t.Errorf("left: %v", e.machines())
		}
		if _, err := e.m.EndLease(t.Context(), "nosuch", pool.DestroyOrder{}); !errors.Is(err, pool.ErrNotFound) {
			t.Errorf("an unknown lease: %v", err)
		}
	})
}

func TestAHeldMachineStays(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour, FreeAge: 4 * time.Hour}
		e.pools[0].min, e.pools[0].max = 2, 4
		hold := func(inst pool.Instance) {
			if _, err := e.m.HoldInstance(t.Context(), inst.Name, true, pool.Order{By: "ann", Why: "look"}); err != nil {
				t.Fatal(err)
			}
		}
		warm := e.inState(pool.Warm)
		hold(warm)
		used := e.setup("a").Instance
		if used.ID == warm.ID {
			t.Fatal("the held machine was given away")
		}
		hold(used)
		pass(time.Minute)
		e.destroy("a") // its caller is answered
		pass(24 * time.Hour)
		for _, inst := range []pool.Instance{warm, used} {
			row, err := e.store.Instance(t.Context(), inst.ID)
			if err != nil || !row.Held || !slices.Contains(e.machines(), inst.Name) {
				t.Errorf("%s is %s, held %t, %v", inst.Name, row.State, row.Held, err)
			}
			if inst.ID == used.ID && (row.State != pool.Destroying || row.Reason != string(pool.KeepHeld) || row.Attempts != 0) {
				t.Errorf("the ended lease's machine is %s (%q), %d attempts; want destroying and held", row.State, row.Reason, row.Attempts)
			}
		}
		if _, err := e.m.DestroyInstance(t.Context(), used.Name, pool.DestroyOrder{Force: true}); !errors.Is(err, pool.ErrConflict) || !strings.Contains(err.Error(), "unhold") {
			t.Errorf("a held machine by force: %v", err)
		}
		if n := len(e.orphans().Held); n == 0 {
			t.Error("held machines are not reported")
		}
		for _, inst := range []pool.Instance{warm, used} {
			if _, err := e.m.HoldInstance(t.Context(), inst.Name, false, pool.Order{}); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Minute)
		if slices.Contains(e.machines(), used.Name) {
			t.Error("the ended lease's machine is left when it is let go")
		}
	})
}

func TestAHeldWarmMachineIsNotGivenAway(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min, e.pools[0].max = 1, 1
		warm := e.inState(pool.Warm)
		if _, err := e.m.HoldInstance(t.Context(), warm.ID, true, pool.Order{}); err != nil {
			t.Fatal(err)
		}
		done := make(chan string, 1)
		go func() {
			res, err := e.m.Setup(context.Background(), e.request("a"))
			done <- fmt.Sprint(res.Instance.ID, err)
		}()
		pass(time.Minute)
		select {
		case got := <-done:
			t.Fatalf("answered with %s while the only machine is held", got)
		default:
		}
		if _, err := e.m.HoldInstance(t.Context(), warm.ID, false, pool.Order{}); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != warm.ID+"<nil>" {
			t.Errorf("when it is let go: %s, want the machine given away at once", got)
		}
	})
}

func TestDrainDestroysFreeMachinesAndKeepsLeasedOnes(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min, e.pools[0].max = 2, 4
		e.start()
		pass(time.Minute)
		used := e.setup("a").Instance.Name
		pass(time.Minute)
		before := e.machines()
		n, err := e.m.DrainPool(t.Context(), "p", pool.Order{By: "ann"})
		if err != nil || n != 2 {
			t.Fatalf("drained %d, %v", n, err)
		}
		pass(time.Minute)
		for _, name := range before {
			if slices.Contains(e.machines(), name) != (name == used) {
				t.Errorf("%s: exists is %t", name, name != used)
			}
		}
		if _, err := e.m.DrainPool(t.Context(), "nosuch", pool.Order{}); !errors.Is(err, pool.ErrNotFound) {
			t.Errorf("an unknown pool: %v", err)
		}
	})
}
