package pool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // a string always encodes
	}
	return string(b)
}

// create asks the cloud for the machine of a row whose intent is committed.
func (m *Manager) create(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	release, waited, err := take(ctx, rt.slots)
	if err != nil {
		return nil, err
	}
	defer release()
	if waited {
		// Its lease may have been destroyed meanwhile.
		fresh, err := m.store.Instance(ctx, inst.ID)
		if err != nil {
			return nil, err
		}
		if fresh.State != Creating {
			return &fresh, nil
		}
	}
	begun := m.now()
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return nil, err
	}
	disks, err := m.diskSpecs(ctx, inst)
	var spec drivers.Spec
	if err == nil {
		spec, err = m.specOf(rt, inst, lease, disks)
	}
	if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		return m.broken(ctx, rt, inst, "create", fmt.Errorf("%w: %w", drivers.ErrInvalid, err))
	}
	call, cancel := context.WithTimeout(ctx, m.t.Create)
	defer cancel()
	ref, err := rt.driver(inst).Create(call, spec)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		m.counters.created(inst.Pool, drivers.Kind(err))
		return m.broken(ctx, rt, inst, "create", err)
	}
	m.counters.created(inst.Pool, "created")
	m.worked(ctx, rt, inst, false)
	m.counters.phase("create", m.now().Sub(begun))
	now := m.stamp()
	next, err := m.store.Accepted(ctx, Acceptance{
		ID: inst.ID, CloudID: ref.ID, Zone: ref.Zone, Due: now.Add(m.bootBudget(inst) + time.Minute), Now: now,
	})
	if err != nil {
		return nil, err
	}
	return &next, nil
}

func (m *Manager) bootBudget(inst Instance) time.Duration {
	if inst.OS == "windows" {
		return m.t.BootWindows
	}
	return m.t.Boot
}

// bootUp waits until the machine's agent has answered over mutual TLS, and
// makes it warm or gives it to who waits for it.
func (m *Manager) bootUp(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	release, _, err := take(ctx, rt.boots)
	if err != nil {
		return nil, err
	}
	defer release()
	begun := m.now()
	budget := m.bootBudget(inst)
	boot, cancel := context.WithTimeoutCause(ctx, budget, fmt.Errorf("not ready after %s", budget))
	defer cancel()
	health, found, err := m.prove(boot, rt, inst)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		if boot.Err() != nil && !errors.Is(err, context.Cause(boot)) {
			err = fmt.Errorf("%w: %w", context.Cause(boot), err)
		}
		return m.broken(ctx, rt, inst, "boot", err)
	}
	m.counters.phase("boot", m.now().Sub(begun))
	now := m.stamp()
	proven, lease, err := m.store.Proven(ctx, Proof{
		ID: inst.ID, AgentVersion: health.Version, Address: found.Address, Port: found.Port,
		Due: m.warmDue(Instance{Pool: inst.Pool, Deadline: inst.Deadline}, now), LeaseDue: now.Add(m.startBudget()), Now: now,
	})
	if err != nil {
		return nil, err
	}
	m.worked(ctx, rt, inst, true)
	rt.kick()
	if lease != nil {
		m.hub.notify(leaseKey(lease.ID))
		return nil, nil
	}
	m.settler.want(inst.ID)
	return &proven, nil
}

// prove finds the machine, gives it its identity where that is the driver's
// way, and asks its agent until it answers.
func (m *Manager) prove(ctx context.Context, rt *runtime, inst Instance) (Health, drivers.Instance, error) {
	found, err := m.locate(ctx, rt, inst)
	if err != nil {
		return Health{}, found, err
	}
	if found.Status == drivers.StatusPaused && rt.driver(inst).CanPause() {
		// Paused by a process that died before it wrote that down.
		if err := rt.driver(inst).Unpause(ctx, inst.Ref()); err != nil {
			return Health{}, found, err
		}
	}
	if rt.driver(inst).CanIdentify() {
		if err := rt.driver(inst).Identify(ctx, inst.Ref(), inst.Identity); err != nil {
			return Health{}, found, err
		}
	}
	inst.Address, inst.Port = found.Address, found.Port
	asked := m.now()
	h, err := m.awaitHealth(ctx, inst, func() error {
		sc := m.scopes[inst.Scope] // there: it was located in it
		if m.now().Sub(asked) < sc.aliveEvery() {
			return nil
		}
		asked = m.now()
		_, err := m.locate(ctx, rt, inst)
		return err
	})
	if err != nil {
		return h, found, &unhealthyError{found, err}
	}
	return h, found, nil
}

// unhealthyError is a machine that runs and whose agent does not answer.
type unhealthyError struct {
	at  drivers.Instance
	err error
}

func (e *unhealthyError) Error() string {
	return fmt.Sprintf("agent not healthy (tcp %s:%d): %v", e.at.Address, e.at.Port, e.err)
}

func (e *unhealthyError) Unwrap() error { return e.err }

// errDead is a machine that ended by itself.
var errDead = errors.New("the machine has ended by itself")

// deathOf is a dead machine as an error, of the kind its cloud gives.
func deathOf(mach drivers.Instance) error {
	why := cmp.Or(mach.Reason, "the cloud gives no reason")
	if mach.Err != nil {
		return fmt.Errorf("%w: %w: %s", errDead, mach.Err, why)
	}
	return fmt.Errorf("%w: %s", errDead, why)
}

// unseen is how many complete listings may lack a machine the cloud accepted.
const unseen = 5

// locate waits until the cloud lists the machine with an address.
func (m *Manager) locate(ctx context.Context, rt *runtime, inst Instance) (drivers.Instance, error) {
	sc := m.scopes[inst.Scope]
	if sc == nil {
		return drivers.Instance{}, fmt.Errorf("%w: nothing lists scope %q", ErrNotFound, inst.Scope)
	}
	pause := sc.pace()
	missed := 0
	for {
		found, ok, complete, err := m.find(ctx, rt, sc, inst)
		if err == nil {
			switch {
			case ok && found.Status == drivers.StatusDead:
				return found, deathOf(found)
			case ok && found.Address != "" && (found.Status == drivers.StatusRunning || found.Status == drivers.StatusPaused):
				return found, nil
			case !ok && complete:
				if missed++; missed >= unseen {
					return found, fmt.Errorf("%w: the cloud accepted the machine but does not list it", errDead)
				}
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			if err != nil {
				return drivers.Instance{}, err
			}
			return drivers.Instance{}, context.Cause(ctx)
		case <-t.C:
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// find looks at one machine: by itself where that is cheap, else in a listing
// that serves everybody who looks for one.
func (m *Manager) find(ctx context.Context, rt *runtime, sc *scope, inst Instance) (found drivers.Instance, ok, complete bool, err error) {
	if rt.driver(inst).CanFind() {
		found, err = rt.driver(inst).Find(ctx, inst.Ref())
		if errors.Is(err, drivers.ErrNotFound) {
			return found, false, true, nil
		}
		return found, err == nil, true, err
	}
	l, err := m.listing(ctx, sc, false)
	if err != nil {
		return found, false, false, err
	}
	found, ok = l.byName[inst.Name]
	return found, ok, l.Complete, nil
}

// broken handles a machine that could not be made or booted: its lease, if it
// was made for one, goes on without it; the machine is destroyed.
func (m *Manager) broken(ctx context.Context, rt *runtime, inst Instance, phase string, err error) (*Instance, error) {
	cause := m.causeOf(ctx, inst, phase, err)
	keep, until := m.failed(ctx, rt, inst, cause, err)
	if !keep {
		until = time.Time{}
	}
	lease, lerr := m.leaseOf(ctx, inst)
	if lerr != nil {
		return nil, lerr
	}
	if lease != nil && lease.State == LeaseStarting && lease.InstanceID == inst.ID {
		retry := phase == "create" && cause.Kind == "transient"
		ferr := m.failLease(ctx, *lease, inst, cause, retry, until)
		if ferr != nil && !errors.Is(ferr, ErrConflict) {
			return nil, ferr
		}
		fresh, ferr := m.store.Instance(ctx, inst.ID)
		if ferr != nil {
			return nil, ferr
		}
		if fresh.State != inst.State {
			return &fresh, nil
		}
		lease = nil
	}
	if !keep {
		return m.discard(ctx, rt, inst, lease, phase+"_failed", cause)
	}
	now := m.stamp()
	kept, kerr := m.store.Change(ctx, Change{
		ID: inst.ID, From: []InstanceState{inst.State}, To: Failed, Due: until, Reason: phase + "_failed", Detail: cause.String(), Now: now,
		Events: []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Reason: phase + "_failed",
			Message: "kept for inspection until " + until.Format(time.RFC3339) + ": " + cause.String(),
		}},
	})
	if kerr != nil {
		return nil, kerr
	}
	return &kept, nil
}

// discard sends a broken machine that no lease has any more to be destroyed.
func (m *Manager) discard(ctx context.Context, rt *runtime, inst Instance, lease *Lease, reason string, cause Cause) (*Instance, error) {
	if may, why := mayDestroy(&inst, evidence{Why: ReasonBroken, Lease: lease}, m.stamp()); !may {
		return nil, fmt.Errorf("broken machine %s may not be destroyed: %s", inst.Name, why)
	}
	now := m.stamp()
	next, err := m.store.Change(ctx, Change{
		ID: inst.ID, From: []InstanceState{inst.State}, To: Destroying, Due: now,
		Reason: string(ReasonBroken), Detail: cause.String(), Now: now,
		Events: []Event{{At: now, Pool: inst.Pool, Instance: inst.ID, Reason: reason, Message: cause.String()}},
	})
	if err != nil {
		return nil, err
	}
	rt.kick()
	return &next, nil
}

// suspend puts a leased gitspace to disk. It is tried until it works: the
// lease sleeps already, and a destroy ends it from here too.
func (m *Manager) suspend(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	release, _, err := take(ctx, rt.slots)
	if err != nil {
		return nil, err
	}
	defer release()
	call, cancel := context.WithTimeout(ctx, m.t.SuspendWait)
	defer cancel()
	if err := rt.driver(inst).Suspend(call, inst.Ref()); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		m.log.Warn("machine not suspended yet, tried again", "instance", inst.Name, "attempt", inst.Attempts+1, "err", err)
		m.postpone(ctx, inst, "suspend_failed", err)
		m.hub.notify(instanceKey(inst.ID))
		return nil, nil
	}
	m.agent.Forget(inst.ID)
	now := m.stamp()
	if _, err := m.store.Change(ctx, Change{
		ID: inst.ID, From: []InstanceState{Suspending}, To: Suspended, Due: now.Add(longSleep), Now: now,
	}); err != nil {
		return nil, err
	}
	m.hub.notify(instanceKey(inst.ID))
	return nil, nil
}
