package core

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// The codes the store itself gives.
const (
	// ReasonLimit: a lease waits because a pool is at its limit.
	ReasonLimit = "limit_reached"
	// ReasonEnded: a machine is destroyed because its lease ended and nobody
	// said why.
	ReasonEnded = "lease_ended"
)

// Intend implements pool.Store.
func (s *Store) Intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	var out pool.Instance
	err := checkIntent(in)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) (err error) {
			out, err = t.intend(ctx, in)
			return err
		})
	}
	if err != nil {
		return pool.Instance{}, fmt.Errorf("intend %s in pool %s: %w", in.Instance.Name, in.Instance.Pool, err)
	}
	return out, nil
}

func checkIntent(in pool.Intent) error {
	for what, id := range map[string]string{
		"instance id": in.Instance.ID, "instance name": in.Instance.Name, "pool": in.Instance.Pool,
	} {
		if err := checkID(what, id); err != nil {
			return err
		}
	}
	return nil
}

func (t txn) intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	p, err := t.pool(ctx, in.Instance.Pool, LockPool)
	if err != nil {
		return pool.Instance{}, err
	}
	if p.Retired {
		return pool.Instance{}, fmt.Errorf("pool %s: %w", p.Name, pool.ErrRetired)
	}
	now := cut(in.Now)
	var l *lease
	if in.Lease.ID != "" {
		if l, err = t.lease(ctx, in.Lease, true); err != nil {
			return pool.Instance{}, err
		}
		if l.State != pool.LeaseWaiting {
			return pool.Instance{}, fmt.Errorf("lease %q is %s, not waiting: %w", l.ID, l.State, pool.ErrConflict)
		}
		if l.Waiter == "" {
			return pool.Instance{}, fmt.Errorf("nobody waits for lease %q: %w", l.ID, pool.ErrConflict)
		}
	}
	canary, err := t.admit(ctx, p, l, in.Instance, now)
	if err != nil {
		return pool.Instance{}, err
	}

	i := &instance{Instance: in.Instance}
	i.State, i.Since = pool.Creating, now
	i.Created, i.Due, i.Deadline, i.Warmed = cut(i.Created), cut(i.Due), cut(i.Deadline), cut(i.Warmed)
	if i.Created.IsZero() {
		i.Created = now
	}
	if i.Kind == "" {
		i.Kind = pool.Build
	}
	i.LeaseID, i.LeaseGeneration, i.Cold = "", 0, false
	for _, text := range []*string{
		&i.Driver, &i.Scope, &i.Variant, &i.Tenant, &i.Shape, &i.Recipe, &i.OS, &i.Arch, &i.Image, &i.MachineType, &i.Zone,
		&i.CloudID, &i.Address, &i.AgentVersion, &i.StorageID, &i.Reason, &i.Detail,
	} {
		*text = clean(*text)
	}
	if l != nil {
		i.LeaseID, i.LeaseGeneration, i.Cold, i.bound = l.ID, l.Generation, true, true
		l.start(i, now, now.Add(time.Duration(l.startMS)*time.Millisecond))
		if err := t.saveLease(ctx, l); err != nil {
			return pool.Instance{}, err
		}
		if _, err := t.Exec(ctx, DropChoices, l.Seq); err != nil {
			return pool.Instance{}, err
		}
	}
	if err := t.sealIdentity(i); err != nil {
		return pool.Instance{}, err
	}
	if _, err := t.Exec(ctx, InsertInstance, i.values()...); err != nil {
		return pool.Instance{}, err
	}
	if i.sealed != nil {
		if _, err := t.Exec(ctx, InsertIdentity, i.ID, i.sealed); err != nil {
			return pool.Instance{}, err
		}
	}
	if err := t.begin(ctx, p, i, canary, now); err != nil {
		return pool.Instance{}, err
	}
	if err := t.attach(ctx, i, in.Disks, now); err != nil {
		return pool.Instance{}, err
	}
	return i.Instance, t.events(ctx, ms(now), in.Events)
}

// Accepted implements pool.Store.
func (s *Store) Accepted(ctx context.Context, a pool.Acceptance) (pool.Instance, error) {
	return s.onInstance(ctx, "accept", a.ID, alone, func(ctx context.Context, t txn, i *instance) error {
		switch i.State {
		case pool.Creating:
			i.locate(a)
			i.enter(pool.Booting, cut(a.Now), cut(a.Due))
			if err := t.saveInstance(ctx, i); err != nil {
				return err
			}
			if err := t.placeDisks(ctx, i); err != nil {
				return err
			}
			return t.events(ctx, ms(a.Now), a.Events)
		case pool.Destroying, pool.Failed:
			// The destroy must find the machine, whoever was first.
			i.locate(a)
			if err := t.saveInstance(ctx, i); err != nil {
				return err
			}
			if err := t.placeDisks(ctx, i); err != nil {
				return err
			}
			return &Kept{conflict(i, pool.Creating)}
		default:
			return conflict(i, pool.Creating)
		}
	})
}

// Woken implements pool.Store.
func (s *Store) Woken(ctx context.Context, a pool.Acceptance) (pool.Instance, error) {
	return s.onInstance(ctx, "wake", a.ID, alone, func(ctx context.Context, t txn, i *instance) error {
		if i.State != pool.Resuming || !i.bound {
			return conflict(i, pool.Resuming)
		}
		i.locate(a)
		i.enter(pool.Leased, cut(a.Now), cut(a.Due))
		if err := t.saveInstance(ctx, i); err != nil {
			return err
		}
		return t.events(ctx, ms(a.Now), a.Events)
	})
}

// Proven implements pool.Store.
func (s *Store) Proven(ctx context.Context, p pool.Proof) (pool.Instance, *pool.Lease, error) {
	var given *pool.Lease
	i, err := s.onInstance(ctx, "prove", p.ID, withPool, func(ctx context.Context, t txn, i *instance) error {
		given = nil
		l, err := t.prove(ctx, i, p)
		if err != nil {
			return err
		}
		if l != nil {
			given = &l.Lease
		}
		return t.events(ctx, ms(p.Now), p.Events)
	})
	if err != nil {
		return i, nil, err
	}
	return i, given, nil
}

func (t txn) prove(ctx context.Context, i *instance, p pool.Proof) (*lease, error) {
	// What was somebody's once never becomes warm, whatever became of the lease.
	if i.State != pool.Booting && (i.State != pool.Resuming || i.LeaseID != "") {
		return nil, conflict(i, pool.Booting)
	}
	now, due, leaseDue := cut(p.Now), cut(p.Due), cut(p.LeaseDue)
	i.AgentVersion = clean(p.AgentVersion)
	if i.Warmed.IsZero() {
		// One that comes back from disk is as old as it was.
		i.Warmed = now
	}
	i.locate(pool.Acceptance{Address: p.Address, Port: p.Port})
	if i.Cold {
		l, err := t.lease(ctx, pool.LeaseKey{ID: i.LeaseID, Generation: i.LeaseGeneration}, true)
		switch {
		case err != nil && !Ours(err):
			return nil, err
		case err == nil && !l.State.Final() && l.InstanceID == i.ID:
			if err := l.decode(); err != nil {
				return nil, err
			}
			if l.State == pool.LeaseStarting {
				l.Due = leaseDue
			}
			if err := t.saveLease(ctx, l); err != nil {
				return nil, err
			}
			i.enter(pool.Leased, now, leaseDue)
			i.Kind, i.bound = l.Kind, true
			if err := t.useDisks(ctx, i); err != nil {
				return nil, err
			}
			return l, t.bindInstance(ctx, i)
		case i.Kind == pool.Gitspace:
			// Made with somebody's disks: of no use to others.
			i.enter(pool.Destroying, now, due)
			i.Reason, i.Detail, i.bound = ReasonEnded, "", false
			return nil, t.saveInstance(ctx, i)
		}
		i.Cold, i.LeaseID, i.LeaseGeneration, i.bound = false, "", 0, false
	}
	i.enter(pool.Warm, now, due)
	l, err := t.handOut(ctx, i, now, leaseDue)
	if err != nil {
		return nil, err
	}
	return l, t.bindInstance(ctx, i)
}

// Change implements pool.Store.
func (s *Store) Change(ctx context.Context, c pool.Change) (pool.Instance, error) {
	what, pooled := fmt.Sprintf("change to %s", c.To), alone
	if c.To == pool.Warm || c.To == pool.Hibernated || c.To == pool.Gone {
		pooled = withPool
	}
	return s.onInstance(ctx, what, c.ID, pooled, func(ctx context.Context, t txn, i *instance) error {
		if !slices.Contains(c.From, i.State) || !i.State.May(c.To) {
			return fmt.Errorf("it is %s: %w", i.State, pool.ErrConflict)
		}
		if i.Held && isFree(i.State) && c.To != pool.Failed {
			// Whoever decided that had not seen the hold.
			return fmt.Errorf("it is held: %w", pool.ErrConflict)
		}
		if c.To == pool.Leased && !i.bound {
			return fmt.Errorf("no lease holds it: %w", pool.ErrConflict)
		}
		if c.To == pool.Warm && i.LeaseID != "" {
			return fmt.Errorf("it was made for or used by lease %q: %w", i.LeaseID, pool.ErrConflict)
		}
		if c.Address != "" {
			i.Address = clean(c.Address)
		}
		if c.Port != 0 {
			i.Port = c.Port
		}
		i.enter(c.To, cut(c.Now), cut(c.Due))
		i.Reason, i.Detail = clean(c.Reason), clean(c.Detail)
		if err := t.change(ctx, i); err != nil {
			return err
		}
		return t.events(ctx, ms(c.Now), c.Events)
	})
}

func (t txn) change(ctx context.Context, i *instance) error {
	switch i.State {
	case pool.Gone:
		// Nothing answers to its keys any more.
		i.Due, i.bound, i.sealed = time.Time{}, false, nil
		if _, err := t.Exec(ctx, DropIdentity, i.ID); err != nil {
			return err
		}
		if err := must(t.Exec(ctx, GoneInstance, ms(i.Since), i.Reason, i.Detail, i.Address, int64(i.Port), i.ID)); err != nil {
			return err
		}
		if err := t.detach(ctx, i); err != nil {
			return err
		}
		return t.uncount(ctx, i)
	case pool.Warm, pool.Hibernated:
		// The invariant holds for every way of becoming free.
		if _, err := t.handOut(ctx, i, i.Since, time.Time{}); err != nil {
			return err
		}
		return t.bindInstance(ctx, i)
	default:
		return t.saveInstance(ctx, i)
	}
}

// SetHeld implements pool.Store.
func (s *Store) SetHeld(ctx context.Context, id string, held bool, now time.Time, events ...pool.Event) (pool.Instance, error) {
	what, pooled := "let go of", withPool
	if held {
		what, pooled = "hold", alone
	}
	return s.onInstance(ctx, what, id, pooled, func(ctx context.Context, t txn, i *instance) error {
		if i.State == pool.Gone {
			return fmt.Errorf("it is %s: %w", i.State, pool.ErrConflict)
		}
		if i.Held && !held {
			i.Due = cut(now) // a hold may have put it off
		}
		i.Held = held
		if err := must(t.Exec(ctx, HoldInstance, bit(held), ms(i.Due), id)); err != nil {
			return err
		}
		if !held && isFree(i.State) {
			l, err := t.handOut(ctx, i, cut(now), time.Time{})
			if err != nil {
				return err
			}
			if l != nil {
				if err := t.bindInstance(ctx, i); err != nil {
					return err
				}
			}
		}
		return t.events(ctx, ms(now), events)
	})
}

// Postpone implements pool.Store.
func (s *Store) Postpone(ctx context.Context, id string, state pool.InstanceState, p pool.Postponement) error {
	_, err := s.onInstance(ctx, "postpone", id, alone, func(ctx context.Context, t txn, i *instance) error {
		if i.State != state {
			return conflict(i, state)
		}
		if p.Held && !i.Held {
			return fmt.Errorf("it is not held any more: %w", pool.ErrConflict)
		}
		if err := must(t.Exec(ctx, PostponeInstance, ms(p.Due), int64(p.Attempts), clean(p.Reason), clean(p.Detail), id)); err != nil {
			return err
		}
		return t.events(ctx, ms(p.Now), p.Events)
	})
	return err
}

// isFree says whether a machine in s is to be had.
func isFree(s pool.InstanceState) bool { return s == pool.Warm || s == pool.Hibernated }

// withPool: the pool of a machine is locked before it, since it becomes free
// or is gone.
const withPool = true

// onInstance runs an operation on one row, locked, and returns the row after
// it, also beside a kept failure.
func (s *Store) onInstance(ctx context.Context, what, id string, pooled bool, op func(context.Context, txn, *instance) error) (pool.Instance, error) {
	var out pool.Instance
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		out = pool.Instance{}
		if pooled {
			if err := t.lockPoolOf(ctx, id); err != nil {
				return err
			}
		}
		i, err := t.instance(ctx, id, true)
		if err != nil {
			return err
		}
		err = op(ctx, t, i)
		if commit, _ := Settle(err); commit {
			if oerr := t.open(i); oerr != nil {
				return oerr
			}
			out = i.Instance
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("%s instance %s: %w", what, id, err)
	}
	return out, nil
}

// enter makes a transition in memory.
func (i *instance) enter(state pool.InstanceState, now, due time.Time) {
	i.State, i.Since, i.Due = state, now, due
	i.Attempts, i.Reason, i.Detail = 0, "", ""
}

// locate records what the cloud said of where the machine is.
func (i *instance) locate(a pool.Acceptance) {
	if a.CloudID != "" {
		i.CloudID = clean(a.CloudID)
	}
	if a.Zone != "" {
		i.Zone = clean(a.Zone)
	}
	if a.Address != "" {
		i.Address = clean(a.Address)
	}
	if a.Port != 0 {
		i.Port = a.Port
	}
}

func conflict(i *instance, want pool.InstanceState) error {
	return fmt.Errorf("it is %s, not %s: %w", i.State, want, pool.ErrConflict)
}

func (i *instance) moved() []any {
	return []any{
		string(i.State), ms(i.Since), ms(i.Due), int64(i.Attempts), i.Reason, i.Detail, int64(i.Disks), bit(i.bound),
		i.Zone, i.CloudID, i.Address, int64(i.Port), ms(i.Warmed), i.AgentVersion,
	}
}

// saveInstance writes what transitions change.
func (t txn) saveInstance(ctx context.Context, i *instance) error {
	return must(t.Exec(ctx, MoveInstance, append(i.moved(), i.ID)...))
}

// bindInstance writes the same and whose it is.
func (t txn) bindInstance(ctx context.Context, i *instance) error {
	return must(t.Exec(ctx, BindInstance, append(i.moved(),
		string(i.Kind), i.LeaseID, i.LeaseGeneration, bit(i.Cold), i.ID)...))
}
