package sim

import (
	"encoding/json"
	"math"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Pools with variants and tenants: every request gets what it asked for, each
// flavour keeps its own limit and counter, and none waits for ever beside free
// machines of another.

// usual is the flavour of requests that ask for nothing.
var usual = flavour{pool.DefaultFlavour, pool.DefaultFlavour}

// The names every pool with flavours uses.
const (
	bigClass   = "large"
	bigVariant = "big"
	otherName  = "acme"
)

// flavourPlan is one flavour beside the default.
type flavourPlan struct {
	flavour
	min, max int // max -1: no limit but the pool's
}

func (p *plan) drawFlavours(d *dice) {
	p.flavours = true
	for i := range p.pools {
		pp := &p.pools[i]
		pp.max += 2
		draw := func(f flavour, what string) flavourPlan {
			lo := d.below(3, pp.name, what, "min")
			fp := flavourPlan{f, lo, -1}
			if d.chance(.5, pp.name, what, "limited") {
				fp.max = max(1, lo+d.below(2, pp.name, what, "max"))
			}
			return fp
		}
		pp.flavours = []flavourPlan{draw(flavour{pool.DefaultFlavour, bigVariant}, "big")}
		if d.chance(.6, pp.name, "tenant") {
			// A tenant has the pool's variants too, with their targets and limits.
			big := pp.flavours[0]
			big.tenant = otherName
			pp.flavours = append(pp.flavours, draw(flavour{otherName, pool.DefaultFlavour}, "acme"), big)
		}
	}
}

// targets are the free machines a pool is configured to have.
func (p poolPlan) targets() map[flavour]int {
	out := map[flavour]int{usual: p.min}
	for _, f := range p.flavours {
		out[f.flavour] = f.min
	}
	return out
}

// limit is a flavour's own limit.
func (p poolPlan) limit(f flavour) int {
	for _, fp := range p.flavours {
		if fp.flavour == f && fp.max >= 0 {
			return fp.max
		}
	}
	return math.MaxInt
}

// configure adds to a pool's configuration what its plan has beside its size.
func (p *poolPlan) configure(pc *pool.PoolConfig) {
	pc.Hibernate, pc.Running, pc.Schedules = p.hibernate, p.running, p.schedules
	pc.Guards.PerMinute, pc.Guards.HoursPerDay = p.perMinute, p.hours
	var big []pool.VariantConfig
	for _, f := range p.flavours {
		switch f.flavour {
		case flavour{pool.DefaultFlavour, bigVariant}:
			big = []pool.VariantConfig{{ID: bigVariant, Min: f.min, Max: f.max, ResourceClass: bigClass, MachineType: "huge"}}
			pc.Variants = big
		case flavour{otherName, pool.DefaultFlavour}:
			pc.Tenants = []pool.TenantConfig{{
				ID: otherName, Accounts: []string{otherName}, Min: f.min, Max: f.max,
				SpecJSON: json.RawMessage(`{}`), Image: pc.Image, Variants: big,
			}}
		}
	}
}

// want is what a stage asks for.
func (s *sim) want(id string) (w pool.Want) {
	if !s.plan.flavours {
		return w
	}
	if s.d.chance(.35, "account", id) {
		w.Account = otherName
	}
	if s.d.chance(.4, "class", id) {
		w.ResourceClass = bigClass
	}
	return w
}

// fits checks that a machine is of the flavour its request asked for.
func (s *sim) fits(r pool.SetupRequest, i pool.Instance) {
	want := usual
	for _, f := range s.poolNamed(i.Pool).flavours {
		if f.tenant == r.Want.Account {
			want.tenant = f.tenant
		}
		if r.Want.ResourceClass == bigClass {
			want.variant = bigVariant
		}
	}
	if have := (flavour{i.Tenant, i.Variant}); have != want {
		s.log.wrong(ruleFits, i.Name, "%s asked for %s/%s and is given %s of %s/%s", r.ID, want.tenant, want.variant, i.Name, have.tenant, have.variant)
	}
}

// tallies checks the limits and counters of a pool's flavours.
func (c *check) tallies(p pot) {
	if len(p.flavours) == 0 {
		return
	}
	count := func(st state) map[flavour]int {
		n := map[flavour]int{}
		for _, r := range st.rows {
			if r.pool == p.name {
				n[r.flavour]++
			}
		}
		return n
	}
	live, before := count(c.now), count(c.old)
	for f, t := range p.flavours {
		if t.max >= 0 && live[f] > before[f] && live[f] > t.max {
			c.w.wrong(ruleLimit, "", "pool %s has %d machines of %s/%s with a limit of %d", p.name, live[f], f.tenant, f.variant, t.max)
		}
		if t.counted != live[f] {
			c.w.wrong(ruleCounter, "", "the counter of %s/%s in pool %s says %d, there are %d", f.tenant, f.variant, p.name, t.counted, live[f])
		}
	}
}

// refills checks that no machine is begun for nobody while somebody waits who
// could have its place.
func (c *check) refills() {
	for id, r := range c.now.rows {
		if _, known := c.old.rows[id]; known || r.bound {
			continue
		}
		p := c.now.pools[r.pool]
		if n := c.ahead(r.pool, math.MaxInt64); p.max-p.counted < n {
			c.w.wrong(ruleOrder, r.name, "%s is begun for nobody although %d wait for pool %s, which has room for %d", r.name, n, r.pool, p.max-p.counted)
		}
	}
}

// stock is what a pool has free, and what is taken for good, by flavour.
type stock struct {
	warm, taken map[flavour]int // warm ones may be on disk
	asleep      int             // of the default flavour
}

// compare is how many free machines a pool is short of, and what it has too many.
func (st *stock) compare(p poolPlan, want map[flavour]int) (short int, over map[flavour]int) {
	over = map[flavour]int{}
	wanted, have, taken := 0, 0, 0
	for f, n := range want {
		n = min(n, p.limit(f)-st.taken[f])
		wanted += max(0, n)
	}
	for f, n := range st.warm {
		have += n
		if more := n - want[f]; more > 0 {
			over[f] = more
		}
	}
	for _, n := range st.taken {
		taken += n
	}
	return max(0, min(wanted, p.max-taken)-have), over
}

// hunger is since when a lease waits for a pool beside free machines of others.
type hunger struct {
	lease pool.LeaseKey
	pool  string
}

// starving checks that a request at the limit is given the place of a free
// machine that fits nobody: it waits no longer than that takes.
func (s *sim) starving(up time.Time) {
	if up.IsZero() {
		clear(s.hungry)
		return
	}
	seen := s.witness.snapshot()
	idle, dying := map[string]int{}, map[string]int{}
	for _, r := range seen.rows {
		switch {
		case r.state == pool.Destroying:
			dying[r.pool]++
		case (r.state == pool.Warm || r.state == pool.Hibernated) && !r.held:
			idle[r.pool]++
		}
	}
	now := map[hunger]bool{}
	for key, l := range seen.leases {
		for name, want := range l.waits {
			p := seen.pools[name]
			t, limited := p.flavours[want.flavour]
			full := limited && t.max >= 0 && t.counted >= t.max
			if l.state != pool.LeaseWaiting || l.waiter == "" || full || idle[name] == 0 || dying[name] > 0 ||
				p.counted < p.max || p.gate.Reason != "" || p.override.Stopped || p.retired {
				continue
			}
			now[hunger{key, name}] = true
		}
	}
	for h := range s.hungry {
		if !now[h] {
			delete(s.hungry, h)
		}
	}
	for h := range now {
		if s.hungry[h].IsZero() || s.hungry[h].Before(up) {
			s.hungry[h] = time.Now()
		}
		// The planner looks every ten seconds, and evicting is a write.
		patience := 2 * time.Minute
		if s.plan.slowStore {
			patience += 5 * time.Minute
		}
		if d := time.Since(s.hungry[h]); d > patience {
			s.log.wrong(ruleStarved, h.lease.ID, "%s has waited for pool %s for %s beside %d free machines of other flavours", h.lease.ID, h.pool, d, idle[h.pool])
		}
	}
}
