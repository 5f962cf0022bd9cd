package sim

import (
	"context"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// closed checks that no machine is begun in a pool that an operator has
// stopped, or whose gate is closed.
func (c *check) closed() {
	for id, r := range c.now.rows {
		if _, known := c.old.rows[id]; known {
			continue
		}
		p := c.old.pools[r.pool]
		if p.override.Stopped {
			c.w.wrong(ruleClosed, r.name, "%s is begun in pool %s, which is stopped", r.name, r.pool)
		}
		if c.shut(p.gate) {
			c.w.wrong(ruleClosed, r.name, "%s is begun in pool %s, which is closed until %s (%s)", r.name, r.pool, p.gate.Until.Format(time.TimeOnly), p.gate.Reason)
		}
	}
}

// shut says whether a gate is closed for whoever asks: by the clocks of all
// hosts, and by those of a while ago, since a request may have been on its way.
func (c *check) shut(g pool.Gate) bool {
	host := c.w.s.host
	if at := host.Jumped(); !at.IsZero() && time.Since(at) < 2*time.Minute {
		return false
	}
	now := host.Now().Round(0)
	return g.Closed(now) && g.Closed(now.Add(-2*time.Minute)) && g.Closed(now.Add(c.w.s.slack()))
}

// Part of the free machines on disk, targets that follow the clock, and bounds
// on what is begun in a minute and spent in a day.

const day = 24 * time.Hour

func (p *plan) drawTier(d *dice) {
	for i := range p.pools {
		pp := &p.pools[i]
		pp.hibernate, pp.running = true, d.below(pp.min+1, pp.name, "running")
	}
}

func (p *plan) drawSchedules(d *dice) {
	for i := range p.pools {
		pp := &p.pools[i]
		from := 5*time.Minute + d.span(40*time.Minute, pp.name, "from")
		sc := pool.Schedule{From: from, To: from + 20*time.Minute + d.span(time.Hour, pp.name, "to"), Zone: time.UTC}
		if d.chance(.6, pp.name, "any-by-schedule") {
			sc.Min = d.below(pp.max+1, pp.name, "by-schedule")
		}
		pp.schedules = []pool.Schedule{sc}
		if d.chance(.5, pp.name, "scale-to-zero") {
			pp.min = 0 // but for its hours
		}
	}
}

func (p *plan) drawGuards(d *dice) {
	for i := range p.pools {
		pp := &p.pools[i]
		if d.chance(.7, pp.name, "per-minute") {
			pp.perMinute = 1 + d.below(3, pp.name, "how-many")
		}
		if d.chance(.4, pp.name, "hours") {
			pp.hours = .1 + d.draw(pp.name, "how-long")
			// The day ends soon.
			p.begins = day - 20*time.Minute + d.span(15*time.Minute, "begins")
		}
	}
}

// clock is the time of day.
func (s *sim) clock() time.Duration {
	now := s.host.Now().Round(0)
	return now.Sub(now.Truncate(day))
}

// turns says whether a schedule changes a target, or a day ends, within d before or after now.
func (s *sim) turns(d time.Duration) bool {
	near := func(at time.Duration) bool { return (s.clock() - at).Abs() < d }
	for _, p := range s.plan.pools {
		for _, sc := range p.schedules {
			if near(sc.From) || near(sc.To) {
				return true
			}
		}
		if p.hours > 0 && (near(0) || near(day)) {
			return true
		}
	}
	return false
}

// passOn lets the time of the next turns come and sees that they are followed.
func (s *sim) passOn(ctx context.Context) {
	var turns []time.Duration
	for _, p := range s.plan.pools {
		for _, sc := range p.schedules {
			turns = append(turns, sc.From, sc.To)
		}
		if p.hours > 0 {
			turns = append(turns, 0)
		}
	}
	for range 2 {
		next := time.Duration(-1)
		for _, at := range turns {
			if wait := (at - s.clock() + day) % day; wait < 4*time.Hour && (next < 0 || wait < next) {
				next = wait
			}
		}
		if next < 0 {
			return
		}
		// Machines may be of age just then: what is wanted is there sooner or later.
		_ = nap(ctx, next+3*time.Minute)
		s.opened()
		var left []unsettled
		patience := 20 * time.Minute
		if s.plan.faults.quota > 0 {
			patience = 40 * time.Minute // a quota is asked again after thirty at most
		}
		for limit := time.Now().Add(patience); time.Now().Before(limit); {
			if left = s.unsettled(); len(left) == 0 {
				break
			}
			_ = nap(ctx, 20*time.Second)
		}
		for _, u := range left {
			s.log.wrong(u.rule, u.subject, "the hour has come, and for %s %s", patience, u.text)
		}
	}
}

// opened checks that no gate is closed whose time has passed.
func (s *sim) opened() {
	for name, p := range s.witness.refresh().pools {
		if p.gate.Reason == pool.GateCost && s.host.Now().Round(0).Sub(p.gate.Until) > 2*time.Minute {
			s.log.wrong(ruleOpens, "", "pool %s is still closed until %s (%s)", name, p.gate.Until.Format(time.TimeOnly), p.gate.Reason)
		}
	}
}

// spending is what was begun and how long it has lived, as seen from outside.
type spending struct {
	begun map[minute]int
	lives map[string]life // by instance id
}

type minute struct {
	pool string
	at   int64
}

type life struct {
	pool       string
	begin, end time.Time
}

// guards checks what has begun against the bounds of its pool.
func (c *check) guards() {
	now := time.Now()
	for id, l := range c.w.lives {
		if _, live := c.now.rows[id]; !live && l.end.IsZero() {
			l.end = now
			c.w.lives[id] = l
		}
	}
	for id, r := range c.now.rows {
		if _, known := c.w.lives[id]; known {
			continue
		}
		c.w.lives[id] = life{pool: r.pool, begin: now}
		p := c.w.s.poolNamed(r.pool)
		// By a clock that was set or is wrong, or for a store that was put back, another
		// minute counts; a slow store writes down later what was decided in one.
		if !c.w.s.host.Jumped().IsZero() || c.w.s.plan.restore != "" || c.w.s.plan.slowStore || c.w.s.plan.skewed {
			continue
		}
		m := minute{r.pool, r.created / time.Minute.Milliseconds()}
		c.w.begun[m]++
		if n := c.w.begun[m]; p.perMinute > 0 && n > p.perMinute {
			c.w.wrong(ruleGuard, r.name, "%s is the machine number %d that pool %s has begun within a minute; it may begin %d", r.name, n, r.pool, p.perMinute)
		}
		// What is spent is looked at once a minute.
		const lag = 3 * time.Minute
		if up := c.w.s.up(); p.hours == 0 || up.IsZero() || now.Sub(up) < lag {
			continue
		}
		if spent := c.w.spent(r.pool, now.Truncate(day), now.Add(-lag)); spent.Hours() > p.hours {
			c.w.wrong(ruleGuard, r.name, "%s is begun although pool %s had spent %s of %g hours %s ago", r.name, r.pool, spent, p.hours, lag)
		}
	}
}

// spent is what a pool's machines have lived between midnight and t.
func (s spending) spent(name string, midnight, t time.Time) (all time.Duration) {
	for _, l := range s.lives {
		if l.pool != name {
			continue
		}
		from, to := l.begin, l.end
		if to.IsZero() || to.After(t) {
			to = t
		}
		if from.Before(midnight) {
			from = midnight
		}
		all += max(0, to.Sub(from))
	}
	return all
}
