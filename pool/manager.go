package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// ManagerConfig is what a Manager is made of. Store, Agent and Open are
// required; every zero duration takes its default.
type ManagerConfig struct {
	Store Store
	Agent Agent
	// Boot renders boot scripts; nil while every driver is an Identifier or
	// needs none.
	Boot Boot
	// Pools is the configuration; Open makes the driver of one pool, or of one
	// tenant of it, then with the tenant's spec. It is also called for what has
	// left the file, then with SpecJSON only.
	Pools []PoolConfig
	Open  func(p PoolConfig) (Opened, error)
	// Incarnation names this run of the program; random if empty.
	Incarnation string
	// Solo says that no other process works on this store: the pools' loops run
	// here from the start. Else each pool's loops run where the pool is held, see
	// Store.Hold, and New announces and hears through Store if it is a Notifier.
	Solo bool
	// NamePrefix begins the names of machines; ServerName is the TLS name of
	// new ones.
	NamePrefix string
	ServerName string
	// Environment is the fact `harness_env` of machines, "" for none.
	Environment string
	// ProxyCA says that boot scripts bring the certificate of proxies' authority
	// to machines that go out through one.
	ProxyCA bool
	// KeepDrifted keeps warm machines of an older recipe at start.
	KeepDrifted bool
	// Timeouts bounds the phases of requests and machines.
	Timeouts Timeouts
	Log      *slog.Logger
	// Witness remembers outside of the store when it was last alive, so that an
	// old copy of it is noticed; nil: only what the store says of itself counts.
	Witness Witness
	// Now stamps what is written; time.Now if nil.
	Now func() time.Time
	// Uptime is a clock nobody sets, to tell a jump of Now by; nil: the
	// monotonic reading of Now.
	Uptime func() time.Duration
}

// Timeouts bounds what the engine waits for. Zero values take the defaults
// named here.
type Timeouts struct {
	// Create bounds one cloud call (5 min), Boot a machine from its creation
	// to its agent's first answer (3 min), BootWindows the same there (5 min).
	Create, Boot, BootWindows time.Duration
	// Hot bounds the health check of a warm machine (10 s), Hibernated that of
	// a resumed one (2 min).
	Hot, Hibernated time.Duration
	// Setup bounds the agent's setup (30 s), StartStep the start of a step
	// (30 s), Poll a step in all (10 h).
	Setup, StartStep, Poll time.Duration
	// Grace is how long a machine is kept for a caller that hung up (2 min).
	Grace time.Duration
	// BusyAge and FreeAge are the maximum ages of build leases (24 h) and warm
	// machines (72 h); Idle is how long nothing may have happened before the
	// busy age ends a lease (1 h).
	BusyAge, FreeAge, Idle time.Duration
	// DestroyWait is how long a gitspace's destroy is waited for (10 min),
	// SuspendWait the same for a suspend (5 min).
	DestroyWait, SuspendWait time.Duration
	// OrphanGrace is how long a machine without a row is watched before it is
	// destroyed (5 min); Tombstone how long a destroy that came before its
	// setup is remembered (10 min).
	OrphanGrace, Tombstone time.Duration
	// Certificate is how long a gitspace's certificates are good for (1080 days);
	// they are renewed when a third of that is left.
	Certificate time.Duration
	// SweepLocal and SweepCloud are the intervals of listings (5 s, 1 min).
	SweepLocal, SweepCloud time.Duration
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{
		Create:      cmp.Or(t.Create, 5*time.Minute),
		Boot:        cmp.Or(t.Boot, 3*time.Minute),
		BootWindows: cmp.Or(t.BootWindows, 5*time.Minute),
		Hot:         cmp.Or(t.Hot, 10*time.Second),
		Hibernated:  cmp.Or(t.Hibernated, 2*time.Minute),
		Setup:       cmp.Or(t.Setup, 30*time.Second),
		StartStep:   cmp.Or(t.StartStep, 30*time.Second),
		Poll:        cmp.Or(t.Poll, 10*time.Hour),
		Grace:       cmp.Or(t.Grace, 2*time.Minute),
		BusyAge:     cmp.Or(t.BusyAge, 24*time.Hour),
		FreeAge:     cmp.Or(t.FreeAge, 72*time.Hour),
		Idle:        cmp.Or(t.Idle, time.Hour),
		DestroyWait: cmp.Or(t.DestroyWait, 10*time.Minute),
		SuspendWait: cmp.Or(t.SuspendWait, 5*time.Minute),
		OrphanGrace: cmp.Or(t.OrphanGrace, 5*time.Minute),
		Tombstone:   cmp.Or(t.Tombstone, 10*time.Minute),
		Certificate: cmp.Or(t.Certificate, gitspaceValidity),
		SweepLocal:  cmp.Or(t.SweepLocal, 5*time.Second),
		SweepCloud:  cmp.Or(t.SweepCloud, time.Minute),
	}
}

// Opened is one pool's driver and what generic code must know of its type.
type Opened struct {
	Client *drivers.Client
	// Spec, Image, MachineType and DiskGiB are the resolved configuration of a
	// pool that was opened from SpecJSON only; for others they are ignored.
	Image       string
	MachineType string
	DiskGiB     int
	// Local: listings are cheap and machines live on this host.
	Local bool
	// Zones, Nested and GPU say what a request may ask for.
	Zones, Nested, GPU bool
	// Concurrency bounds how many machines are created, and how many boot, at
	// a time: where machines share this host's processors, a few. 0: 32
	// creates, and as many boots as there are machines.
	Concurrency int
}

// Manager is the engine. It implements Service; Run drives its loops. One
// Manager works on a store per process.
type Manager struct {
	store fencing
	agent Agent
	boot  Boot
	open  func(PoolConfig) (Opened, error)
	log   *slog.Logger
	now   func() time.Time
	up    func() time.Duration
	t     Timeouts

	incarnation string
	solo        bool
	namePrefix  string
	environment string
	proxyCA     bool
	serverName  string
	keepDrifted bool
	controller  Controller
	witness     Witness
	suspected   atomic.Bool // a sweeper has found the store to be an old copy
	born        time.Time   // with the monotonic reading

	pools  map[string]*runtime // fixed once New has returned
	order  []string            // pool names, configured ones first, in file order
	scopes map[string]*scope   // likewise
	// unopened are scopes the store knows and no driver could be opened for.
	unopened []UnopenedScope

	hub      hub
	calls    calls
	work     worker
	settler  settler
	steps    stepTable
	links    links
	census   census   // the keeper's
	notifier Notifier // nil: no replicas, or none that can be told
	counters counters
	clock    clockGuard

	// base lives as long as the manager: work that must outlive a request
	// runs under it, and Run ends it. It is the one stored context.
	base    context.Context
	stop    context.CancelCauseFunc
	tasksMu sync.Mutex // keeps spawn and the end of Run apart
	tasks   sync.WaitGroup
	pinged  sync.Map // scope -> error text; absent until answered
	started atomic.Bool
}

// runtime is a pool as it runs: configuration, driver, and what wakes it.
type runtime struct {
	cfg PoolConfig
	// tenants are whose machines the pool has, by id; flavours the kinds it
	// makes, the default tenant's default first. Fixed once New has returned.
	tenants  map[string]*tenancy
	flavours []*flavour
	retired  bool
	wake     chan struct{} // one pending planner pass
	// tenure is set while the pool's loops run here, known once it is clear
	// whose the pool is. elsewhere tells the replica that has it of a pass to make.
	tenure    atomic.Pointer[tenure]
	known     atomic.Bool
	elsewhere func()
	seen      *Hold         // of a pool that left the file, at the last look
	compared  string        // the holder this pool's configuration was compared with
	slots     chan struct{} // bounds concurrent creates, suspends and resumes
	boots     chan struct{} // bounds machines that boot at a time
	ends      chan struct{} // bounds concurrent destroys
	breaker   breaker
	ramp      ramp
	tier      tierMemory
	cost      costMemory
	turn      int       // the planner's: which flavour is first when equally short
	told      time.Time // the planner's: the closed gate, by its Since, that waiting requests know of
	drafts    drafts
}

var errStopping = errors.New("the runner is stopping")

// New opens the pools' drivers and writes the configuration to the store; with
// several replicas, of the pools that are new to it, and of the others as they
// are taken over. Requests may be made as soon as it returns; nothing moves by
// itself until Run. It does no cloud calls.
func New(ctx context.Context, cfg ManagerConfig) (*Manager, error) {
	if cfg.Store == nil || cfg.Agent == nil || cfg.Open == nil {
		return nil, errors.New("pool manager: store, agent and open are required")
	}
	m := &Manager{
		store: newFencing(cfg.Store), agent: cfg.Agent, boot: cfg.Boot, open: cfg.Open,
		log: cfg.Log, now: cfg.Now, t: cfg.Timeouts.withDefaults(),
		incarnation: cmp.Or(cfg.Incarnation, NewID()), solo: cfg.Solo,
		namePrefix: cmp.Or(cfg.NamePrefix, "runner"), environment: cfg.Environment, proxyCA: cfg.ProxyCA, serverName: cmp.Or(cfg.ServerName, "drone-runner"),
		keepDrifted: cfg.KeepDrifted, witness: cfg.Witness,
		pools: map[string]*runtime{}, scopes: map[string]*scope{},
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.now == nil {
		m.now = time.Now
	}
	m.born = m.now()
	if m.up = cfg.Uptime; m.up == nil {
		m.up = func() time.Duration { return m.now().Sub(m.born) }
	}
	if n, ok := cfg.Store.(Notifier); ok && !m.solo {
		m.notifier = n
		m.hub.init(n.Announce)
	} else {
		m.hub.init(nil)
	}
	m.calls.init()
	m.steps.init()
	m.work.init()
	m.settler.init()
	m.counters.init()
	m.base, m.stop = context.WithCancelCause(context.WithoutCancel(ctx))

	m.distrustsClock() // the first look has nothing to compare with
	now := m.stamp()
	// Before this run is written down: what the store says of the last one is
	// what tells an old copy.
	lifetimes, err := m.distrustStore(ctx, now)
	if err != nil {
		return nil, err
	}
	controller, err := m.store.Controller(ctx, m.incarnation, now)
	if err != nil {
		return nil, fmt.Errorf("read controller id: %w", err)
	}
	m.controller = controller
	if err := m.heedRestore(ctx, lifetimes, now); err != nil {
		return nil, err
	}
	if err := m.openPools(ctx, cfg.Pools, now); err != nil {
		return nil, err
	}
	if err := m.settle(ctx, now); err != nil {
		return nil, err
	}
	return m, nil
}

// openPools opens the configured pools and those that left the file but still
// have machines or are remembered by the store.
func (m *Manager) openPools(ctx context.Context, pools []PoolConfig, now time.Time) error {
	before, err := m.store.Pools(ctx)
	if err != nil {
		return fmt.Errorf("read pools: %w", err)
	}
	for _, p := range pools {
		p.Wait = cmp.Or(p.Wait, DefaultWait)
		if err := m.addPool(p, false); err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
	}
	m.openFormer(before)
	if err := m.configure(ctx, before, now); err != nil {
		return fmt.Errorf("write pools: %w", err)
	}
	known, err := m.store.Pools(ctx)
	if err != nil {
		return fmt.Errorf("read pools: %w", err)
	}
	for _, row := range known {
		if m.pools[row.Name] != nil {
			continue
		}
		// Also one without rows: its scope is swept as long as the store
		// remembers it, since machines can turn up late.
		m.openRetired(row)
	}
	return nil
}

// configure writes the pools of the file: all of them where this process is
// alone. Beside replicas only those the store has never seen; the rest is
// written by the replica that takes the pool over, so that the one that holds
// it is not reconfigured under its hands.
func (m *Manager) configure(ctx context.Context, before []PoolRow, now time.Time) error {
	var rows []PoolRow
	for _, name := range m.order {
		row := m.pools[name].row()
		row.Retired = false // what is new to the store is written as it is
		rows = append(rows, row)
	}
	if m.solo {
		return m.store.Configure(ctx, rows, now)
	}
	for _, row := range rows {
		if slices.ContainsFunc(before, func(k PoolRow) bool { return k.Name == row.Name }) {
			continue
		}
		if err := m.store.ConfigurePool(ctx, row, now); err != nil {
			return err
		}
	}
	return nil
}

// addPool opens the drivers of a pool, one for each tenant.
func (m *Manager) addPool(p PoolConfig, retired bool) error {
	opened, err := m.open(p)
	if err != nil {
		return err
	}
	accounts := make(map[string]Opened, len(p.Tenants))
	for _, t := range p.Tenants {
		o, err := m.open(tenantConfig(p, t))
		switch {
		case err == nil:
			accounts[t.ID] = o
		case retired:
			m.unopened = append(m.unopened, UnopenedScope{Pool: p.Name, Problem: fmt.Sprintf("tenant %s: %v", t.ID, err)})
			m.log.Error("tenant of a retired pool cannot be opened, what is left of it is not touched", "pool", p.Name, "tenant", t.ID, "err", err)
		default:
			return fmt.Errorf("tenant %s: %w", t.ID, err)
		}
	}
	m.register(p, opened, accounts, retired)
	return nil
}

// register makes a pool whose drivers are open known to the engine.
func (m *Manager) register(p PoolConfig, opened Opened, accounts map[string]Opened, retired bool) {
	rt := &runtime{
		cfg: p, tenants: map[string]*tenancy{}, retired: retired,
		wake:  make(chan struct{}, 1),
		slots: make(chan struct{}, cmp.Or(opened.Concurrency, 32)),
		boots: make(chan struct{}, cmp.Or(opened.Concurrency, 4096)),
		ends:  make(chan struct{}, 32),
	}
	rt.elsewhere = func() { m.hub.announce(poolTopic(p.Name)) }
	home := m.addTenant(rt, DefaultFlavour, p, opened)
	rt.flavours = flavoursOf(home, p.Min, -1, p.Variants)
	for _, t := range p.Tenants {
		if o, ok := accounts[t.ID]; ok {
			tn := m.addTenant(rt, t.ID, tenantConfig(p, t), o)
			rt.flavours = append(rt.flavours, flavoursOf(tn, t.Min, t.Max, t.Variants)...)
		}
	}
	m.pools[p.Name] = rt
	m.order = append(m.order, p.Name)
}

func (m *Manager) addTenant(rt *runtime, id string, p PoolConfig, opened Opened) *tenancy {
	if rt.retired {
		p.Image, p.MachineType, p.DiskGiB = opened.Image, opened.MachineType, opened.DiskGiB
	}
	tn := &tenancy{rt: rt, id: id, cfg: p, opened: opened, client: cloud{opened.Client.Guarded(guardTenure)}, scope: opened.Client.Scope()}
	rt.tenants[id] = tn
	sc := m.scopes[tn.scope]
	if sc == nil {
		sc = newScope(tn.scope, opened.Local)
		m.scopes[tn.scope] = sc
	}
	sc.tenants = append(sc.tenants, tn)
	return tn
}

// settle puts in order what an earlier process left: where this one is alone,
// nobody waits any more for the leases that process's requests waited for.
// Beside replicas the signs of life decide, see tidy.
func (m *Manager) settle(ctx context.Context, now time.Time) error {
	if m.solo {
		orphaned, err := m.store.Orphans(ctx, []string{m.incarnation}, now.Add(m.t.Grace), now)
		if err != nil {
			return fmt.Errorf("take over leases: %w", err)
		}
		if orphaned > 0 {
			m.log.Info("took over the leases an earlier run left", "leases", orphaned)
		}
	}
	drift, err := m.store.Recount(ctx)
	if err != nil {
		return fmt.Errorf("recount machines: %w", err)
	}
	for _, d := range drift {
		m.log.Warn("counter of machines was wrong and is repaired", "pool", d.Pool, "counted", d.Counted, "truth", d.Truth)
	}
	return nil
}

// heartbeatEvery is how often the store's being alive is recorded, and the
// other replicas' signs of life looked at: see census.
const heartbeatEvery = 10 * time.Second

// Run drives the loops until ctx ends, then waits for what is under way to
// stop. It destroys nothing. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return errors.New("pool manager: Run called twice")
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range m.order {
		rt := m.pools[name]
		g.Go(func() error { return m.runTenures(ctx, rt) })
	}
	for _, key := range slices.Sorted(maps.Keys(m.scopes)) {
		sc := m.scopes[key]
		g.Go(func() error { return m.runSweeper(ctx, sc) })
		g.Go(func() error { return m.runLister(ctx, sc) })
	}
	g.Go(func() error { return m.runWorker(ctx) })
	g.Go(func() error { return m.runKeeper(ctx) })
	if m.notifier != nil {
		g.Go(func() error { return m.runListener(ctx, m.notifier) })
	}
	err := g.Wait()
	m.tasksMu.Lock()
	m.stop(errStopping) // nothing is spawned any more
	m.tasksMu.Unlock()
	m.tasks.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// stamp is the time to write: UTC, cut to milliseconds as the store keeps it.
func (m *Manager) stamp() time.Time { return m.now().UTC().Truncate(time.Millisecond) }

// distrustsClock looks at the clocks and says whether ages computed from stored
// times mean anything now. It is asked before each decision that rests on one,
// since a jump may have come a moment ago.
func (m *Manager) distrustsClock() bool {
	up := m.up()
	if m.clock.check(m.now(), up) {
		m.log.Warn("the wall clock jumped; nothing is destroyed because of its age for an hour")
		err := m.store.Note(m.base, Event{
			At: m.stamp(), Reason: "clock_jumped", Message: "the wall clock jumped; nothing is destroyed because of its age for an hour",
		})
		if err != nil {
			m.log.Error("event not written", "err", err)
		}
	}
	return m.clock.suspicious(up)
}

// ControllerID is the id that owns this store's machines.
func (m *Manager) ControllerID() string { return m.controller.ID }

// spawn runs f under the manager's own life, for work that must not end with
// a request. It reports false when the manager is stopping.
func (m *Manager) spawn(f func(ctx context.Context)) bool {
	m.tasksMu.Lock()
	defer m.tasksMu.Unlock()
	if m.base.Err() != nil {
		return false
	}
	m.tasks.Add(1)
	go func() {
		defer m.tasks.Done()
		f(m.base)
	}()
	return true
}

// runKeeper keeps the store's books: heartbeat, last calls, old rows, clock.
func (m *Manager) runKeeper(ctx context.Context) error {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	var purged time.Time
	var forgot time.Duration
	var jumps mending
	m.beat(ctx, m.stamp())
	for {
		select {
		case <-ctx.Done():
			// The last calls are worth a write although the loop has ended.
			flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			m.flushCalls(flush)
			return nil
		case <-tick.C:
		}
		now := m.stamp()
		m.distrustsClock()
		if jumps.due(m.up(), m.clock.take()) {
			if err := m.afterJump(ctx, now); err != nil && ctx.Err() == nil {
				m.log.Error("due times not put right after the wall clock jumped", "err", err)
			}
		}
		m.beat(ctx, now)
		m.steps.touchRunning(now)
		if up := m.up(); up-forgot >= forgetEvery {
			forgot = up
			m.forgetEnded(ctx)
		}
		m.flushCalls(ctx)
		for _, id := range m.links.idle(m.now()) {
			m.agent.Forget(id)
		}
		if m.solo {
			if now.Sub(purged) >= purgeEvery {
				purged = now
				m.purge(ctx, now)
			}
			continue
		}
		for _, id := range m.steps.machines() {
			m.checkSteps(ctx, id)
		}
		tn := m.anyTenure()
		if tn == nil {
			continue
		}
		m.tidy(tn.ctx, now)
		if now.Sub(purged) >= purgeEvery {
			purged = now
			m.purge(tn.ctx, now)
		}
	}
}

// anyTenure is a tenure of this process: those who hold a pool do what belongs
// to none.
func (m *Manager) anyTenure() *tenure {
	for _, name := range m.order {
		if tn := m.pools[name].tenured(); tn != nil {
			return tn
		}
	}
	return nil
}

// tidy marks the leases as nobody's whose replica has died while a request of
// it waited for them.
func (m *Manager) tidy(ctx context.Context, now time.Time) {
	all, err := m.store.Lifetimes(ctx)
	if err == nil {
		var orphaned int
		if orphaned, err = m.store.Orphans(ctx, m.census.look(all, m.incarnation), now.Add(m.t.Grace), now); orphaned > 0 {
			m.log.Info("requests of a replica that died are nobody's now", "leases", orphaned)
		}
	}
	if err != nil && ctx.Err() == nil {
		m.log.Error("requests of dead replicas not looked for", "err", err)
	}
}

const (
	purgeEvery = time.Hour
	// keepRows and keepEvents are how long the past can be explained.
	keepRows   = 7 * 24 * time.Hour
	keepEvents = 7 * 24 * time.Hour
	purgeBatch = 500
)

func (m *Manager) purge(ctx context.Context, now time.Time) {
	for {
		n, err := m.store.Purge(ctx, Purge{
			Rows: now.Add(-keepRows), Events: now.Add(-keepEvents), Now: now, Limit: purgeBatch,
		})
		if err != nil {
			m.log.Error("old rows not purged", "err", err)
			return
		}
		if n == 0 {
			return
		}
	}
}

func (m *Manager) flushCalls(ctx context.Context) {
	calls := m.steps.takeCalls()
	if len(calls) == 0 {
		return
	}
	// Leases that were purged meanwhile are no loss; the others are written.
	if err := m.store.Touch(ctx, calls); err != nil && !errors.Is(err, ErrNotFound) {
		m.steps.putBack(calls)
		m.log.Error("last calls not written", "err", err)
	}
}

// kick wakes the pool's planner, wherever it runs.
func (rt *runtime) kick() {
	if rt.tenure.Load() == nil {
		rt.elsewhere()
		return
	}
	rt.nudge()
}

// nudge wakes the planner of this process; one pass is pending at most.
func (rt *runtime) nudge() {
	select {
	case rt.wake <- struct{}{}:
	default:
	}
}
