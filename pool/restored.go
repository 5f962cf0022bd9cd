package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// A store that was restored from a backup, or copied back by hand, does not
// know what happened since: a machine it takes for warm may be somebody's, a
// setup it takes for unfinished may run a build. Three things tell of it: the
// mark of our own restore, a Witness that has seen the store alive later than
// the store remembers, and a machine of ours that was made in between.
//
// Nothing is destroyed then that was not already being destroyed. What could
// be in use without a lease saying so is held, and let go when its agent says
// that it has never been used.

// Witness remembers, outside of the store, when it was last alive. Its methods
// are called by one goroutine at a time.
type Witness interface {
	// Seen is the newest time given to Saw for this store, zero if there is none.
	Seen() (time.Time, error)
	// Saw records that the store was alive at t, durably.
	Saw(t time.Time) error
}

const (
	// reasonRestored is why a machine is held whose row comes from an old store.
	reasonRestored = "store_restored"
	// reasonUsed is why a machine is held whose agent has worked for somebody
	// this store knows nothing of.
	reasonUsed = "used_by_another"
	// witnessSlack is how far a store may be behind its witness: the heartbeats
	// of six intervals.
	witnessSlack = time.Minute
)

// distrustStore compares the store with its witness, before this run is written
// into it, and holds what an old copy says is free. It returns the store's
// lives before this one.
func (m *Manager) distrustStore(ctx context.Context, now time.Time) ([]Lifetime, error) {
	lifetimes, err := m.store.Lifetimes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read lifetimes: %w", err)
	}
	if m.witness == nil {
		return lifetimes, nil
	}
	seen, err := m.witness.Seen()
	if err != nil {
		m.log.Warn("whether the store is an old copy cannot be told", "err", err)
		return lifetimes, nil
	}
	var last time.Time
	for _, l := range lifetimes {
		if l.To.After(last) {
			last = l.To
		}
	}
	if last.IsZero() || !seen.After(last.Add(witnessSlack)) {
		return lifetimes, nil
	}
	return lifetimes, m.quarantine(ctx, now, now, fmt.Sprintf("the store is an old copy: it was last alive at %s by itself, at %s by its witness",
		last.Format(time.RFC3339), seen.Format(time.RFC3339)))
}

// heedRestore finds a store that our own restore has made of a copy. That holds
// what no lease had; at the first start after it the rest is looked at, and at
// every start the machines it holds become due, to be asked.
func (m *Manager) heedRestore(ctx context.Context, before []Lifetime, now time.Time) error {
	restored := m.controller.Restored
	if restored.IsZero() {
		return nil
	}
	if !slices.ContainsFunc(before, func(l Lifetime) bool { return l.From.After(restored) }) {
		err := m.quarantine(ctx, restored, now, fmt.Sprintf("the store was restored at %s from a copy of %s",
			restored.Format(time.RFC3339), m.controller.Copied.Format(time.RFC3339)))
		if err != nil {
			return err
		}
	}
	rows, err := m.store.Instances(ctx, InstanceQuery{Live: true})
	if err != nil {
		return fmt.Errorf("read machines of a restored store: %w", err)
	}
	for _, row := range rows {
		if !row.Held || row.Since.After(restored) || row.Reason == string(KeepHeld) || row.Reason == reasonUsed {
			continue
		}
		err := m.store.Postpone(ctx, row.ID, row.State, Postponement{
			Due: now, Attempts: row.Attempts, Reason: reasonRestored, Detail: "held by the restore", Now: now,
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("look at %s after a restore: %w", row.Name, err)
		}
	}
	return nil
}

// suspectStore looks at a machine of ours without a row. One that was made
// after the store's last life and before this one was made by a store that
// knew more than this: it is an old copy.
func (m *Manager) suspectStore(ctx context.Context, mach drivers.Instance, lifetimes []Lifetime, now time.Time) {
	created := mach.Tags.Created
	if m.suspected.Load() || created.IsZero() || watched(lifetimes, created) {
		return
	}
	var before bool
	var began time.Time
	for _, l := range lifetimes {
		before = before || l.To.Add(witnessSlack).Before(created)
		if l.Incarnation == m.incarnation {
			began = l.From
		}
	}
	if !before || began.IsZero() || !created.Before(began) {
		return
	}
	err := m.quarantine(ctx, began, now, fmt.Sprintf("the store is an old copy: machine %s was made for it at %s, when it was not alive", mach.Name, created.Format(time.RFC3339)))
	if err != nil {
		if ctx.Err() == nil {
			m.log.Error("machines of an old store not held, tried again", "err", err)
		}
		return
	}
	m.suspected.Store(true)
}

// quarantine holds every machine whose row is older than before and that could
// be in use although no lease says so. It may be repeated.
func (m *Manager) quarantine(ctx context.Context, before, now time.Time, why string) error {
	rows, err := m.store.Instances(ctx, InstanceQuery{Live: true})
	if err != nil {
		return fmt.Errorf("read machines of an old store: %w", err)
	}
	calls := map[LeaseKey]time.Time{}
	held := 0
	for _, row := range rows {
		if row.Held || !row.Since.Before(before) {
			continue
		}
		lease, err := m.leaseOf(ctx, row)
		if err != nil {
			return fmt.Errorf("read leases of an old store: %w", err)
		}
		if !mayBeInUse(row, lease) {
			if lease != nil && !lease.State.Final() {
				calls[lease.Key()] = now // its last call is not known
			}
			continue
		}
		if err := m.hold(ctx, row, reasonRestored, why, now); err != nil {
			return fmt.Errorf("hold %s: %w", row.Name, err)
		}
		held++
	}
	if len(calls) > 0 {
		if err := m.store.Touch(ctx, calls); err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("prolong leases of an old store: %w", err)
		}
	}
	m.log.Warn(why, "held", held) //nolint:sloglint // one of a few texts
	return m.store.Note(ctx, Event{
		At: now, Reason: reasonRestored,
		Message: fmt.Sprintf("%s; %d machines are held until their agents say that they were never used; see drone-runner-aws orphans", why, held),
	})
}

// mayBeInUse says of a row of an old store whether its machine could be in use
// without a lease that says so: it is free or becomes so, or its lease was
// being set up and may have become active since. What was being destroyed had
// ended already, and what is active is guarded by its lease.
func mayBeInUse(row Instance, lease *Lease) bool {
	switch row.State {
	case Destroying, Failed, Gone:
		return false
	case Leased, Suspending, Suspended:
		return lease == nil || lease.State == LeaseStarting
	default:
		return lease == nil || lease.Kind != Gitspace || lease.Active.IsZero()
	}
}

// hold keeps a machine from being given away and destroyed, with a reason that
// stands in its row.
func (m *Manager) hold(ctx context.Context, row Instance, reason, detail string, now time.Time) error {
	inst, err := m.store.SetHeld(ctx, row.ID, true, now, Event{
		At: now, Pool: row.Pool, Instance: row.ID, Lease: row.LeaseID, Generation: row.LeaseGeneration,
		Reason: reason, Message: row.Name + " is held: " + detail,
	})
	if err != nil {
		return err
	}
	err = m.store.Postpone(ctx, inst.ID, inst.State, Postponement{
		Due: now, Attempts: inst.Attempts, Reason: reason, Detail: detail, Now: now,
	})
	if errors.Is(err, ErrConflict) {
		return nil // it moved on; it is held all the same
	}
	return err
}

// lookAtHeld looks at a held machine that is due. Those of an old store are
// asked whether they were ever used; all others wait for who holds them.
func (m *Manager) lookAtHeld(ctx context.Context, inst Instance) error {
	now := m.stamp()
	wait := Postponement{Due: now.Add(heldRecheck), Held: true, Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now}
	if inst.Reason != reasonRestored || inst.State != Warm {
		return m.store.Postpone(ctx, inst.ID, inst.State, wait)
	}
	health, err := m.askHeld(ctx, inst)
	switch {
	case err != nil:
		if ctx.Err() != nil {
			return err
		}
		m.postpone(ctx, inst, reasonRestored, fmt.Errorf("whether it was used is not known, its agent does not answer: %w", err))
		return nil
	case health.Used == UsedNever:
		return m.unhold(ctx, inst, "its agent has never worked for anybody", now)
	case health.Used == UsedOnce:
		wait.Reason, wait.Detail = reasonUsed, "its agent has worked for somebody this store knows nothing of; destroy it when nobody needs it: drone-runner-aws instance destroy "+inst.Name+" --force"
		wait.Events = []Event{{At: now, Pool: inst.Pool, Instance: inst.ID, Reason: reasonUsed, Message: inst.Name + " stays held: " + wait.Detail}}
	default:
		wait.Detail = "its agent cannot tell whether it was used; if nobody uses it: drone-runner-aws instance unhold " + inst.Name
	}
	return m.store.Postpone(ctx, inst.ID, inst.State, wait)
}

// askHeld asks the agent of a machine that nobody uses, as far as is known.
func (m *Manager) askHeld(ctx context.Context, inst Instance) (Health, error) {
	rt := m.runtimeOf(inst)
	if rt == nil {
		return Health{}, errors.New(m.unreachable(inst))
	}
	ctx, cancel := context.WithTimeout(ctx, m.t.Hot)
	defer cancel()
	if rt.driver(inst).CanPause() {
		if err := rt.driver(inst).Unpause(ctx, inst.Ref()); err != nil {
			return Health{}, err
		}
	}
	h, err := m.agent.Health(ctx, inst.Target())
	if err != nil || h.Used != UsedNever || !rt.driver(inst).CanPause() {
		return h, err // what may be somebody's goes on running
	}
	return h, rt.driver(inst).Pause(ctx, inst.Ref())
}

// unhold lets a machine go: who waits for one like it has it at once.
func (m *Manager) unhold(ctx context.Context, inst Instance, why string, now time.Time) error {
	fresh, err := m.store.SetHeld(ctx, inst.ID, false, now, Event{
		At: now, Pool: inst.Pool, Instance: inst.ID, Reason: "unheld", Message: inst.Name + " is not held any more: " + why,
	})
	if err != nil {
		return err
	}
	return m.released(ctx, fresh, now)
}

// released goes on with a machine whose hold has ended.
func (m *Manager) released(ctx context.Context, inst Instance, now time.Time) error {
	if inst.LeaseID != "" {
		m.hub.notify(leaseKey(inst.LeaseID))
	}
	if rt := m.pools[inst.Pool]; rt != nil {
		rt.kick()
	}
	if inst.State == Leased || inst.State == Gone {
		return nil
	}
	p := Postponement{Due: now, Attempts: 0, Now: now}
	if inst.State == Destroying || inst.State == Failed {
		p.Reason, p.Detail = inst.Reason, inst.Detail
	}
	if inst.State == Warm || inst.State == Hibernated {
		p.Due = m.warmDue(inst, now)
	}
	err := m.store.Postpone(ctx, inst.ID, inst.State, p)
	if err != nil && !errors.Is(err, ErrConflict) {
		return err
	}
	if !p.Due.After(now) {
		m.work.dispatch(m, inst)
	}
	return nil
}

// beat records that the store is alive, in it and beside it.
func (m *Manager) beat(ctx context.Context, now time.Time) {
	if err := m.store.Heartbeat(ctx, m.incarnation, now); err != nil {
		m.log.Error("heartbeat not written", "err", err)
		return
	}
	if m.witness == nil {
		return
	}
	if err := m.witness.Saw(now); err != nil {
		m.log.Warn("heartbeat not written beside the store", "err", err)
	}
}
