package sim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// agents is what one incarnation sees of the programs inside the machines.
type agents struct {
	w    *world
	fuse *fuse
}

var (
	_ pool.Agent = agents{}

	errUnreachable = errors.New("connection refused")
)

// reach finds the machine behind a target, if its agent answers now.
func (a agents) reach(t pool.Target) error {
	if err := a.fuse.pass(); err != nil {
		return err
	}
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	m := a.w.machines[strings.TrimPrefix(t.Address, "sim/")]
	now := time.Now()
	switch {
	case m == nil, m.deadAt(now), m.asleep, m.paused, m.boots.IsZero(), now.Before(m.boots):
		return errUnreachable
	case m.tags.Instance != t.Instance:
		a.w.accuse("the machine at %s is %s, not %s", t.Address, m.tags.Instance, t.Instance)
	}
	return nil
}

func (a agents) Health(_ context.Context, t pool.Target) (pool.Health, error) {
	return pool.Health{Version: "sim"}, a.reach(t)
}

func (a agents) Rehearse(_ context.Context, t pool.Target) error { return a.reach(t) }

func (a agents) Setup(ctx context.Context, t pool.Target, _ json.RawMessage) error {
	if err := nap(ctx, 20*time.Millisecond); err != nil {
		return err
	}
	if err := a.reach(t); err != nil {
		return err
	}
	if a.w.chance(a.w.faults().setupFails, "setup-fails", t.Instance) {
		return &pool.AgentError{Op: "setup", Status: 500, Message: "Cannot connect to the Docker daemon"}
	}
	return nil
}

func (a agents) StartStep(_ context.Context, t pool.Target, _ json.RawMessage) error {
	return a.reach(t)
}

func (a agents) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	end := time.Now().Add(time.Duration(a.w.draw("step", step) * float64(3*time.Minute)))
	for time.Now().Before(end) {
		if err := nap(ctx, min(time.Until(end), 5*time.Second)); err != nil {
			return pool.StepResult{}, err
		}
		if err := a.fuse.pass(); err != nil {
			return pool.StepResult{}, err
		}
	}
	for {
		err := a.reach(t)
		if err == nil {
			return pool.StepResult{Body: json.RawMessage(`{"exited":true}`), Exported: map[string]string{"LAST": step}}, nil
		}
		if errors.Is(err, errCrashed) {
			return pool.StepResult{}, err
		}
		if err := nap(ctx, time.Second); err != nil {
			return pool.StepResult{}, err
		}
	}
}

func (a agents) Output(_ context.Context, t pool.Target, _ string, offset int64, _ io.Writer) (int64, error) {
	return offset, a.reach(t)
}

func (a agents) Suspend(_ context.Context, t pool.Target, _ json.RawMessage) error { return a.reach(t) }

func (a agents) Destroy(_ context.Context, t pool.Target, _ json.RawMessage) error { return a.reach(t) }

func (a agents) Forget(string) {}
