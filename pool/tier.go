package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

const (
	// hibernateTries is how often a machine is tried to be put to disk, or to
	// be woken again, before that is given up.
	hibernateTries = 3
	// restlessFor is how long a machine that could not be put to disk is left
	// running before it is tried again.
	restlessFor = time.Hour
	// restlessCheck is how often it is looked whether it is still there.
	restlessCheck = time.Minute
)

// tierMemory knows the warm machines that could not be put to disk lately. A
// restart forgets them, which costs one more try. Safe for concurrent use.
type tierMemory struct {
	mu sync.Mutex
	m  map[string]restlessness // by instance id
}

type restlessness struct {
	until, checked  time.Time
	tenant, variant string
}

func (t *tierMemory) add(inst Instance, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]restlessness{}
	}
	t.m[inst.ID] = restlessness{until: now.Add(restlessFor), checked: now, tenant: inst.Tenant, variant: inst.Variant}
}

func (t *tierMemory) has(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.m[id]
	return ok
}

func (t *tierMemory) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, id)
}

// stale lists what has not been looked at for a while, and forgets what is over.
func (t *tierMemory) stale(now time.Time) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for id, r := range t.m {
		switch {
		case !now.Before(r.until):
			delete(t.m, id)
		case now.Sub(r.checked) >= restlessCheck:
			r.checked = now
			t.m[id] = r
			out = append(out, id)
		}
	}
	return out
}

// restless counts, by flavour, the warm machines that are left running because
// they could not be put to disk.
func (m *Manager) restless(ctx context.Context, rt *runtime, now time.Time) map[*flavour]int {
	for _, id := range rt.tier.stale(now) {
		inst, err := m.store.Instance(ctx, id)
		if errors.Is(err, ErrNotFound) || err == nil && (inst.State != Warm || inst.Held) {
			rt.tier.drop(id)
		}
	}
	rt.tier.mu.Lock()
	defer rt.tier.mu.Unlock()
	if len(rt.tier.m) == 0 {
		return nil
	}
	out := map[*flavour]int{}
	for _, r := range rt.tier.m {
		if f := rt.flavour(r.tenant, r.variant); f != nil {
			out[f]++
		}
	}
	return out
}

// planHibernate sends warm machines to disk, the newest first: claims take the
// oldest.
func (m *Manager) planHibernate(ctx context.Context, rt *runtime, a action) error {
	warm, err := m.freeMachines(ctx, rt, a, Warm)
	if err != nil {
		return err
	}
	warm = slices.DeleteFunc(warm, func(i Instance) bool { return i.Kind != Build || rt.tier.has(i.ID) })
	return m.move(ctx, warm[:min(a.Hibernate, len(warm))], Hibernating, m.t.SuspendWait)
}

// planWake brings machines back from disk, the oldest first.
func (m *Manager) planWake(ctx context.Context, rt *runtime, a action) error {
	asleep, err := m.freeMachines(ctx, rt, a, Hibernated)
	if err != nil {
		return err
	}
	slices.Reverse(asleep)
	return m.move(ctx, asleep[:min(a.Wake, len(asleep))], Resuming, m.t.Hibernated)
}

// move begins a transition of free machines and sends them to the worker.
func (m *Manager) move(ctx context.Context, machines []Instance, to InstanceState, budget time.Duration) error {
	var errs []error
	for _, inst := range machines {
		now := m.stamp()
		next, err := m.store.Change(ctx, Change{
			ID: inst.ID, From: []InstanceState{inst.State}, To: to, Due: now.Add(budget + time.Minute), Now: now,
		})
		switch {
		case err == nil:
			m.work.dispatch(m, next)
		case !errors.Is(err, ErrConflict): // claimed meanwhile: the claim was first
			errs = append(errs, fmt.Errorf("%s of %s: %w", to, inst.Name, err))
		}
	}
	return errors.Join(errs...)
}

// hibernate puts a free machine to disk. After a few failures it is left
// running, and warm, for an hour.
func (m *Manager) hibernate(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	release, waited, err := take(ctx, rt.slots)
	if err != nil {
		return nil, err
	}
	defer release()
	if waited {
		// It may have been destroyed meanwhile.
		fresh, err := m.store.Instance(ctx, inst.ID)
		if err != nil || fresh.State != Hibernating {
			return &fresh, err
		}
	}
	call, cancel := context.WithTimeout(ctx, m.t.SuspendWait)
	defer cancel()
	begun := m.now()
	err = rt.driver(inst).Suspend(call, inst.Ref())
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	now := m.stamp()
	change := Change{
		ID: inst.ID, From: []InstanceState{Hibernating}, To: Hibernated, Due: m.warmDue(inst, now), Now: now,
	}
	if err != nil {
		m.log.Warn("machine not hibernated", "pool", inst.Pool, "instance", inst.Name, "attempt", inst.Attempts+1, "err", err)
		if inst.Attempts+1 < hibernateTries {
			m.postpone(ctx, inst, "hibernate_failed", err)
			return nil, nil
		}
		rt.tier.add(inst, now)
		change.To, change.Reason, change.Detail = Warm, "hibernate_failed", err.Error()
		change.Events = []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Reason: "hibernate_failed",
			Message: fmt.Sprintf("left running for %s after %d tries: %v", restlessFor, hibernateTries, err),
		}}
	} else {
		m.agent.Forget(inst.ID)
		m.counters.phase("hibernate", m.now().Sub(begun))
	}
	next, err := m.store.Change(ctx, change)
	if err != nil {
		return nil, err
	}
	rt.kick()
	return m.handedOn(next), nil
}

// handedOn tells the lease that was given a machine as it became free. It
// returns what is left for the worker to do, nil for nothing.
func (m *Manager) handedOn(inst Instance) *Instance {
	switch inst.State {
	case Leased:
		m.hub.notify(leaseKey(inst.LeaseID))
		return nil
	case Resuming:
		m.hub.notify(leaseKey(inst.LeaseID))
		return &inst
	default:
		return nil
	}
}

// resume brings a machine back: a gitspace for its owner, a build's machine for
// the lease that claimed it, or one that is to wait in memory.
func (m *Manager) resume(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	release, waited, err := take(ctx, rt.slots)
	if err != nil {
		return nil, err
	}
	defer release()
	if waited {
		fresh, err := m.store.Instance(ctx, inst.ID)
		if err != nil || fresh.State != Resuming {
			return &fresh, err
		}
		inst = fresh
	}
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return nil, err
	}
	bound := lease != nil && !lease.State.Final() && lease.InstanceID == inst.ID
	m.agent.Forget(inst.ID)
	if bound && lease.Kind == Gitspace {
		return nil, m.resumeGitspace(ctx, rt, inst, *lease)
	}
	begun := m.now()
	health, at, err := m.wakeUp(ctx, rt, inst)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return m.notWoken(ctx, rt, inst, lease, bound, err)
	}
	m.counters.phase("resume", m.now().Sub(begun))
	now := m.stamp()
	if bound {
		_, err := m.store.Woken(ctx, Acceptance{
			ID: inst.ID, CloudID: at.ID, Zone: at.Zone, Address: at.Address, Port: at.Port, Due: now.Add(m.startBudget()), Now: now,
		})
		m.hub.notify(leaseKey(lease.ID), instanceKey(inst.ID))
		return nil, err
	}
	_, got, err := m.store.Proven(ctx, Proof{
		ID: inst.ID, AgentVersion: health.Version, Address: at.Address, Port: at.Port,
		Due: m.warmDue(inst, now), LeaseDue: now.Add(m.startBudget()), Now: now,
	})
	if err != nil {
		return nil, err
	}
	if got != nil {
		m.hub.notify(leaseKey(got.ID))
	}
	rt.kick()
	return nil, nil
}

// wakeUp resumes a machine that was warm before and proves it anew.
func (m *Manager) wakeUp(ctx context.Context, rt *runtime, inst Instance) (Health, drivers.Instance, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.t.Hibernated, fmt.Errorf("not back after %s", m.t.Hibernated))
	defer cancel()
	client := rt.driver(inst)
	at, err := client.Resume(ctx, inst.Ref())
	if err != nil {
		return Health{}, at, err
	}
	inst.Address, inst.Port = at.Address, at.Port
	health, err := m.awaitHealth(ctx, inst, nil)
	if err != nil {
		return health, at, fmt.Errorf("agent not healthy after the resume (tcp %s:%d): %w", at.Address, at.Port, err)
	}
	if client.CanPause() && inst.LeaseID == "" {
		return health, at, client.Pause(ctx, inst.Ref())
	}
	return health, at, nil
}

// notWoken handles a machine that does not come back from disk: its lease goes
// on with another, and it is destroyed. One that nobody waits for is tried a
// few times first.
func (m *Manager) notWoken(ctx context.Context, rt *runtime, inst Instance, lease *Lease, bound bool, err error) (*Instance, error) {
	cause := m.causeOf(ctx, inst, "health", fmt.Errorf("not resumed: %w", err))
	m.log.Warn("machine not resumed", "pool", inst.Pool, "instance", inst.Name, "lease", inst.LeaseID, "attempt", inst.Attempts+1, "err", err)
	if bound {
		if err := m.failLease(ctx, *lease, inst, cause, true, time.Time{}); err != nil && !errors.Is(err, ErrConflict) {
			return nil, err
		}
		fresh, err := m.store.Instance(ctx, inst.ID)
		if err != nil || fresh.State == Resuming {
			return nil, err
		}
		return &fresh, nil
	}
	if inst.Attempts+1 < hibernateTries {
		m.postpone(ctx, inst, "resume_failed", err)
		return nil, nil
	}
	return m.discard(ctx, rt, inst, lease, "resume_failed", cause)
}

// resumeGitspace brings a sleeping or dead gitspace back. When it cannot be,
// the machine is left as it is and the lease sleeps again.
func (m *Manager) resumeGitspace(ctx context.Context, rt *runtime, inst Instance, lease Lease) error {
	call, cancel := context.WithTimeout(ctx, m.t.Hibernated)
	defer cancel()
	at, err := rt.driver(inst).Resume(call, inst.Ref())
	if err == nil && rt.driver(inst).CanIdentify() {
		// One that had crashed has booted anew; to others this says nothing.
		err = rt.driver(inst).Identify(call, inst.Ref(), inst.Identity)
	}
	now := m.stamp()
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		if errors.Is(err, drivers.ErrNotFound) {
			if ended, err := m.gone(ctx, inst, lease); ended || err != nil {
				return err
			}
		}
		err = fmt.Errorf("%w (%s)", err, resumeAdvice(inst, err))
		m.log.Warn("machine not resumed, left as it is", "instance", inst.Name, "lease", lease.ID, "err", err)
		_, aerr := m.store.Asleep(ctx, lease.Key(), "resume_failed", err.Error(), now.Add(longSleep), now, Event{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: lease.ID, Generation: lease.Generation,
			Reason: "resume_failed", Message: err.Error(),
		})
		m.hub.notify(leaseKey(lease.ID))
		return aerr
	}
	if _, err := m.store.Woken(ctx, Acceptance{
		ID: inst.ID, CloudID: at.ID, Zone: at.Zone, Address: at.Address, Port: at.Port, Due: now.Add(leasedRecheck), Now: now,
	}); err != nil {
		return err
	}
	m.hub.notify(leaseKey(lease.ID), instanceKey(inst.ID))
	return nil
}
