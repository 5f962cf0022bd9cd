package pool_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestRestartChangesNothingForRunningMachines(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		held := e.setup("a")
		pass(time.Minute)
		before := strings.Join(e.machines(), " ")
		for range 3 {
			e.restart()
			pass(10 * time.Minute)
		}
		if after := strings.Join(e.machines(), " "); after != before {
			t.Errorf("machines before %s, after %s", before, after)
		}
		if again := e.setup("a"); again.Instance.ID != held.Instance.ID {
			t.Errorf("the lease has another machine: %s, was %s", again.Instance.ID, held.Instance.ID)
		}
		if _, err := e.m.Step(t.Context(), step("a", "s")); err != nil {
			t.Errorf("step after restarts: %v", err)
		}
	})
}

// What is under way when the process ends is taken up, or undone, by the next.
func TestRestartInEachPhaseOfASetup(t *testing.T) {
	for _, after := range []time.Duration{0, 3 * time.Second, 12 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				e.pools[0].min = 0
				e.pools[0].cfg = noop.Config{CreateDelay: 5 * time.Second, BootDelay: 10 * time.Second, DestroyDelay: time.Second}
				e.start()
				go func() { _, _ = e.m.Setup(context.Background(), e.request("a")) }() // ends with the engine
				pass(after)
				e.restart()
				pass(time.Minute)
				res := e.setup("a") // the caller's retry, within the grace
				if _, err := e.m.Step(t.Context(), step("a", "s")); err != nil {
					t.Errorf("step: %v", err)
				}
				e.destroy("a")
				pass(time.Minute)
				e.wantRows(map[pool.InstanceState]int{})
				if m := e.machines(); len(m) != 0 {
					t.Errorf("machines left: %v (had %s)", m, res.Instance.Name)
				}
			})
			t.Run("nobody asks again", func(t *testing.T) {
				inBubble(t, func(t *testing.T, e *engine) {
					e.pools[0].min = 0
					e.pools[0].cfg = noop.Config{CreateDelay: 5 * time.Second, BootDelay: 10 * time.Second}
					e.start()
					go func() { _, _ = e.m.Setup(context.Background(), e.request("a")) }() // ends with the engine
					pass(after)
					e.restart()
					pass(time.Hour)
					e.wantRows(map[pool.InstanceState]int{})
					if m := e.machines(); len(m) != 0 {
						t.Errorf("machines left: %v", m)
					}
				})
			})
		})
	}
}

// foreign puts a machine into the world that no row describes.
func (e *engine) foreign(name, controller string, kind pool.Kind, created time.Time) {
	e.t.Helper()
	cfg := &noop.Config{}
	d, err := noop.New(drivers.Options{Pool: "p", Config: cfg, DataDir: "/bubble"}, noop.Setup{World: e.world})
	if err != nil {
		e.t.Fatal(err)
	}
	_, err = d.Create(e.t.Context(), drivers.Spec{Name: name, Tags: drivers.Tags{
		Controller: controller, Pool: "p", Instance: "i-" + name, Kind: string(kind), Created: created,
	}})
	if err != nil {
		e.t.Fatal(err)
	}
}

func TestMachinesWithoutRows(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min = 0
		e.start()
		pass(time.Minute)
		ours := e.m.ControllerID()
		now := time.Now()
		e.foreign("garbage", ours, pool.Build, now)
		e.foreign("gitspace", ours, pool.Gitspace, now)
		e.foreign("theirs", "another", pool.Build, now)
		e.foreign("ancient", ours, pool.Build, now.Add(-240*time.Hour))
		pass(4 * time.Minute)
		if n := len(e.machines()); n != 4 {
			t.Fatalf("destroyed within the grace: %v", e.machines())
		}
		pass(10 * time.Minute)
		if got := strings.Join(e.machines(), " "); got != "ancient gitspace theirs" {
			t.Errorf("left: %q, want only the garbage gone", got)
		}
		e.wantReason("orphan_reaped")
		e.wantReason("orphan_reported")
		want := map[pool.OrphanLabel]int{
			{Scope: "noop:/bubble", Reason: pool.KeepGitspace}:  1,
			{Scope: "noop:/bubble", Reason: pool.KeepUnwatched}: 1,
			{Scope: "noop:/bubble", Reason: pool.KeepForeign}:   1, // on this host: a lost store's
		}
		if diff := cmp.Diff(want, e.m.Counters().Orphans); diff != "" {
			t.Errorf("orphans in metrics: -want +got\n%s", diff)
		}
	})
}

func TestMachinesWithoutRowsSurvivePartialListings(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour
		e.pools[0].min = 0
		e.faults = &noop.Faults{Listing: func(l *drivers.Listing) { l.Complete = false }}
		e.start()
		pass(time.Minute)
		e.foreign("garbage", e.m.ControllerID(), pool.Build, time.Now())
		pass(8 * time.Hour)
		if len(e.machines()) != 1 {
			t.Error("destroyed on the word of a partial listing")
		}
	})
}

func TestRowsWithoutMachinesAreReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		gone := e.world.Machines()[0].Name
		e.world.Vanish(gone)
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2})
		if n := len(e.machines()); n != 2 {
			t.Errorf("%d machines", n)
		}
		e.wantReason("machine_died")
	})
}

func TestStaleListingsKillNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour
		start := time.Now()
		e.faults = &noop.Faults{Listing: func(l *drivers.Listing) {
			if time.Since(start) > time.Minute {
				// As of the first minute, and honest about it.
				l.Instances, l.At = nil, start
			}
		}}
		e.start()
		pass(2 * time.Minute)
		held := e.setup("a")
		pass(8 * time.Hour)
		found := false
		for _, name := range e.machines() {
			found = found || name == held.Instance.Name
		}
		if !found {
			t.Error("a machine in use was destroyed on a stale listing")
		}
	})
}

func TestPoolThatLeftTheFileReapsResumesAndCreatesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Hour, BusyAge: time.Hour, FreeAge: 3 * time.Hour}
		e.pools = []poolSpec{{name: "old", min: 1, max: 4, cfg: noop.Config{Hibernate: true}}, {name: "new", max: 4}}
		e.start()
		if _, err := e.m.Setup(t.Context(), e.gitspace("g")); err != nil {
			t.Fatal(err)
		}
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g"}); err != nil {
			t.Fatal(err)
		}
		e.halt()
		e.pools = e.pools[1:]
		e.start()
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Suspended: 1}) // its warm one has gone
		pass(time.Hour)
		if _, err := e.m.Setup(t.Context(), e.request("b", "old")); err == nil || !strings.Contains(err.Error(), "left the pool file") {
			t.Errorf("a retired pool answered %v", err)
		}
		g := e.gitspace("g")
		g.Pools = []string{"old"}
		if _, err := e.m.Setup(t.Context(), g); err != nil {
			t.Errorf("a sleeping gitspace of a retired pool: %v", err)
		}
		e.destroy("g")
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{})
	})
}

func TestNewRecipeReplacesWarmMachinesAtStart(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("reuse=%t", keep), func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				e.keep = keep
				e.pools[0].min = 4
				e.pools[0].max = 8
				e.start()
				held := e.setup("a")
				pass(time.Second)
				old := e.world.Made()
				e.pools[0].cfg.BootDelay = 10 * time.Second
				e.restart()
				pass(11 * time.Second)
				fresh := e.world.Made() - old
				if keep && fresh >= 4 {
					t.Errorf("%d machines were replaced at once although the pool is to be reused", fresh)
				}
				if !keep && fresh != 4 {
					t.Errorf("%d machines were replaced, want all 4", fresh)
				}
				pass(10 * time.Minute)
				if fresh := e.world.Made() - old; fresh != 4 {
					t.Errorf("%d machines were replaced in the end, want 4", fresh)
				}
				if again := e.setup("a"); again.Instance.ID != held.Instance.ID {
					t.Error("a machine in use was replaced")
				}
			})
		})
	}
}
