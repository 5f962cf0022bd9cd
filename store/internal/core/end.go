package core

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// End implements pool.Store.
func (s *Store) End(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	var out pool.Ended
	err := checkID("lease id", e.Lease.ID)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) (err error) {
			out, err = t.end(ctx, e)
			if err != nil {
				return err
			}
			return t.events(ctx, ms(e.Now), e.Events)
		})
	}
	if err != nil {
		return pool.Ended{}, fmt.Errorf("end lease %q: %w", e.Lease.ID, err)
	}
	return out, nil
}

func (t txn) end(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	locked, err := t.meant(ctx, e)
	if err != nil {
		return pool.Ended{}, err
	}
	var last lease
	found, err := t.one(ctx, LockLatestLease, last.fields(), e.Lease.ID)
	if err != nil {
		return pool.Ended{}, err
	}
	if !found && t.Shared() {
		if err := t.lockID(ctx, e.Lease.ID); err != nil {
			return pool.Ended{}, err
		}
		// A setup that had the lock may have made the lease meanwhile, and given
		// it a machine.
		if found, err = t.one(ctx, SelectLatestLease, last.fields(), e.Lease.ID); err != nil {
			return pool.Ended{}, err
		}
		if found {
			return pool.Ended{}, ErrRaced
		}
	}
	if !found {
		return pool.Ended{Outcome: pool.EndUnknown}, t.bury(ctx, e)
	}
	if err := last.decode(); err != nil {
		return pool.Ended{}, err
	}
	switch {
	case e.Lease.Generation > last.Generation:
		return pool.Ended{}, fmt.Errorf("generation %d, the latest is %d: %w", e.Lease.Generation, last.Generation, pool.ErrNotFound)
	case e.Lease.Generation != 0 && e.Lease.Generation < last.Generation:
		return t.endOlder(ctx, e, locked)
	}

	i, stale, err := t.presentMeant(ctx, e, &last, locked)
	if err != nil {
		return pool.Ended{}, err
	}
	if stale {
		return t.endStale(ctx, e, &last, locked)
	}
	if len(e.States) > 0 && !slices.Contains(e.States, last.State) {
		return pool.Ended{}, fmt.Errorf("it is %s: %w", last.State, pool.ErrConflict)
	}
	if e.Unwaited && last.Waiter != "" {
		return pool.Ended{}, fmt.Errorf("%s waits for it by now: %w", last.Waiter, pool.ErrConflict)
	}
	if last.State.Final() {
		out := pool.Ended{Outcome: pool.EndAlready, Lease: last.Lease}
		if i == nil {
			return out, nil
		}
		if disks := disksOf(i.Disks, e.Disks); disks != i.Disks {
			i.Disks = disks
			if err := must(t.Exec(ctx, SetDisks, int64(disks), i.ID)); err != nil {
				return pool.Ended{}, err
			}
		}
		out.Instance = &i.Instance
		return out, t.open(i)
	}

	if e.Cause.Message != "" {
		last.Causes = append(last.Causes, cleanCause(e.Cause))
		if err := last.encode(); err != nil {
			return pool.Ended{}, err
		}
	}
	if err := t.close(ctx, &last, e.Now, e.Reason, e.Detail); err != nil {
		return pool.Ended{}, err
	}
	last.State = pool.LeaseEnded
	if err := t.saveLease(ctx, &last); err != nil {
		return pool.Ended{}, err
	}
	out := pool.Ended{Outcome: pool.EndNow, Lease: last.Lease}
	if i == nil {
		return out, nil
	}
	if err := t.doom(ctx, i, e); err != nil {
		return pool.Ended{}, err
	}
	out.Instance = &i.Instance
	return out, t.open(i)
}

// meant locks, before the lease, the machine that an ending is about, as far as
// that can be seen then: the one called by its name, else the lease's.
func (t txn) meant(ctx context.Context, e pool.Ending) (*instance, error) {
	if t.Shared() && e.Instance != "" {
		return t.found(ctx, LockInstanceCalled, e.Lease.ID, e.Instance)
	}
	return t.machineOf(ctx, e.Lease)
}

// presentMeant is the machine the lease has, nil if it has none or that is gone;
// stale says that the ending means another.
func (t txn) presentMeant(ctx context.Context, e pool.Ending, l *lease, locked *instance) (i *instance, stale bool, err error) {
	named := t.Shared() && e.Instance != ""
	if named && (locked == nil || locked.ID != l.InstanceID) {
		// Not what was called, unless it was given to the lease only now.
		if i, err = t.machine(ctx, SelectInstance, l.InstanceID); err != nil {
			return nil, false, err
		}
		if i != nil && i.LeaseID != l.ID {
			i = nil
		}
	} else if i, err = t.present(ctx, l, locked); err != nil {
		return nil, false, err
	}
	if e.Instance == "" {
		return i, false, nil
	}
	means, err := t.means(ctx, l, i, e.Instance)
	if err == nil && means && i != nil && named && i != locked {
		err = ErrRaced
	}
	return i, !means, err
}

// means says whether a caller's name of a machine is that of the lease's
// present one. A machine that is gone is still the present one of a lease
// that was never given another.
func (t txn) means(ctx context.Context, l *lease, i *instance, name string) (bool, error) {
	if i != nil {
		return i.ID == name || i.CloudID == name || i.Name == name, nil
	}
	if l.InstanceID == "" {
		return false, nil
	}
	if l.InstanceID == name {
		return true, nil
	}
	var gone instance
	found, err := t.one(ctx, SelectInstance, gone.fields(), l.InstanceID)
	return found && (gone.CloudID == name || gone.Name == name), err
}

// endOlder ends what an older generation left behind.
func (t txn) endOlder(ctx context.Context, e pool.Ending, locked *instance) (pool.Ended, error) {
	var old lease
	// It is final, since there is a newer one: nothing about it changes.
	found, err := t.one(ctx, SelectLease, old.fields(), e.Lease.ID, e.Lease.Generation)
	if err != nil || !found {
		return pool.Ended{Outcome: pool.EndStale}, err
	}
	if err := old.decode(); err != nil {
		return pool.Ended{}, err
	}
	if e.Instance != "" && old.InstanceID != e.Instance {
		return t.endStale(ctx, e, &old, locked)
	}
	out := pool.Ended{Outcome: pool.EndStale, Lease: old.Lease}
	i, err := t.present(ctx, &old, locked)
	if err != nil || i == nil {
		return out, err
	}
	if err := t.doom(ctx, i, e); err != nil {
		return pool.Ended{}, err
	}
	out.Instance = &i.Instance
	return out, t.open(i)
}

// endStale ends the older machine that a caller named, if it belonged to this
// lease id and no lease holds it.
func (t txn) endStale(ctx context.Context, e pool.Ending, l *lease, i *instance) (pool.Ended, error) {
	out := pool.Ended{Outcome: pool.EndStale, Lease: l.Lease}
	if !t.Shared() {
		var err error
		if i, err = t.found(ctx, InstanceCalled, e.Lease.ID, e.Instance); err != nil {
			return out, err
		}
	}
	if i == nil || i.bound || i.State == pool.Gone {
		return out, nil
	}
	if e.Lease.Generation != 0 && i.LeaseGeneration != e.Lease.Generation {
		return out, nil
	}
	if err := t.doom(ctx, i, e); err != nil {
		return pool.Ended{}, err
	}
	out.Instance = &i.Instance
	return out, t.open(i)
}

// doom makes a machine Destroying, due at once, and free of its lease.
func (t txn) doom(ctx context.Context, i *instance, e pool.Ending) error {
	i.Disks = disksOf(i.Disks, e.Disks)
	now := cut(e.Now)
	return t.release(ctx, i, pool.Destroying, now, now, cmp.Or(e.Reason, ReasonEnded), e.Detail)
}

// bury leaves a tombstone for an id no lease was ever seen for.
func (t txn) bury(ctx context.Context, e pool.Ending) error {
	if e.Tombstone.IsZero() {
		return nil
	}
	until := ms(e.Tombstone)
	var before int64
	found, err := t.one(ctx, SelectTombstone, []any{&before}, e.Lease.ID)
	if err != nil {
		return err
	}
	if found {
		// Asked again: it counts as new, and never ends earlier.
		until = max(until, before)
		if _, err := t.Exec(ctx, DropTombstone, e.Lease.ID); err != nil {
			return err
		}
	}
	var seq int64
	if _, err := t.one(ctx, InsertTombstone, []any{&seq}, e.Lease.ID, until); err != nil {
		return err
	}
	if seq > pool.MaxTombstones {
		// By number rather than by count: constant work, never too many.
		_, err = t.Exec(ctx, BoundTombstones, seq-pool.MaxTombstones)
	}
	return err
}
