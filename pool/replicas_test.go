package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestAPoolIsTakenOverWithinTenSecondsOfACrash(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a := f.start("a")
		b := f.start("b")
		f.warm(2)
		if got := f.holder("p"); got != "a" {
			t.Fatalf("held by %q", got)
		}
		pass(3*time.Second + 100*time.Millisecond) // just renewed: the longest wait
		a.kill()
		took := f.until(10*time.Second, "takeover", func() bool { return f.holder("p") == "b" })
		t.Logf("taken over after %s", took)
		// It works there: what is taken is refilled.
		b.setup("s")
		f.warm(2)
	})
}

func TestAStopHandsThePoolOverAtOnce(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a := f.start("a")
		f.start("b")
		f.warm(2)
		a.stop()
		if took := f.until(time.Second, "takeover", func() bool { return f.holder("p") == "b" }); took > 200*time.Millisecond {
			t.Errorf("handed over after %s", took)
		}
	})
}

// TestLateWritesOfAStoppedReplicaFailByGeneration: a replica stands still in
// the middle of a creation until another has taken the pool over and finished
// the machine; its answer from the cloud then changes nothing.
func TestLateWritesOfAStoppedReplicaFailByGeneration(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools[0].min = 1
		goOn, late := make(chan struct{}), make(chan error, 1)
		a := f.start("a", func(c *pool.ManagerConfig) {
			r := c.Store.(*replica)
			r.late = func(ctx context.Context, s pool.Store, acc pool.Acceptance) (pool.Instance, error) {
				r.dead.Store(true) // it renews nothing while it stands still
				<-goOn
				// As a process that was stopped between the check of the clock and
				// the write: nothing tells it that its time is over.
				inst, err := s.Accepted(context.WithoutCancel(ctx), acc)
				late <- err
				return inst, err
			}
		})
		f.start("b")
		f.until(12*time.Second, "takeover", func() bool { return f.holder("p") == "b" })
		f.warm(1)
		before := f.live()
		close(goOn)
		if err := <-late; !errors.Is(err, pool.ErrHeld) {
			t.Errorf("the late write was answered with %v, want that the pool is another's", err)
		}
		synctest.Wait()
		if after := f.live(); len(after) != 1 || after[0].State != pool.Warm || after[0].ID != before[0].ID || after[0].Since != before[0].Since {
			t.Errorf("after the late write: %+v, before: %+v", after, before)
		}
		if made := f.world.Made(); made != 1 {
			t.Errorf("the cloud was asked for %d machines, want one", made)
		}
		// It goes on, as one of several.
		a.dead.Store(false)
		pass(5 * time.Second)
		a.setup("s")
		if f.holder("p") != "b" {
			t.Errorf("held by %q", f.holder("p"))
		}
	})
}

// TestAStoppedReplicaCallsNoCloud: what a replica would have asked of a cloud
// when its time was over is not asked.
func TestATenureThatIsOverAsksNothingOfTheCloud(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", min: 0, max: 4, cfg: noop.Config{}}}
		a := f.start("a")
		pass(time.Second)
		a.dead.Store(true) // no renewal arrives from now on
		pass(7 * time.Second)
		if _, err := f.store.Arrive(t.Context(), pool.Arrival{
			ID: "s", Kind: pool.Build, Choices: []pool.Choice{{Pool: "p", Shape: "x"}}, Waiter: "elsewhere",
			WaitUntil: time.Now().Add(time.Hour), Due: time.Now().Add(time.Hour), LeaseDue: time.Now().Add(time.Hour), Now: time.Now(),
		}); err != nil {
			t.Fatal(err)
		}
		pass(30 * time.Second)
		if made := f.world.Made(); made != 0 {
			t.Errorf("made %d machines without holding the pool", made)
		}
	})
}

func TestAHundredSetupsOverTwoReplicasNeverExceedTheLimit(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", min: 1, max: 5, wait: time.Hour, cfg: noop.Config{CreateDelay: 2 * time.Second, DestroyDelay: time.Second}}}
		replicas := []*replica{f.start("a"), f.start("b")}
		var most atomic.Int64
		ctx, done := context.WithCancel(t.Context())
		var watch sync.WaitGroup
		watch.Go(func() {
			for ctx.Err() == nil {
				most.Store(max(most.Load(), int64(len(f.world.Machines()))))
				wait(ctx, 10*time.Millisecond)
			}
		})
		var mu sync.Mutex
		used := map[string]string{}
		var g sync.WaitGroup
		for i := range 100 {
			g.Go(func() {
				r, id := replicas[i%2], fmt.Sprintf("s%d", i)
				res, err := r.m.Setup(t.Context(), build(id))
				if err != nil {
					t.Errorf("setup %s: %v", id, err)
					return
				}
				mu.Lock()
				if other := used[res.Instance.ID]; other != "" {
					t.Errorf("%s and %s were given the same machine", other, id)
				}
				used[res.Instance.ID] = id
				mu.Unlock()
				wait(t.Context(), time.Second)
				if err := replicas[(i+1)%2].m.Destroy(t.Context(), pool.DestroyRequest{Lease: id}); err != nil {
					t.Errorf("destroy %s: %v", id, err)
				}
			})
		}
		g.Wait()
		done()
		watch.Wait()
		if most.Load() > 5 {
			t.Errorf("%d machines at a time with a limit of 5", most.Load())
		}
	})
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func TestAStepOnAnotherReplicaSeesWhatAnEarlierOneExported(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, b := f.start("a"), f.start("b")
		a.setup("s")
		if _, err := a.m.Step(t.Context(), step("s", "first")); err != nil {
			t.Fatal(err)
		}
		var seen map[string]string
		second := step("s", "second")
		second.Body = func(vars map[string]string) (json.RawMessage, error) {
			seen = vars
			return json.RawMessage(`{"id":"second"}`), nil
		}
		if _, err := b.m.Step(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		if seen["LAST_STEP"] != "first" {
			t.Errorf("the second step saw %v", seen)
		}
		// A step another replica began is attached to, not begun again.
		begun := time.Now()
		if _, err := a.m.Step(t.Context(), step("s", "second")); err != nil || time.Since(begun) > 0 {
			t.Errorf("asked again for a finished step: %v after %s", err, time.Since(begun))
		}
		var out strings.Builder
		if _, err := a.m.StepOutput(t.Context(), "s", "second", 0, true, &out); err != nil || !strings.Contains(out.String(), "second") {
			t.Errorf("its output read elsewhere: %q, %v", out.String(), err)
		}
	})
}

// TestEverythingWorksWithEveryAnnouncementLost: what replicas tell each other
// only saves time.
func TestEverythingWorksWithEveryAnnouncementLost(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.deaf = true
		f.pools = []poolSpec{{name: "p", min: 1, max: 3, wait: 5 * time.Minute, cfg: noop.Config{BootDelay: time.Second}}}
		a, b := f.start("a"), f.start("b")
		f.warm(1)
		b.setup("warm")
		b.setup("cold")
		f.until(time.Minute, "the refill", func() bool { return len(f.live()) == 3 })
		waiting := make(chan error, 1)
		go func() {
			for _, id := range []string{"third", "fourth"} {
				if _, err := b.m.Setup(t.Context(), build(id)); err != nil {
					waiting <- err
					return
				}
			}
			waiting <- nil
		}()
		pass(20 * time.Second)
		b.destroy("warm") // makes room for the fourth
		if err := <-waiting; err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"cold", "third", "fourth"} {
			b.destroy(id)
		}
		g := build("space")
		g.Kind, g.Want.Ports = pool.Gitspace, []int{3000}
		if _, err := b.m.Setup(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if err := b.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "space"}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.m.Setup(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		b.destroy("space")
		f.until(time.Minute, "the quiet pool", func() bool { return len(f.live()) == 1 && f.count(pool.Warm) == 1 })
		a.stop() // gives the pool up, and nobody hears of it
		f.until(5*time.Second, "takeover", func() bool { return f.holder("p") == "b" })
	})
}

func TestAnnouncementsMakeReplicasQuick(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", min: 0, max: 3}}
		f.start("a")
		b := f.start("b")
		begun := time.Now()
		b.setup("cold")
		if took := time.Since(begun); took > 500*time.Millisecond {
			t.Errorf("a cold start by way of another replica took %s", took)
		}
		g := build("space")
		g.Kind = pool.Gitspace
		if _, err := b.m.Setup(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		begun = time.Now()
		if err := b.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "space"}); err != nil {
			t.Fatal(err)
		}
		b.destroy("space")
		if took := time.Since(begun); took > 500*time.Millisecond {
			t.Errorf("suspend and destroy by way of another replica took %s", took)
		}
	})
}

// TestTwoSetupsOfOneIDOnTwoReplicasJoin: whatever the first was doing when the
// second came, both are answered with one machine, and its agent is set up once.
func TestTwoSetupsOfOneIDOnTwoReplicasJoin(t *testing.T) {
	for _, tc := range []struct {
		name string
		pool poolSpec
		slow time.Duration // the agent's setup
		gap  time.Duration // between the two
	}{
		{"the second comes while the agent is set up", poolSpec{name: "p", min: 1, max: 2}, 10 * time.Second, 5 * time.Second},
		{"the second comes while the machine boots", poolSpec{name: "p", max: 2, cfg: noop.Config{BootDelay: 20 * time.Second}}, time.Second, 5 * time.Second},
		{"the second comes while the first waits at the limit", poolSpec{name: "p", max: 1, wait: time.Hour}, time.Second, 30 * time.Second},
		{"the second comes when all is done", poolSpec{name: "p", min: 1, max: 2}, 0, time.Minute},
		{"both come at once", poolSpec{name: "p", min: 1, max: 2}, time.Second, 0},
	} {
		for _, deaf := range []bool{false, true} {
			name := tc.name
			if deaf {
				name += ", announcements lost"
			}
			t.Run(name, func(t *testing.T) {
				inFleet(t, func(t *testing.T, f *fleet) {
					f.deaf = deaf
					f.pools = []poolSpec{tc.pool}
					f.hook = func(ctx context.Context, op string, _ pool.Target) error {
						if op == "setup" {
							wait(ctx, tc.slow)
						}
						return nil
					}
					a, b := f.start("a"), f.start("b")
					f.warm(tc.pool.min)
					atLimit := tc.pool.wait > 0
					if atLimit {
						a.setup("other")
					}
					var g sync.WaitGroup
					var res [2]pool.SetupResult
					var errs [2]error
					g.Go(func() { res[0], errs[0] = a.m.Setup(t.Context(), build("s")) })
					pass(tc.gap)
					g.Go(func() { res[1], errs[1] = b.m.Setup(t.Context(), build("s")) })
					if atLimit {
						pass(time.Minute)
						b.destroy("other")
					}
					g.Wait()
					if err := errors.Join(errs[:]...); err != nil {
						t.Fatal(err)
					}
					if res[0].Instance.ID != res[1].Instance.ID {
						t.Errorf("two machines: %s and %s", res[0].Instance.Name, res[1].Instance.Name)
					}
					if n := f.setups[res[0].Instance.ID]; n != 1 {
						t.Errorf("the agent was set up %d times", n)
					}
					if l := f.lease("s"); l.State != pool.LeaseActive || l.Generation != 1 {
						t.Errorf("the lease is %s, generation %d", l.State, l.Generation)
					}
				})
			})
		}
	}
}

func TestWhoHangsUpDoesNotEndTheSetupOfAnotherReplica(t *testing.T) {
	for _, leader := range []bool{true, false} {
		t.Run(fmt.Sprintf("the one that leads: %v", leader), func(t *testing.T) {
			inFleet(t, func(t *testing.T, f *fleet) {
				f.pools = []poolSpec{{name: "p", max: 1, wait: time.Hour}}
				a, b := f.start("a"), f.start("b")
				a.setup("other")
				ctx := [2]context.Context{t.Context(), t.Context()}
				quitter := 0
				if leader {
					quitter = 1 // the later one leads
				}
				var hangUp context.CancelFunc
				ctx[quitter], hangUp = context.WithCancel(t.Context())
				var g sync.WaitGroup
				var errs [2]error
				g.Go(func() { _, errs[0] = a.m.Setup(ctx[0], build("s")) })
				pass(time.Second)
				g.Go(func() { _, errs[1] = b.m.Setup(ctx[1], build("s")) })
				pass(10 * time.Second)
				hangUp()
				pass(10 * time.Minute) // far beyond the grace of a caller that hung up
				if l := f.lease("s"); l.State != pool.LeaseWaiting {
					t.Fatalf("the lease is %s (%s)", l.State, l.Detail)
				}
				b.destroy("other")
				g.Wait()
				if err := errs[1-quitter]; err != nil {
					t.Errorf("the one that stayed: %v", err)
				}
				if err := errs[quitter]; !errors.Is(err, context.Canceled) {
					t.Errorf("the one that hung up: %v", err)
				}
			})
		})
	}
}

func TestADestroyOnOneReplicaEndsAStepFollowedByAnother(t *testing.T) {
	for _, tc := range []struct {
		deaf   bool
		within time.Duration
	}{{false, time.Second}, {true, 15 * time.Second}} {
		t.Run(fmt.Sprintf("announcements lost: %v", tc.deaf), func(t *testing.T) {
			inFleet(t, func(t *testing.T, f *fleet) {
				f.deaf = tc.deaf
				a, b := f.start("a"), f.start("b")
				a.setup("s")
				ended := make(chan error, 1)
				go func() {
					_, err := b.m.Step(t.Context(), step("s", "long"))
					ended <- err
				}()
				pass(5 * time.Second)
				begun := time.Now()
				a.destroy("s")
				if err := <-ended; err == nil || !errors.Is(err, pool.ErrConflict) {
					t.Errorf("the step ended with %v", err)
				}
				if took := time.Since(begun); took > tc.within {
					t.Errorf("it ended %s after the destroy", took)
				}
			})
		})
	}
}

func TestAMachineThatDiesEndsAStepFollowedByAnotherReplica(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.start("a")
		b := f.start("b")
		res := b.setup("s")
		ended := make(chan error, 1)
		go func() {
			_, err := b.m.Step(t.Context(), step("s", "long"))
			ended <- err
		}()
		pass(5 * time.Second)
		begun := time.Now()
		f.world.Kill(res.Instance.Name, "power")
		if err := <-ended; !errors.Is(err, pool.ErrLost) || !strings.Contains(err.Error(), "power") {
			t.Errorf("the step ended with %v", err)
		}
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("it ended %s after the machine", took)
		}
	})
}

func TestTheRequestsOfADeadReplicaAreNobodysSoon(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", max: 1, wait: time.Hour}}
		a, b := f.start("a"), f.start("b")
		b.setup("other")
		go func() { _, _ = a.m.Setup(t.Context(), build("dead")) }() // ends with its replica
		pass(time.Second)
		waits := make(chan error, 1)
		go func() {
			_, err := b.m.Setup(t.Context(), build("alive"))
			waits <- err
		}()
		pass(15 * time.Second)
		a.kill()
		f.until(time.Minute, "clearing", func() bool { return f.lease("dead").Waiter == "" })
		if f.lease("alive").Waiter != "b" {
			t.Error("the living replica's request was taken for a dead one's")
		}
		b.destroy("other")
		if err := <-waits; err != nil {
			t.Errorf("the request behind a dead one: %v", err)
		}
		f.until(5*time.Minute, "its end", func() bool { return f.lease("dead").State == pool.LeaseEnded })
	})
}

// TestARollingRestartUnderLoadFailsNoRequest restarts both replicas in turn
// while clients set up, run steps and destroy, over whichever replica is there.
func TestARollingRestartUnderLoadFailsNoRequest(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", min: 2, max: 6, wait: time.Hour, cfg: noop.Config{BootDelay: 2 * time.Second, DestroyDelay: time.Second}}}
		door := &door{open: map[string]*replica{}}
		door.admit(f.start("a0"))
		door.admit(f.start("b0"))
		ctx, done := context.WithCancel(t.Context())
		var g sync.WaitGroup
		var served atomic.Int64
		for c := range 8 {
			g.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					id := fmt.Sprintf("c%d-%d", c, i)
					for _, call := range []func(*replica) error{
						func(r *replica) error { _, err := r.m.Setup(t.Context(), build(id)); return err },
						func(r *replica) error { _, err := r.m.Step(t.Context(), step(id, "one")); return err },
						func(r *replica) error { return r.m.Destroy(t.Context(), pool.DestroyRequest{Lease: id}) },
					} {
						if err := door.through(call); err != nil {
							t.Errorf("%s: %v", id, err)
						}
					}
					served.Add(1)
				}
			})
		}
		for round := range 3 {
			for _, name := range []string{"a", "b"} {
				pass(20 * time.Second)
				old := door.close(fmt.Sprintf("%s%d", name, round))
				old.stop()
				pass(time.Second)
				door.admit(f.start(fmt.Sprintf("%s%d", name, round+1)))
			}
		}
		pass(20 * time.Second)
		done()
		g.Wait()
		if served.Load() < 20 {
			t.Errorf("%d stages served", served.Load())
		}
		f.until(time.Minute, "the quiet pool", func() bool { return len(f.live()) == 2 && f.count(pool.Warm) == 2 })
		if len(f.world.Machines()) != 2 {
			t.Errorf("machines without rows: %v", f.world.Machines())
		}
		if drift, err := f.store.Recount(t.Context()); err != nil || len(drift) > 0 {
			t.Errorf("the counter is not the count of rows: %v, %v", drift, err)
		}
	})
}

// door is a balancer: calls go to an open replica, and one that closes lets
// those inside finish.
type door struct {
	mu     sync.Mutex
	open   map[string]*replica
	inside sync.Map // name -> *sync.WaitGroup
	turn   int
}

func (d *door) admit(r *replica) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside.Store(r.name, &sync.WaitGroup{})
	d.open[r.name] = r
}

func (d *door) close(name string) *replica {
	d.mu.Lock()
	r := d.open[name]
	delete(d.open, name)
	d.mu.Unlock()
	g, _ := d.inside.Load(name)
	g.(*sync.WaitGroup).Wait()
	return r
}

func (d *door) through(call func(*replica) error) error {
	d.mu.Lock()
	names := make([]string, 0, len(d.open))
	for name := range d.open {
		names = append(names, name)
	}
	slices.Sort(names)
	d.turn++
	r := d.open[names[d.turn%len(names)]]
	v, _ := d.inside.Load(r.name)
	g := v.(*sync.WaitGroup)
	g.Add(1)
	d.mu.Unlock()
	defer g.Done()
	return call(r)
}

func TestTheHoldersPoolFileCountsAndTheDifferenceIsTold(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a := f.start("a")
		f.warm(2)
		f.pools[0].min = 3
		b := f.start("b")
		pass(20 * time.Second)
		if n := f.count(pool.Warm); n != 2 {
			t.Errorf("%d machines are warm, the holder wants 2", n)
		}
		events, err := f.store.Events(t.Context(), pool.EventQuery{Pool: "p"})
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		for _, e := range events {
			if e.Reason == "config_differs" {
				told++
			}
		}
		if told != 1 {
			t.Errorf("the difference was told %d times: %+v", told, events)
		}
		// A pool that only the other's file has is kept; one's own is taken over
		// with one's own numbers.
		a.stop()
		f.warm(3)
		b.setup("s")
	})
}

func TestAReplicaWithoutAPoolInItsFileRetiresItOnlyWhenNobodyElseHasIt(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.pools = []poolSpec{{name: "p", min: 1, max: 2}, {name: "q", min: 1, max: 2}}
		a := f.start("a")
		f.warm(2)
		f.pools = f.pools[:1]
		f.start("b")
		retired := func() bool {
			rows, err := f.store.Pools(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return rows[1].Retired
		}
		pass(2 * time.Minute)
		if retired() {
			t.Fatal("a pool another replica holds was retired")
		}
		f.pools = append(f.pools, poolSpec{name: "q", min: 1, max: 2})
		a2 := f.start("a2")
		a.stop()
		pass(time.Minute)
		if retired() || f.holder("q") != "a2" {
			t.Fatalf("a pool another replica has in its file was retired; held by %q", f.holder("q"))
		}
		a2.stop()
		f.until(2*time.Minute, "retirement", retired)
	})
}

func TestAReplicaThatHoldsNothingIsReady(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		var broken atomic.Bool
		f.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "ping" && broken.Load() {
				return errors.New("no cloud here")
			}
			return nil
		}}
		a := f.start("a")
		broken.Store(true)
		b := f.start("b")
		pass(time.Second)
		for _, r := range []*replica{a, b} {
			if pending := r.m.Pending(t.Context()); len(pending) != 0 {
				t.Errorf("%s is not ready: %v", r.name, pending)
			}
		}
		a.stop()
		pass(time.Second)
		if pending := b.m.Pending(t.Context()); len(pending) == 0 {
			t.Error("the replica that holds the pool is ready although its cloud does not answer")
		}
	})
}
