package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// scope is one account of one cloud: everything that lists together.
type scope struct {
	key   string
	local bool
	// tenants are those whose machines it lists; their drivers see the same.
	tenants []*tenancy
	kicks   chan struct{}

	mu     sync.Mutex
	next   *reading      // asked for, not begun
	wanted chan struct{} // one value while next is set

	// The sweeper's memory, used by its goroutine only.
	strangers map[string]*sighting // machines and disks without a row, by subject
	missing   map[string]*absence  // rows without a machine, by instance id
	entries   map[string]entry     // when rows entered their states, by instance id or disk
	told      string               // the last problem that was logged
	report    scopeReport          // guarded by mu
}

// reading is one listing several callers wait for.
type reading struct {
	done  chan struct{}
	disks bool // somebody wants to know of disks
	listing
	err error
}

// listing is a Listing that can be looked up by name.
type listing struct {
	drivers.Listing
	byName map[string]drivers.Instance
}

// absence is how often a row's machine was not listed, or not awake, counted from the row's
// last transition on: a listing that began before it says nothing about it.
type absence struct {
	since  time.Time // the row's Since
	first  time.Time // when it was first missed
	listed time.Time // when the last listing that counted began
	times  int
}

// missed counts a listing that lacks the row's machine, if it is evidence: it
// is complete, and began after the row's last transition and after the listing
// counted before. enough says that there were two.
func (sc *scope) missed(row Instance, l listing, now time.Time) (enough bool) {
	a := sc.missing[row.ID]
	if a == nil || !a.since.Equal(row.Since) || a.listed.After(now) { // counted before the clock was set back
		a = &absence{since: row.Since, first: now}
		sc.missing[row.ID] = a
	}
	if l.Complete && l.At.After(sc.entered(row.ID, row.Since, now)) && l.At.After(a.listed) {
		a.listed = l.At
		a.times++
	}
	return a.times >= 2
}

// entry is the earliest time at which a row was seen here in the state it
// entered at since, a disk's as doomed since then.
type entry struct{ since, seen time.Time }

// entered is when the row's last transition was, as far as listings are to be
// compared with it: if the clock was set back since then, when this sweeper
// first saw the row after that.
func (sc *scope) entered(id string, since, now time.Time) time.Time {
	e, known := sc.entries[id]
	if !known || !e.since.Equal(since) || now.Before(e.seen) {
		e = entry{since: since, seen: now}
		sc.entries[id] = e
	}
	if e.seen.Before(e.since) {
		return e.seen
	}
	return e.since
}

func newScope(key string, local bool) *scope {
	return &scope{
		key: key, local: local,
		kicks: make(chan struct{}, 1), wanted: make(chan struct{}, 1),
		strangers: map[string]*sighting{}, missing: map[string]*absence{}, entries: map[string]entry{},
	}
}

// names are the scope's pools in order.
func (sc *scope) names() []string {
	var names []string
	for _, tn := range sc.tenants {
		if !slices.Contains(names, tn.cfg.Name) {
			names = append(names, tn.cfg.Name)
		}
	}
	return names
}

// kick has the scope swept soon.
func (sc *scope) kick() {
	select {
	case sc.kicks <- struct{}{}:
	default:
	}
}

// pace is the pause between two listings of one that waits for a machine.
func (sc *scope) pace() time.Duration {
	if sc.local {
		return 20 * time.Millisecond
	}
	return time.Second
}

// gap is what lies at least between the beginnings of two listings, so that
// many who wait for machines share each: a cloud's calls are counted.
func (sc *scope) gap() time.Duration {
	if sc.local {
		return 0
	}
	return 2 * time.Second
}

// aliveEvery is how often a machine whose agent does not answer is looked for
// in its cloud, so that a dead one is not waited for.
func (sc *scope) aliveEvery() time.Duration {
	if sc.local {
		return 2 * time.Second
	}
	return 15 * time.Second
}

// listTimeout bounds one listing.
const listTimeout = time.Minute

// list returns a listing that began after the call: one call to the cloud
// serves everybody who asked before it began.
func (m *Manager) list(ctx context.Context, sc *scope) (listing, error) {
	return m.listing(ctx, sc, true)
}

// listing is list, without disks if nobody wants to know of them.
func (m *Manager) listing(ctx context.Context, sc *scope, disks bool) (listing, error) {
	sc.mu.Lock()
	r := sc.next
	if r == nil {
		r = &reading{done: make(chan struct{})}
		sc.next = r
		select {
		case sc.wanted <- struct{}{}:
		default:
		}
	}
	r.disks = r.disks || disks
	sc.mu.Unlock()
	select {
	case <-r.done:
		return r.listing, r.err
	case <-ctx.Done():
		return listing{}, context.Cause(ctx)
	}
}

// runLister makes the listings of a scope, one at a time.
func (m *Manager) runLister(ctx context.Context, sc *scope) error {
	gap := time.NewTimer(0)
	defer gap.Stop()
	for {
		select {
		case <-ctx.Done():
			m.failReading(sc, errStopping)
			return nil
		case <-gap.C: // whoever has asked meanwhile is served together
		}
		select {
		case <-ctx.Done():
			m.failReading(sc, errStopping)
			return nil
		case <-sc.wanted:
		}
		gap.Reset(sc.gap())
		sc.mu.Lock()
		r := sc.next
		sc.next = nil
		sc.mu.Unlock()
		if r == nil {
			continue
		}
		call, cancel := context.WithTimeout(ctx, listTimeout)
		l, err := sc.tenants[0].client.List(call, drivers.Query{NoDisks: !r.disks})
		cancel()
		r.err = err
		r.Listing = l
		r.byName = make(map[string]drivers.Instance, len(l.Instances))
		for _, inst := range l.Instances {
			r.byName[inst.Name] = inst
		}
		close(r.done)
	}
}

func (m *Manager) failReading(sc *scope, err error) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.next != nil {
		sc.next.err = err
		close(sc.next.done)
		sc.next = nil
	}
}

// runSweeper compares the cloud with the store: at start, on its interval,
// and when somebody has reason to think that a machine died.
func (m *Manager) runSweeper(ctx context.Context, sc *scope) error {
	every := m.t.SweepCloud
	if sc.local {
		every = m.t.SweepLocal
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		m.ping(ctx, sc)
		if err := m.sweep(ctx, sc); ctx.Err() == nil {
			m.tellSwept(sc, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-sc.kicks:
		}
	}
}

// tellSwept logs a scope that cannot be swept once, not at every try, and keeps
// the problem for who asks.
func (m *Manager) tellSwept(sc *scope, err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	sc.mu.Lock()
	sc.report.Problem = problem
	sc.mu.Unlock()
	if problem == sc.told {
		return
	}
	sc.told = problem
	if err != nil {
		m.log.Error("scope not swept, tried again", "scope", sc.key, "err", err)
		return
	}
	m.log.Info("scope swept again", "scope", sc.key)
}

// ping asks each pool's driver until it has answered once.
func (m *Manager) ping(ctx context.Context, sc *scope) {
	for _, tn := range sc.tenants {
		if v, ok := m.pinged.Load(tn.label()); ok && v == "" {
			continue
		}
		call, cancel := context.WithTimeout(ctx, listTimeout)
		err := tn.client.Ping(call)
		cancel()
		if err == nil {
			m.pinged.Store(tn.label(), "")
			continue
		}
		if ctx.Err() == nil {
			if _, told := m.pinged.Swap(tn.label(), err.Error()); !told {
				m.log.Error("driver does not answer", "pool", tn.label(), "driver", tn.cfg.Driver, "err", err)
			}
		}
	}
}

// sweep is one comparison of a scope: rows without machines, machines that
// died, machines without rows.
func (m *Manager) sweep(ctx context.Context, sc *scope) error {
	if !slices.ContainsFunc(sc.tenants, func(t *tenancy) bool { return t.rt.tenured() != nil }) {
		clear(sc.strangers)
		clear(sc.missing)
		clear(sc.entries)
		m.counters.orphans(sc.key, nil)
		return nil
	}
	// The listing first: every machine in it has its row by the time the rows
	// are read, since the row comes before the machine. Rows younger than the
	// listing are no evidence of a missing machine, and are skipped below.
	l, err := m.list(ctx, sc)
	if err != nil {
		return err
	}
	rows, err := m.store.Instances(ctx, InstanceQuery{Scope: sc.key, Live: true})
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(rows))
	now := m.stamp()
	for _, row := range rows {
		tn := m.tenureFor(row.Pool, sc.names()...)
		if tn == nil {
			continue // another replica sweeps it
		}
		seen[row.ID] = true
		entered := sc.entered(row.ID, row.Since, now)
		mach, listed := l.byName[row.Name]
		// Nobody here has put a warm machine to sleep: a claim would find it
		// dead, and until then it costs its disk for nothing.
		asleep := listed && row.State == Warm && mach.Status == drivers.StatusSuspended
		if listed && !asleep {
			delete(sc.missing, row.ID)
		}
		switch {
		case listed && mach.Status == drivers.StatusDead && l.At.After(entered):
			m.died(tn.ctx, row, deathOf(mach))
		case asleep && sc.missed(row, l, now):
			m.died(tn.ctx, row, fmt.Errorf("%w: the cloud has suspended it without being asked from here", errDead))
		case !listed && sc.missed(row, l, now):
			m.died(tn.ctx, row, fmt.Errorf("%w: the cloud does not list it any more", errDead))
		case listed && l.At.After(entered):
			m.unsettled(row, mach.Status)
		}
	}
	for id := range sc.missing {
		if !seen[id] {
			delete(sc.missing, id)
		}
	}
	err = m.sweepDisks(ctx, sc, l, seen)
	for id := range sc.entries {
		if !seen[id] {
			delete(sc.entries, id)
		}
	}
	if err != nil {
		return err
	}
	return m.sweepStrangers(sc, l, rows)
}

// died handles a machine that is gone or dead although its row says it lives.
func (m *Manager) died(ctx context.Context, row Instance, cause error) {
	switch row.State {
	case Warm, Hibernated, Leased, Suspended:
	default:
		// Creating, booting and the like are looked at by who works on them;
		// failed and destroying ones are expected to be dead.
		return
	}
	if !m.work.idle(row.ID) {
		return
	}
	if row.State == Suspended && !errors.Is(cause, errDead) {
		return
	}
	console := tailOf(m.console(ctx, row))
	now := m.stamp()
	event := Event{
		At: now, Pool: row.Pool, Instance: row.ID, Lease: row.LeaseID, Generation: row.LeaseGeneration,
		Reason: "machine_died", Message: cause.Error(),
	}
	var err error
	switch {
	case row.State == Warm || row.State == Hibernated:
		_, err = m.store.Change(ctx, Change{
			ID: row.ID, From: []InstanceState{row.State}, To: Failed, Due: now,
			Reason: "machine_died", Detail: cause.Error(), Now: now, Events: []Event{event},
		})
	case row.Kind == Gitspace:
		if row.State == Suspended {
			return // its data may still be there; the next resume says
		}
		// Nothing is destroyed: the next setup restarts it on its disk.
		_, err = m.store.Change(ctx, Change{
			ID: row.ID, From: []InstanceState{row.State}, To: Failed, Due: now.Add(farFuture),
			Reason: "machine_died", Detail: cause.Error(), Now: now, Events: []Event{event},
		})
	case m.unanswered(ctx, row):
		// Nobody has been told of this machine yet: the lease goes on without
		// it, on another.
		lease, lerr := m.leaseOf(ctx, row)
		if err = lerr; err == nil && lease != nil {
			err = m.failLease(ctx, *lease, row, Cause{
				Pool: row.Pool, Instance: row.ID, Phase: "health", Kind: causeDied, Message: cause.Error(), Console: console,
			}, !row.Cold, time.Time{})
		}
	default:
		_, err = m.store.Lose(ctx, LeaseKey{ID: row.LeaseID, Generation: row.LeaseGeneration}, row.ID,
			"machine_died", lostDetail(cause, console), now, now, event)
	}
	if err != nil {
		if !errors.Is(err, ErrConflict) && ctx.Err() == nil {
			m.log.Error("dead machine not recorded", "instance", row.Name, "err", err)
		}
		return
	}
	m.log.Warn("machine died", "pool", row.Pool, "instance", row.Name, "lease", row.LeaseID, "err", cause)
	m.steps.end(row.ID, &LostError{Lease: row.LeaseID, Instance: row.Name, Cause: cause.Error(), Console: console})
	m.agent.Forget(row.ID)
	m.hub.notify(leaseKey(row.LeaseID), instanceKey(row.ID))
	if fresh, err := m.store.Instance(ctx, row.ID); err == nil {
		m.work.dispatch(m, fresh)
	}
	if rt := m.pools[row.Pool]; rt != nil {
		rt.kick()
	}
}

// unanswered says whether a leased machine's setup is still going on.
func (m *Manager) unanswered(ctx context.Context, row Instance) bool {
	lease, err := m.leaseOf(ctx, row)
	return err == nil && lease != nil && lease.State == LeaseStarting && lease.InstanceID == row.ID && lease.Active.IsZero()
}

// lostDetail keeps the console's last words with the cause, for the steps that
// come later.
func lostDetail(cause error, console string) string {
	if console == "" {
		return cause.Error()
	}
	return fmt.Sprintf("%s (console tail: %q)", cause, console)
}
