package pool

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

// countingDriver lists an empty cloud and remembers how it was asked.
type countingDriver struct {
	drivers.Driver
	mu    sync.Mutex
	asked []drivers.Query
}

func (d *countingDriver) List(_ context.Context, q drivers.Query) (drivers.Listing, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, q)
	return drivers.Listing{Complete: true, At: time.Now()}, nil
}

// However many machines are waited for in a cloud, one call serves all who asked
// before it, and disks are asked for only if somebody wants to know of them.
func TestListingsAreSharedByAllWhoWait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		local bool
		disks bool
		most  int
	}{
		{name: "in a cloud", most: 11},
		{name: "in a cloud, with a sweep among them", most: 11, disks: true},
		{name: "on this host", local: true, most: 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testbubble.Run(t, func(t *testing.T) {
				d := &countingDriver{}
				sc := newScope("s", c.local)
				sc.tenants = []*tenancy{{client: cloud{drivers.NewClient(d, drivers.ClientOptions{})}}}
				m := &Manager{}
				ctx, stop := context.WithCancel(t.Context())
				var loop, askers sync.WaitGroup
				loop.Go(func() { _ = m.runLister(ctx, sc) })
				// A hundred asks, one each 200 ms: twenty seconds.
				for n := range 100 {
					askers.Go(func() {
						begun := time.Now().Add(time.Duration(n) * 200 * time.Millisecond)
						<-time.After(time.Until(begun))
						l, err := m.listing(ctx, sc, c.disks && n == 50)
						if err != nil || l.At.Before(begun) {
							t.Errorf("ask %d: listing of %s for one asked at %s: %v", n, l.At, begun, err)
						}
					})
				}
				askers.Wait()
				stop()
				loop.Wait()
				with := 0
				for _, q := range d.asked {
					if !q.NoDisks {
						with++
					}
				}
				if len(d.asked) > c.most || len(d.asked) < c.most-1 || with > 1 || c.disks != (with == 1) {
					t.Errorf("%d listings, %d of them with disks; want at most %d", len(d.asked), with, c.most)
				}
			})
		})
	}
}
