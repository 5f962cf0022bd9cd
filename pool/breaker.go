package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// The reasons for which a pool's gate is closed.
const (
	GateBreaker   = "breaker_open"
	GateThrottled = "throttled"
	GateQuota     = "quota"
	GateCapacity  = "no_capacity"
	GateCost      = "cost_cap"
)

// What a ClosedError says of pools whose gate is open.
const (
	ClosedStopped   = "stopped"
	ClosedPerMinute = "per_minute"
)

func (g Guards) withDefaults() Guards {
	g.Failures = cmp.Or(g.Failures, 5)
	g.Pause = cmp.Or(g.Pause, time.Minute)
	g.MaxPause = max(cmp.Or(g.MaxPause, 30*time.Minute), g.Pause)
	g.KeepFailed = cmp.Or(g.KeepFailed, time.Hour)
	return g
}

// pauses are how long a gate stays closed for a cloud's own refusals: the
// first time, and at most, doubling in between.
var pauses = map[string][2]time.Duration{
	GateThrottled: {time.Second, time.Minute},
	// Somebody has to do something about a quota; other machines of the
	// account may also go.
	GateQuota: {time.Minute, 30 * time.Minute},
	// Room comes back within minutes as a rule, and requests wait for it.
	GateCapacity: {5 * time.Second, 2 * time.Minute},
}

// refusals are the kinds of errors that say nothing against the pool.
var refusals = map[string]string{
	"rate_limited": GateThrottled,
	"quota":        GateQuota,
	"capacity":     GateCapacity,
}

// doubled is first doubled n times, at most most.
func doubled(first, most time.Duration, n int) time.Duration {
	for ; n > 0 && first < most; n-- {
		first *= 2
	}
	return min(first, most)
}

// failure is one machine that could not be made or booted.
type failure struct {
	// Kind is kindOf the error, After what the cloud asked to wait.
	Kind   string
	After  time.Duration
	Detail string
	// Begun is when the machine's intent was written.
	Begun time.Time
	// Trial is how long a machine may take until it is proven.
	Trial time.Duration
}

// failed is the gate after a failure. It is pure. trip says that it closed, or
// closed again, with this failure. A machine begun before the gate closed is
// no news.
func (g Gate) failed(c Guards, f failure, now time.Time) (next Gate, trip bool) {
	trial := g.Reason != "" && f.Begun.After(g.Since)
	if g.Reason == GateCost || g.Reason != "" && !trial {
		return g, false
	}
	next = Gate{Failures: g.Failures, Trips: g.Trips, Kept: g.Kept, Detail: f.Detail, Since: now, Canary: f.Trial}
	if g.Reason == "" {
		next.Trips = 0
	}
	var pause time.Duration
	next.Reason = refusals[f.Kind]
	switch {
	case next.Reason != "":
		if g.Reason != next.Reason {
			next.Trips = 0
		}
		if g.Freed && next.Trips > 0 {
			next.Trips-- // a try made early makes the next pause no longer
		}
		p := pauses[next.Reason]
		pause = max(f.After, doubled(p[0], p[1], next.Trips))
	case c.Failures < 0:
		return g, false
	default:
		next.Failures++
		if next.Failures < c.Failures {
			return Gate{Failures: next.Failures, Kept: g.Kept, Detail: f.Detail, Since: now}, false
		}
		next.Reason = GateBreaker
		if g.Reason != GateBreaker {
			next.Trips = 0
		}
		pause = doubled(c.Pause, c.MaxPause, next.Trips)
	}
	next.Trips++
	next.Until = now.Add(pause)
	return next, true
}

// succeeded is the gate after a machine was accepted by its cloud, or proven.
// It is pure. A machine begun before the gate closed is no news.
func (g Gate) succeeded(begun time.Time, proven bool) Gate {
	switch {
	case g.Reason == GateCost:
		return g
	case g.Reason != "" && !begun.After(g.Since):
		return g
	case proven:
		return Gate{Kept: g.Kept}
	case g.Reason != "" && g.Reason != GateBreaker:
		// The cloud takes machines again; whether they work is another matter.
		return Gate{Failures: g.Failures, Kept: g.Kept}
	default:
		return g
	}
}

// refillAfter is until when refill keeps still after failures that have not
// opened the breaker, so that a short trouble of the cloud does not open it.
// Requests go on.
func (g Gate) refillAfter() time.Time {
	if g.Reason != "" || g.Failures == 0 {
		return time.Time{}
	}
	return g.Since.Add(doubled(backoffFirst, backoffMost, g.Failures-1))
}

// breaker is a pool's gate as this process knows it, and what of it is still to
// be written. Its zero value is an open gate. Safe for concurrent use.
type breaker struct {
	mu      sync.Mutex
	gate    Gate
	version int // counts changes
	dirty   bool
	saving  bool
	events  []Event
}

// now is the gate and its version, for adopt.
func (b *breaker) now() (Gate, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gate, b.version
}

// adopt takes the gate as the store has it, read after version, unless it was
// changed here since.
func (b *breaker) adopt(g Gate, version int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.version == version && !b.dirty && !b.saving {
		b.gate = g
	}
}

// forget drops what is known and what was not written: the store has it.
func (b *breaker) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gate, b.events, b.dirty = Gate{}, nil, false
	b.version++
}

// change decides on a new gate; what it returns beside it is written with it.
func (b *breaker) change(decide func(Gate) (Gate, []Event)) Gate {
	b.mu.Lock()
	defer b.mu.Unlock()
	next, events := decide(b.gate)
	if next != b.gate || len(events) > 0 {
		b.gate = next
		b.version++
		b.dirty = true
		b.events = append(b.events, events...)
	}
	return next
}

// saveGate writes what has changed of a pool's gate. One goroutine writes at a
// time, and the latest wins; what cannot be written now is at the next pass of
// the planner.
func (m *Manager) saveGate(ctx context.Context, rt *runtime) error {
	b := &rt.breaker
	for {
		b.mu.Lock()
		if b.saving || !b.dirty {
			b.mu.Unlock()
			return nil
		}
		b.saving, b.dirty = true, false
		gate, events := b.gate, b.events
		b.events = nil
		b.mu.Unlock()
		err := m.store.SetGate(ctx, rt.cfg.Name, gate, m.stamp(), events...)
		b.mu.Lock()
		b.saving = false
		if err != nil {
			b.dirty = true
			b.events = append(events, b.events...)
		}
		b.mu.Unlock()
		if err != nil {
			return fmt.Errorf("gate of pool %s: %w", rt.cfg.Name, err)
		}
	}
}

// failed records that a machine could not be made or booted. keep says that it
// is the one to be kept for inspection, and until when.
func (m *Manager) failed(ctx context.Context, rt *runtime, inst Instance, cause Cause, err error) (keep bool, until time.Time) {
	now := m.stamp()
	guards := rt.cfg.Guards.withDefaults()
	f := failure{
		Kind: cause.Kind, Detail: cause.Phase + ": " + cause.Message, Begun: inst.Created,
		Trial: m.t.Create + m.bootBudget(inst) + time.Minute,
	}
	if limited, ok := errors.AsType[*drivers.RateLimitError](err); ok {
		f.After = limited.After
	}
	if f.Kind == "invalid" || f.Kind == "not_found" || cause.Phase == "boot" {
		// What a request asked for beside the pool's own says nothing against it,
		// neither do the disks of a gitspace.
		if fl := rt.flavour(inst.Tenant, inst.Variant); fl == nil || inst.Shape != fl.shape(Want{}) || inst.StorageID != "" {
			guards.Failures = -1
		}
	}
	free := guards.KeepFailed > 0 && cause.Phase == "boot" && m.nothingKept(ctx, rt)
	g := rt.breaker.change(func(g Gate) (Gate, []Event) {
		next, trip := g.failed(guards, f, now)
		if !trip {
			return next, nil
		}
		if free && next.Reason == GateBreaker {
			keep, next.Kept = true, inst.ID
		}
		return next, []Event{closing(rt.cfg.Name, g, next, now)}
	})
	m.log.Warn("machine could not be made", "pool", inst.Pool, "instance", inst.Name, "phase", cause.Phase,
		"kind", cause.Kind, "err", err, "gate", g.Reason, "until", g.Until)
	if err := m.saveGate(ctx, rt); err != nil && ctx.Err() == nil {
		m.log.Error("gate not written", "pool", rt.cfg.Name, "err", err)
	}
	return keep, now.Add(guards.KeepFailed)
}

// closing is the event of a gate that closes, or closes again.
func closing(pool string, before, g Gate, now time.Time) Event {
	reason, verb := g.Reason, "closes"
	if g.Reason == GateBreaker {
		reason = "breaker_opened"
	}
	if before.Reason == g.Reason {
		verb = "stays closed"
	}
	return Event{
		At: now, Pool: pool, Reason: reason,
		Message: fmt.Sprintf("the pool %s until %s (%d failures in a row): %s", verb, g.Until.Format(time.RFC3339), g.Failures, g.Detail),
	}
}

// nothingKept says whether the pool has no failed machine kept for inspection.
func (m *Manager) nothingKept(ctx context.Context, rt *runtime) bool {
	g, _ := rt.breaker.now()
	if g.Kept == "" {
		return true
	}
	kept, err := m.store.Instance(ctx, g.Kept)
	return errors.Is(err, ErrNotFound) || err == nil && kept.State != Failed
}

// worked records that a machine was accepted by its cloud, or proven.
func (m *Manager) worked(ctx context.Context, rt *runtime, inst Instance, proven bool) {
	if proven {
		rt.ramp.up()
	}
	now := m.stamp()
	rt.breaker.change(func(g Gate) (Gate, []Event) {
		next := g.succeeded(inst.Created, proven)
		if g.Reason == "" || next.Reason != "" {
			return next, nil
		}
		return next, []Event{opening(rt.cfg.Name, g, now)}
	})
	if err := m.saveGate(ctx, rt); err != nil && ctx.Err() == nil {
		m.log.Error("gate not written", "pool", rt.cfg.Name, "err", err)
	}
}

// opening is the event of a gate that opens.
func opening(pool string, before Gate, now time.Time) Event {
	reason := before.Reason + "_over"
	if before.Reason == GateBreaker {
		reason = "breaker_closed"
	}
	return Event{
		At: now, Pool: pool, Reason: reason,
		Message: fmt.Sprintf("the pool makes machines again after %s", now.Sub(before.Since).Round(time.Second)),
	}
}
