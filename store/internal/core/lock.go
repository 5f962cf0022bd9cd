package core

import (
	"context"
	"errors"
	"slices"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// ErrRaced says that a row has changed between the look without a lock and the
// lock: Write runs the operation again.
var ErrRaced = errors.New("a row was changed by another writer meanwhile")

// The helpers that keep the order of locks; see the package's comment. Where
// nobody else writes they lock nothing and read what is needed when it is.

// lockPools locks pools, which may be named twice, by name. Unknown ones are
// passed over.
func (t txn) lockPools(ctx context.Context, names ...string) error {
	if !t.Shared() {
		return nil
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		var p poolRow
		if _, err := t.one(ctx, LockPool, p.state(), name); err != nil {
			return err
		}
	}
	return nil
}

// lockPoolOf locks the pool of an instance, if there is such an instance.
func (t txn) lockPoolOf(ctx context.Context, instance string) error {
	if !t.Shared() {
		return nil
	}
	var p poolRow
	_, err := t.one(ctx, LockPoolOf, p.state(), instance)
	return err
}

// machineOf locks the machine of a lease, before the lease: nil if it has none,
// or where nobody else writes. See present.
func (t txn) machineOf(ctx context.Context, k pool.LeaseKey) (*instance, error) {
	if !t.Shared() {
		return nil, nil
	}
	return t.found(ctx, LockInstanceOf, k.ID, k.Generation)
}

// present is the machine a lease has, nil if it has none or that is gone. The
// lease is locked, and locked is what machineOf has found before.
func (t txn) present(ctx context.Context, l *lease, locked *instance) (*instance, error) {
	if l.InstanceID == "" {
		return nil, nil
	}
	i := locked
	if i == nil || i.ID != l.InstanceID {
		var err error
		if i, err = t.found(ctx, SelectInstance, l.InstanceID); err != nil {
			return nil, err
		}
	}
	switch {
	case i == nil || i.State == pool.Gone || i.LeaseID != l.ID:
		return nil, nil
	case t.Shared() && i != locked:
		// The lease had another or none a moment ago, or a generation of it that
		// has begun since has this one.
		return nil, ErrRaced
	default:
		return i, nil
	}
}

// machine is an instance that is not gone, nil if there is none.
func (t txn) machine(ctx context.Context, s Stmt, id string) (*instance, error) {
	if id == "" {
		return nil, nil
	}
	i, err := t.found(ctx, s, id)
	if err != nil || i == nil || i.State == pool.Gone {
		return nil, err
	}
	return i, nil
}

// found is the first instance of a statement, nil if there is none.
func (t txn) found(ctx context.Context, s Stmt, args ...any) (*instance, error) {
	var i instance
	found, err := t.one(ctx, s, i.fields(), args...)
	if err != nil || !found {
		return nil, err
	}
	return &i, nil
}

// relock locks a lease that was read without a lock and judged by its state,
// its waiter, its machine and its choices.
func (t txn) relock(ctx context.Context, l *lease) (*lease, error) {
	if !t.Shared() {
		return l, nil
	}
	now, err := t.lease(ctx, l.Key(), true)
	if errors.Is(err, pool.ErrNotFound) {
		return nil, ErrRaced
	}
	if err != nil {
		return nil, err
	}
	if now.State != l.State || now.Waiter != l.Waiter || now.InstanceID != l.InstanceID || now.choices != l.choices {
		return nil, ErrRaced
	}
	return now, nil
}

// poolsOf are the pools of choices, in any order.
func poolsOf(choices []pool.Choice) []string {
	out := make([]string, 0, len(choices))
	for _, c := range choices {
		out = append(out, c.Pool)
	}
	return out
}
