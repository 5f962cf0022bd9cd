package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// answeredWithin is how soon a step on a machine that died is answered.
const answeredWithin = 15 * time.Second

// machinesDie kills machines under load: warm ones, leased ones, ones that boot.
func machinesDie(ctx context.Context, o Options, res *Result) error {
	return staged(ctx, o, "machines", res, shape{warm: 3, limit: 12, keepers: 2}, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		load := r.callers(ctx, "load", 300*time.Millisecond)
		for res.Kills < o.Kills {
			if err := pause(ctx, between(r.rng, 10*time.Millisecond, 400*time.Millisecond)); err != nil {
				return err
			}
			if err := r.killMachine(); err != nil {
				return err
			}
			if res.Kills%5 == 0 {
				if err := r.audited(ctx, fmt.Sprintf("kill %d", res.Kills), false); err != nil {
					return err
				}
			}
		}
		if err := r.dieDuringStep(ctx); err != nil {
			return err
		}
		return r.finish(ctx, load)
	})
}

// killMachine kills one machine that is no keeper's.
func (r *rig) killMachine() error {
	kept := map[string]bool{}
	stages := r.ledger.Read().Stages
	for _, name := range r.keepers.names {
		kept[stages[name].Machine] = true
	}
	c, err := LookAround(r.root)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(c.Machines)), func(n string) bool { return kept[n] || c.Machines[n].PID == 0 })
	if len(names) == 0 {
		return nil
	}
	return r.strike(c.Machines[names[r.rng.IntN(len(names))]])
}

// strike kills a machine's process, and tells the ledger first.
func (r *rig) strike(m Machine) error {
	r.ledger.Killed(m.Name, time.Now())
	if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", m, err)
	}
	r.result.Kills++
	return nil
}

// dieDuringStep kills a machine while a step runs on it: the step is answered
// soon and says why, and the same id is given another machine.
func (r *rig) dieDuringStep(ctx context.Context) error {
	id, c := r.mode+"-victim", r.runners[0].api
	r.ledger.Asked(id)
	answer, err := c.Setup(ctx, setupRequest(id))
	if err != nil {
		return fmt.Errorf("setup %s: %w", id, err)
	}
	name := answer.InstanceInfo.Name
	r.ledger.Granted(id, name, time.Now())
	running := make(chan error, 1)
	go func() {
		_, err := c.Step(ctx, stepRequest(id, "long"))
		running <- err
	}()
	started := func() bool {
		steps, err := c.Steps(ctx, id)
		return err == nil && len(steps) > 0
	}
	if err := r.until(ctx, answeredWithin, "a step runs", started); err != nil {
		return err
	}
	world, err := LookAround(r.root)
	if err != nil {
		return err
	}
	if world.Machines[name].PID == 0 {
		return fmt.Errorf("machine %s, just given to %s, has no process", name, id)
	}
	if err := r.strike(world.Machines[name]); err != nil {
		return err
	}
	killed := time.Now()
	select {
	case err = <-running:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	took := time.Since(killed)
	e, said := errors.AsType[*client.Error](err)
	if !said || e.Status != 500 || !strings.Contains(e.Message, "died") || took > answeredWithin {
		r.result.add("the death of a machine", []Finding{{Behaviour, fmt.Sprintf("the step on it was answered %v after %s, want a 500 that says that it died within %s", err, took, answeredWithin)}})
	}
	r.result.note("a step whose machine was killed was answered after %s", took.Round(time.Millisecond))
	again, err := c.Setup(ctx, setupRequest(id))
	if err != nil {
		return fmt.Errorf("setup %s again: %w", id, err)
	}
	r.ledger.Granted(id, again.InstanceInfo.Name, time.Now())
	if again.InstanceInfo.Name == name {
		r.result.add("the death of a machine", []Finding{{Behaviour, "the same id was given its dead machine again"}})
	}
	r.ledger.Ending(id, time.Now())
	if err := c.Destroy(ctx, api.DestroyRequest{ID: id}); err != nil {
		return fmt.Errorf("destroy %s: %w", id, err)
	}
	r.ledger.Ended(id, time.Now())
	return nil
}
