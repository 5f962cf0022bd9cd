package core

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func (t txn) saveLease(ctx context.Context, l *lease) error {
	return must(t.Exec(ctx, SaveLease, string(l.State), l.Waiter, l.choices, l.Pool, l.InstanceID, ms(l.Claimed),
		ms(l.Active), ms(l.Ended), ms(l.LastCall), ms(l.WaitUntil), ms(l.Due), l.causes, l.Reason, l.Detail,
		bit(l.noClaim), l.needUntil, l.startMS, bit(l.exported), l.Seq))
}

// What an operation on a lease works on.
const (
	alone       = false
	withMachine = true
)

// onLease runs an operation on one generation of a lease, locked, which must be
// in one of the given states and allowed to go to next. It is written
// afterwards and returned. With its machine the operation is given that too,
// locked, or nil if there is none or it is gone.
func (s *Store) onLease(ctx context.Context, what string, k pool.LeaseKey, next pool.LeaseState, from []pool.LeaseState,
	machine bool, op func(context.Context, txn, *lease, *instance) error,
) (pool.Lease, error) {
	var out pool.Lease
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		var i *instance
		var err error
		if machine {
			if i, err = t.machineOf(ctx, k); err != nil {
				return err
			}
		}
		l, err := t.lease(ctx, k, true)
		if err != nil {
			return err
		}
		if !slices.Contains(from, l.State) || !l.State.May(next) {
			return fmt.Errorf("it is %s: %w", l.State, pool.ErrConflict)
		}
		if err := l.decode(); err != nil {
			return err
		}
		if machine {
			if i, err = t.present(ctx, l, i); err != nil {
				return err
			}
		}
		if err := op(ctx, t, l, i); err != nil {
			return err
		}
		l.State = next
		out = l.Lease
		return t.saveLease(ctx, l)
	})
	if err != nil {
		return pool.Lease{}, fmt.Errorf("%s lease %q: %w", what, k.ID, err)
	}
	return out, nil
}

// Activate implements pool.Store.
func (s *Store) Activate(ctx context.Context, k pool.LeaseKey, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	return s.onLease(ctx, "activate", k, pool.LeaseActive, []pool.LeaseState{pool.LeaseStarting}, alone,
		func(ctx context.Context, t txn, l *lease, _ *instance) error {
			l.Active, l.Due, l.Waiter = cut(now), cut(due), ""
			l.Reason, l.Detail = "", ""
			return t.events(ctx, ms(now), events)
		})
}

// Requeue implements pool.Store.
func (s *Store) Requeue(ctx context.Context, r pool.Requeue) (pool.Grant, error) {
	var g pool.Grant
	err := checkChoices(r.Choices)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) (err error) {
			g, err = t.requeue(ctx, r)
			return err
		})
	}
	if err != nil {
		return pool.Grant{}, fmt.Errorf("requeue lease %q: %w", r.Lease.ID, err)
	}
	return g, nil
}

func (t txn) requeue(ctx context.Context, r pool.Requeue) (pool.Grant, error) {
	if err := t.lockPools(ctx, poolsOf(r.Choices)...); err != nil {
		return pool.Grant{}, err
	}
	l, err := t.lease(ctx, r.Lease, !t.Shared())
	if err != nil {
		return pool.Grant{}, err
	}
	if l.State != pool.LeaseStarting {
		return pool.Grant{}, fmt.Errorf("it is %s, not starting: %w", l.State, pool.ErrConflict)
	}
	if r.Instance != "" && l.InstanceID != r.Instance {
		return pool.Grant{}, fmt.Errorf("it is on another machine by now: %w", pool.ErrConflict)
	}
	now := cut(r.Now)
	wish := *l
	wish.Choices, wish.noClaim, wish.needUntil = slices.Clone(r.Choices), r.NoClaim, ms(r.NeedUntil)
	i, err := t.claim(ctx, &wish, now, cut(r.LeaseDue), "")
	if err != nil {
		return pool.Grant{}, err
	}
	failed, err := t.machine(ctx, LockInstance, l.InstanceID)
	if err != nil {
		return pool.Grant{}, err
	}
	if l, err = t.relock(ctx, l); err != nil {
		return pool.Grant{}, err
	}
	if err := l.decode(); err != nil {
		return pool.Grant{}, err
	}
	next := pool.Destroying
	if r.Keep {
		next = pool.Failed
	}
	reason := cmp.Or(r.Cause.Kind, r.Cause.Phase, "requeued")
	if failed != nil {
		if err := t.release(ctx, failed, next, now, cut(r.InstanceDue), reason, r.Cause.Message); err != nil {
			return pool.Grant{}, err
		}
	}
	l.State, l.Pool, l.InstanceID = pool.LeaseWaiting, "", ""
	l.Causes, l.Choices = append(l.Causes, cleanCause(r.Cause)), wish.Choices
	l.noClaim, l.needUntil, l.startMS = wish.noClaim, wish.needUntil, span(r.LeaseDue, r.Now)
	l.Due = cut(r.Due)
	l.Reason, l.Detail = clean(reason), clean(r.Cause.Message)
	if err := l.encode(); err != nil {
		return pool.Grant{}, err
	}
	if i != nil {
		l.start(i, now, cut(r.LeaseDue))
	}
	if err := t.saveLease(ctx, l); err != nil {
		return pool.Grant{}, err
	}
	if i == nil {
		if err := t.queue(ctx, l); err != nil {
			return pool.Grant{}, err
		}
	}
	return grant(l, i, i != nil), t.events(ctx, ms(now), r.Events)
}

// release takes a machine from its lease on the way to next. What is already
// on its way out stays there, and only loses its lease.
func (t txn) release(ctx context.Context, i *instance, next pool.InstanceState, now, due time.Time, reason, detail string) error {
	i.bound = false
	if i.State.May(next) {
		i.enter(next, now, due)
		i.Reason, i.Detail = clean(reason), clean(detail)
	}
	return t.saveInstance(ctx, i)
}

// Lose implements pool.Store.
func (s *Store) Lose(ctx context.Context, k pool.LeaseKey, machine, reason, detail string, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	return s.onLease(ctx, "lose", k, pool.LeaseLost,
		[]pool.LeaseState{pool.LeaseStarting, pool.LeaseActive, pool.LeaseSuspended}, withMachine,
		func(ctx context.Context, t txn, l *lease, i *instance) error {
			if machine != "" && l.InstanceID != machine {
				return fmt.Errorf("it is on another machine by now: %w", pool.ErrConflict)
			}
			if i != nil {
				if err := t.release(ctx, i, pool.Failed, cut(now), cut(due), reason, detail); err != nil {
					return err
				}
			}
			if err := t.close(ctx, l, now, reason, detail); err != nil {
				return err
			}
			return t.events(ctx, ms(now), events)
		})
}

// close clears what a lease no longer needs; the caller sets its state.
func (t txn) close(ctx context.Context, l *lease, now time.Time, reason, detail string) error {
	if l.State == pool.LeaseWaiting {
		if _, err := t.Exec(ctx, DropChoices, l.Seq); err != nil {
			return err
		}
	}
	if l.exported {
		if _, err := t.Exec(ctx, DropVariables, l.Seq); err != nil {
			return err
		}
		l.exported = false
	}
	l.Ended, l.Due, l.Waiter = cut(now), time.Time{}, ""
	l.Reason, l.Detail = clean(reason), clean(detail)
	return nil
}

// Sleep implements pool.Store.
func (s *Store) Sleep(ctx context.Context, k pool.LeaseKey, due, now time.Time, events ...pool.Event) (pool.Lease, pool.Instance, error) {
	return s.turn(ctx, "suspend", k, pool.LeaseSuspended, []pool.LeaseState{pool.LeaseActive}, pool.Suspending, due, now,
		func(ctx context.Context, t txn, _ *lease) error { return t.events(ctx, ms(now), events) })
}

// Waking implements pool.Store.
func (s *Store) Waking(ctx context.Context, k pool.LeaseKey, waiter string, due, now time.Time) (pool.Lease, pool.Instance, error) {
	return s.turn(ctx, "resume", k, pool.LeaseStarting, []pool.LeaseState{pool.LeaseSuspended, pool.LeaseActive}, pool.Resuming, due, now,
		func(_ context.Context, _ txn, l *lease) error {
			l.Claimed, l.Waiter = cut(now), clean(waiter)
			return nil
		})
}

// Asleep implements pool.Store.
func (s *Store) Asleep(ctx context.Context, k pool.LeaseKey, reason, detail string, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	l, _, err := s.turn(ctx, "take back the resume of", k, pool.LeaseSuspended, []pool.LeaseState{pool.LeaseStarting}, pool.Suspended, due, now,
		func(ctx context.Context, t txn, l *lease) error {
			l.Reason, l.Detail, l.Waiter = clean(reason), clean(detail), ""
			return t.events(ctx, ms(now), events)
		})
	return l, err
}

// PostponeLease implements pool.Store.
func (s *Store) PostponeLease(ctx context.Context, k pool.LeaseKey, due, _ time.Time) error {
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		l, err := t.lease(ctx, k, true)
		if err != nil {
			return err
		}
		if l.State.Final() {
			return fmt.Errorf("it is %s: %w", l.State, pool.ErrConflict)
		}
		l.Due = cut(due)
		return t.saveLease(ctx, l)
	})
	if err != nil {
		return fmt.Errorf("postpone lease %q: %w", k.ID, err)
	}
	return nil
}

// turn moves a gitspace's lease and its machine together.
func (s *Store) turn(ctx context.Context, what string, k pool.LeaseKey, next pool.LeaseState, from []pool.LeaseState,
	to pool.InstanceState, due, now time.Time, op func(context.Context, txn, *lease) error,
) (pool.Lease, pool.Instance, error) {
	var out pool.Instance
	l, err := s.onLease(ctx, what, k, next, from, withMachine, func(ctx context.Context, t txn, l *lease, i *instance) error {
		if l.Kind != pool.Gitspace {
			return fmt.Errorf("it is a %s, not a gitspace: %w", l.Kind, pool.ErrInvalid)
		}
		if i == nil {
			return fmt.Errorf("its instance %s is gone: %w", l.InstanceID, pool.ErrConflict)
		}
		if !i.State.May(to) {
			return fmt.Errorf("its instance %s is %s: %w", i.ID, i.State, pool.ErrConflict)
		}
		i.enter(to, cut(now), cut(due))
		if err := t.saveInstance(ctx, i); err != nil {
			return err
		}
		if err := t.open(i); err != nil {
			return err
		}
		out = i.Instance
		l.Due = cut(due)
		l.Reason, l.Detail = "", ""
		return op(ctx, t, l)
	})
	if err != nil {
		return pool.Lease{}, pool.Instance{}, err
	}
	return l, out, nil
}

// Touch implements pool.Store.
func (s *Store) Touch(ctx context.Context, calls map[pool.LeaseKey]time.Time) error {
	keys := make([]pool.LeaseKey, 0, len(calls))
	for k := range calls {
		keys = append(keys, k)
	}
	// In one order, so that two batches at the same time cannot lock each other.
	slices.SortFunc(keys, func(a, b pool.LeaseKey) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Generation, b.Generation))
	})
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		var missing error
		for _, k := range keys {
			generation := k.Generation
			if generation == 0 {
				l, err := t.lease(ctx, k, true)
				if err != nil && !Ours(err) {
					return err
				}
				if l != nil {
					generation = l.Generation
				}
			}
			n, err := t.Exec(ctx, TouchLease, ms(calls[k]), k.ID, generation)
			if err != nil {
				return err
			}
			if n == 0 {
				// The others' calls are recorded all the same.
				missing = &Kept{fmt.Errorf("lease %q generation %d: %w", k.ID, k.Generation, pool.ErrNotFound)}
			}
		}
		return missing
	})
	if err != nil {
		return fmt.Errorf("touch leases: %w", err)
	}
	return nil
}

// Unwait implements pool.Store.
func (s *Store) Unwait(ctx context.Context, k pool.LeaseKey, waiter string, due, now time.Time) error {
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		l, err := t.lease(ctx, k, true)
		if err != nil {
			return err
		}
		if l.State != pool.LeaseWaiting && l.State != pool.LeaseStarting {
			return fmt.Errorf("it is %s: %w", l.State, pool.ErrConflict)
		}
		if l.Waiter != waiter {
			// Somebody else waits for it by now.
			return nil
		}
		l.Waiter, l.Due = "", cut(due)
		if l.State == pool.LeaseWaiting {
			if _, err := t.Exec(ctx, DropChoices, l.Seq); err != nil {
				return err
			}
		}
		return t.saveLease(ctx, l)
	})
	if err != nil {
		return fmt.Errorf("stop waiting for lease %q: %w", k.ID, err)
	}
	return nil
}

// Orphans implements pool.Store.
func (s *Store) Orphans(ctx context.Context, living []string, due, now time.Time) (int, error) {
	orphans, err := s.orphans(ctx, living, due)
	if err != nil {
		return 0, fmt.Errorf("find orphaned leases: %w", err)
	}
	return orphans, nil
}

func (s *Store) orphans(ctx context.Context, living []string, due time.Time) (int, error) {
	var waiters []string
	err := s.write(ctx, func(ctx context.Context, t txn) error { // so that a fence is checked
		waiters = nil
		rows, err := t.Query(ctx, SelectWaiters)
		return each(rows, err, scanStrings(&waiters))
	})
	if err != nil {
		return 0, err
	}
	all := 0
	for _, w := range waiters {
		if slices.Contains(living, w) {
			continue
		}
		// A transaction each, and only the rows that were locked in order are
		// written: leases of one waiter that come meanwhile are the next look's.
		var seqs []int64
		err := s.write(ctx, func(ctx context.Context, t txn) error {
			seqs = nil
			rows, err := t.Query(ctx, LockOrphans, w)
			if err := each(rows, err, func(r *sql.Rows) error {
				var seq int64
				err := r.Scan(&seq)
				seqs = append(seqs, seq)
				return err
			}); err != nil {
				return err
			}
			for _, seq := range seqs {
				if err := must(t.Exec(ctx, OrphanLease, ms(due), seq)); err != nil {
					return err
				}
				if _, err := t.Exec(ctx, DropChoices, seq); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		all += len(seqs)
	}
	return all, nil
}

// Export implements pool.Store.
func (s *Store) Export(ctx context.Context, k pool.LeaseKey, vars map[string]string, now time.Time) error {
	names := make([]string, 0, len(vars))
	for name := range vars {
		names = append(names, name)
	}
	slices.Sort(names)
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		l, err := t.lease(ctx, k, true)
		if err != nil {
			return err
		}
		if l.State.Final() {
			return fmt.Errorf("it is %s: %w", l.State, pool.ErrConflict)
		}
		if t.seal == nil {
			return fmt.Errorf("%w: there is no seal key to store variables with", pool.ErrInvalid)
		}
		for _, name := range names {
			if err := checkID("variable name", name); err != nil {
				return err
			}
			sealed := t.seal.Seal([]byte(vars[name]), variablePlace(l, name))
			if _, err := t.Exec(ctx, PutVariable, l.Seq, name, sealed, ms(now)); err != nil {
				return err
			}
		}
		if l.exported || len(names) == 0 {
			return nil
		}
		l.exported = true
		return t.saveLease(ctx, l)
	})
	if err != nil {
		return fmt.Errorf("export variables of lease %q: %w", k.ID, err)
	}
	return nil
}

// Exported implements pool.Store. The map is never nil.
func (s *Store) Exported(ctx context.Context, k pool.LeaseKey) (map[string]string, error) {
	vars := map[string]string{}
	// Where the lease ends between the two statements they are gone, as they are
	// a moment later in any case.
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		clear(vars)
		l, err := t.lease(ctx, k, false)
		if err != nil || !l.exported {
			return err
		}
		rows, err := t.Query(ctx, SelectVariables, l.Seq)
		return each(rows, err, func(r *sql.Rows) error {
			var name string
			var sealed []byte
			if err := r.Scan(&name, &sealed); err != nil {
				return err
			}
			plain, err := s.open(sealed, variablePlace(l, name))
			if err != nil {
				return fmt.Errorf("variable %s: %w", name, err)
			}
			vars[name] = string(plain)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("exported variables of lease %q: %w", k.ID, err)
	}
	return vars, nil
}

func (s *Store) open(sealed []byte, place string) ([]byte, error) {
	if s.seal == nil {
		return nil, fmt.Errorf("%w: it is sealed and there is no seal key", pool.ErrInvalid)
	}
	return s.seal.Open(sealed, place)
}

// variablePlace binds a sealed value to its lease and name.
func variablePlace(l *lease, name string) string {
	return fmt.Sprintf("lease_env\x00%s\x00%d\x00%s", l.ID, l.Generation, name)
}

func cleanCause(c pool.Cause) pool.Cause {
	c.Pool, c.Instance, c.Phase, c.Kind = clean(c.Pool), clean(c.Instance), clean(c.Phase), clean(c.Kind)
	c.Message, c.Console = clean(c.Message), clean(c.Console)
	return c
}

// disksOf is the policy of a destroy joined with what was decided before: a
// wish to delete is never forgotten.
func disksOf(have, want drivers.DiskPolicy) drivers.DiskPolicy { return max(have, want) }
