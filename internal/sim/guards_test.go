package sim

import (
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
	return g.Closed(now) && g.Closed(now.Add(-2*time.Minute)) && g.Closed(now.Add(time.Second))
}
