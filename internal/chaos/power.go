package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// promises are the answers given before a power cut. It is safe for
// concurrent use.
type promises struct {
	mu sync.Mutex
	// granted are answered setups, lease to machine; ended answered destroys.
	granted map[string]string
	ended   map[string]bool
}

func (p *promises) counts() (granted, ended int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.granted), len(p.ended)
}

// powerCuts runs the runner in a virtual machine whose disk keeps nothing back,
// and takes the power away while callers come and go: every answer given
// before is known after the next boot.
func powerCuts(ctx context.Context, o Options, res *Result) error {
	return powered(ctx, o, "power", func(ctx context.Context, box *box, rng *rand.Rand) error {
		given := &promises{granted: map[string]string{}, ended: map[string]bool{}}
		for cut := 0; ; cut++ {
			if err := box.boot(ctx, honest); err != nil {
				return err
			}
			found, err := broken(ctx, box.api, given)
			if err != nil {
				return err
			}
			res.Audits++
			res.add(fmt.Sprintf("the boot after power cut %d", cut), found)
			if len(found) > 0 || cut == o.Cuts {
				granted, ended := given.counts()
				res.Claims, res.Stages = granted, int64(granted)
				res.note("%d answered setups and %d answered destroys looked up after each boot", granted, ended)
				return box.cut()
			}
			if err := untilCut(ctx, box, given, rng, fmt.Sprint("c", cut)); err != nil {
				return err
			}
			res.Kills++
		}
	})
}

// lyingDisk is the control: a disk that acknowledges every write and flush and
// forgets all of them when the power goes. The same comparison must find it.
func lyingDisk(ctx context.Context, o Options, res *Result) error {
	return powered(ctx, o, "liar", func(ctx context.Context, box *box, rng *rand.Rand) error {
		given := &promises{granted: map[string]string{}, ended: map[string]bool{}}
		if err := box.boot(ctx, forgetful); err != nil {
			return err
		}
		if err := untilCut(ctx, box, given, rng, "c"); err != nil {
			return err
		}
		res.Kills++
		if err := box.boot(ctx, forgetful); err != nil {
			return err
		}
		found, err := broken(ctx, box.api, given)
		if err != nil {
			return err
		}
		res.Audits++
		res.Claims, _ = given.counts()
		res.Stages = int64(res.Claims)
		res.note("%d answers were found missing, as they must be", len(found))
		if len(found) == 0 {
			res.add("the boot on a forgetful disk", []Finding{{Behaviour, "the comparison found nothing missing: it proves nothing"}})
		}
		return box.cut()
	})
}

func powered(ctx context.Context, o Options, mode string, f func(context.Context, *box, *rand.Rand) error) error {
	dir := filepath.Join(o.Dir, mode)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	box, err := newBox(ctx, o, dir)
	if err != nil {
		return err
	}
	box.say = func(format string, a ...any) {
		fmt.Fprintf(o.Progress, "%s %-9s %s\n", time.Now().Format("15:04:05"), mode, fmt.Sprintf(format, a...))
	}
	err = f(ctx, box, rand.New(rand.NewPCG(o.Seed, seedOf(mode))))
	if box.cmd != nil {
		err = errors.Join(err, box.cut())
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	return err
}

// callersInBox is how many callers come and go at a time.
const callersInBox = 4

// untilCut lets callers come and go, takes the power away at a random moment,
// and notes what was answered until then.
func untilCut(ctx context.Context, box *box, given *promises, rng *rand.Rand, prefix string) error {
	before, _ := given.counts()
	calls, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var wg sync.WaitGroup
	for c := range callersInBox {
		wg.Go(func() {
			for n := 0; calls.Err() == nil; n++ {
				id := fmt.Sprintf("%s-%d-%d", prefix, c, n)
				answer, err := box.api.Setup(calls, setupRequest(id))
				if err != nil {
					if pause(calls, 20*time.Millisecond) != nil {
						return
					}
					continue
				}
				given.mu.Lock()
				given.granted[id] = answer.InstanceInfo.Name
				given.mu.Unlock()
				if box.api.Destroy(calls, api.DestroyRequest{ID: id}) == nil {
					given.mu.Lock()
					given.ended[id] = true
					given.mu.Unlock()
				}
			}
		})
	}
	for {
		if now, _ := given.counts(); now >= before+10 {
			break
		}
		if err := errors.Join(box.alive(), pause(ctx, 20*time.Millisecond)); err != nil {
			hangUp()
			wg.Wait()
			return err
		}
	}
	err := errors.Join(pause(ctx, between(rng, 0, 2*time.Second)), box.cut())
	hangUp()
	wg.Wait()
	now, _ := given.counts()
	box.say("power cut after %d answered setups", now-before)
	return err
}

// broken looks up every answer.
func broken(ctx context.Context, c *client.Client, given *promises) ([]Finding, error) {
	var found []Finding
	for _, id := range slices.Sorted(maps.Keys(given.granted)) {
		l, err := c.Lease(ctx, id)
		if client.NotFound(err) {
			found = append(found, Finding{LostClaim, fmt.Sprintf("the setup of %s was answered, and the store has no such lease", id)})
			continue
		}
		if err != nil {
			return found, fmt.Errorf("/v1/leases/%s: %w", id, err)
		}
		machine, err := c.Instance(ctx, l.InstanceID)
		if err != nil && !client.NotFound(err) {
			return found, fmt.Errorf("/v1/instances/%s: %w", l.InstanceID, err)
		}
		if machine.Name != given.granted[id] {
			found = append(found, Finding{LostClaim, fmt.Sprintf("%s was answered machine %s, the store has %q", id, given.granted[id], machine.Name)})
		}
		if given.ended[id] && l.State != leaseEnded {
			found = append(found, Finding{LostClaim, fmt.Sprintf("the destroy of %s was answered, and its lease is %s (%s)", id, l.State, l.Reason)})
		}
	}
	return found, nil
}
