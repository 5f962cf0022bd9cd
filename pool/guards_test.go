package pool_test

import (
	"slices"
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

// answer is what a setup in the background came to, and what it was told
// meanwhile.
type answer struct {
	res  pool.SetupResult
	err  error
	took time.Duration

	mu   sync.Mutex
	told []string
	done atomic.Bool
}

// ask begins a setup in the background.
func (e *engine) ask(r pool.SetupRequest) *answer {
	a := new(answer)
	r.Progress = func(p pool.Progress) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.told = append(a.told, p.Phase+": "+p.Message)
	}
	begun := time.Now()
	go func() {
		a.res, a.err = e.m.Setup(e.t.Context(), r)
		a.took = time.Since(begun)
		a.done.Store(true)
	}()
	synctest.Wait()
	return a
}

func (a *answer) wasTold(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.told, func(line string) bool { return strings.Contains(line, text) })
}

func TestRequestsBeyondTheBoundOfAMinuteWaitAndSayWhyAndGoOn(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 20, tune: func(c *pool.PoolConfig) { c.Guards.PerMinute = 3 }}}
		e.start()
		pass(10 * time.Second) // the bubble begins with a minute
		begun := time.Now()
		var asked []*answer
		for _, id := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			asked = append(asked, e.ask(e.request(id)))
		}
		pass(5 * time.Second)
		for i, a := range asked {
			if served := a.done.Load(); served != (i < 3) {
				t.Fatalf("request %d: answered %v in the first minute, of which 3 machines may be begun", i, served)
			}
			if i >= 3 && !a.wasTold("has begun 3 machines in this minute, its bound is 3") {
				t.Errorf("request %d was told %q", i, a.told)
			}
		}
		l, err := e.store.Lease(t.Context(), "g")
		if err != nil || l.Reason != pool.ClosedPerMinute {
			t.Errorf("the lease's reason is %q, %v", l.Reason, err)
		}
		pass(3 * time.Minute)
		for i, a := range asked {
			minute := begun.Truncate(time.Minute).Add(time.Duration(i/3) * time.Minute)
			if got := begun.Add(a.took); a.err != nil || got.Before(minute) || got.After(minute.Add(20*time.Second)) && i >= 3 {
				t.Errorf("request %d: answered at %s, error %v; its minute is %s", i, got.Format(time.TimeOnly), a.err, minute.Format(time.TimeOnly))
			}
		}
	})
}

func TestRequestThatWaitsWhenTheCostCapClosesIsToldAndWaitsToItsOwnEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour}
		e.pools = []poolSpec{{name: "p", max: 1, wait: 30 * time.Minute, tune: func(c *pool.PoolConfig) { c.Guards.HoursPerDay = 2 }}}
		e.start()
		e.setup("a")
		pass(110 * time.Minute)
		b := e.ask(e.request("b"))
		if !b.wasTold("at its limit") {
			t.Errorf("at the limit it is told %q", b.told)
		}
		pass(12 * time.Minute) // the cap is reached after 120
		if b.done.Load() {
			t.Fatalf("a request that waited already ended with the cap: %v", b.err)
		}
		if !b.wasTold("cost_cap") {
			t.Errorf("when the cap closes it is told %q", b.told)
		}
		if l, err := e.store.Lease(t.Context(), "b"); err != nil || l.Reason != pool.GateCost {
			t.Errorf("the lease's reason is %q, %v", l.Reason, err)
		}
		e.destroy("a") // a place, and no money
		pass(30 * time.Minute)
		if !b.done.Load() || b.err == nil || !strings.Contains(b.err.Error(), "cost_cap") {
			t.Fatalf("in the end it is told %v", b.err)
		}
		if b.took.Round(time.Minute) != 30*time.Minute {
			t.Errorf("it waited %s, its own wait is 30m", b.took)
		}
	})
}

// A request for spot capacity that is never filled looks like this machine:
// accepted, listed, and never running.
func TestMachineThatIsAcceptedAndNeverRunsIsNoCapacityAndIsReplacedByItsDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var mu sync.Mutex // listings and look-ups run side by side
		var unfilled string
		e.faults = &noop.Faults{Listing: func(l *drivers.Listing) {
			mu.Lock()
			defer mu.Unlock()
			for i := range l.Instances {
				if unfilled == "" {
					unfilled = l.Instances[i].Name
				}
				if l.Instances[i].Name == unfilled {
					l.Instances[i].Status, l.Instances[i].Address, l.Instances[i].Port = drivers.StatusPending, "", 0
				}
			}
		}}
		e.pools = []poolSpec{{name: "p", min: 1, max: 3}}
		e.start()
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Booting: 1})
		if got := e.row("p").Counts[pool.Warm]; got != 0 {
			t.Errorf("%d warm machines", got)
		}
		if res := e.setup("a"); res.Instance.Name == unfilled {
			t.Error("a request was given a machine that does not run")
		}
		pass(20 * time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 1, pool.Leased: 1})
		if slices.Contains(e.machines(), unfilled) {
			t.Error("it is still there")
		}
	})
}

func TestMachineFoundStoppedOrSuspendedInItsCloudIsNotLeftToCostDisks(t *testing.T) {
	for _, tc := range []struct {
		name string
		harm func(t *testing.T, e *engine, name string)
	}{
		{"stopped, without a reason", func(_ *testing.T, e *engine, name string) { e.world.Kill(name, "") }},
		{"suspended by somebody", func(t *testing.T, e *engine, name string) {
			d, err := noop.New(drivers.Options{Pool: "p", Config: &noop.Config{}, DataDir: "/bubble"}, noop.Setup{World: e.world})
			if err == nil {
				err = d.Suspend(t.Context(), drivers.Ref{Name: name})
			}
			if err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				e.start()
				pass(time.Minute)
				bad := e.machines()[0]
				tc.harm(t, e, bad)
				pass(time.Minute)
				if slices.Contains(e.machines(), bad) {
					t.Error("it is still there")
				}
				e.wantRows(map[pool.InstanceState]int{pool.Warm: 2})
				e.wantReason("machine_died")
			})
		})
		t.Run(tc.name+", without a row", func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				e.start()
				pass(time.Minute)
				c, err := e.store.Controller(t.Context(), "audit", time.Now())
				if err != nil {
					t.Fatal(err)
				}
				e.foreign("lost", c.ID, pool.Build, time.Now())
				tc.harm(t, e, "lost")
				pass(time.Hour)
				if slices.Contains(e.machines(), "lost") {
					t.Error("it is still there")
				}
			})
		})
	}
}

func TestHeldMachinesAreNoProspectSoThePoolIsFilledBesideThem(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 2, max: 5}}
		e.start()
		pass(time.Minute)
		held := e.machines()
		for _, name := range held {
			if _, err := e.m.HoldInstance(t.Context(), name, true, pool.Order{By: "ops"}); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 4})
		if got := e.setup("a"); got.Instance.Cold || slices.Contains(held, got.Instance.Name) {
			t.Errorf("given %s (cold %v)", got.Instance.Name, got.Instance.Cold)
		}
		pass(time.Minute) // five of five: held ones take places
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 4, pool.Leased: 1})
		// One that fits nobody gives its place up for a request, a held one never.
		r := e.request("b")
		r.Want.Image = "other"
		if _, err := e.m.Setup(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		for _, name := range held {
			if !slices.Contains(e.machines(), name) {
				t.Errorf("%s was destroyed while it was held", name)
			}
			if _, err := e.m.HoldInstance(t.Context(), name, false, pool.Order{By: "ops"}); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2, pool.Leased: 2})
	})
}

func TestWhatAVariantSaysReachesTheCloud(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 5, tune: func(c *pool.PoolConfig) {
			c.Variants = []pool.VariantConfig{{
				ID: "big", Min: 1, Max: -1, ResourceClass: "big", MachineType: "8x", Image: "ci", Zones: []string{"b", "a"},
				DiskGiB: 200, DiskType: "ssd", Hibernate: true,
			}}
		}}}
		e.start()
		pass(time.Minute)
		got, ok := e.world.Spec(e.machines()[0])
		if !ok || got.MachineType != "8x" || got.Image != "ci" || !slices.Equal(got.Zones, []string{"b", "a"}) || got.DiskGiB != 200 || got.DiskType != "ssd" || !got.Hibernate {
			t.Errorf("the cloud was asked for %+v", got)
		}
		if len(got.Identity.Key) > 0 {
			t.Error("the pretend cloud keeps a key")
		}
	})
}

func TestRequestForWhatTheDriverLacksIsToldThatNoVariantFits(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 5}}
		e.start()
		r := e.request("a")
		r.Want.Nested = true
		_, err := e.m.Setup(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), "no variant fits") {
			t.Errorf("got %v", err)
		}
		if n := e.world.Made(); n > 0 {
			t.Errorf("%d machines were made", n)
		}
	})
}
