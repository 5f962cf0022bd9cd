package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Operator is what an operator can order. Every order is an event that says
// who gave it. Methods are safe for concurrent use; Manager implements them.
type Operator interface {
	// Orphans lists in what clouds and store differ, as of the last sweeps; what
	// another replica sweeps it lists for the answer.
	Orphans(ctx context.Context) (OrphanReport, error)
	// RemoveOrphan destroys a machine or disk that has no row, by its name in
	// the cloud, and returns when the cloud has confirmed it. ErrNotFound if no
	// cloud lists it, ErrConflict if a row describes it, *KeptError if it needs
	// a word it was not given.
	RemoveOrphan(ctx context.Context, name string, o OrphanOrder) error
	// FindInstance finds a row by our id or by the cloud's name or id.
	FindInstance(ctx context.Context, ref string) (Instance, error)
	// DestroyInstance has an instance destroyed. Without o.Force only one that
	// no lease has; with it the lease is ended first, and a call to the cloud
	// that hangs is broken off. Held ones are refused with *KeptError.
	DestroyInstance(ctx context.Context, ref string, o DestroyOrder) (Instance, error)
	// HoldInstance keeps an instance from being destroyed, aged, replaced and
	// given away, or with held unset lets it go.
	HoldInstance(ctx context.Context, ref string, held bool, o Order) (Instance, error)
	// EndLease ends a lease whatever its state; its machine is destroyed.
	EndLease(ctx context.Context, id string, o DestroyOrder) (Lease, error)
	// OverridePool sets what is wanted of a pool instead of its configuration; an
	// Override that says nothing takes it back. It survives restarts. A stopped
	// pool begins no machine, not for requests either, and gives up its free
	// ones; machines in use go on. With Min set the pool keeps so many free
	// machines of its default flavour; zero stands for all its flavours.
	OverridePool(ctx context.Context, pool string, o Override) error
	// DrainPool destroys the pool's free machines and returns how many. What a
	// lease has stays, and new ones are made unless the pool is stopped.
	DrainPool(ctx context.Context, pool string, o Order) (int, error)
}

// Order is who wants something, and why; both are for people.
type Order struct {
	By, Why string
}

// DestroyOrder is an order to destroy an instance or to end a lease.
type DestroyOrder struct {
	Order
	// Force ends the lease of the instance, whatever it is doing.
	Force bool
	// Disks deletes persistent disks too; else they are kept.
	Disks bool
}

func (o DestroyOrder) disks() drivers.DiskPolicy {
	if o.Disks {
		return drivers.Delete
	}
	return drivers.Keep
}

// OrphanOrder is an order to remove something that has no row.
type OrphanOrder struct {
	Order
	// Foreign allows what another controller made, Gitspace what may hold
	// somebody's work, Disks the deletion of disks.
	Foreign, Gitspace, Disks bool
}

// KeptError is an order that was not followed, with what would make it be.
type KeptError struct {
	Name   string
	Why    Reason
	Remedy string
}

// Error names the thing, why it is kept, and the remedy.
func (e *KeptError) Error() string {
	return fmt.Sprintf("%s is kept (%s): %s", e.Name, e.Why, e.Remedy)
}

// Is makes errors.Is(err, ErrConflict) true, and that of every other KeptError.
func (e *KeptError) Is(target error) bool {
	_, kept := target.(*KeptError)
	return kept || target == ErrConflict
}

// text is an event's message about an order.
func (o Order) text(what string) string {
	s := what + ", ordered by " + cmp.Or(o.By, "an operator")
	if o.Why != "" {
		s += ": " + o.Why
	}
	return s
}

// errOrdered is why work on an instance is broken off.
var errOrdered = errors.New("an operator has ordered something else")

// FindInstance implements Operator. Names are looked for in a listing: people
// have time.
func (m *Manager) FindInstance(ctx context.Context, ref string) (Instance, error) {
	inst, err := m.store.Instance(ctx, ref)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return inst, err
	}
	live, err := m.store.Instances(ctx, InstanceQuery{Live: true})
	if err != nil {
		return Instance{}, err
	}
	i := slices.IndexFunc(live, func(i Instance) bool { return i.is(ref) })
	if i < 0 {
		return Instance{}, fmt.Errorf("instance %s: %w; if the cloud has it, drone-runner-aws orphans lists it", ref, ErrNotFound)
	}
	return live[i], nil
}

// DestroyInstance implements Operator.
func (m *Manager) DestroyInstance(ctx context.Context, ref string, o DestroyOrder) (Instance, error) {
	inst, err := m.FindInstance(ctx, ref)
	if err != nil {
		return inst, err
	}
	// The row may change between two looks; a conflict is looked at again.
	for range 5 {
		inst, err = m.orderDestroy(ctx, inst, o)
		if !errors.Is(err, ErrConflict) || errors.As(err, new(*KeptError)) {
			break
		}
		if inst, err = m.store.Instance(ctx, inst.ID); err != nil {
			break
		}
	}
	return inst, err
}

func (m *Manager) orderDestroy(ctx context.Context, inst Instance, o DestroyOrder) (Instance, error) {
	now := m.stamp()
	event := Event{
		At: now, Pool: inst.Pool, Instance: inst.ID, Lease: inst.LeaseID, Generation: inst.LeaseGeneration,
		Reason: string(ReasonOperator), Message: o.text(inst.Name + " is to be destroyed"),
	}
	if inst.State == Gone {
		return inst, nil
	}
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return inst, err
	}
	may, why := mayDestroy(&inst, evidence{Why: ReasonOperator, Lease: lease}, now)
	switch {
	case why == KeepLeased && o.Force:
		ended, err := m.store.End(ctx, Ending{
			Lease: lease.Key(), Instance: inst.ID, Kind: lease.Kind, Disks: o.disks(), States: []LeaseState{lease.State},
			Reason: string(ReasonOperator), Detail: o.text("the lease was ended"), Now: now, Events: []Event{event},
		})
		if err != nil {
			return inst, fmt.Errorf("end %s: %w", lease.ID, err)
		}
		m.ended(*lease, ended)
	case why == KeepLeased:
		return inst, &KeptError{Name: inst.Name, Why: why, Remedy: fmt.Sprintf("lease %s has it (%s); --force ends that lease and whatever runs in it", lease.ID, lease.State)}
	case why == KeepHeld:
		return inst, &KeptError{Name: inst.Name, Why: why, Remedy: "let it go first: drone-runner-aws instance unhold " + inst.Name}
	case !may:
		return inst, &KeptError{Name: inst.Name, Why: why, Remedy: "it cannot be destroyed now"}
	case inst.State == Destroying:
		err = m.store.Postpone(ctx, inst.ID, Destroying, Postponement{
			Due: now, Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now, Events: []Event{event},
		})
	default:
		_, err = m.store.Change(ctx, Change{
			ID: inst.ID, From: []InstanceState{inst.State}, To: Destroying, Due: now,
			Reason: string(ReasonOperator), Detail: o.text("destroyed"), Now: now, Events: []Event{event},
		})
	}
	if err != nil {
		return inst, err
	}
	fresh, err := m.store.Instance(ctx, inst.ID)
	if err != nil {
		return inst, err
	}
	m.work.interrupt(m, fresh, errOrdered)
	if rt := m.pools[inst.Pool]; rt != nil {
		rt.kick()
	}
	return fresh, nil
}

// ended wakes everybody who waits for a lease that an order has ended.
func (m *Manager) ended(l Lease, e Ended) {
	m.steps.forget(l.ID)
	m.hub.notify(leaseKey(l.ID))
	if e.Instance != nil {
		m.hub.notify(instanceKey(e.Instance.ID))
		m.steps.end(e.Instance.ID, fmt.Errorf("%w: %s was ended by an operator", ErrConflict, l.ID))
		m.work.interrupt(m, *e.Instance, errOrdered)
	}
	for _, c := range l.Choices {
		if rt := m.pools[c.Pool]; rt != nil {
			rt.kick()
		}
	}
}

// EndLease implements Operator. A lease that has ended already is no error.
func (m *Manager) EndLease(ctx context.Context, id string, o DestroyOrder) (Lease, error) {
	l, err := m.store.Lease(ctx, id)
	if err != nil {
		return l, err
	}
	now := m.stamp()
	ended, err := m.store.End(ctx, Ending{
		Lease: l.Key(), Kind: l.Kind, Disks: o.disks(), Reason: string(ReasonOperator), Detail: o.text("the lease was ended"), Now: now,
		Events: []Event{{
			At: now, Pool: l.Pool, Instance: l.InstanceID, Lease: l.ID, Generation: l.Generation,
			Reason: string(ReasonOperator), Message: o.text("the lease is ended"),
		}},
	})
	if err != nil {
		return l, fmt.Errorf("end %s: %w", id, err)
	}
	m.ended(l, ended)
	return ended.Lease, nil
}

// HoldInstance implements Operator.
func (m *Manager) HoldInstance(ctx context.Context, ref string, held bool, o Order) (Instance, error) {
	inst, err := m.FindInstance(ctx, ref)
	if err != nil {
		return inst, err
	}
	now := m.stamp()
	event := Event{
		At: now, Pool: inst.Pool, Instance: inst.ID, Lease: inst.LeaseID, Generation: inst.LeaseGeneration,
		Reason: "held", Message: o.text(inst.Name + " is held"),
	}
	if !held {
		event.Reason, event.Message = "unheld", o.text(inst.Name+" is not held any more")
	}
	inst, err = m.store.SetHeld(ctx, inst.ID, held, now, event)
	if err != nil {
		return inst, err
	}
	if !held {
		return inst, m.released(ctx, inst, now)
	}
	if inst.State != Warm && inst.State != Hibernated {
		return inst, nil // the reason of any other state says more than the hold
	}
	err = m.store.Postpone(ctx, inst.ID, inst.State, Postponement{
		Due: now.Add(heldRecheck), Held: true, Attempts: inst.Attempts, Reason: string(KeepHeld), Detail: o.text("held"), Now: now,
	})
	if err == nil || errors.Is(err, ErrConflict) {
		inst, err = m.store.Instance(ctx, inst.ID)
	}
	if rt := m.pools[inst.Pool]; rt != nil {
		rt.kick() // one less to give away
	}
	return inst, err
}

// OverridePool implements Operator.
func (m *Manager) OverridePool(ctx context.Context, pool string, o Override) error {
	if o.Min != nil && *o.Min < 0 {
		return fmt.Errorf("%w: a pool cannot have %d warm machines", ErrInvalid, *o.Min)
	}
	now := m.stamp()
	what, reason := "runs as configured again", "pool_started"
	switch {
	case o.Stopped:
		what, reason = "is stopped: nothing is begun and free machines go", "pool_stopped"
	case o.Min != nil:
		what, reason = fmt.Sprintf("keeps %d machines warm", *o.Min), "pool_scaled"
	}
	event := Event{At: now, Pool: pool, Reason: reason, Message: Order{By: o.By, Why: o.Why}.text("pool " + pool + " " + what)}
	if o.Stopped || o.Min != nil {
		o.Since = now
	} else {
		o = Override{} // who took it back is told by the event
	}
	err := m.store.SetOverride(ctx, pool, o, now, event)
	if err != nil {
		return err
	}
	if rt := m.pools[pool]; rt != nil {
		rt.kick()
	}
	return nil
}

// DrainPool implements Operator.
func (m *Manager) DrainPool(ctx context.Context, pool string, o Order) (int, error) {
	if m.pools[pool] == nil {
		return 0, fmt.Errorf("pool %s: %w", pool, ErrNotFound)
	}
	free, err := m.store.Instances(ctx, InstanceQuery{Pool: pool, States: []InstanceState{Warm, Hibernated}})
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, inst := range free {
		if inst.Held {
			continue
		}
		now := m.stamp()
		if may, _ := mayDestroy(&inst, evidence{Why: ReasonSurplus}, now); !may {
			continue
		}
		next, err := m.store.Change(ctx, Change{
			ID: inst.ID, From: []InstanceState{Warm, Hibernated}, To: Destroying, Due: now,
			Reason: string(ReasonSurplus), Detail: o.text("drained"), Now: now,
			Events: []Event{{At: now, Pool: pool, Instance: inst.ID, Reason: string(ReasonOperator), Message: o.text(inst.Name + " is drained")}},
		})
		switch {
		case errors.Is(err, ErrConflict):
			// Claimed meanwhile: it is in use now.
		case err != nil:
			errs = append(errs, err)
		default:
			n++
			m.work.dispatch(m, next)
		}
	}
	return n, errors.Join(errs...)
}

// RemoveOrphan implements Operator.
func (m *Manager) RemoveOrphan(ctx context.Context, name string, o OrphanOrder) error {
	var errs []error
	for _, sc := range m.scopes {
		// A listing that began after the order, and the rows after the listing:
		// what has none then has none.
		call, cancel := context.WithTimeout(ctx, listTimeout)
		l, err := m.list(call, sc)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", sc.key, err))
			continue
		}
		e := evidence{Why: ReasonOperator, Controller: m.controller.ID, ListedAt: l.At, Order: o}
		if mach, ok := l.byName[name]; ok {
			e.Machine = &mach
		} else if i := slices.IndexFunc(l.Disks, func(d drivers.Disk) bool { return d.Name == name }); i >= 0 {
			e.Disk = &l.Disks[i]
		} else {
			continue
		}
		return m.removeOrphan(ctx, sc, name, e)
	}
	if len(errs) > 0 {
		return fmt.Errorf("%s: %w: not every account could be listed: %w", name, ErrUnavailable, errors.Join(errs...))
	}
	return fmt.Errorf("%s: %w: no account of this runner has a machine or disk of that name", name, ErrNotFound)
}

func (m *Manager) removeOrphan(ctx context.Context, sc *scope, name string, e evidence) error {
	rows, err := m.store.Instances(ctx, InstanceQuery{Live: true})
	if err != nil {
		return err
	}
	e.HasRow = slices.ContainsFunc(rows, func(row Instance) bool {
		return row.Name == name || (e.Disk != nil && usesDisk(row, *e.Disk))
	})
	if may, why := mayDestroy(nil, e, m.stamp()); !may {
		return &KeptError{Name: name, Why: why, Remedy: orderRemedy(why)}
	}
	var tags drivers.Tags
	disks := drivers.Keep
	if e.Machine != nil {
		tags = e.Machine.Tags
	} else {
		tags = e.Disk.Tags
	}
	if e.Order.Disks {
		disks = drivers.Delete
	}
	m.log.Warn("something without a row is destroyed by order", "name", name, "by", e.Order.By, "why", e.Order.Why)
	err = m.store.Note(ctx, Event{
		At: m.stamp(), Pool: tags.Pool, Instance: tags.Instance, Reason: "orphan_removed",
		Message: e.Order.text(name + ", which has no row, is destroyed"),
	})
	if err != nil {
		return fmt.Errorf("%s is not destroyed, since who ordered it could not be written down: %w", name, err)
	}
	// The order outlives a caller that hangs up.
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.t.Create+time.Second)
	defer cancel()
	if err := m.destroyOrphan(call, sc, e, disks); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	sc.kick()
	return nil
}

// orderRemedy says what an order lacks.
func orderRemedy(why Reason) string {
	switch why {
	case KeepRow:
		return "it has a row: drone-runner-aws instance destroy ends it"
	case KeepForeign:
		return "another controller made it, or nobody says who did; --foreign destroys it all the same"
	case KeepGitspace:
		return "it may hold somebody's work; --gitspace destroys it all the same"
	case KeepDisk:
		return "it is a disk; --disks deletes it"
	default:
		return "try again when the cloud can be listed"
	}
}

var _ Operator = (*Manager)(nil)
