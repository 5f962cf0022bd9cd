package pool_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

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
