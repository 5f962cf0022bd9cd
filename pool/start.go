package pool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// start takes a starting lease as far as it goes: it waits for the machine,
// prepares it and activates the lease. again means that the lease has another
// state by now and is to be looked at anew.
func (s *setup) start(ctx context.Context) (res SetupResult, again bool, err error) {
	m := s.m
	hurried := false
	for {
		inst, err := s.instance(ctx)
		if err != nil {
			return res, false, err
		}
		switch inst.State {
		case Leased:
			if wait := s.rivalFor(inst); wait > 0 {
				if err := s.pause(ctx, min(wait, relook)); err != nil {
					return res, false, err
				}
				break
			}
			return s.prepare(ctx, inst)
		case Creating, Booting, Warm, Resuming:
			if inst.State == Resuming && !hurried {
				hurried = true
				if err := m.hurry(ctx, inst); err != nil {
					return res, false, err
				}
			}
			if m.work.idle(inst.ID) {
				m.work.dispatch(m, inst) // in case nobody has
			}
			if err := s.pause(ctx, relook); err != nil {
				return res, false, err
			}
		default:
			// Whoever failed the machine takes the lease off it in the same
			// breath; seeing it here means that breath is still going on.
			if err := s.pause(ctx, 100*time.Millisecond); err != nil {
				return res, false, err
			}
		}
		if err := s.reread(ctx); err != nil {
			return res, false, err
		}
		if s.lease.State != LeaseStarting || s.lease.InstanceID != inst.ID || s.follows() {
			return res, true, nil
		}
	}
}

// hurry makes a machine that is on its way back from disk due now if another
// replica has its pool: what was claimed here is to be woken there.
func (m *Manager) hurry(ctx context.Context, inst Instance) error {
	if rt := m.pools[inst.Pool]; rt == nil || rt.tenured() != nil {
		return nil
	}
	now := m.stamp()
	err := m.store.Postpone(ctx, inst.ID, Resuming, Postponement{
		Due: now, Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now,
	})
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("have %s woken: %w", inst.Name, err)
	}
	return nil
}

// instance is the lease's machine: the row that came with a claim or that was
// written for it just now, once, and from then on as the store has it.
func (s *setup) instance(ctx context.Context) (Instance, error) {
	inst := s.inst
	s.inst = nil
	if inst != nil && inst.ID == s.lease.InstanceID && (inst.State == Leased || inst.State == Creating) {
		return *inst, nil
	}
	row, err := s.m.store.Instance(ctx, s.lease.InstanceID)
	if err != nil {
		return row, fmt.Errorf("setup %s: %w", s.r.ID, err)
	}
	return row, nil
}

// prepare wakes the machine, has its agent set up, and activates the lease.
func (s *setup) prepare(ctx context.Context, inst Instance) (SetupResult, bool, error) {
	m := s.m
	s.k.tell(Progress{Phase: "provisioned", Pool: inst.Pool, Instance: &inst})
	inst, phase, err := m.ready(ctx, inst, s.r, func() {
		s.k.tell(Progress{Phase: "healthy", Pool: inst.Pool, Instance: &inst})
	})
	if err == nil {
		phase, err = "setup", s.initialise(ctx, inst)
	}
	if err != nil {
		if ctx.Err() != nil {
			return SetupResult{}, false, errStopping
		}
		cause := m.causeOf(ctx, inst, phase, err)
		s.k.tell(Progress{Phase: "failed", Step: phase, Pool: inst.Pool, Instance: &inst, Message: cause.Message})
		if s.keeps() {
			return SetupResult{}, false, &SetupError{Causes: []Cause{cause}, Err: err}
		}
		if usedBefore(err) {
			// Whatever the store says, somebody else has it: it is kept for them.
			if err := m.hold(ctx, inst, reasonUsed, cause.Message, m.stamp()); err != nil {
				return SetupResult{}, false, fmt.Errorf("setup %s: hold %s: %w", s.r.ID, inst.Name, err)
			}
			cause.Kind = reasonUsed
		}
		// A warm machine that turns out dead is not the request's fault: it
		// takes another once. A refusal by the agent is.
		err := m.failLease(ctx, s.lease, inst, cause, cause.Kind == reasonUsed || (!inst.Cold && phase == "health"), time.Time{})
		if err != nil && !errors.Is(err, ErrConflict) {
			return SetupResult{}, false, err
		}
		return SetupResult{}, true, s.reread(ctx)
	}
	if err := s.deserted(ctx); err != nil {
		return SetupResult{}, false, err
	}
	now := m.stamp()
	l, err := m.store.Activate(ctx, s.lease.Key(), m.busyDue(s.lease, now), now)
	if err != nil {
		if errors.Is(err, ErrConflict) {
			return SetupResult{}, true, s.reread(ctx)
		}
		return SetupResult{}, false, fmt.Errorf("setup %s: %w", s.r.ID, err)
	}
	s.lease = l
	m.hub.notify(leaseKey(l.ID))
	s.k.tell(Progress{Phase: "ready", Pool: inst.Pool, Instance: &inst})
	m.counters.fallback(s.r.Pools, inst.Pool)
	return SetupResult{Lease: l, Instance: inst, Ports: portsOf(l)}, false, nil
}

// usedBefore says whether an agent has refused because its machine was set up
// for somebody else.
func usedBefore(err error) bool {
	refusal, ok := errors.AsType[*AgentError](err)
	return ok && refusal.Op == "setup" && refusal.Status == StatusUsed
}

// keeps says whether a failure must leave the machine alone: a gitspace that
// was in use before keeps its machine, whatever its agent says.
func (s *setup) keeps() bool { return s.lease.Kind == Gitspace && !s.lease.Active.IsZero() }

// waitDue is when a waiting lease is looked at: a grace after its wait is over,
// and if the clock was set back since it came, no later than if it came now.
func (m *Manager) waitDue(l Lease, now time.Time) time.Time {
	until := l.WaitUntil
	if latest := now.Add(l.WaitUntil.Sub(l.Arrived)); until.After(latest) {
		until = latest
	}
	return until.Add(m.t.Grace)
}

// busyDue is when an active lease is first looked at: a build at its busy age,
// a gitspace never by age.
func (m *Manager) busyDue(l Lease, now time.Time) time.Time {
	if l.Kind == Gitspace {
		return now.Add(farFuture)
	}
	return l.Arrived.Add(m.busyAgeOf(l.Pool))
}

// farFuture is "not by itself", where a due time must be there.
const farFuture = 10 * 365 * 24 * time.Hour

// ready lets a leased machine run and has its agent set up; healthy is called
// between the two. The phase says how far it came: "health" or "setup". The row
// that is returned has the machine's certificates as they are now.
func (m *Manager) ready(ctx context.Context, inst Instance, r SetupRequest, healthy func()) (_ Instance, phase string, err error) {
	rt := m.runtimeOf(inst)
	if rt == nil {
		return inst, "health", fmt.Errorf("%w: pool %s has no driver", ErrNotFound, inst.Pool)
	}
	begun := m.now()
	health, cancel := context.WithTimeout(ctx, m.healthBudget(inst))
	defer cancel()
	client := rt.driver(inst)
	if client.CanPause() {
		if err := m.settler.leave(health, inst.ID); err != nil {
			return inst, "health", err
		}
		// The answer comes from the agent itself, so it is the health check.
		if err := client.Unpause(health, inst.Ref()); err != nil {
			return inst, "health", err
		}
	}
	held := m.stillHeld(ctx, inst)
	if m.wantsRenewal(inst, m.stamp()) {
		// First thing: it may have ended while the machine slept.
		if inst, err = m.reissue(health, inst, held); err != nil {
			return inst, "health", fmt.Errorf("the machine's certificate has ended and is not renewed: %w (%s)", err, endedAdvice)
		}
	}
	if !client.CanPause() {
		if _, err := m.awaitHealth(health, inst, held); err != nil {
			return inst, "health", fmt.Errorf("agent not healthy after %s: %w", m.now().Sub(begun).Round(time.Millisecond), err)
		}
	}
	healthy()
	m.counters.phase("health", m.now().Sub(begun))
	begun = m.now()
	defer m.links.use(inst.ID, m.now)()
	setup, cancel := context.WithTimeout(ctx, m.t.Setup)
	defer cancel()
	if m.wantsRenewal(inst, m.stamp()) {
		if fresh, err := m.renewCertificate(setup, inst); err == nil {
			inst = fresh
		} else {
			m.log.Debug("certificate not renewed yet", "instance", inst.Name, "err", err)
		}
	}
	body, err := r.Fit.of(r.Body, inst, "setup of "+r.ID)
	if err != nil {
		return inst, "setup", err
	}
	if err := m.agent.Setup(setup, inst.Target(), body); err != nil {
		var refusal *AgentError
		if errors.As(err, &refusal) {
			return inst, "setup", err
		}
		return inst, "health", fmt.Errorf("agent did not take the setup in %s: %w", m.t.Setup, err)
	}
	m.counters.phase("setup", m.now().Sub(begun))
	return inst, "", nil
}

// healthBudget is how long a leased machine's agent may take to answer.
func (m *Manager) healthBudget(inst Instance) time.Duration {
	switch {
	case !inst.Warmed.IsZero() && inst.OS == "windows":
		return m.t.BootWindows
	case inst.Kind == Gitspace && cameBack(inst):
		return m.t.Hibernated
	default:
		return m.t.Hot
	}
}

// cameBack says whether the machine has slept on disk since it was proven.
func cameBack(inst Instance) bool { return !inst.Warmed.IsZero() && inst.Since.After(inst.Warmed) }

// heldEvery is how often a machine whose agent does not answer is looked up.
const heldEvery = 2 * time.Second

// stillHeld says, every now and then, whether a machine is still its lease's:
// one that the sweeper has found dead is not waited for, and the sweeper is
// asked to look.
func (m *Manager) stillHeld(ctx context.Context, inst Instance) func() error {
	asked := m.now()
	kicks := 3 // the two listings that prove an absence, and one for luck
	return func() error {
		if m.now().Sub(asked) < heldEvery {
			return nil
		}
		asked = m.now()
		if sc := m.scopes[inst.Scope]; sc != nil && kicks > 0 {
			kicks--
			sc.kick()
		}
		row, err := m.store.Instance(ctx, inst.ID)
		if err == nil && row.State != Leased {
			return fmt.Errorf("%w: %s", errDead, cmp.Or(row.Detail, row.Reason))
		}
		return nil
	}
}

// awaitHealth asks an agent, ever more slowly, until it is ready, ctx ends, or
// alive says that waiting is in vain.
func (m *Manager) awaitHealth(ctx context.Context, inst Instance, alive func() error) (Health, error) {
	pause := 10 * time.Millisecond
	var last error
	for {
		h, err := m.agent.Health(ctx, inst.Target())
		if err == nil {
			return h, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if alive != nil {
			if err := alive(); err != nil {
				return h, err
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return h, last
		case <-t.C:
		}
		pause = min(2*pause, time.Second)
	}
}

// joined answers a setup whose lease already has its machine. again means that
// a dead one is being restarted.
func (s *setup) joined(ctx context.Context) (_ SetupResult, again bool, _ error) {
	m := s.m
	inst, err := m.store.Instance(ctx, s.lease.InstanceID)
	if err != nil {
		return SetupResult{}, false, fmt.Errorf("setup %s: %w", s.r.ID, err)
	}
	if inst.State == Failed && s.lease.Kind == Gitspace {
		return SetupResult{}, true, s.wake(ctx)
	}
	if s.r.Digest != "" && s.lease.Digest != "" && s.r.Digest != s.lease.Digest {
		err := m.store.Note(ctx, Event{
			At: m.stamp(), Pool: inst.Pool, Instance: inst.ID, Lease: s.lease.ID, Generation: s.lease.Generation,
			Reason:  "setup_differs",
			Message: "a repeated setup asks for something else; it was given the machine it has",
		})
		if err != nil {
			m.log.Warn("event not written", "lease", s.lease.ID, "err", err)
		}
	}
	return SetupResult{Lease: s.lease, Instance: inst, Ports: portsOf(s.lease), Joined: true}, false, nil
}

// wake begins the resume of a sleeping gitspace, once per setup.
func (s *setup) wake(ctx context.Context) error {
	m := s.m
	if s.woke {
		return fmt.Errorf("%w: %s could not be resumed: %s", ErrUnavailable, s.lease.ID, cmp.Or(s.lease.Detail, s.lease.Reason))
	}
	s.woke, s.how = true, "resumed"
	now := m.stamp()
	due := now.Add(m.startBudget())
	if rt := m.pools[s.lease.Pool]; rt != nil {
		due = rt.dueAt(due, now)
	}
	l, inst, err := m.store.Waking(ctx, s.lease.Key(), m.incarnation, due, now)
	if errors.Is(err, ErrConflict) {
		return s.reread(ctx)
	}
	if err != nil {
		return fmt.Errorf("resume %s: %w", s.lease.ID, err)
	}
	s.lease = l
	m.work.dispatch(m, inst)
	return nil
}

// causeDied is the kind of a cause that is a machine's certain death.
const causeDied = "machine_died"

// failLease takes a lease off a machine that failed it before its caller was
// answered. With choices left it waits again, at its old place; with none it
// ends with all its causes. retry lets the pool be tried once more; a machine
// that certainly died, or is somebody else's, is no mark against its pool and
// costs no try, since it is out of the pool with that. With keep set the
// machine stays until then, for inspection; else it is destroyed.
func (m *Manager) failLease(ctx context.Context, l Lease, inst Instance, cause Cause, retry bool, keep time.Time) error {
	before := 0
	for _, c := range l.Causes {
		if c.Pool == inst.Pool && c.Kind != causeDied && c.Kind != reasonUsed {
			before++
		}
	}
	left := slices.Clone(l.Choices)
	free := retry && (cause.Kind == causeDied || cause.Kind == reasonUsed)
	if !free && (!retry || before > 0) {
		left = slices.DeleteFunc(left, func(c Choice) bool { return c.Pool == inst.Pool })
	}
	now := m.stamp()
	event := Event{
		At: now, Pool: inst.Pool, Instance: inst.ID, Lease: l.ID, Generation: l.Generation,
		Reason: "machine_failed", Message: cause.String(),
	}
	last := len(left) == 0
	if last && !keep.IsZero() {
		// The end of a lease destroys its machine: it is taken off first.
		left = l.Choices
	} else if last {
		// Naming the machine keeps a lease that is on another by now from being
		// ended for this one's failure.
		_, err := m.endLease(ctx, Ending{
			Lease: l.Key(), Instance: inst.ID, Kind: l.Kind, States: []LeaseState{LeaseStarting},
			Cause: cause, Reason: "setup_failed", Detail: cause.String(), Now: now, Events: []Event{event},
		})
		return err
	}
	need := m.needs(l.Want, left)
	// Its setup, woken below, tries what is left in the request's order.
	_, err := m.store.Requeue(ctx, Requeue{
		Lease: l.Key(), Instance: inst.ID, Cause: cause, Choices: left, NoClaim: l.Kind == Gitspace,
		Keep:        cause.Kind == reasonUsed || !keep.IsZero(),
		InstanceDue: maxTime(now, keep), NeedUntil: now.Add(need),
		Due: m.waitDue(l, now), LeaseDue: now.Add(m.startBudget()), Now: now, Events: []Event{event},
	})
	if err != nil {
		return fmt.Errorf("take %s off %s: %w", l.ID, inst.Name, err)
	}
	if last {
		// Given another machine at that moment it goes on, which is no harm.
		_, err := m.endLease(ctx, Ending{
			Lease: l.Key(), Kind: l.Kind, States: []LeaseState{LeaseWaiting},
			Reason: "setup_failed", Detail: cause.String(), Now: now,
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
	}
	m.hub.notify(leaseKey(l.ID))
	if broken, err := m.store.Instance(ctx, inst.ID); err == nil {
		m.work.dispatch(m, broken)
	}
	if rt := m.pools[inst.Pool]; rt != nil {
		rt.kick()
	}
	return nil
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// endLease ends a lease in the store and sends its machine to the worker.
func (m *Manager) endLease(ctx context.Context, e Ending) (Ended, error) {
	ended, err := m.store.End(ctx, e)
	if err != nil {
		return ended, fmt.Errorf("end %s: %w", e.Lease.ID, err)
	}
	m.hub.notify(leaseKey(e.Lease.ID))
	if ended.Instance != nil {
		m.hub.notify(instanceKey(ended.Instance.ID))
		m.steps.end(ended.Instance.ID, fmt.Errorf("%w: %s was destroyed", ErrConflict, e.Lease.ID))
		m.work.dispatch(m, *ended.Instance)
	}
	if ended.Outcome == EndNow {
		for _, c := range ended.Lease.Choices {
			if rt := m.pools[c.Pool]; rt != nil {
				rt.kick()
			}
		}
	}
	return ended, nil
}

// causeOf says what went wrong with a machine, with its console's last words.
func (m *Manager) causeOf(ctx context.Context, inst Instance, phase string, err error) Cause {
	console := m.console(ctx, inst)
	message := err.Error()
	if _, runs := errors.AsType[*unhealthyError](err); runs && m.silentBoot(inst, console) {
		message += "; " + noBootStep
	}
	return Cause{
		Pool: inst.Pool, Instance: inst.ID, Phase: phase, Kind: kindOf(err),
		Message: message, Step: LastBootStep(console), Console: tailOf(console),
	}
}

const (
	// consoleRead is enough to find a boot script's last step among what other
	// programs write at the same time.
	consoleRead = 64 << 10
	consoleTail = 400
)

// console is the end of a machine's console, "" if there is none to be had
// soon.
func (m *Manager) console(ctx context.Context, inst Instance) string {
	rt := m.runtimeOf(inst)
	if rt == nil || !rt.driver(inst).CanReadConsole() {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	var b bytes.Buffer
	if err := rt.driver(inst).Console(ctx, inst.Ref(), &b, consoleRead); err != nil {
		return ""
	}
	return strings.ToValidUTF8(b.String(), "")
}

// tailOf makes one short line of a console's end.
func tailOf(console string) string {
	text := strings.Join(strings.Fields(console), " ")
	if r := []rune(text); len(r) > consoleTail {
		text = "…" + string(r[len(r)-consoleTail:])
	}
	return text
}

// portsOf maps a gitspace's ports: each machine has an address of its own, so
// a port is reached under its own number. Nil for builds.
func portsOf(l Lease) map[int]int {
	if l.Kind != Gitspace {
		return nil
	}
	ports := make(map[int]int, len(l.Want.Ports))
	for _, p := range l.Want.Ports {
		ports[p] = p
	}
	return ports
}
