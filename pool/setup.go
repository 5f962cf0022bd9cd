package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// calls are the setups under way in this process, one per lease id: a second
// setup of an id joins the first.
type calls struct {
	mu sync.Mutex
	m  map[string]*call
}

// call is one setup under way and who waits for it.
type call struct {
	id   string
	done chan struct{} // closed when result and err are set
	// asks is set until the setup has asked the pools for a machine of its own
	// once: as long, the planner need not do the same.
	asks atomic.Bool
	// reset says that it replaces a machine. Its leader sets it; others read it
	// when it is done.
	reset bool

	result SetupResult
	err    error

	// deserted gets a value when the last waiter leaves, returned when
	// somebody joins again; both hold at most one.
	mu       sync.Mutex
	waiters  int
	changed  chan struct{}
	progress func(Progress)
}

func (c *calls) init() { c.m = map[string]*call{} }

// join returns the call of an id and whether the caller leads it.
func (c *calls) join(id string, progress func(Progress)) (*call, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.m[id]; k != nil {
		k.mu.Lock()
		k.waiters++
		k.mu.Unlock()
		k.poke()
		return k, false
	}
	k := &call{id: id, done: make(chan struct{}), waiters: 1, changed: make(chan struct{}, 1), progress: progress}
	k.asks.Store(true)
	c.m[id] = k
	return k, true
}

// asks says whether a setup of this process is about to ask for a machine for
// the lease itself.
func (c *calls) asks(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.m[id]
	return k != nil && k.asks.Load()
}

// finish publishes the outcome and lets the next setup of the id begin anew.
func (c *calls) finish(k *call, res SetupResult, err error) {
	c.mu.Lock()
	delete(c.m, k.id)
	c.mu.Unlock()
	k.result, k.err = res, err
	close(k.done)
}

func (k *call) poke() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (k *call) leave(leader bool) {
	k.mu.Lock()
	k.waiters--
	if leader {
		k.progress = nil
	}
	k.mu.Unlock()
	k.poke()
}

func (k *call) waiting() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiters
}

func (k *call) tell(p Progress) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.progress != nil {
		k.progress(p)
	}
}

// Setup implements Service. The work belongs to the engine, not to the
// request: when the last caller has gone it goes on for the grace period, so
// that a retry with the same id can join it, and is then undone.
func (m *Manager) Setup(ctx context.Context, r SetupRequest) (SetupResult, error) {
	if r.ID == "" || len(r.Pools) == 0 {
		return SetupResult{}, fmt.Errorf("%w: a setup needs an id and a pool", ErrInvalid)
	}
	if r.Reset && r.Kind != Gitspace {
		return SetupResult{}, fmt.Errorf("%w: only a gitspace's machine can be replaced (is_marked_for_infra_reset)", ErrInvalid)
	}
	for {
		res, err, other := m.joinSetup(ctx, r)
		if !other {
			return res, err
		}
	}
}

// joinSetup leads or joins the setup of an id. other says that it has joined one
// that replaces no machine, although this one shall.
func (m *Manager) joinSetup(ctx context.Context, r SetupRequest) (_ SetupResult, _ error, other bool) {
	k, leader := m.calls.join(r.ID, r.Progress)
	if leader {
		k.reset = r.Reset
		ok := m.spawn(func(ctx context.Context) {
			res, err := m.runSetup(ctx, k, r)
			m.calls.finish(k, res, err)
		})
		if !ok {
			m.calls.finish(k, SetupResult{}, errStopping)
		}
	}
	select {
	case <-k.done:
		res := k.result
		res.Joined = res.Joined || !leader
		return res, k.err, r.Reset && !k.reset && !errors.Is(k.err, errStopping)
	case <-ctx.Done():
		k.leave(leader)
		return SetupResult{}, context.Cause(ctx), false
	}
}

// runSetup carries one setup from its arrival to an active lease. The store
// decides at each step; whatever happens between two steps, the lease's due
// time brings the worker to it.
func (m *Manager) runSetup(ctx context.Context, k *call, r SetupRequest) (SetupResult, error) {
	begun := m.now()
	s := &setup{m: m, k: k, r: r, begun: begun}
	res, err := s.run(ctx)
	switch {
	case err == nil && res.Joined:
		m.counters.setup("joined")
	case err == nil:
		m.counters.setup(s.how)
		m.counters.phase("total", m.now().Sub(begun))
	case errors.Is(err, errAbandoned):
		m.counters.setup("abandoned")
	case errors.Is(err, errStopping):
		s.letGo(ctx)
	default:
		m.counters.setup("failed")
	}
	if err != nil {
		k.tell(Progress{Phase: "failed", Message: err.Error()})
		if !errors.Is(err, errStopping) && !errors.Is(err, context.Canceled) {
			m.log.Warn("setup failed", "lease", r.ID, "err", err)
		}
	}
	return res, err
}

// setup is the state of one runSetup.
type setup struct {
	m     *Manager
	k     *call
	r     SetupRequest
	begun time.Time
	lease Lease
	inst  *Instance       // the lease's, as the store gave it with the lease; used once
	woken <-chan struct{} // the lease may have changed
	how   string          // "warm", "cold", "resumed"
	woke  bool            // a resume was begun by this setup
	// asked: the pools were asked for a machine of its own before.
	asked bool
	// recreated: a new machine was begun in place of one that has gone.
	recreated bool
	first     []Cause
	// displaced is when this request took the lead from another replica's, which
	// may be preparing the machine without having noticed; zero if it did not.
	displaced time.Time
}

// run arrives, waits for a machine, prepares it, and starts over on another
// one as long as the lease is alive and has choices.
func (s *setup) run(ctx context.Context) (SetupResult, error) {
	if err := s.prelude(ctx); err != nil {
		return SetupResult{}, err
	}
	grant, err := s.arrive(ctx)
	if err != nil {
		return SetupResult{}, err
	}
	s.lease, s.inst = grant.Lease, grant.Instance
	if grant.Joined {
		s.inst = nil
		if err := s.takeBack(ctx); err != nil {
			return SetupResult{}, err
		}
	}
	// Whatever changes from here on wakes the setup; what changed before, its
	// first look finds.
	woken, end := s.m.hub.watch(leaseKey(s.lease.ID))
	defer end()
	s.woken = woken
	for {
		if s.follows() {
			if err := s.follow(ctx); err != nil {
				return SetupResult{}, err
			}
			continue
		}
		switch s.lease.State {
		case LeaseActive:
			res, again, err := s.joined(ctx)
			if err != nil || !again {
				return res, err
			}
		case LeaseSuspended:
			if err := s.wake(ctx); err != nil {
				return SetupResult{}, err
			}
		case LeaseWaiting:
			if err := s.wait(ctx); err != nil {
				return SetupResult{}, err
			}
		case LeaseStarting:
			res, again, err := s.start(ctx)
			if err != nil || !again {
				return res, err
			}
		case LeaseEnded, LeaseLost:
			if s.lease.Reason != reasonMachineGone || s.recreated {
				return SetupResult{}, s.ended()
			}
			s.recreated = true
			if err := s.recreate(ctx); err != nil {
				return SetupResult{}, err
			}
		default:
			return SetupResult{}, fmt.Errorf("lease %s is %q", s.lease.ID, s.lease.State)
		}
	}
}

// arrive resolves the request against the pools and writes or joins its lease.
func (s *setup) arrive(ctx context.Context) (Grant, error) {
	m, now := s.m, s.m.stamp()
	choices, causes, err := m.choicesOf(ctx, s.r)
	if err != nil {
		return Grant{}, err
	}
	s.first = causes
	if len(choices) == 0 {
		// Nothing can be made, but a lease that is there already is answered.
		l, err := m.store.Lease(ctx, s.r.ID)
		if err == nil && !l.State.Final() {
			return Grant{Lease: l, Joined: true}, nil
		}
		return Grant{}, &SetupError{Causes: causes, Err: ErrNotFound}
	}
	wait := s.r.Timeout
	if wait <= 0 {
		for _, c := range choices {
			wait = max(wait, m.pools[c.Pool].cfg.Wait)
		}
	}
	need := m.needs(s.r.Want, choices)
	budget := m.startBudget()
	g, err := m.store.Arrive(ctx, Arrival{
		ID: s.r.ID, Kind: s.r.Kind, Want: s.r.Want, Choices: choices,
		NoClaim: s.r.Kind == Gitspace, Waiter: m.incarnation, Digest: s.r.Digest,
		NeedUntil: now.Add(need), WaitUntil: now.Add(wait),
		Due: now.Add(wait + m.t.Grace), LeaseDue: now.Add(budget), Now: now,
	})
	if err != nil {
		return g, fmt.Errorf("setup %s: %w", s.r.ID, err)
	}
	if g.Claimed {
		s.claimed(g.Lease)
	}
	if g.Displaced != "" {
		s.displaced = m.now()
		m.hub.notify(leaseKey(s.r.ID)) // it follows from here on
	}
	return g, nil
}

// needs is how much life a machine must have left for a lease: what it asked
// for, else the longest busy age of its pools.
func (m *Manager) needs(w Want, choices []Choice) time.Duration {
	if w.Life > 0 {
		return w.Life
	}
	var most time.Duration
	for _, c := range choices {
		most = max(most, m.busyAgeOf(c.Pool))
	}
	return most
}

// startBudget is how long a starting lease may take before the worker ends it:
// two cold starts in a row and the grace.
func (m *Manager) startBudget() time.Duration {
	return 2*(m.t.Create+max(m.t.Boot, m.t.BootWindows)+m.t.Setup) + m.t.Grace
}

func (s *setup) claimed(l Lease) {
	s.how = "warm"
	s.m.counters.phase("claim", s.m.now().Sub(s.begun))
	if rt := s.m.pools[l.Pool]; rt != nil {
		rt.kick()
	}
}

// choices resolves the request's pools, in order, and says of each that is
// left out why.
func (m *Manager) choices(r SetupRequest) ([]Choice, []Cause) {
	var out []Choice
	var causes []Cause
	no := func(pool, kind, msg string) {
		causes = append(causes, Cause{Pool: pool, Phase: "claim", Kind: kind, Message: msg})
	}
	for _, name := range r.Pools {
		rt := m.pools[name]
		switch {
		case slices.ContainsFunc(out, func(c Choice) bool { return c.Pool == name }):
			// Named twice: trying it twice would be no second chance.
		case rt == nil:
			no(name, "unknown_pool", "could not find pool: "+name)
		case rt.retired:
			no(name, "retired", "the pool has left the pool file and makes no new machines")
		default:
			c, err := rt.choose(r.Kind, r.Want)
			if err != nil {
				no(name, "unfit", err.Error())
				continue
			}
			out = append(out, c)
		}
	}
	return out, causes
}

// choicesOf are the choices in which also the disks that are there can be had.
func (m *Manager) choicesOf(ctx context.Context, r SetupRequest) ([]Choice, []Cause, error) {
	choices, causes := m.choices(r)
	if r.Kind != Gitspace {
		return choices, causes, nil
	}
	choices, more, err := m.nearDisks(ctx, r.ID, r.Want, choices)
	return choices, append(causes, more...), err
}

// wait makes the lease a machine of its own if a pool has room, and else waits
// until something is given to it, it ends, or time is up. It returns with the
// lease read anew and not waiting, or led by another.
func (s *setup) wait(ctx context.Context) error {
	m := s.m
	err := s.coldStart(ctx)
	if s.k.asks.Swap(false) && s.lease.State == LeaseWaiting {
		// A place that became free since the pools refused is the planner's to
		// give, and it may have passed this lease over.
		for _, c := range s.lease.Choices {
			if rt := m.pools[c.Pool]; rt != nil {
				rt.kick()
			}
		}
	}
	if err != nil {
		return err
	}
	told, again, why := false, false, ""
	for {
		if s.lease.State != LeaseWaiting || s.follows() {
			return nil
		}
		if again && s.lease.Kind == Gitspace {
			// Nobody else makes its machine: a place, or its disk, may be free now.
			if err := s.coldStart(ctx); err != nil {
				return err
			}
			if s.lease.State != LeaseWaiting {
				return nil
			}
		}
		again = true
		if !told || s.lease.Reason != why {
			told, why = true, s.lease.Reason
			s.k.tell(Progress{Phase: "waiting", Message: cmp.Or(s.lease.Detail, "waiting for a machine")})
		}
		until := s.lease.WaitUntil.Sub(m.now())
		if until <= 0 {
			return s.giveUp(ctx)
		}
		if err := s.pause(ctx, min(until, relook)); err != nil {
			return err
		}
		if err := s.reread(ctx); err != nil {
			return err
		}
	}
}

// pause waits for a wake-up, for d, or for the grace of a deserted call.
func (s *setup) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return errStopping
	case <-s.woken:
	case <-t.C:
	case <-s.k.changed:
	}
	return s.deserted(ctx)
}

// reasonAbandoned is why a lease ends that nobody waits for.
const reasonAbandoned = "abandoned"

var errAbandoned = errors.New("every caller of this setup has gone")

// overtakenGrace is how long a setup that was read after its own destroy is
// kept for its caller: one that did come back to a stage that it had ended does
// so at once.
const overtakenGrace = 2 * time.Second

// grace is how long what was done for callers who have gone is kept for them.
// A runner that was stopped, or a network that stood still, hands over setups
// that were given up long ago, with the destroys that followed already carried
// out elsewhere. Each is a new generation of its lease then, and a hundred of
// them would keep a pool from everybody for as long as a caller is waited for.
func (s *setup) grace(ctx context.Context) time.Duration {
	if s.lease.Generation > 1 {
		before, err := s.m.store.LeaseAt(ctx, LeaseKey{ID: s.lease.ID, Generation: s.lease.Generation - 1})
		if err == nil && before.State == LeaseEnded && before.Reason == string(ReasonReleased) && s.lease.Arrived.Sub(before.Ended) < s.m.t.Tombstone {
			return min(overtakenGrace, s.m.t.Grace)
		}
	}
	return s.m.t.Grace
}

// deserted returns at once while somebody waits for the answer; when nobody
// does, it waits for the grace period that somebody returns, and then undoes
// what was done.
func (s *setup) deserted(ctx context.Context) error {
	if s.k.waiting() > 0 {
		return nil
	}
	m := s.m
	keep := s.grace(ctx)
	now := m.stamp()
	// If this process dies meanwhile, the worker of the next one ends it.
	if err := m.store.Unwait(ctx, s.lease.Key(), m.incarnation, now.Add(keep), now); err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("setup %s: %w", s.lease.ID, err)
	}
	grace := time.NewTimer(keep)
	defer grace.Stop()
	for s.k.waiting() == 0 {
		select {
		case <-ctx.Done():
			return errStopping
		case <-s.k.changed:
		case <-s.woken:
			l, err := m.store.LeaseAt(ctx, s.lease.Key())
			if err == nil && l.State.Final() && s.k.waiting() == 0 {
				return errAbandoned // destroyed meanwhile: nobody needs to be waited for
			}
		case <-grace.C:
			if s.k.waiting() > 0 {
				break
			}
			if s.lease.Kind == Gitspace && !s.lease.Active.IsZero() {
				// A gitspace that was in use before stays as it is.
				return errAbandoned
			}
			err := s.end(ctx, Cause{}, reasonAbandoned, "the caller hung up and did not return")
			if errors.Is(err, ErrConflict) {
				err = nil // somebody waits for it at another replica
			}
			return errors.Join(errAbandoned, err)
		}
	}
	g, err := s.arrive(ctx)
	if err != nil {
		return err
	}
	s.lease = g.Lease
	return s.takeBack(ctx)
}

// takeBack makes a starting lease this process's own again: the worker has
// been told to end it soon.
func (s *setup) takeBack(ctx context.Context) error {
	if s.lease.State != LeaseStarting {
		return nil
	}
	now := s.m.stamp()
	err := s.m.store.PostponeLease(ctx, s.lease.Key(), now.Add(s.m.startBudget()), now)
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("setup %s: %w", s.lease.ID, err)
	}
	return s.reread(ctx)
}

// coldStart asks each pool in turn for a machine of the lease's own.
func (s *setup) coldStart(ctx context.Context) error {
	m := s.m
	defer func() { s.asked = true }()
	choices, err := s.choicesLeft(ctx)
	if err != nil {
		return err
	}
	capped := len(choices) > 0
	for _, c := range choices {
		if m.pools[c.Pool] == nil {
			continue
		}
		inst, err := m.coldStart(ctx, s.lease, c, s.r.InitScript)
		switch {
		case err == nil:
			s.how = "cold"
			s.lease.State, s.lease.Pool, s.lease.InstanceID = LeaseStarting, inst.Pool, inst.ID
			s.inst = &inst
			m.work.dispatch(m, inst)
			return nil
		case errors.Is(err, ErrLimit), errors.Is(err, ErrClosed), errors.Is(err, ErrRetired):
			closed, ok := errors.AsType[*ClosedError](err)
			capped = capped && ok && closed.Gate.Reason == GateCost
			if !s.asked {
				// At the limit a free machine of another kind may go for it. Asked
				// again, it is the planner that has woken this setup.
				m.pools[c.Pool].kick()
			}
			continue
		case errors.Is(err, ErrDisk):
			capped = false
			if err := s.diskRefused(ctx, c, err); err != nil {
				return err
			}
		case errors.Is(err, ErrConflict):
			return s.reread(ctx) // it was given something, or ended, meanwhile
		default:
			return fmt.Errorf("setup %s: pool %s: %w", s.lease.ID, c.Pool, err)
		}
	}
	if capped {
		// Until midnight is longer than anybody waits.
		return s.giveUp(ctx)
	}
	return s.reread(ctx)
}

// choicesLeft are those of the lease's choices in which its disks can be had: an
// earlier machine of this setup may have made them.
func (s *setup) choicesLeft(ctx context.Context) ([]Choice, error) {
	if s.lease.Kind != Gitspace || s.lease.Want.Storage == "" {
		return s.lease.Choices, nil
	}
	left, _, err := s.m.nearDisks(ctx, s.lease.ID, s.lease.Want, s.lease.Choices)
	return left, err
}

// diskRefused handles a disk that is not to be had: that of the lease's own
// machine on its way out is waited for, any other ends the setup.
func (s *setup) diskRefused(ctx context.Context, c Choice, err error) error {
	if e, ok := errors.AsType[*DiskError](err); ok && e.Lease == s.lease.ID {
		return nil
	}
	cause := Cause{Pool: c.Pool, Phase: "create", Kind: "disk", Message: err.Error()}
	if err := s.end(ctx, cause, "disk_in_use", err.Error()); err != nil && !errors.Is(err, ErrConflict) {
		return err
	}
	return &SetupError{Causes: []Cause{cause}, Err: err}
}

func (s *setup) reread(ctx context.Context) error {
	before := s.lease.State
	l, err := s.m.store.LeaseAt(ctx, s.lease.Key())
	if err != nil {
		return fmt.Errorf("setup %s: %w", s.r.ID, err)
	}
	s.lease = l
	if before == LeaseWaiting && l.State == LeaseStarting && s.how == "" {
		s.claimed(l)
	}
	return nil
}

// giveUp ends a lease that has waited long enough.
func (s *setup) giveUp(ctx context.Context) error {
	waited := s.m.now().Sub(s.lease.Arrived).Round(time.Second)
	for _, c := range s.lease.Choices {
		s.first = append(s.first, Cause{
			Pool: c.Pool, Phase: "claim", Kind: "limit",
			Message: fmt.Sprintf("no machine became free in %s: %s", waited, cmp.Or(s.m.waitText(ctx, c.Pool), s.lease.Detail)),
		})
	}
	if err := s.end(ctx, Cause{}, "wait_timeout", "waited "+waited.String()); err != nil && !errors.Is(err, ErrConflict) {
		return err
	}
	if err := s.reread(ctx); err != nil {
		return err
	}
	switch {
	case s.lease.State.Final():
		return s.ended()
	case s.lease.State == LeaseWaiting:
		return fmt.Errorf("setup %s: %w: the lease could not be ended", s.lease.ID, ErrUnavailable)
	default:
		return nil // given something at the last moment
	}
}

// waitText says why a pool gives no machine now, for people.
func (m *Manager) waitText(ctx context.Context, pool string) string {
	now := m.stamp()
	snap, err := m.store.Snapshot(ctx, pool, 1, now)
	switch o := snap.Override; {
	case err != nil:
		return ""
	case o.Stopped:
		return (&ClosedError{Pool: pool, Gate: Gate{Reason: ClosedStopped, Detail: o.Why, Since: o.Since}}).Error()
	case snap.Gate.Closed(now):
		return (&ClosedError{Pool: pool, Gate: snap.Gate}).Error()
	default:
		return (&LimitError{Pool: pool, Counted: snap.Counted, Max: snap.Max}).Error()
	}
}

// end ends the lease while nobody has been answered, and its machine with it.
func (s *setup) end(ctx context.Context, cause Cause, reason, detail string) error {
	ended, err := s.m.endLease(ctx, Ending{
		Lease: s.lease.Key(), Kind: s.lease.Kind, States: []LeaseState{LeaseWaiting, LeaseStarting},
		Unwaited: reason == reasonAbandoned, Cause: cause, Reason: reason, Detail: detail, Now: s.m.stamp(),
	})
	if err == nil && ended.Lease.ID != "" {
		s.lease = ended.Lease
	}
	return err
}

// ended is the error of a lease that ended under the setup.
func (s *setup) ended() error {
	causes := append(slices.Clone(s.first), s.lease.Causes...)
	var err error = ErrNotFound
	switch {
	case s.lease.Reason == "released":
		err = fmt.Errorf("%w: %s was destroyed while it was set up", ErrConflict, s.lease.ID)
	case s.lease.State == LeaseLost:
		err = &LostError{Lease: s.lease.ID, Instance: s.lease.InstanceID, Cause: s.lease.Detail}
	case len(causes) == 0:
		err = fmt.Errorf("%s: %s", s.lease.Reason, s.lease.Detail)
	}
	if len(causes) == 0 || s.lease.Reason == "released" {
		return err
	}
	return &SetupError{Causes: causes, Err: err}
}
