package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Destroy implements Service. A build is answered when the intent to destroy
// is committed; a gitspace when the cloud has done it.
func (m *Manager) Destroy(ctx context.Context, r DestroyRequest) error {
	if r.Lease == "" {
		return fmt.Errorf("%w: a destroy needs an id", ErrInvalid)
	}
	if err := m.rememberKnown(ctx, r); err != nil {
		return fmt.Errorf("destroy %w", err)
	}
	now := m.stamp()
	ended, err := m.endLease(ctx, Ending{
		Lease: LeaseKey{ID: r.Lease}, Instance: r.Instance, Disks: r.Disks,
		Reason: string(ReasonReleased), Detail: "destroyed by its caller",
		Tombstone: now.Add(m.t.Tombstone), Now: now,
	})
	if err != nil {
		return err
	}
	if ended.Outcome != EndStale {
		m.steps.forget(r.Lease)
	}
	if ended.Instance != nil && (ended.Instance.Kind != Gitspace || ended.Instance.Held) {
		// A held machine waits for who holds it; its caller is done with it.
		return nil
	}
	if ended.Instance != nil {
		err := m.awaitInstance(ctx, ended.Instance.ID, m.t.DestroyWait, "destroy", func(i Instance) bool { return i.State == Gone })
		if err != nil {
			return err
		}
	}
	if r.Disks != drivers.Delete || ended.Outcome == EndStale {
		return nil
	}
	return m.deleteDisks(ctx, r, now.Add(m.t.DestroyWait))
}

// rememberKnown makes rows of a gitspace that the store has lost, so that its
// destroy is like any other. One whose machine is gone needs none; a machine
// that is there and is not what the caller says is not touched.
func (m *Manager) rememberKnown(ctx context.Context, r DestroyRequest) error {
	if r.Known == nil || r.Known.Pool == "" {
		return nil
	}
	_, err := m.store.Lease(ctx, r.Lease)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if m.pools[r.Known.Pool] == nil {
		return fmt.Errorf("%s: %w: its pool %q is neither configured nor remembered here", r.Lease, ErrForeign, r.Known.Pool)
	}
	_, err = m.takeOverKnown(ctx, r.Lease, *r.Known, Want{}, toEnd)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Suspend implements Service.
func (m *Manager) Suspend(ctx context.Context, r SuspendRequest) error {
	lease, err := m.store.Lease(ctx, r.Lease)
	if errors.Is(err, ErrNotFound) && r.Known != nil {
		lease, err = m.takeOverKnown(ctx, r.Lease, *r.Known, Want{}, toTalk)
	}
	if err != nil {
		return fmt.Errorf("suspend %s: %w", r.Lease, err)
	}
	if lease.Kind != Gitspace {
		return fmt.Errorf("%w: %s is a build; only gitspaces can be suspended", ErrInvalid, r.Lease)
	}
	switch lease.State {
	case LeaseSuspended:
		return m.awaitSuspended(ctx, lease.InstanceID)
	case LeaseActive:
	case LeaseEnded, LeaseLost:
		return fmt.Errorf("suspend %s: %w: it has ended (%s)", r.Lease, ErrNotFound, lease.Reason)
	default:
		return fmt.Errorf("suspend %s: %w: it is %s", r.Lease, ErrConflict, lease.State)
	}
	inst, err := m.store.Instance(ctx, lease.InstanceID)
	if err != nil {
		return fmt.Errorf("suspend %s: %w", r.Lease, err)
	}
	if r.Instance != "" && !inst.is(r.Instance) {
		// An older machine of this gitspace is meant: it is gone or going, and
		// the present one is not touched.
		return nil
	}
	if inst.State != Leased {
		return fmt.Errorf("suspend %s: %w: its machine is %s", r.Lease, ErrConflict, inst.State)
	}
	call, cancel := context.WithTimeout(ctx, m.t.SuspendWait)
	err = m.agent.Suspend(call, inst.Target(), r.Body)
	cancel()
	if err != nil {
		return fmt.Errorf("suspend %s: %w", r.Lease, err)
	}
	now := m.stamp()
	due := now.Add(farFuture)
	if rt := m.pools[inst.Pool]; rt != nil {
		due = rt.dueAt(due, now)
	}
	_, inst, err = m.store.Sleep(ctx, lease.Key(), due, now)
	if err != nil {
		return fmt.Errorf("suspend %s: %w", r.Lease, err)
	}
	m.work.dispatch(m, inst)
	return m.awaitSuspended(ctx, inst.ID)
}

func (m *Manager) awaitSuspended(ctx context.Context, id string) error {
	return m.awaitInstance(ctx, id, m.t.SuspendWait, "suspend", func(i Instance) bool { return i.State != Suspending })
}

// awaitInstance waits until an instance is as wanted, for d at most; the error
// then is what the last try failed with.
func (m *Manager) awaitInstance(ctx context.Context, id string, d time.Duration, what string, done func(Instance) bool) error {
	ch, end := m.hub.watch(instanceKey(id))
	defer end()
	limit := time.NewTimer(d)
	defer limit.Stop()
	for {
		inst, err := m.store.Instance(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil // purged: long gone
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", what, id, err)
		}
		if done(inst) {
			return nil
		}
		again := time.NewTimer(relook)
		select {
		case <-ctx.Done():
			again.Stop()
			return context.Cause(ctx)
		case <-m.base.Done():
			again.Stop()
			return errStopping
		case <-limit.C:
			again.Stop()
			return fmt.Errorf("%s %s: not done after %s and tried on: %s", what, inst.Name, d, inst.Detail)
		case <-ch:
		case <-again.C:
		}
		again.Stop()
	}
}
