//go:build !no_amazon

package amazon

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

// engine does with a driver what the pool engine does for one machine: create,
// look for its address in listings that all who wait share, destroy.
type engine struct {
	d  *Driver
	mu sync.Mutex
	// last is the last listing, asked is when it was asked for.
	last  drivers.Listing
	asked time.Time
}

// list is a listing that is not older than the engine's gap between two.
func (e *engine) list(ctx context.Context) (drivers.Listing, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.asked) < 2*time.Second {
		return e.last, nil
	}
	l, err := e.d.List(ctx, drivers.Query{NoDisks: true})
	e.last, e.asked = l, time.Now()
	return l, err
}

// life is one machine from its creation to its confirmed end.
func (e *engine) life(ctx context.Context, spec drivers.Spec, work time.Duration) error {
	ref, err := e.d.Create(ctx, spec)
	if err != nil {
		return fmt.Errorf("create %s: %w", spec.Name, err)
	}
	for pause := time.Second; ; pause = min(2*pause, 5*time.Second) {
		l, err := e.list(ctx)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		up := false
		for _, inst := range l.Instances {
			up = up || inst.Name == spec.Name && inst.Address != ""
		}
		if up {
			break
		}
		if err := sleep(ctx, pause); err != nil {
			return fmt.Errorf("%s never came up: %w", spec.Name, err)
		}
	}
	if err := sleep(ctx, work); err != nil {
		return err
	}
	if err := e.d.Destroy(ctx, []drivers.Ref{ref}, drivers.DestroyOptions{})[0]; err != nil {
		return fmt.Errorf("destroy %s: %w", spec.Name, err)
	}
	return nil
}

func TestCallsPerMachine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		machines int
		every    time.Duration
		most     float64
	}{
		"a burst of fifty":  {50, 0, 4},
		"one every seconds": {50, 10 * time.Second, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				e := &engine{d: open(t, c, setup{}, pooled(t))}
				ctx, stop := context.WithCancel(t.Context())
				var sweeps, lives sync.WaitGroup
				sweeps.Go(func() { // each minute, disks too
					for sleep(ctx, time.Minute) == nil {
						if _, err := e.d.List(ctx, drivers.Query{}); err != nil && ctx.Err() == nil {
							t.Errorf("sweep: %v", err)
						}
					}
				})
				for i := range tc.machines {
					lives.Go(func() {
						pass(time.Duration(i) * tc.every)
						if err := e.life(ctx, machine(), 30*time.Second); err != nil {
							t.Error(err)
						}
					})
				}
				lives.Wait()
				stop()
				sweeps.Wait()
				if left := existing(c); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				each := float64(c.Books.Total()) / float64(tc.machines)
				t.Logf("%.1f calls a machine: %v", each, c.Books.Calls())
				if each > tc.most {
					t.Errorf("%.1f calls a machine, at most %v", each, tc.most)
				}
			})
		})
	}
}

func TestFiveHundredMachinesAtOnceLoseNothingAndStormNothing(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		const machines, atOnce = 500, 32 // as the engine does
		e := &engine{d: open(t, c, setup{}, pooled(t))}
		slots := make(chan struct{}, atOnce)
		refs := make([]drivers.Ref, machines)
		var wg sync.WaitGroup
		for i := range machines {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				var err error
				if refs[i], err = e.d.Create(ctx, machine()); err != nil {
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		pass(time.Minute)
		l, err := e.d.List(t.Context(), drivers.Query{})
		if err != nil || len(l.Instances) != machines {
			t.Fatalf("%d machines are listed, %v", len(l.Instances), err)
		}
		for _, ref := range refs {
			wg.Go(func() { destroy(t, e.d, ref) })
		}
		wg.Wait()
		if left := existing(c); len(left) > 0 {
			t.Errorf("%d things left behind: %.300v", len(left), left)
		}
		calls := c.Books.Calls()
		t.Logf("calls: %v", calls)
		// One each, and a few that came too early.
		for _, method := range []string{"RunInstances", "TerminateInstances"} {
			if n := calls[method]; n < machines || n > machines*11/10 {
				t.Errorf("%d calls of %s for %d machines", n, method, machines)
			}
		}
	})
}

func TestTwoPoolsThatShareAnAccountsRateLoseNothing(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		one, other := open(t, c, setup{}, pooled(t)), open(t, c, setup{}, pooled(t))
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				d := []*Driver{one, other}[i%2]
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				ref, err := d.Create(ctx, machine())
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				destroy(t, d, ref)
			})
		}
		wg.Wait()
		if left := existing(c); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if n := c.Books.Calls()["RunInstances"]; n > 4*60 {
			t.Errorf("%d launches were asked for 60 machines", n)
		}
	})
}
