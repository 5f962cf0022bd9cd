package pool

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// SetOverride records what an operator wants of a pool, or of all pools if none
// is named, instead of its configuration; the zero Override takes it back. It
// survives restarts. It returns ErrNotFound for an unknown pool.
//
// A stopped pool begins no machine, not for requests either, and gives up its
// free ones; machines in use go on. With Min set the pool keeps so many free
// machines of its default flavour; zero stands for all its flavours.
func (m *Manager) SetOverride(ctx context.Context, pool string, o Override) error {
	if o.Min != nil && *o.Min < 0 {
		return fmt.Errorf("%w: a pool cannot keep %d machines warm", ErrInvalid, *o.Min)
	}
	names := m.order
	if pool != "" {
		if m.pools[pool] == nil {
			return fmt.Errorf("pool %s: %w", pool, ErrNotFound)
		}
		names = []string{pool}
	}
	now := m.stamp()
	set := o.Stopped || o.Min != nil
	if set && o.Since.IsZero() {
		o.Since = now
	}
	if !set {
		o = Override{By: o.By, Why: o.Why}
	}
	var errs []error
	for _, name := range names {
		stored := o
		if !set {
			stored = Override{}
		}
		reason := "override_set"
		if !set {
			reason = "override_cleared"
		}
		err := m.store.SetOverride(ctx, name, stored, now, Event{At: now, Pool: name, Reason: reason, Message: o.String()})
		if err != nil {
			errs = append(errs, fmt.Errorf("override of pool %s: %w", name, err))
			continue
		}
		m.pools[name].kick()
	}
	return errors.Join(errs...)
}

// String says in one line what is ordered, by whom and why.
func (o Override) String() string {
	msg := "as configured"
	switch {
	case o.Stopped:
		msg = "stopped"
	case o.Min != nil:
		msg = fmt.Sprintf("%d machines kept warm", *o.Min)
	}
	if o.By != "" {
		msg += " by " + o.By
	} else if msg != "as configured" {
		msg += " by an operator"
	}
	if !o.Since.IsZero() {
		msg += " since " + o.Since.UTC().Format(time.RFC3339)
	}
	if o.Why != "" {
		msg += ": " + o.Why
	}
	return msg
}
