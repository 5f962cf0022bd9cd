package pool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// stepTable knows the steps this process follows, by machine, so that they end
// when their machine does; and the last calls not yet written.
type stepTable struct {
	mu    sync.Mutex
	byVM  map[string]map[*follower]struct{}
	ids   map[string][]string // lease id -> step ids in order
	calls map[LeaseKey]time.Time
}

// follower is one step somebody waits for.
type follower struct {
	key  LeaseKey
	stop context.CancelCauseFunc
}

// maxStepIDs bounds the remembered steps of one lease.
const maxStepIDs = 1000

func (t *stepTable) init() {
	t.byVM = map[string]map[*follower]struct{}{}
	t.ids = map[string][]string{}
	t.calls = map[LeaseKey]time.Time{}
}

// begin follows a step under ctx; end it with the returned function.
func (t *stepTable) begin(ctx context.Context, inst Instance, key LeaseKey, step string, now time.Time) (context.Context, func(time.Time)) {
	ctx, stop := context.WithCancelCause(ctx)
	f := &follower{key: key, stop: stop}
	t.mu.Lock()
	defer t.mu.Unlock()
	set := t.byVM[inst.ID]
	if set == nil {
		set = map[*follower]struct{}{}
		t.byVM[inst.ID] = set
	}
	set[f] = struct{}{}
	if ids := t.ids[key.ID]; step != "" && len(ids) < maxStepIDs && !slices.Contains(ids, step) {
		t.ids[key.ID] = append(ids, step)
	}
	t.calls[key] = now
	return ctx, func(now time.Time) {
		stop(nil)
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(set, f)
		if len(set) == 0 {
			delete(t.byVM, inst.ID)
		}
		t.calls[key] = now
	}
}

// end makes every follower of a machine stop with the cause, and forgets the
// steps of its lease.
func (t *stepTable) end(instance string, cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f := range t.byVM[instance] {
		f.stop(cause)
	}
}

// forget drops the step ids of a lease that is over.
func (t *stepTable) forget(lease string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ids, lease)
}

// leases are those whose steps are remembered.
func (t *stepTable) leases() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.ids))
}

func (t *stepTable) running(instance string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byVM[instance])
}

func (t *stepTable) list(lease string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.ids[lease])
}

// machines lists the machines whose steps are followed.
func (t *stepTable) machines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.byVM))
}

// takeCalls returns and clears what is to be written; a lease with a running
// step is being called all the time.
func (t *stepTable) takeCalls() map[LeaseKey]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := t.calls
	t.calls = map[LeaseKey]time.Time{}
	return calls
}

func (t *stepTable) putBack(calls map[LeaseKey]time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, v := range calls {
		if t.calls[k].Before(v) {
			t.calls[k] = v
		}
	}
}

// touchRunning marks the leases with running steps as called now.
func (t *stepTable) touchRunning(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, set := range t.byVM {
		for f := range set {
			t.calls[f.key] = now
		}
	}
}

// Step implements Service.
func (m *Manager) Step(ctx context.Context, r StepRequest) (json.RawMessage, error) {
	lease, inst, err := m.activeMachine(ctx, r.Lease, r.Instance)
	if errors.Is(err, ErrNotFound) && lease.ID == "" && r.Known != nil && r.Known.complete() {
		if _, err := m.takeOverKnown(ctx, r.Lease, *r.Known, Want{}, toTalk); err != nil {
			return nil, fmt.Errorf("stage %w", err)
		}
		lease, inst, err = m.activeMachine(ctx, r.Lease, r.Instance)
	}
	if err != nil {
		return nil, err
	}
	exported, err := m.store.Exported(ctx, lease.Key())
	if err != nil {
		return nil, fmt.Errorf("step %s of %s: %w", r.Step, r.Lease, err)
	}
	body, err := r.Body(exported)
	if err != nil {
		return nil, fmt.Errorf("%w: step %s of %s: %w", ErrInvalid, r.Step, r.Lease, err)
	}
	if body, err = r.Fit.of(body, inst, "step "+r.Step+" of "+r.Lease); err != nil {
		return nil, err
	}
	ctx, done := m.steps.begin(ctx, inst, lease.Key(), r.Step, m.stamp())
	defer func() { done(m.stamp()) }()
	defer m.links.use(inst.ID, m.now)()

	start, cancel := context.WithTimeout(ctx, m.t.StartStep)
	err = m.agent.StartStep(start, inst.Target(), body)
	cancel()
	if err != nil {
		return nil, m.stepError(ctx, lease, inst, r.Step, "start", err)
	}
	limit := m.t.Poll
	if r.Timeout > 0 {
		limit = min(limit, r.Timeout+stepGrace)
	}
	poll, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res, err := m.agent.PollStep(poll, inst.Target(), r.Step)
	if err != nil {
		if ctx.Err() == nil && poll.Err() != nil && r.Timeout > 0 {
			// The agent should have ended it; the caller gets what it would
			// have said.
			return json.RawMessage(`{"exited":true,"exit_code":255,"error":"context deadline exceeded"}`), nil
		}
		return nil, m.stepError(ctx, lease, inst, r.Step, "poll", err)
	}
	if len(res.Exported) > 0 {
		if err := m.store.Export(ctx, lease.Key(), res.Exported, m.stamp()); err != nil {
			return nil, fmt.Errorf("keep what step %s of %s exported: %w", r.Step, r.Lease, err)
		}
	}
	return res.Body, nil
}

// stepGrace is how long past a step's own timeout its agent may take to say so.
const stepGrace = 30 * time.Second

// stepError explains why a step could not be started or followed. If the
// machine has died, that is the explanation.
func (m *Manager) stepError(ctx context.Context, l Lease, inst Instance, step, what string, err error) error {
	var lost *LostError
	if cause := context.Cause(ctx); errors.As(cause, &lost) {
		return lost
	} else if ctx.Err() != nil && cause != nil {
		return fmt.Errorf("%s step %s of %s: %w", what, step, l.ID, cause)
	}
	var refusal *AgentError
	if !errors.As(err, &refusal) {
		// Unreachable: perhaps dead. Whoever knows looks at once.
		m.suspect(inst)
		if err := m.waitForDeath(ctx, l); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s step %s of %s: %w", what, step, l.ID, err)
}

// deathWatch is how long an unreachable machine's death is waited for before
// its being unreachable is the answer.
const deathWatch = 12 * time.Second

// waitForDeath returns the LostError of a lease if the sweeper finds its
// machine dead soon, else nil.
func (m *Manager) waitForDeath(ctx context.Context, l Lease) error {
	ch, end := m.hub.watch(leaseKey(l.ID))
	defer end()
	limit := time.NewTimer(deathWatch)
	defer limit.Stop()
	again := time.NewTicker(relook)
	defer again.Stop()
	for {
		now, err := m.store.LeaseAt(ctx, l.Key())
		if err == nil && now.State == LeaseLost {
			return &LostError{Lease: l.ID, Instance: now.InstanceID, Cause: now.Detail}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-limit.C:
			return nil
		case <-again.C:
		case <-ch:
		}
	}
}

// activeMachine finds the machine a lease may run steps on. instance, if set,
// must be it.
func (m *Manager) activeMachine(ctx context.Context, id, instance string) (Lease, Instance, error) {
	lease, err := m.store.Lease(ctx, id)
	if err != nil {
		return lease, Instance{}, fmt.Errorf("stage %s: %w", id, err)
	}
	switch lease.State {
	case LeaseActive:
	case LeaseLost:
		return lease, Instance{}, &LostError{Lease: id, Instance: lease.InstanceID, Cause: cmp.Or(lease.Detail, lease.Reason)}
	case LeaseEnded:
		return lease, Instance{}, fmt.Errorf("stage %s: %w: it has ended (%s)", id, ErrNotFound, lease.Reason)
	default:
		return lease, Instance{}, fmt.Errorf("stage %s: %w: it is %s, not active", id, ErrConflict, lease.State)
	}
	inst, err := m.store.Instance(ctx, lease.InstanceID)
	if err != nil {
		return lease, inst, fmt.Errorf("machine of stage %s: %w", id, err)
	}
	if instance != "" && !inst.is(instance) {
		return lease, inst, fmt.Errorf("machine %s of stage %s: %w: the stage's machine is %s", instance, id, ErrNotFound, inst.ExternalID())
	}
	if inst.State == Failed {
		return lease, inst, &LostError{Lease: id, Instance: inst.Name, Cause: cmp.Or(inst.Detail, inst.Reason)}
	}
	if inst.State != Leased {
		return lease, inst, fmt.Errorf("machine of stage %s: %w: it is %s", id, ErrConflict, inst.State)
	}
	return lease, inst, nil
}

// is says whether a caller's word for a machine means this one.
func (i Instance) is(name string) bool {
	return name == i.ID || name == i.Name || (i.CloudID != "" && name == i.CloudID)
}

// StepOutput implements Service.
func (m *Manager) StepOutput(ctx context.Context, id, step string, offset int64, follow bool, w io.Writer) (int64, error) {
	_, inst, err := m.activeMachine(ctx, id, "")
	if err != nil {
		return offset, err
	}
	defer m.links.use(inst.ID, m.now)()
	if follow {
		next, err := m.agent.Output(ctx, inst.Target(), step, offset, w)
		return next, m.outputError(id, step, inst, err)
	}
	// What there is now: reading stops when nothing more comes for a moment.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(outputFirst, cancel)
	defer quiet.Stop()
	next, err := m.agent.Output(ctx, inst.Target(), step, offset, writerFunc(func(p []byte) (int, error) {
		quiet.Reset(outputQuiet)
		return w.Write(p)
	}))
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	return next, m.outputError(id, step, inst, err)
}

// outputError says more where an agent has no output of a step that was begun:
// ours has that of every step, others only of those in drone mode.
func (m *Manager) outputError(lease, step string, inst Instance, err error) error {
	refused, ok := errors.AsType[*AgentError](err)
	if !ok || !refused.Final() || !slices.Contains(m.steps.list(lease), step) {
		return err
	}
	return fmt.Errorf("the agent of machine %s keeps no output of step %s; an existing agent sends it to the log service of its pipeline only, look there, or use this project's agent: %w", inst.Name, step, err)
}

// A finished step's output ends by itself. Of a running one, what there is now
// has been read when nothing came at first for outputFirst (a connection may
// have to be made), and then for outputQuiet.
const (
	outputFirst = 3 * time.Second
	outputQuiet = 300 * time.Millisecond
)

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// StepIDs implements Service.
func (m *Manager) StepIDs(ctx context.Context, id string) ([]string, error) {
	if _, err := m.store.Lease(ctx, id); err != nil {
		return nil, fmt.Errorf("stage %s: %w", id, err)
	}
	return m.steps.list(id), nil
}
