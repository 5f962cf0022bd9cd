package pool

import (
	"slices"
	"sort"
	"time"
)

// planConfig is what the planner wants of a pool at one moment: configuration,
// schedules and what an operator ordered, worked out already.
type planConfig struct {
	Max     int
	Retired bool
	// KeepDrifted replaces drifted machines a few at a time; without it all
	// of them go at once.
	KeepDrifted bool
	// Flavours are the kinds of machines the pool makes. Free machines of any
	// other kind are surplus.
	Flavours []flavourTarget
	// Turn is the flavour that is first among equally short ones.
	Turn int
	// Ramp is how many machines may be under way as refill; negative: any number.
	Ramp int
}

// flavourTarget is what is wanted of one flavour.
type flavourTarget struct {
	Tenant, Variant string
	// Min free machines are wanted.
	Min int
	// Hibernate puts free machines to disk but for Running of them.
	Hibernate bool
	Running   int
	// Restless warm machines could not be put to disk lately and are left
	// running for now.
	Restless int
}

// action is one thing a plan wants done. Exactly one of its parts is set.
type action struct {
	// Cold is a lease to make a machine for.
	Cold *Lease
	// Replace is a free machine of an older recipe to destroy.
	Replace *Instance
	// Tenant and Variant name the flavour of the counts below: machines to be
	// made warm, woken from disk, put to disk, and destroyed as too many.
	Tenant, Variant string
	Refill          int
	Wake            int
	Hibernate       int
	Surplus         int
}

// tierBatch is how many machines of a flavour are on their way to disk at a
// time: while they are, nobody can have them.
const tierBatch = 8

// driftBudget is the share of a flavour that may be replaced at a time.
const driftBudget = 10

// tally is how many free machines of one flavour there are.
type tally struct {
	target flavourTarget
	known  bool // configured
	// making are on their way for the first time, warm and waking in memory,
	// or soon, disk on disk, or soon.
	making, warm, waking, disk, hibernated int
	// room is how many more its own limit allows.
	room int
	// What the plan does with it so far.
	refill, evict int
}

// free is how many machines count toward the target.
func (t *tally) free() int { return t.making + t.warm + t.waking + t.disk }

// settled says that nothing of the flavour is under way.
func (t *tally) settled() bool { return t.making == 0 && t.waking == 0 && t.disk == t.hibernated }

const noBound = int(^uint(0) >> 1)

// plan decides what a pool needs next. It is pure: what it returns depends
// only on its arguments, and a plan for a world that is as wanted is empty.
//
// Requests come before refill: the free places go to waiting leases in order
// of arrival, and refill gets only what is left over by them, where it is
// missed most. At the limit a free machine that fits nobody who waits gives
// its place up. Machines of leases are in no count and in no plan.
func plan(want planConfig, have Snapshot, now time.Time) []action {
	tallies, dying := count(want, have)
	if want.Retired || have.Retired || have.Override.Stopped {
		// Nobody can ask for them, or nobody shall.
		return drain(tallies)
	}
	places, trial := max(0, want.Max-have.Counted), false
	switch {
	case have.Gate.Closed(now):
		places = 0
	case have.Gate.Reason != "" && have.Gate.Canary > 0:
		places, trial = min(places, 1), true
	}
	out, places, unserved := planWaiting(have, tallies, places)
	if !have.Gate.Closed(now) && !trial {
		planEviction(tallies, unserved-dying)
	}
	rests := now.Before(have.Gate.refillAfter()) && !have.Gate.ahead(now)
	if have.WaitingMore || rests {
		places = 0
	}
	out = append(out, planRefill(want, tallies, places)...)
	for _, t := range tallies {
		out = append(out, planFree(want, have, t, have.Gate.Reason == "" && !rests)...)
	}
	return out
}

// count sorts the free machines by flavour: the configured ones first, in
// their order, then whatever else there is, as it comes. dying machines leave
// their places soon.
func count(want planConfig, have Snapshot) (out []*tally, dying int) {
	out = make([]*tally, 0, len(want.Flavours)+1)
	for _, f := range want.Flavours {
		out = append(out, &tally{target: f, known: true, room: noBound})
	}
	of := func(tenant, variant string) *tally {
		for _, t := range out {
			if same(t.target.Tenant, tenant) && same(t.target.Variant, variant) {
				return t
			}
		}
		t := &tally{target: flavourTarget{Tenant: tenant, Variant: variant}}
		out = append(out, t)
		return t
	}
	for _, g := range have.Groups {
		if g.Held {
			continue // it costs a place, and nobody can have it
		}
		t := of(g.Tenant, g.Variant)
		switch g.State {
		case Creating, Booting:
			t.making += g.Count
		case Warm:
			t.warm += g.Count
		case Resuming:
			t.waking += g.Count
		case Hibernating:
			t.disk += g.Count
		case Hibernated:
			t.disk += g.Count
			t.hibernated += g.Count
		case Destroying:
			dying += g.Count
		default:
			// Failed machines cost money but are no prospect.
		}
	}
	for _, f := range have.Flavours {
		if f.Max >= 0 {
			t := of(f.Tenant, f.Variant)
			t.room = max(0, f.Max-f.Counted)
		}
	}
	return out, dying
}

// same compares names of tenants or variants; none means the default.
func same(a, b string) bool {
	return a == b || (a == "" || a == DefaultFlavour) && (b == "" || b == DefaultFlavour)
}

// drain gives up every free machine.
func drain(tallies []*tally) []action {
	var out []action
	for _, t := range tallies {
		if n := t.warm + t.hibernated; n > 0 {
			out = append(out, action{Tenant: t.target.Tenant, Variant: t.target.Variant, Surplus: n})
		}
	}
	return out
}

// planWaiting gives the places to the waiting leases in order of arrival. It
// returns what is left of them, and how many leases got none although their
// flavour has room: one whose flavour has none waits for that and takes no
// place.
func planWaiting(have Snapshot, tallies []*tally, places int) (out []action, left, unserved int) {
	for i := range have.Waiting {
		l := &have.Waiting[i]
		if c := slices.IndexFunc(l.Choices, func(c Choice) bool { return c.Pool == have.Pool }); c >= 0 {
			t := slices.IndexFunc(tallies, func(t *tally) bool {
				return same(t.target.Tenant, l.Choices[c].Tenant) && same(t.target.Variant, l.Choices[c].Variant)
			})
			if t >= 0 && tallies[t].known {
				if tallies[t].room == 0 {
					continue
				}
				tallies[t].room--
			}
		}
		if places == 0 {
			unserved++
			continue
		}
		out = append(out, action{Cold: l})
		places--
	}
	return out, places, unserved
}

// planEviction chooses free machines that give their places to leases that
// wait at the limit and fit none of them, where they are missed least.
func planEviction(tallies []*tally, n int) {
	for ; n > 0; n-- {
		var best *tally
		for _, t := range tallies {
			if t.warm+t.hibernated > t.evict && (best == nil || t.spare() > best.spare()) {
				best = t
			}
		}
		if best == nil {
			return
		}
		best.evict++
	}
}

func (t *tally) spare() int { return t.free() - t.target.Min - t.evict }

// planRefill gives the places to refill, of which not more than the ramp allows
// are under way.
func planRefill(want planConfig, tallies []*tally, places int) []action {
	if want.Ramp >= 0 {
		for _, t := range tallies {
			want.Ramp -= t.making
		}
		places = min(places, max(0, want.Ramp))
	}
	n := len(want.Flavours)
	inTurn := make([]*tally, n)
	for i := range inTurn {
		inTurn[i] = tallies[(want.Turn+i)%n]
	}
	share(inTurn, places)
	var out []action
	for _, t := range inTurn {
		if t.refill > 0 {
			out = append(out, action{Tenant: t.target.Tenant, Variant: t.target.Variant, Refill: t.refill})
		}
	}
	return out
}

// levels is how finely the missing shares of targets are told apart: exactly
// for targets up to its root, 32,768 machines.
const levels = 1 << 30

// share gives each place to the flavour with the greatest share of its target
// missing by then, in turn where shares are equal, so that what is scarce is
// shared fairly. It finds the share that is left missing everywhere rather than
// giving the places one by one.
func share(inTurn []*tally, places int) {
	taken := func(level int) int {
		n := 0
		for _, t := range inTurn {
			n += t.above(level)
		}
		return n
	}
	// The lowest level down to which everybody can be helped.
	level := sort.Search(levels, func(level int) bool { return taken(level) <= places })
	places -= taken(level)
	for _, t := range inTurn {
		t.refill = t.above(level)
		if level > 0 {
			more := min(places, t.above(level-1)-t.refill)
			t.refill += more
			places -= more
		}
	}
}

// above is how many machines the flavour gets until no more than level of
// levels of its target is missing, or its own limit is reached.
func (t *tally) above(level int) int {
	bearable := int64(level) * int64(t.target.Min) / levels
	return max(0, min(t.target.Min-t.free()-int(bearable), t.room))
}

// planFree decides on a flavour's free machines: which are replaced or given
// up, and of the others which are in memory and which on disk. ready says that
// the pool can make machines in the place of old ones.
func planFree(want planConfig, have Snapshot, t *tally, ready bool) []action {
	var old []*Instance
	for i := range have.Drifted {
		if d := &have.Drifted[i]; same(d.Tenant, t.target.Tenant) && same(d.Variant, t.target.Variant) {
			old = append(old, d)
		}
	}
	old = old[:min(len(old), t.replaceable(want.KeepDrifted, ready))]
	var out []action
	for _, d := range old {
		out = append(out, action{Replace: d})
		if d.State == Hibernated {
			t.hibernated--
			t.disk--
		} else {
			t.warm--
		}
	}
	a := action{Tenant: t.target.Tenant, Variant: t.target.Variant}
	if len(have.Waiting) == 0 {
		a.Surplus = t.free() - t.target.Min
	}
	a.Surplus = max(0, min(max(a.Surplus, t.evict), t.warm+t.hibernated))
	if a.Surplus > 0 {
		out = append(out, a)
		asleep := min(a.Surplus, t.hibernated) // they go first
		t.hibernated -= asleep
		t.disk -= asleep
		t.warm -= a.Surplus - asleep
	}
	return append(out, t.tier()...)
}

// replaceable is how many machines of older recipes may be destroyed now.
func (t *tally) replaceable(keep, ready bool) int {
	all := t.warm + t.hibernated
	switch {
	case t.target.Min == 0:
		return all
	case !ready:
		return 0 // an old machine is better than none
	case !keep:
		return all
	case t.free() < t.target.Min || !t.settled():
		return 0
	default:
		// Only from a full flavour, and at most a tenth of it, so that free
		// machines never run out because of a replacement.
		return min(all, max(1, t.target.Min/driftBudget))
	}
}

// tier moves free machines between memory and disk, toward the number that is
// to be in memory and never past it, so that it comes to rest.
func (t *tally) tier() []action {
	if !t.known {
		return nil
	}
	awake, running := t.warm+t.waking, t.running()
	a := action{Tenant: t.target.Tenant, Variant: t.target.Variant}
	switch {
	case awake < running && t.hibernated > 0:
		a.Wake = min(running-awake, t.hibernated)
	case t.target.Hibernate:
		a.Hibernate = max(0, min(awake-t.target.Restless-running, t.warm, tierBatch-(t.disk-t.hibernated)))
	}
	if a.Wake+a.Hibernate == 0 {
		return nil
	}
	return []action{a}
}

// running is how many free machines of the flavour are to be in memory. What
// sleeps although the flavour no longer hibernates is woken.
func (t *tally) running() int {
	if !t.target.Hibernate {
		return t.target.Min
	}
	return min(t.target.Running, t.target.Min)
}
