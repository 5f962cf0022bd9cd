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

// worker carries instances from state to state. At most one goroutine of this
// process works on an instance, so that a destroy never overtakes the create
// it ends; the store guards against other processes.
type worker struct {
	mu   sync.Mutex
	busy map[string]*task // by instance id
	soon chan time.Time   // due times that may come before the next look
}

// task is the work on one instance; the worker's mutex guards it.
type task struct {
	again  bool // look again when done
	cancel context.CancelCauseFunc
	on     footing // what it rests on; zero: not begun
}

func (w *worker) init() {
	w.busy = map[string]*task{}
	w.soon = make(chan time.Time, 1)
}

// remind has due rows looked at when d has come, if that is before the next
// look. It keeps the earliest of the reminders not yet read; a reminder that
// gets lost only costs a tick.
func (w *worker) remind(d time.Time) {
	select {
	case other := <-w.soon:
		if other.Before(d) {
			d = other
		}
	default:
	}
	select {
	case w.soon <- d:
	default:
	}
}

// dispatch has an instance looked at now, or once more when the present look
// is over; where another replica has the pool, that one is told. The row is read
// anew when its turn has come: whoever asked may have read it, or written it,
// before somebody else was done with it, and creating a machine on the word of
// an old row would make one that no row describes.
func (w *worker) dispatch(m *Manager, inst Instance) {
	rt := m.runtimeOf(inst)
	if rt == nil {
		return
	}
	tn := m.tenureFor(inst.Pool, rt.cfg.Name)
	if tn == nil {
		m.hub.announce(dueTopic(inst.Pool))
		return
	}
	w.mu.Lock()
	if t := w.busy[inst.ID]; t != nil {
		t.again = true
		w.mu.Unlock()
		return
	}
	t := &task{cancel: func(error) {}}
	w.busy[inst.ID] = t
	w.mu.Unlock()
	ok := tn.spawn(func(ctx context.Context) {
		for {
			look, cancel := context.WithCancelCause(ctx)
			w.mu.Lock()
			t.cancel = cancel
			w.mu.Unlock()
			w.look(look, m, rt, inst)
			cancel(nil)
			w.mu.Lock()
			if !t.again || ctx.Err() != nil {
				delete(w.busy, inst.ID)
				w.mu.Unlock()
				return
			}
			t.again = false
			w.mu.Unlock()
		}
	})
	if !ok {
		w.mu.Lock()
		delete(w.busy, inst.ID)
		w.mu.Unlock()
	}
}

// look takes an instance as far as it goes, once.
func (w *worker) look(ctx context.Context, m *Manager, rt *runtime, inst Instance) {
	row, err := m.store.Instance(ctx, inst.ID)
	switch {
	case err == nil:
		m.advance(ctx, rt, row)
	case ctx.Err() == nil && !errors.Is(err, ErrNotFound):
		m.log.Error("instance not read", "instance", inst.Name, "err", err)
	}
}

// interrupt breaks off the work on an instance, a cloud call that hangs
// included, and has the row looked at anew. What another replica works on is
// broken off there: see overrule.
func (w *worker) interrupt(m *Manager, inst Instance, why error) {
	w.mu.Lock()
	if t := w.busy[inst.ID]; t != nil {
		t.again = true
		t.cancel(why)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	w.dispatch(m, inst)
}

// idle says whether nobody works on the instance now.
func (w *worker) idle(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, busy := w.busy[id]
	return !busy
}

const (
	// workerTick is how often due rows are looked for without a reminder: what
	// another process left or wrote is found by then.
	workerTick = 10 * time.Second
	// dueBatch bounds one look at due rows; what is left is due at the next.
	dueBatch = 1000
)

// runWorker takes the rows that are due, until ctx ends. What requests and the
// other loops do is dispatched at once; this is what finds everything else.
func (m *Manager) runWorker(ctx context.Context) error {
	next := time.NewTimer(workerTick)
	defer next.Stop()
	for {
		m.takeDue(ctx)
		at := m.now().Add(workerTick)
		next.Reset(workerTick)
	wait:
		for {
			select {
			case <-ctx.Done():
				return nil
			case due := <-m.work.soon:
				if due.Before(at) {
					at = due
					next.Reset(max(0, due.Sub(m.now())))
				}
			case <-next.C:
				break wait
			}
		}
	}
}

func (m *Manager) takeDue(ctx context.Context) {
	pools := m.held()
	if len(pools) == 0 {
		return
	}
	now := m.stamp()
	instances, err := m.store.DueInstances(ctx, pools, now, dueBatch)
	if err != nil {
		if ctx.Err() == nil {
			m.log.Error("due instances not read", "err", err)
		}
		return
	}
	for _, inst := range instances {
		if m.work.overrule(inst) {
			m.work.dispatch(m, inst)
		}
	}
	leases, err := m.store.DueLeases(ctx, now, dueBatch)
	if err != nil {
		if ctx.Err() == nil {
			m.log.Error("due leases not read", "err", err)
		}
		return
	}
	for _, l := range leases {
		tn := m.tenureOfLease(l)
		if tn == nil {
			continue
		}
		if err := m.lookAtLease(tn.ctx, l, now); err != nil && tn.ctx.Err() == nil && !errors.Is(err, ErrConflict) {
			m.log.Error("due lease not handled", "lease", l.ID, "state", l.State, "err", err)
		}
	}
}

// tenureOfLease is the tenure that sees to a lease: that of its machine's pool,
// or while it waits of the first it may have. Nil: another replica's business.
func (m *Manager) tenureOfLease(l Lease) *tenure {
	pool := l.Pool
	if pool == "" && len(l.Choices) > 0 {
		pool = l.Choices[0].Pool
	}
	return m.tenureFor(pool, m.order...)
}

// lookAtLease does what is due for a lease whose time has come.
func (m *Manager) lookAtLease(ctx context.Context, l Lease, now time.Time) error {
	switch l.State {
	case LeaseWaiting:
		reason, detail := "wait_timeout", "no machine became free in time"
		if l.Waiter == "" {
			reason, detail = reasonAbandoned, "the caller hung up, or the runner was restarted, and nobody asked again"
		}
		_, err := m.endLease(ctx, Ending{
			Lease: l.Key(), Kind: l.Kind, States: []LeaseState{LeaseWaiting}, Unwaited: l.Waiter == "",
			Reason: reason, Detail: detail, Now: now,
		})
		return err
	case LeaseStarting:
		if l.Kind == Gitspace && !l.Active.IsZero() {
			return m.store.PostponeLease(ctx, l.Key(), now.Add(time.Hour), now)
		}
		if m.distrustsClock() {
			// It is late by a clock that jumped: its caller may well be there.
			return m.store.PostponeLease(ctx, l.Key(), now.Add(m.startBudget()), now)
		}
		_, err := m.endLease(ctx, Ending{
			Lease: l.Key(), Kind: l.Kind, States: []LeaseState{LeaseStarting}, Unwaited: l.Waiter == "", Reason: reasonAbandoned,
			Detail: "its setup was not finished in time and nobody asked again", Now: now,
		})
		return err
	case LeaseActive:
		if l.Kind == Build {
			return m.lookAtBusyAge(ctx, l, now)
		}
		return m.store.PostponeLease(ctx, l.Key(), now.Add(farFuture), now)
	default:
		return m.store.PostponeLease(ctx, l.Key(), now.Add(farFuture), now)
	}
}

// busyRecheck is how soon a build past its busy age is looked at again while
// something still happens in it.
const busyRecheck = 10 * time.Minute

func (m *Manager) lookAtBusyAge(ctx context.Context, l Lease, now time.Time) error {
	inst, err := m.store.Instance(ctx, l.InstanceID)
	if err != nil {
		return err
	}
	if m.up() < m.t.Idle {
		// Its caller could not have called while there was no runner, and whether
		// the clock is right nobody here has seen yet.
		return m.store.PostponeLease(ctx, l.Key(), now.Add(min(busyRecheck, m.t.Idle-m.up())), now)
	}
	running := m.steps.running(inst.ID)
	if running == 0 {
		probe, cancel := context.WithTimeout(ctx, 5*time.Second)
		h, err := m.agent.Health(probe, inst.Target())
		cancel()
		if err == nil && h.RunningSteps > 0 {
			running = h.RunningSteps
		}
	}
	may, why := mayDestroy(&inst, evidence{
		Why: ReasonBusyAge, Lease: &l, RunningSteps: running, ClockSuspicious: m.distrustsClock(),
		BusyAge: m.busyAgeOf(l.Pool), Idle: m.t.Idle,
	}, now)
	if !may {
		m.log.Debug("build past its busy age goes on", "lease", l.ID, "why", why)
		return m.store.PostponeLease(ctx, l.Key(), now.Add(busyRecheck), now)
	}
	_, err = m.endLease(ctx, Ending{
		Lease: l.Key(), Kind: l.Kind, States: []LeaseState{LeaseActive}, Reason: string(ReasonBusyAge),
		Detail: fmt.Sprintf("older than %s, no step runs and no call came for %s", m.busyAgeOf(l.Pool), m.t.Idle), Now: now,
		Events: []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: l.ID, Generation: l.Generation,
			Reason: string(ReasonBusyAge), Message: "the lease was ended because of its age",
		}},
	})
	return err
}

// advance takes an instance from its state as far as it goes now.
func (m *Manager) advance(ctx context.Context, rt *runtime, inst Instance) {
	for ctx.Err() == nil {
		var next *Instance
		var err error
		m.work.stands(inst)
		unsettled := m.settler.wants(inst.ID)
		switch inst.State {
		case Creating:
			next, err = m.create(ctx, rt, inst)
		case Booting:
			next, err = m.bootUp(ctx, rt, inst)
		case Resuming:
			next, err = m.resume(ctx, rt, inst)
		case Suspending:
			next, err = m.suspend(ctx, rt, inst)
		case Hibernating:
			next, err = m.hibernate(ctx, rt, inst)
		case Destroying:
			next, err = m.destroy(ctx, rt, inst)
		case Warm:
			if unsettled {
				m.settleWarm(ctx, rt, inst)
			}
			next, err = m.retire(ctx, rt, inst)
		case Hibernated:
			next, err = m.retire(ctx, rt, inst)
		case Failed:
			next, err = m.bury(ctx, inst)
		case Suspended:
			err = m.lookAtSuspended(ctx, inst)
		case Leased:
			if unsettled {
				m.rouse(ctx, rt, inst)
			}
			next, err = m.lookAtLeased(ctx, inst)
		default:
			return
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if !errors.Is(err, ErrConflict) {
				m.log.Error("instance not advanced", "instance", inst.Name, "state", inst.State, "err", err)
				m.postpone(ctx, inst, "error", err)
				return
			}
			// Somebody changed the row meanwhile: look at what it is now.
			fresh, err := m.store.Instance(ctx, inst.ID)
			if err != nil || fresh.State == inst.State {
				return
			}
			next = &fresh
		}
		if next == nil {
			return
		}
		inst = *next
	}
}

// reasonDestroyFailed is why a machine that is to be destroyed still exists.
const reasonDestroyFailed = "destroy_failed"

// postpone records a failed try; the row comes back when it is due.
func (m *Manager) postpone(ctx context.Context, inst Instance, reason string, cause error) {
	m.postponeNoting(ctx, inst, reason, cause, false)
}

// postponeNoting does so with an event, for what is worth one.
func (m *Manager) postponeNoting(ctx context.Context, inst Instance, reason string, cause error, note bool) {
	now := m.stamp()
	due := now.Add(backoffAfter(inst.Attempts))
	p := Postponement{Due: due, Attempts: inst.Attempts + 1, Reason: reason, Detail: cause.Error(), Now: now}
	if note {
		p.Events = []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: inst.LeaseID, Generation: inst.LeaseGeneration,
			Reason: reason, Message: cause.Error() + " (tried again until it works)",
		}}
	}
	err := m.store.Postpone(ctx, inst.ID, inst.State, p)
	if err == nil || errors.Is(err, ErrConflict) {
		m.work.remind(due.Add(time.Millisecond))
		return
	}
	if ctx.Err() != nil {
		return // the tenure is over: whoever has the pool next finds the row
	}
	m.log.Error("instance not postponed", "instance", inst.Name, "err", err)
	// The row does not say when it is due: a store that cannot be written now
	// must not leave the machine to a due time of long ago.
	m.spawn(func(ctx context.Context) {
		again := time.NewTimer(due.Sub(now))
		defer again.Stop()
		select {
		case <-ctx.Done():
		case <-again.C:
			m.work.dispatch(m, inst)
		}
	})
}

// take gets one of the pool's places for concurrent work. waited says that
// there was none at first, so that the row may have changed since it was read.
func take(ctx context.Context, slots chan struct{}) (release func(), waited bool, err error) {
	release = func() { <-slots }
	select {
	case slots <- struct{}{}:
		return release, false, nil
	default:
	}
	select {
	case slots <- struct{}{}:
		return release, true, nil
	case <-ctx.Done():
		return nil, true, ctx.Err()
	}
}

// retire ends a warm machine whose time is over.
func (m *Manager) retire(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	now, age := m.stamp(), m.freeAge(rt)
	if now.Before(inst.Due) {
		return nil, nil
	}
	if inst.Held {
		return nil, m.lookAtHeld(ctx, inst)
	}
	if !expired(inst, age, now) {
		return nil, m.store.Postpone(ctx, inst.ID, inst.State, Postponement{
			Due: m.warmDue(inst, now), Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now,
		})
	}
	return m.condemn(ctx, inst, evidence{Why: ReasonExpired, FreeAge: age}, "older than the free age of "+age.String())
}

// warmDue is when a free machine has reached its age, or its own deadline.
func (m *Manager) warmDue(inst Instance, now time.Time) time.Time {
	age := m.t.FreeAge
	if rt := m.pools[inst.Pool]; rt != nil {
		age = m.freeAge(rt)
	}
	warmed := inst.Warmed
	if warmed.IsZero() {
		warmed = now
	}
	due := warmed.Add(age)
	if !inst.Deadline.IsZero() && inst.Deadline.Before(due) {
		return inst.Deadline
	}
	return due
}

// condemn makes an instance Destroying if the gate lets it.
func (m *Manager) condemn(ctx context.Context, inst Instance, e evidence, detail string) (*Instance, error) {
	now := m.stamp()
	e.ClockSuspicious = m.distrustsClock()
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return nil, err
	}
	e.Lease = lease
	may, why := mayDestroy(&inst, e, now)
	if !may {
		m.log.Debug("instance is kept", "instance", inst.Name, "wanted", e.Why, "why", why)
		return nil, m.store.Postpone(ctx, inst.ID, inst.State, Postponement{
			Due: now.Add(busyRecheck), Attempts: inst.Attempts, Reason: string(why), Detail: detail, Now: now,
		})
	}
	next, err := m.store.Change(ctx, Change{
		ID: inst.ID, From: []InstanceState{inst.State}, To: Destroying, Due: now,
		Reason: string(e.Why), Detail: detail, Now: now,
		Events: []Event{{At: now, Pool: inst.Pool, Instance: inst.ID, Reason: string(e.Why), Message: "to be destroyed: " + detail}},
	})
	if err != nil {
		return nil, err
	}
	if rt := m.pools[inst.Pool]; rt != nil {
		rt.kick()
	}
	return &next, nil
}

// leasedRecheck is how often a machine in use is looked at.
const leasedRecheck = time.Hour

// lookAtLeased looks whether a machine in use still has its lease, which
// otherwise says when it ends, and sees to its certificates. A build without a
// lease is nobody's.
func (m *Manager) lookAtLeased(ctx context.Context, inst Instance) (*Instance, error) {
	now := m.stamp()
	if now.Before(inst.Due) {
		return nil, nil
	}
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return nil, err
	}
	gone := lease == nil || lease.State.Final() || lease.InstanceID != inst.ID
	if gone && inst.Kind == Build && !inst.Held {
		return m.condemn(ctx, inst, evidence{Why: ReasonReleased}, "no lease has it any more")
	}
	p := Postponement{Due: now.Add(leasedRecheck), Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now}
	if !gone {
		m.keepCertificate(ctx, inst, &p)
	}
	return nil, m.store.Postpone(ctx, inst.ID, inst.State, p)
}

// bury ends a failed build when its time has come; a gitspace stays for its
// owner or an operator.
func (m *Manager) bury(ctx context.Context, inst Instance) (*Instance, error) {
	now := m.stamp()
	if now.Before(inst.Due) {
		return nil, nil
	}
	if inst.Kind == Gitspace {
		lease, err := m.leaseOf(ctx, inst)
		if err != nil {
			return nil, err
		}
		if lease != nil && !lease.State.Final() {
			return nil, m.store.Postpone(ctx, inst.ID, inst.State, Postponement{
				Due: now.Add(farFuture), Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now,
			})
		}
	}
	if inst.Held {
		return nil, m.lookAtHeld(ctx, inst)
	}
	return m.condemn(ctx, inst, evidence{Why: ReasonBroken}, inst.Detail)
}

// leaseOf is the row of the lease an instance belongs, or belonged, to.
func (m *Manager) leaseOf(ctx context.Context, inst Instance) (*Lease, error) {
	if inst.LeaseID == "" {
		return nil, nil
	}
	l, err := m.store.LeaseAt(ctx, LeaseKey{ID: inst.LeaseID, Generation: inst.LeaseGeneration})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &l, err
}

// destroy ends a machine and, once the cloud has confirmed it, its row. It is
// tried for ever.
func (m *Manager) destroy(ctx context.Context, rt *runtime, inst Instance) (*Instance, error) {
	release, _, err := take(ctx, rt.ends)
	if err != nil {
		return nil, err
	}
	defer release()
	lease, err := m.leaseOf(ctx, inst)
	if err != nil {
		return nil, err
	}
	why := Reason(inst.Reason)
	switch why {
	case ReasonExpired, ReasonDrifted, ReasonSurplus, ReasonOperator:
	default:
		why = ReasonReleased
	}
	e := evidence{Why: why, Lease: lease, FreeAge: m.freeAge(rt)}
	if p := permitRow(inst, e, m.stamp()); !p.granted {
		return nil, m.refused(ctx, inst, p.why)
	}
	if m.sayGoodbye(ctx, inst) {
		// That took a while, in which somebody may have laid a hold on it.
		if inst, err = m.store.Instance(ctx, inst.ID); err != nil || inst.State != Destroying {
			return nil, err
		}
	}
	p := permitRow(inst, e, m.stamp())
	if !p.granted {
		return nil, m.refused(ctx, inst, p.why)
	}
	call, cancel := context.WithTimeout(ctx, m.t.Create)
	defer cancel()
	if err := rt.driver(inst).Destroy(call, p); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		m.counters.destroyed(inst.Pool, drivers.Kind(err))
		m.log.Warn("machine not destroyed yet, tried again", "instance", inst.Name, "attempt", inst.Attempts+1, "err", err)
		m.postponeNoting(ctx, inst, reasonDestroyFailed, err, inst.Attempts == 0)
		m.hub.notify(instanceKey(inst.ID))
		return nil, nil
	}
	now := m.stamp()
	if _, err := m.store.Change(ctx, Change{
		ID: inst.ID, From: []InstanceState{Destroying}, To: Gone, Reason: inst.Reason, Detail: inst.Detail, Now: now,
	}); err != nil {
		return nil, err
	}
	m.counters.destroyed(inst.Pool, "destroyed")
	m.agent.Forget(inst.ID)
	m.hub.notify(instanceKey(inst.ID))
	m.roomLeft(inst)
	rt.kick()
	return nil, nil
}

// goodbye is how long an agent may take to clean up before its machine goes.
const goodbye = 5 * time.Second

// sayGoodbye lets the agent of a machine that was in use clean up, and says
// whether it was asked. It is a courtesy: its failure changes nothing.
func (m *Manager) sayGoodbye(ctx context.Context, inst Instance) bool {
	if inst.LeaseID == "" || inst.Address == "" || inst.Attempts > 0 || inst.Reason == string(ReasonBroken) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	body := []byte(`{"stage_runtime_id":` + quote(inst.LeaseID) + `}`)
	if err := m.agent.Destroy(ctx, inst.Target(), body); err != nil {
		m.log.Debug("agent did not clean up", "instance", inst.Name, "err", err)
	}
	return true
}

// refused puts off a destroy that the gate does not allow. A hold is an
// operator's wish and waited for; anything else is a bug, and tried again.
func (m *Manager) refused(ctx context.Context, inst Instance, why Reason) error {
	now := m.stamp()
	if why == KeepHeld {
		detail := cmp.Or(inst.Detail, inst.Reason)
		if inst.Reason == string(KeepHeld) {
			detail = inst.Detail
		}
		return m.store.Postpone(ctx, inst.ID, inst.State, Postponement{
			Due: now.Add(heldRecheck), Held: true, Attempts: inst.Attempts, Reason: string(KeepHeld), Detail: detail, Now: now,
		})
	}
	m.log.Error("destroy refused at the gate", "instance", inst.Name, "lease", inst.LeaseID, "why", why)
	m.postpone(ctx, inst, string(why), errors.New("the gate refused to destroy this machine"))
	return nil
}

// heldRecheck is how often a held machine is looked at; its release looks at
// once.
const heldRecheck = time.Hour
