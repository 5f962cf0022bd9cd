package sim

import (
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// The due rule: every row that is not final has a due time, no further away
// than its state's bound, and is looked at soon after it.

// years is "not by itself": the exit of such a row is its lease's.
const years = 11 * 365 * 24 * time.Hour

// bounds of the engine as the simulation runs it.
func (s *sim) stateBound(r row) time.Duration {
	if r.held {
		// Who holds it is waited for.
		r.held = false
		return max(time.Hour+s.wrongness(), s.stateBound(r))
	}
	t := s.times
	switch r.state {
	case pool.Creating, pool.Booting:
		// Until the cloud must have answered, and the agent.
		return t.Create + max(t.Boot, t.BootWindows) + time.Minute
	case pool.Warm, pool.Hibernated:
		return max(t.FreeAge, time.Hour) + s.wrongness()
	case pool.Destroying, pool.Hibernating:
		// The longest pause between two tries.
		return 10 * time.Minute
	case pool.Failed:
		if r.kind == pool.Build || !r.bound {
			return 2 * time.Hour
		}
		return years
	default:
		return years
	}
}

func (s *sim) leaseBound(l claim) time.Duration {
	t := s.times
	start := 2*(t.Create+max(t.Boot, t.BootWindows)+t.Setup) + t.Grace
	switch l.state {
	case pool.LeaseWaiting:
		return max(pool.DefaultWait, time.Hour) + t.Grace
	case pool.LeaseStarting:
		return max(start, time.Hour)
	case pool.LeaseActive:
		if l.kind == pool.Build {
			return max(t.BusyAge, time.Hour) + s.wrongness()
		}
		return years
	default:
		return years
	}
}

// wrongness is how wrong an age may be that is reckoned from what was written
// before the clock was set.
func (s *sim) wrongness() time.Duration { return 2 * s.host.Worst() }

func (c *check) due(r row) {
	if r.due == 0 {
		c.w.wrong(ruleDue, r.name, "%s is %s and never due", r.name, r.state)
		return
	}
	if at := c.p.host.Jumped(); !at.IsZero() && time.Since(at) < time.Minute {
		return // reckoned before the clock was set, perhaps
	}
	if away := time.UnixMilli(r.due).Sub(c.p.host.Now().Round(0)); away > c.w.s.stateBound(r)+c.w.s.slack() {
		c.w.wrong(ruleDue, r.name, "%s is %s and due only in %s", r.name, r.state, away)
	}
}

func (c *check) leaseDue(l claim) {
	if l.due == 0 {
		c.w.wrong(ruleDue, l.key.ID, "lease %s is %s and never due", l.key.ID, l.state)
		return
	}
	if at := c.p.host.Jumped(); !at.IsZero() && time.Since(at) < time.Minute {
		return
	}
	if away := time.UnixMilli(l.due).Sub(c.p.host.Now().Round(0)); away > c.w.s.leaseBound(l)+c.w.s.slack() {
		c.w.wrong(ruleDue, l.key.ID, "lease %s is %s and due only in %s", l.key.ID, l.state, away)
	}
}

// patience is how long something that is to be done at once may take: one cloud
// call that hangs until it is given up, its tick, and what the store takes.
func (s *sim) patience() time.Duration {
	d := s.times.Create + max(s.times.Boot, s.times.BootWindows) + 3*time.Minute
	if s.plan.slowStore {
		d += 5 * time.Minute
	}
	return d
}

// overdue checks, on the rows as last seen, that nothing has been due for
// longer than a worker may take for it while a runner lives. up is since when
// one has lived without a break.
func (s *sim) overdue(up time.Time) {
	if up.IsZero() {
		return
	}
	if at := s.host.Jumped(); at.After(up) {
		up = at
	}
	patience := s.patience()
	now := s.host.Now().Round(0)
	up = up.Add(s.host.Now().Round(0).Sub(time.Now().Round(0)))
	late := func(due int64) (time.Duration, bool) {
		at := time.UnixMilli(due)
		if at.Before(up) {
			at = up
		}
		d := now.Sub(at)
		return d, d > patience
	}
	seen := s.witness.snapshot()
	for _, r := range seen.rows {
		// A clock that was set back must not have put them off.
		if away := time.UnixMilli(r.due).Sub(now); now.Sub(up) > time.Minute && away > s.stateBound(r)+s.slack() {
			s.log.wrong(ruleDue, r.name, "%s is due only in %s", r, away)
		}
		if d, yes := late(r.due); yes && r.state != pool.Leased {
			s.log.wrong(ruleOverdue, r.name, "%s has been due for %s", r, d)
		}
	}
	for _, l := range seen.leases {
		if away := time.UnixMilli(l.due).Sub(now); now.Sub(up) > time.Minute && away > s.leaseBound(l)+s.slack() {
			s.log.wrong(ruleDue, l.key.ID, "lease %s (%s) is due only in %s", l.key.ID, l.state, away)
		}
		if d, yes := late(l.due); yes {
			s.log.wrong(ruleOverdue, l.key.ID, "lease %s (%s) has been due for %s", l.key.ID, l.state, d)
		}
	}
}
