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
	var last lease
	found, err := t.one(ctx, LockLatestLease, last.fields(), e.Lease.ID)
	if err != nil {
		return pool.Ended{}, err
	}
	if !found && t.Shared() {
		if err := t.lockID(ctx, e.Lease.ID); err != nil {
			return pool.Ended{}, err
		}
		// A setup that had the lock has made the lease meanwhile.
		if found, err = t.one(ctx, LockLatestLease, last.fields(), e.Lease.ID); err != nil {
			return pool.Ended{}, err
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
		return t.endOlder(ctx, e)
	}

	i, err := t.present(ctx, &last)
	if err != nil {
		return pool.Ended{}, err
	}
	if e.Instance != "" {
		if meant, err := t.means(ctx, &last, i, e.Instance); err != nil {
			return pool.Ended{}, err
		} else if !meant {
			return t.endStale(ctx, e, &last)
		}
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
func (t txn) endOlder(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	var old lease
	found, err := t.one(ctx, LockLease, old.fields(), e.Lease.ID, e.Lease.Generation)
	if err != nil || !found {
		return pool.Ended{Outcome: pool.EndStale}, err
	}
	if err := old.decode(); err != nil {
		return pool.Ended{}, err
	}
	if e.Instance != "" && old.InstanceID != e.Instance {
		return t.endStale(ctx, e, &old)
	}
	out := pool.Ended{Outcome: pool.EndStale, Lease: old.Lease}
	i, err := t.present(ctx, &old)
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
func (t txn) endStale(ctx context.Context, e pool.Ending, l *lease) (pool.Ended, error) {
	out := pool.Ended{Outcome: pool.EndStale, Lease: l.Lease}
	var i instance
	found, err := t.one(ctx, LeaseInstanceCalled, i.fields(), e.Lease.ID, e.Instance)
	if err != nil || !found || i.bound || i.State == pool.Gone {
		return out, err
	}
	if e.Lease.Generation != 0 && i.LeaseGeneration != e.Lease.Generation {
		return out, nil
	}
	if err := t.doom(ctx, &i, e); err != nil {
		return pool.Ended{}, err
	}
	out.Instance = &i.Instance
	return out, t.open(&i)
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
