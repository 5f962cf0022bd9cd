package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// What replicas tell each other is "kind:name". Each is a reason to look, never
// the news itself: whoever misses one looks a little later by itself.
//
//   - lease and instance: the row has changed; who waits for it looks.
//   - pool: its planner has a reason for a pass.
//   - due: a row of the pool was made due for the replica that holds it.
//   - sweep: a machine of the pool may be dead.
//   - free: the pool was given up.
//   - room: a machine of the scope is gone.
func leaseKey(id string) string     { return "lease:" + id }
func instanceKey(id string) string  { return "instance:" + id }
func poolTopic(pool string) string  { return "pool:" + pool }
func dueTopic(pool string) string   { return "due:" + pool }
func sweepTopic(pool string) string { return "sweep:" + pool }
func freeKey(pool string) string    { return "free:" + pool }
func roomTopic(scope string) string { return "room:" + scope }
func topicOf(topic string) (kind, name string) {
	kind, name, _ = strings.Cut(topic, ":")
	return kind, name
}

// runListener hears what other replicas announce, until ctx ends.
func (m *Manager) runListener(ctx context.Context, n Notifier) error {
	err := n.Listen(ctx, m.heard)
	if ctx.Err() != nil {
		return nil
	}
	// Everything works without it, only later.
	m.log.Error("other replicas are not heard any more, changes are seen at the next look", "err", err)
	return nil
}

// heard acts on another replica's announcement. It does not wait for anything.
func (m *Manager) heard(topic string) {
	kind, name := topicOf(topic)
	rt := m.pools[name]
	switch kind {
	case "lease", "free":
		m.hub.wake(topic)
	case "instance":
		m.hub.wake(topic)
		if m.steps.running(name) > 0 {
			m.spawn(func(ctx context.Context) { m.checkSteps(ctx, name) })
		}
	case "pool":
		if rt != nil && rt.tenured() != nil {
			rt.nudge()
		}
	case "due":
		if rt != nil && rt.tenured() != nil {
			m.work.remind(m.now())
		}
	case "sweep":
		if rt != nil && rt.tenured() != nil {
			m.kickScopes(rt)
		}
	case "room":
		m.spawn(func(context.Context) { m.roomIn(name, "a machine of the account", "") })
	case "":
		// Some were missed: everybody looks.
		m.hub.wakeAll()
		for _, rt := range m.pools {
			rt.nudge()
		}
		m.work.remind(m.now())
	}
}

// suspect has a machine that does not answer looked for in its cloud soon, by
// the replica whose business that is.
func (m *Manager) suspect(inst Instance) {
	rt := m.pools[inst.Pool]
	switch {
	case rt == nil:
	case rt.tenured() != nil:
		m.kickScopes(rt)
	default:
		m.hub.announce(sweepTopic(inst.Pool))
	}
}

// kickScopes has a pool's machines looked for soon.
func (m *Manager) kickScopes(rt *runtime) {
	for _, scope := range rt.scopes() {
		m.scopes[scope].kick()
	}
}

// checkSteps ends the steps this process follows on a machine that another
// replica has taken from its lease.
func (m *Manager) checkSteps(ctx context.Context, id string) {
	inst, err := m.store.Instance(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return // looked at again
	}
	if err == nil && (inst.State == Leased || inst.State == Suspending) {
		return
	}
	cause := fmt.Errorf("%w: the stage was destroyed", ErrConflict)
	if l, lerr := m.leaseOf(ctx, inst); err == nil && lerr == nil && l != nil {
		switch {
		case l.State == LeaseLost:
			cause = &LostError{Lease: l.ID, Instance: inst.Name, Cause: l.Detail}
		case inst.State == Failed:
			cause = &LostError{Lease: l.ID, Instance: inst.Name, Cause: inst.Detail}
		default:
			cause = fmt.Errorf("%w: %s was destroyed", ErrConflict, l.ID)
		}
	}
	m.steps.end(id, cause)
}
