package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Rule 27 with replicas: an order at one that does not hold the pool breaks off
// the holder's call to a cloud that hangs, at once or, when the announcement is
// lost, at the holder's next look. A caller's destroy waits for the call.
func TestAnOrderAtAnyReplicaBreaksOffTheHoldersHungCall(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		for _, op := range []string{"create", "destroy"} {
			t.Run(fmt.Sprintf("%s hangs, announcements lost %t", op, deaf), func(t *testing.T) {
				inFleet(t, func(t *testing.T, f *fleet) {
					var hangs atomic.Bool
					var broken atomic.Int64
					f.faults = &noop.Faults{Before: func(ctx context.Context, called, _ string) error {
						if called != op || !hangs.Load() {
							return nil
						}
						<-ctx.Done()
						broken.Add(1)
						return ctx.Err()
					}}
					f.pools[0].min = 1
					f.deaf = deaf
					hangs.Store(op == "create")
					a, b := f.start("a"), f.start("b")
					state := pool.Creating
					if op == "destroy" {
						state = pool.Destroying
						f.warm(1)
						a.setup("s")
						hangs.Store(true)
						a.destroy("s")
					}
					f.until(time.Minute, "hung call", func() bool { return f.count(state) == 1 })
					pass(12 * time.Second) // past a look of the worker, which changes nothing
					if f.holder("p") != "a" || broken.Load() != 0 {
						t.Fatalf("held by %q, %d calls broken off before the order", f.holder("p"), broken.Load())
					}
					var hung pool.Instance
					for _, inst := range f.live() {
						if inst.State == state {
							hung = inst
						}
					}
					hangs.Store(false) // the call that hangs goes on hanging
					if _, err := b.m.DestroyInstance(t.Context(), hung.Name, pool.DestroyOrder{Order: pool.Order{By: "ann"}}); err != nil {
						t.Fatal(err)
					}
					within := 2 * time.Second
					if deaf {
						within = 12 * time.Second
					}
					took := f.until(within, "end of the hung machine", func() bool {
						row, err := f.store.Instance(t.Context(), hung.ID)
						return err == nil && row.State == pool.Gone
					})
					if broken.Load() != 1 {
						t.Errorf("%d calls broken off, want the one that hung", broken.Load())
					}
					t.Logf("gone %s after the order", took)
				})
			})
		}
	}
}

func TestACallersDestroyAtAnotherReplicaWaitsForTheCallUnderWay(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		var broken atomic.Int64
		f.faults = &noop.Faults{Before: func(ctx context.Context, op, _ string) error {
			if op != "create" {
				return nil
			}
			select {
			case <-time.After(30 * time.Second):
				return nil
			case <-ctx.Done():
				broken.Add(1)
				return ctx.Err()
			}
		}}
		f.pools[0].min = 0
		f.start("a")
		b := f.start("b")
		answered := make(chan error, 1)
		go func() {
			_, err := b.m.Setup(context.Background(), build("s"))
			answered <- err
		}()
		f.until(10*time.Second, "creation", func() bool { return f.count(pool.Creating) == 1 })
		b.destroy("s")
		if err := <-answered; err == nil {
			t.Error("the destroyed setup was given a machine")
		}
		f.until(time.Minute, "end of the machine", func() bool { return len(f.live()) == 0 })
		if n := broken.Load(); n != 0 {
			t.Errorf("%d creations broken off by a caller", n)
		}
	})
}

// What the holder's sweep finds is seen at every replica, also by one that has
// swept before and does not any more; looking changes nothing.
func TestOrphansAreListedAtAnyReplica(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, b := f.start("a"), f.start("b")
		f.warm(2)
		d, err := noop.New(drivers.Options{Pool: "p", Config: &noop.Config{}, DataDir: "/bubble", Log: slog.New(slog.DiscardHandler)}, noop.Setup{World: f.world})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := d.Create(t.Context(), drivers.Spec{Name: "stranger", Tags: drivers.Tags{
			Controller: "somebody", Pool: "p", Instance: "x", Kind: string(pool.Build), Created: time.Now(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		listed := func(r *replica) {
			t.Helper()
			for range 3 { // however often it is looked at
				report, err := r.m.Orphans(t.Context())
				if err != nil || len(report.Machines) != 1 || report.Machines[0].Name != "stranger" || report.Machines[0].Reason != pool.KeepForeign {
					t.Fatalf("at %s: %+v, %v", r.name, report.Machines, err)
				}
				if s := report.Scopes; len(s) != 1 || s[0].Listed.IsZero() || !s[0].Complete || s[0].Problem != "" {
					t.Errorf("at %s the account is %+v", r.name, s)
				}
			}
		}
		listed(a)
		listed(b)
		a.dead.Store(true) // it loses the pool and goes on
		f.until(15*time.Second, "takeover", func() bool { return f.holder("p") == "b" })
		a.dead.Store(false)
		pass(time.Minute)
		listed(a)
		listed(b)
		if err := errors.Join(d.Destroy(t.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{})...); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		for _, r := range []*replica{a, b} {
			if report, err := r.m.Orphans(t.Context()); err != nil || len(report.Machines) != 0 {
				t.Errorf("at %s when it is gone: %+v, %v", r.name, report.Machines, err)
			}
		}
	})
}
