package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// stepTime is how long a pretend step takes: longer than the pauses between
// kills, so that each step lives through several.
const stepTime = 4 * time.Second

// keepers hold machines all the time and always have a step running on them.
// Whatever happens to the runner, their machines stay the same processes and
// every step's result is fetched.
type keepers struct {
	ledger  *Ledger
	targets []*client.Client
	names   []string

	mu      sync.Mutex
	pids    map[string]int // process by machine, as first seen
	steps   int
	trouble []Finding

	enough chan struct{}
	wg     sync.WaitGroup
}

// take gives each keeper its machine.
func (k *keepers) take(ctx context.Context) error {
	for _, name := range k.names {
		k.ledger.Asked(name)
		answer, err := k.targets[0].Setup(ctx, setupRequest(name))
		if err != nil {
			return fmt.Errorf("keeper %s: %w", name, err)
		}
		k.ledger.Granted(name, answer.InstanceInfo.Name, time.Now())
	}
	return nil
}

// run keeps one step running on each machine.
func (k *keepers) run(ctx context.Context) {
	k.enough = make(chan struct{})
	for i, name := range k.names {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		k.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-k.enough:
					return
				case <-ctx.Done():
					return
				default:
				}
				k.step(ctx, name, fmt.Sprintf("step-%d", n), rng)
			}
		})
	}
}

// step asks for one step until its result is there. The first request starts
// it; those after a crash find it running, or done.
func (k *keepers) step(ctx context.Context, lease, step string, rng *rand.Rand) {
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 2*time.Minute)
		body, err := k.targets[rng.IntN(len(k.targets))].Step(call, stepRequest(lease, step))
		cancel()
		if err == nil {
			var result struct {
				Exited   bool   `json:"exited"`
				ExitCode int    `json:"exit_code"`
				Error    string `json:"error"`
			}
			if err := json.Unmarshal(body, &result); err != nil || !result.Exited || result.ExitCode != 0 || result.Error != "" {
				k.note(TakenAway, "keeper %s: %s ended with %s (%v)", lease, step, body, err)
			}
			k.mu.Lock()
			k.steps++
			k.mu.Unlock()
			return
		}
		if e, said := errors.AsType[*client.Error](err); said && k.isOver(ctx, lease) {
			k.note(TakenAway, "keeper %s: %s was refused: %d %s", lease, step, e.Status, e.Message)
			return
		}
		if pause(ctx, 30*time.Millisecond) != nil {
			return
		}
	}
}

// isOver says whether the runner tells that a lease has ended, so that asking
// again is in vain: a refusal alone may only mean that it cannot answer now.
func (k *keepers) isOver(ctx context.Context, lease string) bool {
	l, err := k.targets[0].Lease(ctx, lease)
	return client.NotFound(err) || err == nil && (l.State == leaseEnded || l.State == leaseLost)
}

func (k *keepers) note(r Rule, format string, a ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trouble = append(k.trouble, Finding{r, fmt.Sprintf(format, a...)})
}

// stop waits for the results of the steps that run.
func (k *keepers) stop() {
	close(k.enough)
	k.wg.Wait()
}

// give ends the keepers' leases.
func (k *keepers) give(ctx context.Context) error {
	for _, name := range k.names {
		k.ledger.Ending(name, time.Now())
		if err := k.targets[0].Destroy(ctx, api.DestroyRequest{ID: name}); err != nil {
			return fmt.Errorf("keeper %s: %w", name, err)
		}
		k.ledger.Ended(name, time.Now())
	}
	return nil
}

// findings are what the keepers met, and machines of theirs that are not the
// processes they were.
func (k *keepers) findings(c Cloud) []Finding {
	holders := map[string]bool{}
	for _, s := range k.ledger.Read().Holders() {
		holders[s.ID] = true
	}
	stages := k.ledger.Read().Stages
	k.mu.Lock()
	defer k.mu.Unlock()
	all := append([]Finding(nil), k.trouble...)
	if k.pids == nil {
		k.pids = map[string]int{}
	}
	for _, name := range k.names {
		if !holders[name] {
			continue
		}
		machine := stages[name].Machine
		now := c.Machines[machine].PID
		if first, seen := k.pids[machine]; !seen {
			k.pids[machine] = now
		} else if now != first {
			all = append(all, Finding{TakenAway, fmt.Sprintf("keeper %s: machine %s was process %d and is %d", name, machine, first, now)})
		}
	}
	return all
}

// done is how many results were fetched.
func (k *keepers) done() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.steps
}
