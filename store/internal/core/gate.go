package core

import (
	"context"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Unhold implements pool.Store.
func (s *Store) Unhold(context.Context, pool.Hold) error {
	return fmt.Errorf("unhold: %w", pool.ErrNotYet)
}

// SetGate implements pool.Store.
func (s *Store) SetGate(context.Context, string, pool.Gate, time.Time, ...pool.Event) error {
	return fmt.Errorf("set gate: %w", pool.ErrNotYet)
}

// SetOverride implements pool.Store.
func (s *Store) SetOverride(context.Context, string, pool.Override, time.Time, ...pool.Event) error {
	return fmt.Errorf("set override: %w", pool.ErrNotYet)
}

// Spent implements pool.Store.
func (s *Store) Spent(context.Context, string, time.Time, time.Time) (pool.Spent, error) {
	return pool.Spent{}, fmt.Errorf("spent: %w", pool.ErrNotYet)
}

// SetHeld implements pool.Store.
func (s *Store) SetHeld(context.Context, string, bool, time.Time, ...pool.Event) (pool.Instance, error) {
	return pool.Instance{}, fmt.Errorf("set held: %w", pool.ErrNotYet)
}

// Position implements pool.Store.
func (s *Store) Position(context.Context, pool.LeaseKey, string, int) (int, error) {
	return 0, fmt.Errorf("position: %w", pool.ErrNotYet)
}
