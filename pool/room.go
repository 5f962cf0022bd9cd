package pool

import (
	"fmt"
	"time"
)

// roomGap is how long a cloud that has said that it has no room is left alone at
// least: the room of all machines that go meanwhile is tried together.
const roomGap = 5 * time.Second

// freed is the gate after a machine of the pool's account is gone. It is pure. A
// pause for want of a quota or of capacity, of up to half an hour, is cut short:
// there may be room for one now. That is done once for each time the gate
// closes, so one machine that goes makes one try at most.
func (g Gate) freed(now time.Time) Gate {
	if g.Freed || g.Reason != GateQuota && g.Reason != GateCapacity {
		return g
	}
	at := maxTime(now, g.Since.Add(roomGap))
	if !at.Before(g.Until) {
		return g
	}
	g.Until, g.Freed = at, true
	return g
}

// roomLeft has the pools of a machine's account look again whether there is room
// for theirs, now that it is gone, at every replica. A machine that was never
// proven has left none: most of these are the very ones the cloud had no room
// for. Whoever does not hear of it, or dies before the gate is written, waits
// for the end of the pause.
func (m *Manager) roomLeft(gone Instance) {
	if gone.Warmed.IsZero() {
		return
	}
	m.roomIn(gone.Scope, gone.Name, gone.ID)
	m.hub.announce(roomTopic(gone.Scope))
}

// roomIn cuts the pauses of the pools short that are held here and make
// machines in a scope. who, by its id if that is known, is gone.
func (m *Manager) roomIn(scope, who, id string) {
	sc := m.scopes[scope]
	if sc == nil {
		return
	}
	now := m.stamp()
	for _, name := range sc.names() {
		rt := m.pools[name]
		tn := rt.tenured()
		if tn == nil {
			continue
		}
		cut := false
		rt.breaker.change(func(g Gate) (Gate, []Event) {
			next := g.freed(now)
			if cut = next != g; !cut {
				return g, nil
			}
			return next, []Event{{
				At: now, Pool: name, Instance: id, Reason: "room_freed",
				Message: fmt.Sprintf("%s is gone: one machine is tried at %s, not only at %s", who, next.Until.Format(time.RFC3339), g.Until.Format(time.RFC3339)),
			}}
		})
		if !cut {
			continue
		}
		if err := m.saveGate(tn.ctx, rt); err != nil && tn.ctx.Err() == nil {
			m.log.Error("gate not written", "pool", name, "err", err)
		}
		rt.kick()
	}
}
