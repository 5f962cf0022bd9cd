package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// holdFor is how long a pool is a replica's after each renewal: under the
	// 10 s within which another must have taken over, also on a busy host.
	holdFor = 8500 * time.Millisecond
	// holdRenew is how often it is renewed, holdRetry the same while renewing
	// fails.
	holdRenew = 2 * time.Second
	holdRetry = 500 * time.Millisecond
	// holdMargin is how long before its end a hold is not trusted any more: what
	// was begun just before has so long to be cancelled before another replica
	// begins.
	holdMargin = 3 * time.Second
	// holdLook is how often at least a replica that waits for a pool asks for
	// it: when it is given up and the announcement is lost.
	holdLook = 2 * time.Second
	// holdSlack is how long after a hold's end another replica asks for it.
	holdSlack = 20 * time.Millisecond
	// unholdWait bounds the giving up at a stop.
	unholdWait = 2 * time.Second
	// formerPatience is how long nobody must have held a pool before a replica
	// takes it whose pool file has lost it: others may still have it in theirs.
	formerPatience = 30 * time.Second
)

// tenure is one stretch of time in which this process runs a pool's loops. The
// work of a tenure runs under its context, which ends with it; a write under
// that context is fenced, a call to the cloud is refused once the tenure is
// over. Where the store is this process's alone (ManagerConfig.Solo) a tenure
// lasts as long as the manager runs, and nothing is fenced.
//
// Whether it is over is judged by this process's clock, from before the hold
// was asked for: after a SIGSTOP the first look at the clock ends it, before
// anything is done.
type tenure struct {
	rt     *runtime
	hold   Hold
	fenced Store
	now    func() time.Time
	ctx    context.Context // ends with the tenure, and carries it
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	limit time.Time   // until when it is trusted; zero: no limit
	lapse *time.Timer // ends it then, also while a renewal hangs
	over  bool
	tasks sync.WaitGroup
}

type tenureKey struct{}

// tenureOf is the tenure under which ctx's work is done, nil for a request's.
func tenureOf(ctx context.Context) *tenure {
	tn, _ := ctx.Value(tenureKey{}).(*tenure)
	return tn
}

// guardTenure refuses a cloud call whose tenure is over: see drivers.Client.Guarded.
func guardTenure(ctx context.Context) error {
	if tn := tenureOf(ctx); tn != nil {
		return tn.check()
	}
	return nil
}

// check ends a tenure whose time has come, and says whether it goes on.
func (tn *tenure) check() error {
	if tn.ctx.Err() != nil {
		return context.Cause(tn.ctx)
	}
	if tn.left() > 0 {
		return nil
	}
	tn.end(fmt.Errorf("%w, or may be: this replica could not renew its hold on pool %s in time", ErrHeld, tn.hold.Pool))
	return context.Cause(tn.ctx)
}

// left is how long the tenure is trusted yet. A wall clock that has run ahead
// of the monotonic one counts too: the latter stands still while the host
// sleeps.
func (tn *tenure) left() time.Duration {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	if tn.limit.IsZero() {
		return holdFor
	}
	now := tn.now()
	return min(tn.limit.Sub(now), tn.limit.Round(0).Sub(now.Round(0)))
}

// extend trusts the tenure from the moment its hold was asked for.
func (tn *tenure) extend(asked time.Time) {
	tn.mu.Lock()
	tn.limit = asked.Add(holdFor - holdMargin)
	tn.mu.Unlock()
	tn.lapse.Reset(max(0, tn.left()))
}

func (tn *tenure) end(cause error) { tn.cancel(cause) }

// spawn runs f under the tenure's context; false if the tenure is over.
func (tn *tenure) spawn(f func(ctx context.Context)) bool {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	if tn.over || tn.ctx.Err() != nil {
		return false
	}
	tn.tasks.Add(1)
	go func() {
		defer tn.tasks.Done()
		f(tn.ctx)
	}()
	return true
}

// finish waits for the tenure's work, which has been told to end.
func (tn *tenure) finish() {
	tn.mu.Lock()
	tn.over = true
	tn.mu.Unlock()
	tn.lapse.Stop()
	tn.tasks.Wait()
}

// tenured is the present tenure of a pool in this process, nil if there is none.
func (rt *runtime) tenured() *tenure {
	tn := rt.tenure.Load()
	if tn == nil || tn.check() != nil {
		return nil
	}
	return tn
}

// dueAt is when a row that was written for the pool's worker is due: at then if
// this process will see to it itself, else now, for the replica that does.
func (rt *runtime) dueAt(then, now time.Time) time.Time {
	if rt.tenured() != nil {
		return then
	}
	return now
}

// held names the pools whose loops run here.
func (m *Manager) held() []string {
	var names []string
	for _, name := range m.order {
		if m.pools[name].tenured() != nil {
			names = append(names, name)
		}
	}
	return names
}

// tenureFor is the tenure that sees to what belongs to a pool: the pool's own,
// or for a pool that has no driver here that of the first of others, so that
// one replica does it. Nil: another replica's business.
func (m *Manager) tenureFor(pool string, others ...string) *tenure {
	if rt := m.pools[pool]; rt != nil {
		return rt.tenured()
	}
	for _, name := range others {
		if rt := m.pools[name]; rt != nil {
			return rt.tenured()
		}
	}
	return nil
}

// runTenures takes the pool whenever it is free, until ctx ends.
func (m *Manager) runTenures(ctx context.Context, rt *runtime) error {
	freed, end := m.hub.watch(freeKey(rt.cfg.Name))
	defer end()
	for {
		if rt.retired && !m.solo && !m.forsaken(ctx, rt) {
			if !m.rest(ctx, nil, formerPatience) {
				return nil
			}
			continue
		}
		tn, again := m.take(ctx, rt)
		if tn != nil {
			m.serve(ctx, tn)
		}
		if !m.rest(ctx, freed, again) {
			return nil
		}
	}
}

// forsaken says whether nobody has held the pool, or renewed a hold on it,
// since it was asked the last time.
func (m *Manager) forsaken(ctx context.Context, rt *runtime) bool {
	rt.known.Store(true)
	rows, err := m.store.Pools(ctx)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(rows, func(row PoolRow) bool { return row.Name == rt.cfg.Name })
	if i < 0 {
		return false
	}
	before := rt.seen
	rt.seen = &rows[i].Hold
	return before != nil && *before == *rt.seen
}

// rest waits for d or a wake-up; false when ctx has ended.
func (m *Manager) rest(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return ctx.Err() == nil
}

// take begins a tenure if the pool is to be had, and else says when to ask again.
func (m *Manager) take(ctx context.Context, rt *runtime) (*tenure, time.Duration) {
	name := rt.cfg.Name
	tn := &tenure{rt: rt, now: m.now, fenced: m.store.s}
	asked := m.now()
	if !m.solo {
		call, cancel := context.WithTimeout(ctx, holdFor-holdMargin)
		hold, err := m.store.Hold(call, name, m.incarnation, holdFor)
		cancel()
		switch held, ok := errors.AsType[*HeldError](err); {
		case ok:
			rt.known.Store(true)
			m.compareConfig(ctx, rt, held.Holder)
			return nil, max(0, min(held.Left, holdLook)) + holdSlack
		case err != nil:
			if ctx.Err() == nil {
				m.log.Error("pool not taken", "pool", name, "err", err)
			}
			return nil, holdRetry
		}
		tn.hold, tn.fenced = hold, m.store.Fence(hold)
	}
	tn.ctx, tn.cancel = context.WithCancelCause(context.WithValue(ctx, tenureKey{}, tn))
	tn.lapse = time.AfterFunc(time.Hour, func() { _ = tn.check() })
	if m.solo {
		tn.lapse.Stop()
	} else {
		tn.extend(asked)
	}
	if err := m.takeOver(tn); err != nil {
		tn.end(errStopping)
		tn.finish()
		if ctx.Err() == nil && !errors.Is(err, ErrHeld) {
			m.log.Error("pool not taken over", "pool", name, "err", err)
		}
		return nil, holdRetry
	}
	return tn, holdRetry
}

// takeOver writes this replica's configuration of the pool and makes everything
// due that whoever held it before was working on.
func (m *Manager) takeOver(tn *tenure) error {
	now := m.stamp()
	name := tn.rt.cfg.Name
	if !m.solo {
		if err := m.store.ConfigurePool(tn.ctx, tn.rt.row(), now); err != nil {
			return err
		}
	}
	adopted, err := m.store.Adopt(tn.ctx, []string{name}, now)
	if err != nil {
		return fmt.Errorf("take over instances: %w", err)
	}
	if adopted > 0 || !m.solo {
		m.log.Info("took the pool over", "pool", name, "instances", adopted, "generation", tn.hold.Generation)
	}
	return nil
}

// serve runs the pool's loops until the tenure is over and nothing of it runs
// any more.
func (m *Manager) serve(ctx context.Context, tn *tenure) {
	rt := tn.rt
	// What is known of the pool from an earlier tenure may be out of date.
	rt.breaker.forget()
	rt.ramp.begin()
	rt.tenure.Store(tn)
	rt.known.Store(true)
	tn.spawn(func(ctx context.Context) { m.runPlanner(ctx, rt) })
	m.work.remind(m.now())
	m.kickScopes(rt)
	m.renew(ctx, tn)
	tn.end(errStopping)
	rt.tenure.Store(nil)
	tn.finish()
	if m.solo {
		return
	}
	if ctx.Err() == nil {
		m.log.Info("the pool is not held here any more", "pool", rt.cfg.Name, "generation", tn.hold.Generation, "why", context.Cause(tn.ctx))
		return
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), unholdWait)
	defer cancel()
	if err := m.store.Unhold(call, tn.hold); err != nil {
		m.log.Warn("pool not given up, another replica takes it when its time is over", "pool", rt.cfg.Name, "err", err)
		return
	}
	m.hub.announce(freeKey(rt.cfg.Name))
}

// renew keeps the hold until it is lost or ctx ends.
func (m *Manager) renew(ctx context.Context, tn *tenure) {
	if m.solo {
		<-ctx.Done()
		return
	}
	pause := holdRenew
	for m.rest(tn.ctx, nil, pause) && tn.check() == nil {
		asked := m.now()
		call, cancel := context.WithTimeout(tn.ctx, tn.left())
		hold, err := m.store.Hold(call, tn.hold.Pool, m.incarnation, holdFor)
		cancel()
		pause = holdRenew
		switch {
		case err == nil && hold.Generation == tn.hold.Generation:
			tn.extend(asked)
		case err == nil:
			// It was another's in between, and is ours again: begin anew.
			tn.end(fmt.Errorf("%w meanwhile: its generation is %d", ErrHeld, hold.Generation))
		case errors.Is(err, ErrHeld):
			tn.end(err)
		default:
			pause = holdRetry
			if ctx.Err() == nil {
				m.log.Warn("hold on the pool not renewed, tried again", "pool", tn.hold.Pool, "left", tn.left(), "err", err)
			}
		}
	}
}

// compareConfig says loudly, once per holder, that the replica that holds a
// pool has another configuration of it: the holder's counts while it holds.
func (m *Manager) compareConfig(ctx context.Context, rt *runtime, holder string) {
	if rt.compared == holder {
		return
	}
	rows, err := m.store.Pools(ctx)
	if err != nil {
		return // asked again at the next refusal
	}
	for _, row := range rows {
		if row.Name != rt.cfg.Name || row.Hold.Replica != holder {
			continue
		}
		rt.compared = holder
		mine := rt.row()
		if row.Retired == mine.Retired && (mine.Retired || sameRecipes(row, mine) && row.Min == mine.Min && row.Max == mine.Max) {
			return
		}
		m.log.Warn("THIS REPLICA'S POOL FILE DIFFERS from that of the replica that holds the pool, and the holder's counts; give all replicas the same file",
			"pool", row.Name, "holder", holder, "recipe", mine.SpecHash, "holder_recipe", row.SpecHash,
			"min", mine.Min, "holder_min", row.Min, "max", mine.Max, "holder_max", row.Max)
		err := m.store.Note(ctx, Event{
			At: m.stamp(), Pool: row.Name, Reason: "config_differs",
			Message: fmt.Sprintf("replica %s has another configuration of the pool (recipe %s, %d to %d machines) than replica %s, which holds it (recipe %s, %d to %d machines)",
				m.incarnation, mine.SpecHash, mine.Min, mine.Max, holder, row.SpecHash, row.Min, row.Max),
		})
		if err != nil {
			m.log.Error("event not written", "err", err)
		}
		return
	}
}

// sameRecipes says whether two configurations of a pool make the same machines.
func sameRecipes(a, b PoolRow) bool {
	return a.SpecHash == b.SpecHash && slices.Equal(slices.Sorted(slices.Values(a.Recipes)), slices.Sorted(slices.Values(b.Recipes)))
}

// row is the pool as this process would configure it.
func (rt *runtime) row() PoolRow {
	row := PoolRow{
		Name: rt.cfg.Name, Driver: rt.cfg.Driver, Scope: rt.home().scope, Min: rt.cfg.Min, Max: rt.cfg.Max,
		SpecHash: rt.flavours[0].recipe, LastSpec: lastSpec(rt.cfg), Platform: rt.cfg.Platform, Retired: rt.retired,
		PerMinute: rt.cfg.Guards.PerMinute,
	}
	for _, f := range rt.flavours {
		row.Recipes = append(row.Recipes, f.recipe)
		if f.Max >= 0 {
			row.Flavours = append(row.Flavours, FlavourRow{Tenant: f.tenant.id, Variant: f.ID, Max: f.Max})
		}
	}
	return row
}
