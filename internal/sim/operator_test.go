package sim

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// An operator gives orders at any moment to any runner that is there. What an
// order ends, and only that, is not held against the engine: a machine that is
// destroyed by force, a lease that is ended, a machine without a row that is
// named. An order that was refused excuses nothing; one whose answer nobody
// heard may be followed at any time later.

// orders are what has been ordered and is not taken back.
type orders struct {
	// final is what is wanted of each pool in the end.
	final map[string]pool.Override
}

// operatorPatience is how long an operator waits for an answer.
const operatorPatience = 2 * time.Minute

// operate gives the orders of a seed, and decides what is left of them.
func (s *sim) operate(ctx context.Context) {
	s.orders.final = map[string]pool.Override{}
	if s.plan.orders == 0 {
		return
	}
	if f := s.plan.faults; f.capacity == 0 && f.quota == 0 {
		s.world.befriend(1 + s.d.below(2, "neighbours"))
	}
	for _, p := range s.plan.pools {
		switch x := s.d.draw("final", p.name); {
		case x < .15:
			s.orders.final[p.name] = pool.Override{Stopped: true}
		case x < .3:
			n := s.d.below(p.max+1, "final-min", p.name)
			s.orders.final[p.name] = pool.Override{Min: &n}
		}
	}
	for i := range s.plan.orders {
		if nap(ctx, s.d.span(2*s.plan.load/time.Duration(s.plan.orders+1), "order-at", i)) != nil {
			return
		}
		s.requests.Go(func() { s.order(ctx, i) })
	}
}

// order gives one order.
func (s *sim) order(ctx context.Context, i int) {
	pick := func(n int, what string) int { return s.d.below(n, what, i) }
	host := s.replicas[pick(len(s.replicas), "order-host")]
	by := pool.Order{By: "ann", Why: "order " + strconv.Itoa(i)}
	seen := s.witness.snapshot()
	p := s.plan.pools[pick(len(s.plan.pools), "order-pool")]
	r, any := s.anyRow(seen, i)
	switch x := s.d.draw("order", i); {
	case x < .25 && any:
		s.orderHold(ctx, host, r, s.d.chance(.7, "order-hold", i), by)
	case x < .4 && any:
		s.orderDestroy(ctx, host, r, pool.DestroyOrder{Order: by, Force: true})
	case x < .5 && any:
		s.orderDestroy(ctx, host, r, pool.DestroyOrder{Order: by})
	case x < .6 && len(seen.leases) > 0:
		keys := slices.SortedFunc(maps.Keys(seen.leases), func(a, b pool.LeaseKey) int { return int(seen.leases[a].seq - seen.leases[b].seq) })
		s.orderEnd(ctx, host, keys[pick(len(keys), "order-lease")].ID, by)
	case x < .7:
		tell(ctx, s, host, "drain "+p.name, func(ctx context.Context, m *pool.Manager) error {
			_, err := m.DrainPool(ctx, p.name, by)
			return err
		})
	case x < .9:
		o := pool.Override{By: by.By, Why: by.Why}
		n := pick(p.max+2, "order-min")
		switch x := s.d.draw("order-override", i); {
		case x < .35:
			o.Stopped = true
		case x < .7:
			o.Min = &n
		}
		s.orderOverride(ctx, host, p.name, o)
	default:
		s.orderRemoval(ctx, host, i, by)
	}
}

// anyRow is a row for an order.
func (s *sim) anyRow(seen state, i int) (row, bool) {
	ids := slices.SortedFunc(maps.Keys(seen.rows), func(a, b string) int {
		return s.world.ordinal(seen.rows[a].name) - s.world.ordinal(seen.rows[b].name)
	})
	if len(ids) == 0 {
		return row{}, false
	}
	return seen.rows[ids[s.d.below(len(ids), "order-row", i)]], true
}

// tell gives an order and says what became of it. Orders may be refused: by
// what they would harm, by a cloud, or because what they name has gone.
func tell(ctx context.Context, s *sim, host *replica, what string, f func(context.Context, *pool.Manager) error) error {
	s.log.tell("ann", "", "", "orders %s: %s", host.name, what)
	_, err := once(ctx, s, host, operatorPatience, func(ctx context.Context, m *pool.Manager) (none, error) { return none{}, f(ctx, m) })
	s.log.tell("ann", "", "", "%s of %s: %v", what, host.name, err)
	return err
}

// refused says that an order certainly has no effect, now or later.
func refused(err error) bool { return errors.As(err, new(*pool.KeptError)) }

func (s *sim) orderHold(ctx context.Context, host *replica, r row, held bool, by pool.Order) error {
	what := "hold "
	if !held {
		what = "unhold "
		s.log.letGo(r.name)
		if s.log.wasRestored() {
			// It may be in use although the store does not know by whom; whoever
			// lets it go answers for that.
			s.log.excuse(s.log.doomed, r.name, 1)
		}
	}
	err := tell(ctx, s, host, what+r.name, func(ctx context.Context, m *pool.Manager) error {
		_, err := m.HoldInstance(ctx, r.id, held, by)
		return err
	})
	if err == nil && held {
		s.log.held(r.name)
	}
	return err
}

func (s *sim) orderDestroy(ctx context.Context, host *replica, r row, o pool.DestroyOrder) {
	what := "destroy "
	if o.Force {
		what = "destroy by force "
		s.log.excuse(s.log.doomed, r.name, 1)
	}
	err := tell(ctx, s, host, what+r.name, func(ctx context.Context, m *pool.Manager) error {
		_, err := m.DestroyInstance(ctx, r.name, o)
		return err
	})
	if o.Force && refused(err) {
		s.log.excuse(s.log.doomed, r.name, -1)
	}
}

func (s *sim) orderEnd(ctx context.Context, host *replica, lease string, by pool.Order) {
	s.log.excuse(s.log.ended, lease, 1)
	_ = tell(ctx, s, host, "end lease "+lease, func(ctx context.Context, m *pool.Manager) error {
		_, err := m.EndLease(ctx, lease, pool.DestroyOrder{Order: by})
		return err
	})
}

func (s *sim) orderOverride(ctx context.Context, host *replica, name string, o pool.Override) {
	what := "run " + name + " as configured"
	switch {
	case o.Stopped:
		what = "stop " + name
	case o.Min != nil:
		what = "scale " + name + " to " + strconv.Itoa(*o.Min)
	}
	_ = tell(ctx, s, host, what, func(ctx context.Context, m *pool.Manager) error { return m.OverridePool(ctx, name, o) })
}

// orderRemoval has something without a row removed: what the runner itself
// reports, or any machine there is, which must be refused if it has a row.
func (s *sim) orderRemoval(ctx context.Context, host *replica, i int, by pool.Order) {
	names := slices.Sorted(maps.Keys(s.world.names()))
	if in := host.runner(); in != nil && s.d.chance(.6, "order-report", i) {
		if report, err := in.m.Orphans(ctx); err == nil && len(report.Machines) > 0 {
			names = names[:0]
			for _, o := range report.Machines {
				names = append(names, o.Name)
			}
		}
	}
	if len(names) == 0 {
		return
	}
	o := pool.OrphanOrder{Order: by, Foreign: s.d.chance(.5, "order-foreign", i), Gitspace: s.d.chance(.5, "order-gitspace", i)}
	s.remove(ctx, host, names[s.d.below(len(names), "order-orphan", i)], o)
}

// remove orders the removal of a machine without a row.
func (s *sim) remove(ctx context.Context, host *replica, name string, o pool.OrphanOrder) {
	foreign := s.world.controller(name) == neighbour
	excused := !foreign || o.Foreign
	if excused {
		s.log.excuse(s.log.doomed, name, 1)
	}
	err := tell(ctx, s, host, "remove "+name, func(ctx context.Context, m *pool.Manager) error { return m.RemoveOrphan(ctx, name, o) })
	if excused && refused(err) {
		s.log.excuse(s.log.doomed, name, -1)
	}
}

// keeps says whether an operator never lets go of a machine.
func (s *sim) keeps(name string) bool { return s.d.chance(.3, "keeps", s.world.ordinal(name)) }

// relent takes back what was ordered, but for what is to stay so, as often as
// it takes: an order may come true long after it was given.
func (s *sim) relent(ctx context.Context) {
	if s.plan.orders == 0 {
		return
	}
	host := s.replicas[s.d.below(len(s.replicas), "relent", s.d.nth("relent"))]
	seen := s.witness.snapshot()
	for _, id := range slices.Sorted(maps.Keys(seen.rows)) {
		if r := seen.rows[id]; r.held && !s.keeps(r.name) {
			_ = s.orderHold(ctx, host, r, false, pool.Order{By: "ann", Why: "the end of the day"})
		}
	}
	for _, p := range s.plan.pools {
		if !s.asOrdered(p.name, seen) {
			s.orderOverride(ctx, host, p.name, s.orders.final[p.name])
		}
	}
}

// asOrdered says whether what is wanted of a pool in the end is in force.
func (s *sim) asOrdered(name string, seen state) bool {
	final, have := s.orders.final[name], seen.pools[name].override
	return final.Stopped == have.Stopped && minOf(final) == minOf(have)
}

// minOf is an override's warm target, a number nobody orders if it has none.
func minOf(o pool.Override) int {
	if o.Min == nil {
		return math.MinInt
	}
	return *o.Min
}

// wanted is how many machines of each flavour of a pool are to be free in the
// end: an override's target is the default's, zero that of all.
func (s *sim) wanted(p poolPlan) map[flavour]int {
	want := p.targets()
	for _, sc := range p.schedules {
		if at := s.clock(); sc.From <= at && at < sc.To {
			want[usual] = sc.Min
		}
	}
	switch o := s.orders.final[p.name]; {
	case o.Stopped, o.Min != nil && *o.Min == 0:
		clear(want)
	case o.Min != nil:
		want[usual] = *o.Min
	}
	return want
}

// excuse adds to what orders may have ended.
func (l *ledger) excuse(of map[string]int, name string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of[name] += n
}

// ordered says whether an operator may have ended a lease, or its machine.
func (l *ledger) ordered(lease, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doomed[name] > 0 || l.ended[lease] > 0
}

// hold checks a held machine's row: it is given to nobody, and while it is
// free it stays as it is unless it dies.
func (c *check) hold(was, r row) {
	if !r.held {
		c.w.grasp(r.name, false)
		return
	}
	if !was.held {
		// Between two looks a destroy and a hold may both have come, in either order.
		if was.state == pool.Destroying || !c.w.serial && r.state == pool.Destroying {
			c.w.grasp(r.name, true)
		}
		return
	}
	free := was.state == pool.Warm || was.state == pool.Hibernated
	switch {
	case free && r.state != was.state && r.state != pool.Failed:
		c.w.wrong(ruleHeld, r.name, "%s is held and goes from %s to %s (%s)", r.name, was.state, r.state, r.reason)
	case !was.bound && r.bound:
		c.w.wrong(ruleHeld, r.name, "%s is held and is given to %s", r.name, r.lease)
	}
}

// held records that an operator was told that a machine is held.
func (l *ledger) held(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.released[name] {
		l.holding[name] = true
	}
}

// letGo records an order to let a machine go. It may be followed at any time,
// so that nothing is certain of its holds from here on.
func (l *ledger) letGo(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released[name] = true
	delete(l.holding, name)
}

// holds checks that what an operator was told to be held is held.
func (c *check) holds() {
	c.w.ledger.mu.Lock()
	told := slices.Collect(maps.Keys(c.w.ledger.holding))
	c.w.ledger.mu.Unlock()
	for _, name := range told {
		r, there := c.now.rows[c.w.id(name)]
		if there && !r.held {
			c.w.letGo(name) // said once
			c.w.wrong(ruleHeld, name, "%s was answered to be held, and is not", name)
		}
	}
}

// id is the id of a machine's row, "" if it has none.
func (l *ledger) id(name string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byName[name]
}

// grasp notes that a machine was held when it was being destroyed already.
func (l *ledger) grasp(name string, late bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if late {
		l.gripped[name] = time.Now()
	} else {
		delete(l.gripped, name)
	}
}

// slipping says whether a hold came too late for a destroy that had begun.
func (l *ledger) slipping(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, late := l.gripped[name]
	return late && time.Since(at) <= l.grip
}

// ordinal is which of the world's machines a name is, 0 if it never was one.
func (w *world) ordinal(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.numbers[name]
}

// controller is whose a machine is.
func (w *world) controller(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.machines[name]; m != nil {
		return m.tags.Controller
	}
	return ""
}
