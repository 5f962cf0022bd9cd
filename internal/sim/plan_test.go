package sim

import (
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// plan is what a seed is about: which kinds of trouble, how much of them, and
// the configuration. Most seeds have a few kinds at a time, since one that has
// all of them hides what two would show.
type plan struct {
	kinds  []string
	faults faults
	times  pool.Timeouts
	pools  []poolPlan

	callers int
	load    time.Duration

	replicas  int
	crashes   int // of each replica: by kill or by signal
	freezes   int
	jumps     int // of the wall clock, by a day or by minutes
	slowStore bool
	slowShare float64 // of the store's answers, if it is slow
	leaves    bool    // a pool leaves the file and returns between restarts
	gitspaces bool
	orders    int // of an operator
	restore   restore
	flavours  bool // pools with variants and tenants
	skewed    bool // replicas whose clocks differ
	// begins is how late in the day it begins.
	begins time.Duration
	// concurrent: writes meet in the database, and only states are checked.
	concurrent bool
}

type poolPlan struct {
	name, scope string
	min, max    int
	pausing     bool
	local       bool
	// flavours are what it makes beside its default, with their targets; without
	// them it makes only that.
	flavours []flavourPlan
	// hibernate puts free machines to disk but for running of them.
	hibernate bool
	running   int
	// schedules are of the default flavour, by the clock of a day in UTC.
	schedules []pool.Schedule
	// perMinute and hours bound what is begun and what is spent; 0 for no bound.
	perMinute int
	hours     float64
}

func (p *plan) String() string {
	if len(p.kinds) == 0 {
		return "calm"
	}
	return strings.Join(p.kinds, "+")
}

// shortTimes are the engine's timeouts at about a sixth, so that minutes hold
// what hours do otherwise.
func shortTimes() pool.Timeouts {
	return pool.Timeouts{
		Create: 45 * time.Second, Boot: 40 * time.Second, BootWindows: 40 * time.Second, Setup: 10 * time.Second,
		StartStep: 10 * time.Second, Hot: 10 * time.Second, Hibernated: 30 * time.Second, Poll: 10 * time.Hour,
		Grace: 30 * time.Second, BusyAge: 4 * time.Hour, FreeAge: 8 * time.Hour, Idle: 10 * time.Minute,
		DestroyWait: 3 * time.Minute, SuspendWait: time.Minute, OrphanGrace: 2 * time.Minute, Tombstone: 5 * time.Minute,
		SweepCloud: 20 * time.Second, SweepLocal: 10 * time.Second,
	}
}

// drawPlan makes the plan of a seed.
func drawPlan(d *dice) *plan {
	p := &plan{
		faults:  faults{slow: d.span(8*time.Second, "slow"), boot: d.span(25*time.Second, "boot")},
		callers: 3 + d.below(4, "callers"), load: 6*time.Minute + d.span(6*time.Minute, "load"),
		replicas: 1,
	}
	p.times = shortTimes()
	p.times.SweepCloud += d.span(40*time.Second, "sweep")
	p.drawPools(d)
	if d.chance(.08, "calm") {
		return p
	}
	f := &p.faults
	kinds := []struct {
		name  string
		share float64
		set   func()
	}{
		{"crashes", .45, func() { p.crashes = 1 + d.below(4, "crashes") }},
		{"creates", .3, func() { f.createFails, f.createLies, f.neverBoots = .15, .15, .08 }},
		{"hangs", .2, func() { f.createHangs, f.destroyHangs, f.agentHangs = .1, .15, .03 }},
		{"destroys", .25, func() { f.destroyFails = .4 }},
		{"refusals", .1, func() { f.refuses = true }},
		{"lists", .3, func() { f.listPartial, f.listStale, f.listFails, f.listSlow = .15, .15, .1, .1 }},
		{"deaths", .3, func() { f.dies, f.vanishes, f.within, f.consoleSlow = .3, .2, 20*time.Minute, 4*time.Second }},
		{"agents", .2, func() { f.setupFails, f.stepForgets = .1, .1 }},
		{"throttling", .15, func() { f.throttles = true }},
		{"stockout", .12, func() { f.capacity = 2 + d.below(3, "capacity") }},
		{"quota", .08, func() { f.quota = 2 + d.below(3, "quota") }},
		{"slow-store", .3, func() { p.slowStore, p.slowShare = true, .08 }},
		{"ages", .2, func() { p.times.BusyAge, p.times.FreeAge = 12*time.Minute, 15*time.Minute }},
		{"freezes", .1, func() { p.freezes = 1 + d.below(2, "freezes") }},
		{"clock", .12, func() { p.jumps = 1 + d.below(2, "jumps") }},
		{"gitspaces", .25, func() { p.gitspaces = true }},
		{"replicas", .2, func() { p.replicas = 2 }},
		{"restored", .12, func() { p.restore = []restore{fromBackup, byHand}[d.below(2, "restore")] }},
		{"flavours", .2, func() { p.drawFlavours(d) }},
		{"skew", .08, func() { p.skewed, p.replicas = true, 2 }},
		{"tier", .15, func() { p.drawTier(d) }},
		{"schedule", .12, func() { p.drawSchedules(d) }},
		{"guards", .12, func() { p.drawGuards(d) }},
		{"operator", .2, func() { p.orders = 4 + d.below(12, "orders") }},
		{"certificates", .2, func() { p.drawCertificates(d) }},
		{"leaving", .15, func() { p.leaves, p.crashes = true, max(p.crashes, 2) }},
	}
	for _, k := range kinds {
		if d.chance(k.share, k.name) {
			k.set()
			p.kinds = append(p.kinds, k.name)
		}
	}
	if p.restore != "" {
		// By a clock that was set nobody can tell when a machine was made.
		p.jumps = 0
		p.load += 4 * time.Minute
	}
	if f.capacity > 0 {
		f.quota = 0
	}
	if d.chance(.02, "long") {
		// With the times of production.
		p.kinds = append(p.kinds, "long")
		p.load, p.times, f.slow, f.boot = 2*time.Hour, pool.Timeouts{}, 20*time.Second, 2*time.Minute
		p.crashes *= 3
	}
	return p
}

// drawCertificates has gitspaces whose certificates end within minutes.
func (p *plan) drawCertificates(d *dice) {
	p.gitspaces, p.times.Certificate = true, 90*time.Second+d.span(4*time.Minute, "certificate")
}

func (p *plan) drawPools(d *dice) {
	shape := func(name, scope string) poolPlan {
		lo := d.below(4, name, "min")
		return poolPlan{
			name: name, scope: scope, min: lo, max: lo + 1 + d.below(5, name, "max"),
			pausing: d.chance(.25, name, "pausing"), local: d.chance(.1, scope, "local"),
		}
	}
	p.pools = []poolPlan{shape("p", "sim")}
	switch x := d.draw("pools"); {
	case x < .2:
		p.pools = append(p.pools, shape("q", "sim"))
	case x < .35:
		p.pools = append(p.pools, shape("q", "other"))
	}
}

// timeouts are the plan's with the engine's defaults, for the bounds of the
// due rule.
func (p *plan) timeouts() pool.Timeouts {
	if p.times != (pool.Timeouts{}) {
		return p.times
	}
	return pool.Timeouts{
		Create: 5 * time.Minute, Boot: 3 * time.Minute, BootWindows: 5 * time.Minute, Setup: 30 * time.Second,
		Grace: 2 * time.Minute, BusyAge: 24 * time.Hour, FreeAge: 72 * time.Hour, Idle: time.Hour, OrphanGrace: 5 * time.Minute,
		DestroyWait: 10 * time.Minute, SuspendWait: 5 * time.Minute, SweepCloud: time.Minute,
	}
}
