package sim

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// TestSimulationBites breaks one rule at a time on purpose, outside of the
// product: a simulation that does not notice proves nothing. Each must be
// noticed under its own name within a few seeds.
func TestSimulationBites(t *testing.T) {
	for _, b := range bites() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			var all []string
			for seed := uint64(1); seed <= biteSeeds; seed++ {
				for _, f := range simulate(t, seed, storeSQLite, b.bite) {
					if f.rule == b.rule {
						t.Logf("noticed with seed %d: %s", seed, f.text)
						return
					}
					all = append(all, f.text)
				}
			}
			t.Errorf("%q was not noticed within %d seeds; other complaints: %.2000q", b.rule, biteSeeds, all)
		})
	}
}

// biteSeeds is within how many seeds a bite must be noticed.
const biteSeeds = 300

type broken struct {
	rule rule
	name string
	bite bite
}

func bites() []broken {
	return []broken{
		{ruleIntent, "machines are asked for in other names than their rows'", bite{world: sabotage{renames: true}}},
		{ruleConfirmed, "a destroy only says so", bite{world: sabotage{destroyLies: true}}},
		{ruleStranger, "the cloud makes machines nobody asked for", bite{world: sabotage{strangers: true}}},
		{ruleGate, "a destroy takes another machine along", bite{world: sabotage{eager: true}}},
		{ruleInUse, "a destroy takes another machine along that is in use", bite{world: sabotage{eager: true}}},
		{ruleFalseDeath, "listings call every machine in use dead", bite{world: sabotage{allDead: true}}},
		{ruleUsed, "a claim gives the last machine away again", wrapped(func(_ *sim, st pool.Store) pool.Store { return &sharing{Store: st} })},
		{ruleLimit, "the engine's limit is three too high", bite{limitOff: 3, plan: crowded}},
		{ruleQuiet, "the pool is not refilled", bite{minOff: -2, plan: roomy}},
		{ruleQuiet, "a destroy is answered and forgotten", wrapped(func(_ *sim, st pool.Store) pool.Store { return deaf{st} })},
		{ruleDurable, "answered claims are not kept", wrapped(func(_ *sim, st pool.Store) pool.Store { return forgetful{st} })},
		{ruleCounter, "the counter forgets a machine", tampered(`UPDATE pools SET counted = max(0, counted - 1)`)},
		{ruleTransition, "a machine in use becomes warm again", tampered(`UPDATE instances SET state = 'warm', bound = 0 WHERE state = 'leased'`)},
		{ruleOneLease, "a machine is bound to a lease that is over", tampered(`UPDATE instances SET bound = 1, lease_id = 'nobody' WHERE state = 'warm'`)},
		{ruleDue, "rows are put off for days", tampered(`UPDATE instances SET due = due + 864000000 WHERE state IN ('booting', 'destroying')`)},
		{ruleOrder, "who waits longest is passed over", bite{store: func(s *sim, st pool.Store) pool.Store {
			return &tampering{Store: st, s: s, text: `UPDATE lease_choices SET need_until = 4102444800000 WHERE seq = (SELECT min(seq) FROM lease_choices)`}
		}, plan: crowded}},
		{ruleOverdue, "the worker finds nothing due", bite{store: func(_ *sim, st pool.Store) pool.Store { return blind{st} }, plan: clumsy}},
		{ruleReason, "leases end without a reason", wrapped(func(_ *sim, st pool.Store) pool.Store { return silent{st} })},
		{ruleError, "no destroy is taken", wrapped(func(_ *sim, st pool.Store) pool.Store { return denied{st} })},
		{ruleIdle, "rows change although all is quiet", bite{store: func(s *sim, st pool.Store) pool.Store {
			return &tampering{Store: st, s: s, quiet: true, text: `UPDATE instances SET due = due + 1000 WHERE state = 'warm'`}
		}, plan: roomy}},
		{ruleLeak, "a console is read for ever", bite{world: sabotage{consoleHangs: true}, plan: moving}},
		{ruleFalseDeath, "a lease is lost for the machine it was on before", bite{
			store: func(_ *sim, st pool.Store) pool.Store { return mistaken{st} }, plan: moving,
		}},
		{ruleHeld, "the engine does not see holds", bite{store: func(_ *sim, st pool.Store) pool.Store { return gripless{st} }, plan: ordered}},
		{ruleHeld, "a hold is answered and not kept", bite{store: func(s *sim, st pool.Store) pool.Store {
			return &tampering{Store: st, s: s, text: `UPDATE instances SET held = 0`}
		}, plan: ordered}},
		{ruleClosed, "a stopped pool makes machines for requests", bite{store: func(s *sim, st pool.Store) pool.Store { return ajar{st, s} }, plan: ordered}},
		{ruleUsed, "nobody notices that the store is an old copy", bite{world: sabotage{unwitnessed: true, amnesia: true}, plan: copied}},
		{ruleInUse, "an old copy says that it was alive all the time", bite{store: func(_ *sim, st pool.Store) pool.Store { return ageless{st} }, plan: copied}},
		{ruleStranger, "what an old copy does not know is not reported", bite{store: func(s *sim, st pool.Store) pool.Store { return incurious{st, s} }, plan: copied}},
		{ruleFits, "a request for a big machine is given a usual one", bite{store: func(_ *sim, st pool.Store) pool.Store { return levelling{st} }, plan: mixed}},
		{ruleStarved, "the planner sees nobody wait", bite{store: func(_ *sim, st pool.Store) pool.Store { return lonely{st} }, plan: mixed}},
		{ruleCounter, "the counter of a flavour forgets a machine", bite{store: func(s *sim, st pool.Store) pool.Store {
			return &tampering{Store: st, s: s, text: `UPDATE flavours SET counted = max(0, counted - 1)`}
		}, plan: mixed}},
		{ruleQuiet, "one machine too many stays in memory", bite{config: func(pc *pool.PoolConfig) { pc.Running++ }, plan: tiered}},
		{ruleQuiet, "nobody looks at the schedule", bite{config: func(pc *pool.PoolConfig) { pc.Schedules = nil }, plan: scheduled}},
		{ruleGuard, "there is no bound for a minute", bite{config: func(pc *pool.PoolConfig) { pc.Guards.PerMinute = 0 }, plan: guarded}},
		{ruleGuard, "there is no cap for a day", bite{config: func(pc *pool.PoolConfig) { pc.Guards.HoursPerDay = 0 }, plan: guarded}},
		{ruleOpens, "a gate that was closed never opens", bite{store: func(_ *sim, st pool.Store) pool.Store { return rusty{st} }, plan: guarded}},
		{ruleDisk, "every detached disk is taken for one to delete", bite{store: func(s *sim, st pool.Store) pool.Store {
			return &tampering{Store: st, s: s, text: `UPDATE disks SET doomed = 1 WHERE attached_to = ''`}
		}, plan: spaced}},
		{ruleDeleted, "the end of a disk only says so", bite{world: sabotage{disksLie: true}, plan: spaced}},
		{ruleDiskRow, "the rows of disks are lost", bite{store: func(s *sim, st pool.Store) pool.Store {
			return unlearning{&tampering{Store: st, s: s, text: `DELETE FROM disks`}}
		}, plan: spaced}},
		{ruleKnownCert, "what machines are given is not kept", bite{store: func(_ *sim, st pool.Store) pool.Store { return careless{st} }, plan: certified}},
		{ruleQuiet, "a gate closes for ever", bite{store: func(_ *sim, st pool.Store) pool.Store { return locked{st} }, plan: clumsier}},
	}
}

func wrapped(f func(*sim, pool.Store) pool.Store) bite { return bite{store: f} }

// tampered runs a statement behind the store's back at every write.
func tampered(text string) bite {
	return wrapped(func(s *sim, st pool.Store) pool.Store { return &tampering{Store: st, s: s, text: text} })
}

// The plans some bites need, where an ordinary seed would rarely show them.

func spaced(p *plan) {
	roomy(p)
	p.gitspaces = true
}

// certified has gitspaces that live longer than their certificates.
func certified(p *plan) {
	spaced(p)
	p.times.Certificate, p.load = 3*time.Minute, 15*time.Minute
}

// careless says that it has written down what a machine is to be given.
type careless struct{ pool.Store }

func (s careless) Renewing(ctx context.Context, r pool.Renewal) (pool.Instance, error) {
	i, err := s.Store.Instance(ctx, r.ID)
	i.NextIdentity = r.Next
	return i, err
}

func (s careless) Fence(h pool.Hold) pool.Store { return careless{s.Store.Fence(h)} }

func roomy(p *plan) {
	p.pools = []poolPlan{{name: "p", scope: "sim", min: 3, max: 8}}
	p.faults.capacity, p.faults.quota = 0, 0
}

func crowded(p *plan) {
	p.pools = []poolPlan{{name: "p", scope: "sim", min: 2, max: 2}}
	p.callers, p.faults.capacity, p.faults.quota = 8, 0, 0
}

func clumsy(p *plan) {
	roomy(p)
	p.faults.destroyFails = .5
}

// ordered has an operator who orders much.
func ordered(p *plan) {
	roomy(p)
	p.orders = 20
}

// copied has its store put back to an old copy while much goes on.
func copied(p *plan) {
	roomy(p)
	p.callers, p.restore, p.crashes, p.load = 8, byHand, 0, 12*time.Minute
}

// mixed has a small pool of several flavours and many who want one of them.
func mixed(p *plan) {
	crowded(p)
	p.pools[0].max, p.flavours, p.load = 4, true, 12*time.Minute
	p.pools[0].flavours = []flavourPlan{
		{flavour{pool.DefaultFlavour, bigVariant}, 1, 3}, {flavour{otherName, pool.DefaultFlavour}, 1, -1}, {flavour{otherName, bigVariant}, 1, 3},
	}
}

// tiered keeps two of four machines on disk.
func tiered(p *plan) {
	roomy(p)
	p.pools[0].min, p.pools[0].hibernate, p.pools[0].running = 4, true, 2
}

// scheduled wants more machines from the fifth minute to the fiftieth.
func scheduled(p *plan) {
	roomy(p)
	p.pools[0].schedules = []pool.Schedule{{From: 5 * time.Minute, To: 50 * time.Minute, Zone: time.UTC, Min: 5}}
}

// guarded may begin one machine a minute, and spend half an hour in a day that
// ends soon.
func guarded(p *plan) {
	roomy(p)
	p.pools[0].perMinute, p.pools[0].hours, p.begins = 1, .5, day-25*time.Minute
	p.slowStore, p.jumps, p.restore, p.skewed, p.load, p.callers = false, 0, "", false, 15*time.Minute, 8
}

// clumsier is a cloud in which many creations fail.
func clumsier(p *plan) {
	roomy(p)
	p.faults.createFails = .7
}

// moving is a world in which leases move from machine to machine while sweeps
// are slow.
func moving(p *plan) {
	p.pools = []poolPlan{{name: "p", scope: "sim", min: 6, max: 16}}
	p.times = shortTimes()
	p.callers, p.slowStore, p.slowShare, p.load, p.crashes = 10, true, .4, 10*time.Minute, 0
	p.faults = faults{slow: 2 * time.Second, boot: 4 * time.Second, dies: .8, within: 3 * time.Minute, consoleSlow: 4 * time.Second, listSlow: .3}
	p.times.SweepCloud = 5 * time.Second
}

// sharing is a store whose claims give a machine out a second time.
type sharing struct {
	pool.Store
	mu   sync.Mutex
	last *pool.Grant
}

func (s *sharing) Arrive(ctx context.Context, a pool.Arrival) (pool.Grant, error) {
	g, err := s.Store.Arrive(ctx, a)
	if err != nil || !g.Claimed {
		return g, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.last
	s.last = &pool.Grant{Lease: g.Lease, Instance: g.Instance}
	if old != nil {
		g.Lease.InstanceID, g.Instance = old.Instance.ID, old.Instance
	}
	return g, nil
}

// deaf is a store that says a destroy is done and does nothing.
type deaf struct{ pool.Store }

func (s deaf) End(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	l, err := s.Lease(ctx, e.Lease.ID)
	if err != nil || len(e.States) > 0 {
		return s.Store.End(ctx, e)
	}
	return pool.Ended{Outcome: pool.EndNow, Lease: l}, nil
}

// forgetful is a store that says a lease is active and does not keep it.
type forgetful struct{ pool.Store }

func (s forgetful) Activate(ctx context.Context, k pool.LeaseKey, _, now time.Time, _ ...pool.Event) (pool.Lease, error) {
	l, err := s.LeaseAt(ctx, k)
	l.State, l.Active = pool.LeaseActive, now
	return l, err
}

// silent is a store that does not keep why a lease ends.
type silent struct{ pool.Store }

func (s silent) End(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	e.Reason, e.Detail = "", ""
	return s.Store.End(ctx, e)
}

// denied is a store that takes no end of a caller's.
type denied struct{ pool.Store }

func (s denied) End(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	if len(e.States) == 0 {
		return pool.Ended{}, pool.ErrUnavailable
	}
	return s.Store.End(ctx, e)
}

// blind is a store in which nothing is ever due.
type blind struct{ pool.Store }

func (blind) DueInstances(context.Context, []string, time.Time, int) ([]pool.Instance, error) {
	return nil, nil
}

func (blind) DueLeases(context.Context, time.Time, int) ([]pool.Lease, error) { return nil, nil }

// mistaken is a store that does not ask which machine a lease is taken off: as
// it was before Lose and Requeue named it.
type mistaken struct{ pool.Store }

func (s mistaken) Lose(ctx context.Context, k pool.LeaseKey, _, reason, detail string, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	return s.Store.Lose(ctx, k, "", reason, detail, due, now, events...)
}

func (s mistaken) Requeue(ctx context.Context, r pool.Requeue) (pool.Grant, error) {
	r.Instance = ""
	return s.Store.Requeue(ctx, r)
}

// gripless is a store that tells nobody that a machine is held.
type gripless struct{ pool.Store }

func (s gripless) Instance(ctx context.Context, id string) (pool.Instance, error) {
	i, err := s.Store.Instance(ctx, id)
	i.Held = false
	return i, err
}

func (s gripless) DueInstances(ctx context.Context, pools []string, now time.Time, limit int) ([]pool.Instance, error) {
	all, err := s.Store.DueInstances(ctx, pools, now, limit)
	for k := range all {
		all[k].Held = false
	}
	return all, err
}

// ajar is a store whose closed pools begin machines all the same.
type ajar struct {
	pool.Store
	s *sim
}

func (a ajar) Intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	db := a.s.witness.db
	var override, gate string
	err := db.QueryRow(`SELECT override, gate FROM pools WHERE name = $1`, in.Instance.Pool).Scan(&override, &gate)
	if err == nil {
		_, err = db.Exec(`UPDATE pools SET override = '', gate = '' WHERE name = $1`, in.Instance.Pool)
	}
	if err != nil {
		return pool.Instance{}, err
	}
	i, err := a.Store.Intend(ctx, in)
	if _, derr := db.Exec(`UPDATE pools SET override = $1, gate = $2 WHERE name = $3`, override, gate, in.Instance.Pool); derr != nil {
		return pool.Instance{}, derr
	}
	return i, err
}

// ageless is a store that was alive whenever anybody asks.
type ageless struct{ pool.Store }

func (a ageless) Lifetimes(ctx context.Context) ([]pool.Lifetime, error) {
	all, err := a.Store.Lifetimes(ctx)
	for k := range all {
		all[k].To = time.Now().Add(time.Hour)
	}
	return all, err
}

// incurious is a store that knows every machine there is.
type incurious struct {
	pool.Store
	s *sim
}

func (s incurious) Instance(ctx context.Context, id string) (pool.Instance, error) {
	i, err := s.Store.Instance(ctx, id)
	if !errors.Is(err, pool.ErrNotFound) {
		return i, err
	}
	for name, m := range s.s.world.names() {
		if m.tags.Instance == id {
			return pool.Instance{ID: id, Name: name, State: pool.Warm}, nil
		}
	}
	return i, err
}

// levelling is a store that takes every wish for the usual one.
type levelling struct{ pool.Store }

func (s levelling) Arrive(ctx context.Context, a pool.Arrival) (pool.Grant, error) {
	for k := range a.Choices {
		a.Choices[k].Shape = pool.ShapeOf(pool.DefaultFlavour, pool.DefaultFlavour, "img", "", 0, false, false)
	}
	return s.Store.Arrive(ctx, a)
}

// lonely is a store whose planner sees nobody wait.
type lonely struct{ pool.Store }

func (s lonely) Snapshot(ctx context.Context, name string, waiters int, now time.Time) (pool.Snapshot, error) {
	snap, err := s.Store.Snapshot(ctx, name, waiters, now)
	snap.Waiting, snap.WaitingMore = nil, false
	return snap, err
}

// rusty is a store in which a gate that a cap has closed stays so.
type rusty struct{ pool.Store }

func (s rusty) SetGate(ctx context.Context, name string, g pool.Gate, now time.Time, events ...pool.Event) error {
	if g.Reason == "" {
		return s.Store.Note(ctx, events...)
	}
	return s.Store.SetGate(ctx, name, g, now, events...)
}

// locked is a store whose gates close for ever.
type locked struct{ pool.Store }

func (s locked) SetGate(ctx context.Context, name string, g pool.Gate, now time.Time, events ...pool.Event) error {
	if g.Reason != "" {
		g.Until = now.Add(365 * day)
	}
	return s.Store.SetGate(ctx, name, g, now, events...)
}

// tampering is a store whose rows somebody else writes to.
type tampering struct {
	pool.Store
	s     *sim
	text  string
	quiet bool // only when all is quiet, and then at every look of the planner
}

// unlearning loses the rows of disks and never writes them again.
type unlearning struct{ *tampering }

func (unlearning) SaveDisk(context.Context, pool.Disk) error { return nil }

func (t *tampering) tamper() {
	if _, err := t.s.witness.db.Exec(t.text); err != nil {
		t.s.t.Errorf("tamper: %v", err)
	}
}

func (t *tampering) Accepted(ctx context.Context, a pool.Acceptance) (pool.Instance, error) {
	i, err := t.Store.Accepted(ctx, a)
	if !t.quiet {
		t.tamper()
	}
	return i, err
}

func (t *tampering) Proven(ctx context.Context, p pool.Proof) (pool.Instance, *pool.Lease, error) {
	i, l, err := t.Store.Proven(ctx, p)
	if !t.quiet {
		t.tamper()
	}
	return i, l, err
}

func (t *tampering) Activate(ctx context.Context, k pool.LeaseKey, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	l, err := t.Store.Activate(ctx, k, due, now, events...)
	if !t.quiet {
		t.tamper()
	}
	return l, err
}

func (t *tampering) Snapshot(ctx context.Context, name string, waiters int, now time.Time) (pool.Snapshot, error) {
	if t.quiet && t.s.isQuiet() {
		t.tamper()
	}
	return t.Store.Snapshot(ctx, name, waiters, now)
}
