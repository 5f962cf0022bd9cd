package pool_test

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
)

var leases = flag.Int("leases", 1000, "how many leases TestManyLeasesLeaveNothingBehind takes; make bench takes 100,000")

// A thousand requests at once for a hundred places: each gets a machine, in
// the order of arrival, and there are never more machines than places.
func TestAThousandSetupsWaitInOrderForAHundredPlaces(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 10, max: places, wait: time.Hour}}
		e.start()
		crowd(t, e.world, e.m)
	})
}

// The same over two replicas, each request at one of them and each destroy at
// the other.
func TestAThousandSetupsOverTwoReplicasWaitInOrderForAHundredPlaces(t *testing.T) {
	for _, on := range []struct {
		name string
		open func(t *testing.T, dir string, sealer *store.Sealer) (pool.Store, error)
	}{{"SQLite", sharedSQLite}, {"Postgres", onPostgres}} {
		t.Run(on.name, func(t *testing.T) {
			inFleetOn(t, on.open, func(t *testing.T, f *fleet) {
				f.pools = []poolSpec{{name: "p", min: 10, max: places, wait: time.Hour}}
				a, b := f.start("a"), f.start("b")
				crowd(t, f.world, a.m, b.m)
			})
		})
	}
}

// requests come at once for places.
const requests, places = 1000, 100

// crowd has requests set up over some engines on one store, hold their machines
// for a second and destroy them over another engine, and checks that all were
// answered, in the order in which the store saw them arrive, by no more
// machines than there are places.
func crowd(t *testing.T, world *noop.World, engines ...*pool.Manager) {
	t.Helper()
	var most atomic.Int64
	look := func() {
		for n := int64(len(world.Machines())); ; {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				return
			}
		}
	}
	var mu sync.Mutex
	var served []pool.Lease
	used := map[string]string{}
	var clients sync.WaitGroup
	for i := range requests {
		clients.Go(func() {
			id := fmt.Sprintf("r%d", i)
			res, err := engines[i%len(engines)].Setup(t.Context(), build(id))
			if err != nil {
				t.Errorf("%s: %v", id, err)
				return
			}
			look()
			mu.Lock()
			served = append(served, res.Lease)
			if other := used[res.Instance.ID]; other != "" {
				t.Errorf("%s and %s were given the same machine", other, id)
			}
			used[res.Instance.ID] = id
			mu.Unlock()
			<-time.After(time.Second)
			if err := engines[(i+1)%len(engines)].Destroy(t.Context(), pool.DestroyRequest{Lease: id}); err != nil {
				t.Errorf("destroy %s: %v", id, err)
			}
			look()
		})
	}
	clients.Wait()
	if got := most.Load(); got > places {
		t.Errorf("%d machines at the same time, the limit is %d", got, places)
	}
	slices.SortFunc(served, func(a, b pool.Lease) int { return int(a.Seq - b.Seq) })
	for i := 1; i < len(served); i++ {
		if before, after := served[i-1], served[i]; after.Claimed.Before(before.Claimed) {
			t.Errorf("request %d was given a machine %s before request %d", after.Seq, before.Claimed.Sub(after.Claimed), before.Seq)
		}
	}
	if len(served) != requests {
		t.Errorf("%d of %d requests were answered", len(served), requests)
	}
}

// Whatever a lease takes of memory and goroutines it gives back: a runner that
// has served for weeks is as it was on its first day.
func TestManyLeasesLeaveNothingBehind(t *testing.T) {
	aloneInBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 4, max: 16}}
		e.limits = pool.Timeouts{SweepLocal: time.Minute}
		e.start()
		serve := func(from, to int) {
			const clients = 8
			var g sync.WaitGroup
			for c := range clients {
				g.Go(func() {
					for i := from + c; i < to; i += clients {
						id := fmt.Sprintf("r%d", i)
						e.setup(id)
						<-time.After(time.Minute)
						e.destroy(id)
					}
				})
			}
			g.Wait()
			pass(time.Minute)
		}
		// The first tenth fills what is kept on purpose: statements, pools of
		// buffers, the bounded tables of finished steps.
		first := *leases / 10
		serve(0, first)
		goroutines, heap := weigh()
		serve(first, *leases)
		goroutinesAfter, heapAfter := weigh()
		if goroutinesAfter > goroutines {
			t.Errorf("%d goroutines after %d leases, %d after %d", goroutinesAfter, *leases, goroutines, first)
		}
		// Nothing of it may come with the number of leases: 100,000 of them, with
		// the pretend world and agents in the same process, find six bytes of each.
		if grown := int64(heapAfter) - int64(heap); grown > heapSlack {
			t.Errorf("the heap grew by %d bytes over %d leases, by %d of each", grown, *leases-first, grown/int64(*leases-first))
		}
		t.Logf("%d leases: goroutines %d, then %d; heap %d KiB, then %d KiB", *leases, goroutines, goroutinesAfter, heap>>10, heapAfter>>10)
	})
}

// heapSlack is what two weighings of the same heap may differ by.
const heapSlack = 512 << 10

// weigh counts what lives.
func weigh() (goroutines int, heap uint64) {
	synctest.Wait()
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return runtime.NumGoroutine(), s.HeapAlloc
}
