//go:build !no_google

package google

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// engine uses a driver as the engine does: so many creations and ends at a time,
// and one listing for all who wait for an address.
type engine struct {
	t     *testing.T
	d     *Driver
	slots chan struct{}

	mu      sync.Mutex
	waiting int
}

// listings lists while somebody waits, after 1 s, 2 s, 4 s and every 5 s,
// and besides every minute.
func (e *engine) listings(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	since, next, sweep := 0, 1, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		sweep++
		e.mu.Lock()
		wanted := e.waiting > 0
		e.mu.Unlock()
		if since++; !wanted {
			since, next = 0, 1
		}
		if q := (drivers.Query{NoDisks: true}); wanted && since >= next || sweep >= 60 {
			if sweep >= 60 {
				sweep, q.NoDisks = 0, false
			}
			since, next = 0, min(2*next, 5)
			if _, err := e.d.List(ctx, q); err != nil && ctx.Err() == nil {
				e.t.Error(err)
			}
		}
	}
}

// machine is one from its creation until its end is confirmed.
func (e *engine) machine(ctx context.Context, works time.Duration) {
	e.slots <- struct{}{}
	spec := machine()
	ref, err := e.d.Create(ctx, spec)
	<-e.slots
	if err != nil {
		e.t.Error(err)
		return
	}
	e.mu.Lock()
	e.waiting++
	e.mu.Unlock()
	pass(6 * time.Second) // until its agent answers
	e.mu.Lock()
	e.waiting--
	e.mu.Unlock()
	pass(works)
	e.slots <- struct{}{}
	err = e.d.Destroy(ctx, []drivers.Ref{ref}, drivers.DestroyOptions{})[0]
	<-e.slots
	if err != nil {
		e.t.Error(err)
	}
}

// run has machines live, one every so often, and gives the calls there were.
func run(t *testing.T, c *gce.Cloud, n int, every time.Duration) int {
	t.Helper()
	e := &engine{t: t, d: open(t, c, small), slots: make(chan struct{}, 32)}
	ctx, cancel := context.WithCancel(t.Context())
	var listings, machines sync.WaitGroup
	listings.Go(func() { e.listings(ctx) })
	for range n {
		machines.Go(func() { e.machine(ctx, 30*time.Second) })
		if every > 0 {
			pass(every)
		}
	}
	machines.Wait()
	cancel()
	listings.Wait()
	if living := c.Living(); len(living) > 0 {
		t.Errorf("left behind: %v", living)
	}
	if made := everMade(c, "instance"); len(made) != n {
		t.Errorf("%d machines were made, want %d", len(made), n)
	}
	return c.Books.Total()
}

// The numbers of docs/drivers.md.
func TestCallsPerMachine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		n     int
		every time.Duration
		most  float64
	}{
		{"50 at once", 50, 0, 4},
		{"one every 10 s", 50, 10 * time.Second, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
				calls := float64(run(t, c, tt.n, tt.every)) / float64(tt.n)
				t.Logf("%.2f calls a machine: %v", calls, c.Books.Calls())
				if calls > tt.most {
					t.Errorf("%.2f calls a machine, at most %.0f", calls, tt.most)
				}
			})
		})
	}
}

// 500 machines at once, at the rates that every project has.
func TestFiveHundredMachines(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		calls := run(t, c, 500, 0)
		t.Logf("%d calls: %v", calls, c.Books.Calls())
		if n := c.Books.Calls()["compute.instances.insert"] + c.Books.Calls()["compute.instances.delete"]; n > 1050 {
			t.Errorf("%d creations and deletions were asked for, 1000 would do", n)
		}
		if calls > 4*500 {
			t.Errorf("%d calls", calls)
		}
	})
}

// An image is looked at once for all who need it, also if the first of them has
// gone meanwhile.
func TestAnImageIsLookedAtOnceForAllWhoNeedIt(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		const look = "compute.images.getFromFamily"
		c.Faults.Add(fakecloud.Fault{Method: look, Times: 2, Effect: fakecloud.Slow, For: 3 * time.Second})
		d := open(t, c, small)
		var wg sync.WaitGroup
		impatient, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		wg.Go(func() {
			if _, err := d.Create(impatient, machine()); err == nil {
				t.Error("it did not go")
			}
		})
		synctest.Wait() // it has asked
		for range 20 {
			wg.Go(func() {
				if _, err := d.Create(t.Context(), machine()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := c.Books.Calls()[look]; n != 2 {
			t.Errorf("the image was looked at %d times, want once for the first and once for all others", n)
		}
		empty(t, c, d)
	})
}

// Many whose calls are refused come back one after another when the minute is
// over.
func TestRefusedCallsComeBackInTheNextMinute(t *testing.T) {
	t.Parallel()
	o := large()
	o.Rates = map[gce.Group]int{gce.Mutations: 100}
	bubble(t, o, func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, small)
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, err := d.Create(t.Context(), machine()); err != nil && !strings.Contains(err.Error(), "rate") {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := c.Books.Calls()["compute.instances.insert"]; n > 200*limitTries {
			t.Errorf("%d creations were asked for", n)
		}
		empty(t, c, d)
	})
}
