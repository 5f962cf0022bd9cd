package core

import (
	"context"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// The codes of refusals that are no gate's own.
const (
	// ReasonStopped: an operator has stopped the pool.
	ReasonStopped = "stopped"
	// ReasonPerMinute: the pool has begun as many machines in this minute as it
	// may.
	ReasonPerMinute = "per_minute"
)

// SetGate implements pool.Store.
func (s *Store) SetGate(ctx context.Context, name string, g pool.Gate, now time.Time, events ...pool.Event) error {
	g.Reason, g.Detail, g.Kept = clean(g.Reason), clean(g.Detail), clean(g.Kept)
	g.Since, g.Until = cut(g.Since), cut(g.Until)
	text, err := encodeGate(g)
	if err == nil {
		err = s.setPool(ctx, SetGate, name, text, now, events)
	}
	if err != nil {
		return fmt.Errorf("set gate of pool %s: %w", name, err)
	}
	return nil
}

// SetOverride implements pool.Store.
func (s *Store) SetOverride(ctx context.Context, name string, o pool.Override, now time.Time, events ...pool.Event) error {
	o.By, o.Why, o.Since = clean(o.By), clean(o.Why), cut(o.Since)
	text, err := encodeJSON(o, o == pool.Override{})
	if err == nil && o.Min != nil && *o.Min < 0 {
		err = fmt.Errorf("%w: a warm target of %d", pool.ErrInvalid, *o.Min)
	}
	if err == nil {
		err = s.setPool(ctx, SetOverride, name, text, now, events)
	}
	if err != nil {
		return fmt.Errorf("set override of pool %s: %w", name, err)
	}
	return nil
}

func (s *Store) setPool(ctx context.Context, stmt Stmt, name, text string, now time.Time, events []pool.Event) error {
	return s.write(ctx, func(ctx context.Context, t txn) error {
		if n, err := t.Exec(ctx, stmt, text, name); err != nil {
			return err
		} else if n == 0 {
			return pool.ErrNotFound
		}
		return t.events(ctx, ms(now), events)
	})
}

func encodeGate(g pool.Gate) (string, error) { return encodeJSON(g, g == pool.Gate{}) }

// closed is why the pool begins no machine at now, whatever its limits are; nil
// if it does. canary says that one more may be begun, and then none until it
// has shown whether creations work again.
func (p *poolRow) closed(now time.Time) (why *pool.ClosedError, canary bool) {
	switch {
	case p.Override.Stopped:
		return &pool.ClosedError{Pool: p.Name, Gate: pool.Gate{
			Reason: ReasonStopped, Detail: p.Override.Why, Since: p.Override.Since,
		}}, false
	case p.Gate.Closed(now):
		return &pool.ClosedError{Pool: p.Name, Gate: p.Gate}, false
	default:
		return nil, p.Gate.Reason != "" && p.Gate.Canary > 0
	}
}

// hurried is the refusal of a pool that has begun as many machines in the
// minute of now as it may, nil if it has not.
func (p *poolRow) hurried(now time.Time) *pool.ClosedError {
	minute := p.minuteAt(now)
	if p.PerMinute == 0 || p.minute != minute || p.begun < p.PerMinute {
		return nil
	}
	return &pool.ClosedError{Pool: p.Name, Gate: pool.Gate{
		Reason: ReasonPerMinute, Detail: fmt.Sprintf("it has begun %d machines in this minute, its bound is %d", p.begun, p.PerMinute),
		Since: at(minute * time.Minute.Milliseconds()), Until: at((minute + 1) * time.Minute.Milliseconds()),
	}}
}

// lateMinutes is how old a decision may be when it is written down.
const lateMinutes = 5

// minuteAt is in which minute something that was decided at now counts: not in
// one before the last that has begun, which would forget what that one has had.
// After a clock was set back by more, it is the clock's.
func (p *poolRow) minuteAt(now time.Time) int64 {
	minute := minuteOf(now)
	if late := p.minute - minute; late > 0 && late <= lateMinutes {
		return p.minute
	}
	return minute
}

func minuteOf(t time.Time) int64 { return ms(t) / time.Minute.Milliseconds() }

// begin counts a machine that is begun at now, and the canary if it is one.
func (t txn) begin(ctx context.Context, p *poolRow, i *instance, canary bool, now time.Time) error {
	minute, begun := p.minuteAt(now), 1
	if p.minute == minute {
		begun = p.begun + 1
	}
	gate := p.gate
	if canary {
		p.Gate.Until = now.Add(p.Gate.Canary)
		var err error
		if gate, err = encodeGate(p.Gate); err != nil {
			return err
		}
	}
	if err := must(t.Exec(ctx, Begin, minute, int64(begun), gate, p.Name)); err != nil {
		return err
	}
	if p.flavours == 0 {
		return nil
	}
	_, err := t.Exec(ctx, CountFlavour, int64(1), p.Name, flavoured(i.Tenant), flavoured(i.Variant))
	return err
}
