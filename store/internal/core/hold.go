package core

import (
	"context"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// A change of holder locks the pool's row against everything, a fenced write
// only against that: so the writes of a pool's loops do not wait for each
// other, nor for a hold that is renewed, and none commits after the pool has
// gone to another replica.

// Hold implements pool.Store.
func (s *Store) Hold(ctx context.Context, name, replica string, ttl time.Duration) (pool.Hold, error) {
	var h pool.Hold
	err := checkID("replica", replica)
	if err == nil && ttl <= 0 {
		err = fmt.Errorf("%w: hold for %s", pool.ErrInvalid, ttl)
	}
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) (err error) {
			h, err = t.hold(ctx, name, replica, ttl)
			return err
		})
	}
	if err != nil {
		return pool.Hold{}, fmt.Errorf("hold pool %s: %w", name, err)
	}
	return h, nil
}

func (t txn) hold(ctx context.Context, name, replica string, ttl time.Duration) (pool.Hold, error) {
	// Which lock is needed is seen by a look without one: to take the weaker
	// first and then the stronger would let two wait for each other.
	p, err := t.pool(ctx, name, SelectPool)
	if err != nil {
		return pool.Hold{}, err
	}
	renews, lock := p.Hold.Replica == replica, LockPoolHolder
	if renews {
		lock = LockPool
	}
	if p, err = t.pool(ctx, name, lock); err != nil {
		return pool.Hold{}, err
	}
	// The clock is read after the row is locked, or a hold could be taken that
	// was renewed meanwhile.
	now, err := t.Clock(ctx)
	if err != nil {
		return pool.Hold{}, err
	}
	h := p.Hold
	h.Pool = name
	if h.Replica != replica {
		if renews || h.Replica != "" && ms(h.Until) > now {
			return pool.Hold{}, &pool.HeldError{
				Pool: name, Holder: h.Replica, Until: h.Until, Left: max(0, time.Duration(ms(h.Until)-now)*time.Millisecond),
			}
		}
		h.Replica = replica
		h.Generation++
	}
	h.Until = at(now + ttl.Milliseconds())
	return h, must(t.Exec(ctx, HoldPool, h.Replica, h.Generation, ms(h.Until), name))
}

// Unhold implements pool.Store.
func (s *Store) Unhold(ctx context.Context, h pool.Hold) error {
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		p, err := t.pool(ctx, h.Pool, LockPoolHolder)
		if err != nil {
			return err
		}
		if !p.heldBy(h) {
			return nil
		}
		// The generation stays, so that the next hold has another.
		return must(t.Exec(ctx, HoldPool, "", h.Generation, int64(0), h.Pool))
	})
	if err != nil {
		return fmt.Errorf("give up pool %s: %w", h.Pool, err)
	}
	return nil
}

// Fence implements pool.Store.
func (s *Store) Fence(h pool.Hold) pool.Store {
	if h == (pool.Hold{}) {
		return s
	}
	return &Store{b: s.b, seal: s.seal, hold: h}
}

// checkHold refuses a loop's write if the pool has gone to another replica, and
// keeps it from going until the write has committed.
func (t txn) checkHold(ctx context.Context, h pool.Hold) error {
	p, err := t.pool(ctx, h.Pool, KeepPoolHolder)
	if err != nil {
		return err
	}
	switch {
	case p.heldBy(h):
		return nil
	case p.Hold.Replica == "":
		return fmt.Errorf("pool %s has been given up by %s: %w", p.Name, h.Replica, pool.ErrHeld)
	default:
		return fmt.Errorf("pool %s has generation %d of %s, not %d of %s: %w",
			p.Name, p.Hold.Generation, p.Hold.Replica, h.Generation, h.Replica, pool.ErrHeld)
	}
}

func (p *poolRow) heldBy(h pool.Hold) bool {
	return h.Replica != "" && p.Hold.Replica == h.Replica && p.Hold.Generation == h.Generation
}
