package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// poolName is the one pool of every mode.
const poolName = "p"

// temper is how a caller treats a runner that does not answer at once. They
// are what delegates were seen to do.
type temper int

const (
	// patient waits for every answer and asks again only when the connection broke.
	patient temper = iota
	// retrying gives each request little time and asks again with the same id.
	retrying
	// hangingUp breaks setups off, sometimes asks again, and destroys.
	hangingUp
	tempers
)

// load is callers that take machines and give them back until they are told to
// stop. What each does follows from the seed; when, from the runner.
type load struct {
	name    string
	seed    uint64
	ledger  *Ledger
	targets []*client.Client
	clients int
	// most bounds how long a stage keeps its machine.
	most time.Duration

	stages, refusals atomic.Int64
	mu               sync.Mutex
	said             map[string]int // texts of refusals
	// onRefusal, if set, is told of every answer that says no.
	onRefusal func(*client.Error)

	enough chan struct{}
	wg     sync.WaitGroup
}

// run starts the callers. ctx ends everything at once; stop lets them finish.
func (l *load) run(ctx context.Context) {
	l.enough = make(chan struct{})
	l.said = map[string]int{}
	for c := range l.clients {
		rng := rand.New(rand.NewPCG(l.seed, uint64(c)+1))
		l.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.enough:
					return
				case <-ctx.Done():
					return
				default:
				}
				l.stage(ctx, fmt.Sprintf("%s-%d-%d", l.name, c, n), temper(c)%tempers, rng)
				if pause(ctx, between(rng, 0, 20*time.Millisecond)) != nil {
					return
				}
			}
		})
	}
}

// stop lets every caller finish its stage, which includes a destroy that was
// answered.
func (l *load) stop() {
	close(l.enough)
	l.wg.Wait()
}

func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}

// patience is how long a request of a caller's temper may take.
func patience(t temper, rng *rand.Rand) time.Duration {
	switch t {
	case retrying:
		return between(rng, 50*time.Millisecond, 600*time.Millisecond)
	case hangingUp:
		return between(rng, time.Millisecond, 120*time.Millisecond)
	default:
		return 2 * time.Minute
	}
}

// stage is one stage from its first request to the answer of its destroy.
func (l *load) stage(ctx context.Context, id string, t temper, rng *rand.Rand) {
	l.stages.Add(1)
	l.ledger.Asked(id)
	tries := 200
	if t == hangingUp {
		tries = 1 + rng.IntN(3)
	}
	if l.setup(ctx, id, t, rng, tries) {
		if rng.IntN(4) == 0 {
			l.step(ctx, id, rng)
		}
		_ = pause(ctx, between(rng, 0, l.most)) // ends with ctx, as all that follows
	}
	l.ledger.Ending(id, time.Now())
	for try := 0; ctx.Err() == nil; try++ {
		if t == hangingUp && try > 5 {
			t = patient
		}
		if l.once(ctx, t, rng, func(ctx context.Context, c *client.Client) error {
			return c.Destroy(ctx, api.DestroyRequest{ID: id})
		}) == nil {
			l.ledger.Ended(id, time.Now())
			return
		}
	}
}

// setup asks until it is answered, refused, or has asked often enough. It says
// whether the stage has a machine.
func (l *load) setup(ctx context.Context, id string, t temper, rng *rand.Rand, tries int) bool {
	for range tries {
		var answer api.SetupResponse
		err := l.once(ctx, t, rng, func(ctx context.Context, c *client.Client) (err error) {
			answer, err = c.Setup(ctx, setupRequest(id))
			return err
		})
		if err == nil {
			l.ledger.Granted(id, answer.InstanceInfo.Name, time.Now())
			return true
		}
		if _, refused := errors.AsType[*client.Error](err); refused || ctx.Err() != nil {
			return false
		}
	}
	return false
}

// setupBody is the agent's part of every setup.
var setupBody = json.RawMessage(`{"envs":{"CI":"true"},"network":{"id":"drone"},"mount_docker_socket":false,"log_config":{},"ti_config":{}}`)

func setupRequest(id string) api.SetupRequest {
	return api.SetupRequest{ID: id, PoolID: poolName, SetupRequest: setupBody}
}

func stepRequest(lease, step string) api.StepRequest {
	body, _ := json.Marshal(map[string]any{ // maps of text cannot fail
		"id": step, "name": step, "kind": "Run", "working_dir": "/tmp",
		"run": map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{"true"}},
	})
	return api.StepRequest{StageRuntimeID: lease, StartStepRequest: body}
}

// step starts a step and goes away; the machine is destroyed under it.
func (l *load) step(ctx context.Context, id string, rng *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, between(rng, time.Millisecond, 50*time.Millisecond))
	defer cancel()
	_, _ = l.target(rng).Step(ctx, stepRequest(id, "s")) // it takes longer than the patience
}

func (l *load) target(rng *rand.Rand) *client.Client { return l.targets[rng.IntN(len(l.targets))] }

// once sends one request to one of the runners. When nobody answers it rests a
// little, since a runner that is down is so for a while.
func (l *load) once(ctx context.Context, t temper, rng *rand.Rand, send func(context.Context, *client.Client) error) error {
	call, cancel := context.WithTimeout(ctx, patience(t, rng))
	defer cancel()
	err := send(call, l.target(rng))
	if err == nil {
		return nil
	}
	if refusal, said := errors.AsType[*client.Error](err); said {
		l.refused(refusal)
	}
	_ = pause(ctx, between(rng, 5*time.Millisecond, 40*time.Millisecond))
	return err
}

func (l *load) refused(e *client.Error) {
	l.refusals.Add(1)
	if l.onRefusal != nil {
		l.onRefusal(e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	text := fmt.Sprintf("%d: %.200s", e.Status, e.Message)
	if _, known := l.said[text]; known || len(l.said) < 100 {
		l.said[text]++
	}
}

// texts are the refusals heard most often.
func (l *load) texts() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for text, n := range l.said {
		all = append(all, fmt.Sprintf("%5d × %s", n, text))
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(b, a) })
	return all[:min(len(all), 10)]
}
