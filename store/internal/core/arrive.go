package core

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// callGrain is how exactly the last call of a lease is kept: a repeated setup
// within it writes nothing.
const callGrain = 30 * time.Second

// Arrive implements pool.Store.
func (s *Store) Arrive(ctx context.Context, a pool.Arrival) (pool.Grant, error) {
	if err := checkArrival(a); err != nil {
		return pool.Grant{}, fmt.Errorf("arrive %q: %w", a.ID, err)
	}
	g, done, err := s.arriveAtOnce(ctx, a)
	if err == nil && !done {
		err = s.write(ctx, func(ctx context.Context, t txn) (err error) {
			g, err = t.arrive(ctx, a)
			return err
		})
	}
	if err != nil {
		return pool.Grant{}, fmt.Errorf("arrive %q: %w", a.ID, err)
	}
	return g, nil
}

func checkArrival(a pool.Arrival) error {
	if err := checkID("lease id", a.ID); err != nil {
		return err
	}
	return checkChoices(a.Choices)
}

func checkChoices(choices []pool.Choice) error {
	if len(choices) == 0 {
		return fmt.Errorf("%w: no pool to choose", pool.ErrInvalid)
	}
	for _, c := range choices {
		if err := checkID("pool", c.Pool); err != nil {
			return err
		}
		for _, text := range []string{c.Shape, c.Zone, c.Tenant, c.Variant} {
			if clean(text) != text {
				return fmt.Errorf("%w: shape, zone or flavour for pool %s is not valid UTF-8 without NUL", pool.ErrInvalid, c.Pool)
			}
		}
	}
	return nil
}

func (t txn) arrive(ctx context.Context, a pool.Arrival) (pool.Grant, error) {
	var last lease
	found, err := t.one(ctx, SelectLatestLease, last.fields(), a.ID)
	if err != nil {
		return pool.Grant{}, err
	}
	if found && !last.State.Final() {
		return t.join(ctx, &last, a)
	}
	// Only an id that no lease was ever seen for has a tombstone.
	buried := ""
	if !found && a.Kind != pool.Gitspace {
		buried = a.ID
		if err := t.lockID(ctx, buried); err != nil {
			return pool.Grant{}, err
		}
	}
	l, err := begun(a, last.Generation+1)
	if err != nil {
		return pool.Grant{}, err
	}
	if err := t.lockPools(ctx, poolsOf(l.Choices)...); err != nil {
		return pool.Grant{}, err
	}
	// Claim first: the lease that starts at once, the ordinary one, is written
	// once and never queued.
	now, due := cut(a.Now), cut(a.LeaseDue)
	i, err := t.claim(ctx, l, now, due, buried)
	if err != nil {
		return pool.Grant{}, err
	}
	if i != nil {
		l.start(i, now, due)
	} else if buried != "" {
		// The claim did not look, or this is why it found nothing.
		var until int64
		dead, err := t.one(ctx, SelectTombstone, []any{&until}, buried)
		if err != nil {
			return pool.Grant{}, err
		}
		if dead && until > ms(a.Now) {
			return pool.Grant{}, fmt.Errorf("%w; it can be set up again after %s, another id at once",
				pool.ErrDestroyedFirst, time.UnixMilli(until).UTC().Format(time.RFC3339))
		}
	}
	if _, err := t.one(ctx, InsertLease, []any{&l.Seq}, l.values()...); err != nil {
		return pool.Grant{}, err
	}
	if i == nil {
		if err := t.queue(ctx, l); err != nil {
			return pool.Grant{}, err
		}
	}
	return grant(l, i, i != nil), nil
}

// lockID keeps the first setup and the first destroy of an id apart where there
// are other writers: at the same time neither would see the other's row, and
// the setup would have a machine that was destroyed before.
func (t txn) lockID(ctx context.Context, id string) error {
	if !t.Shared() {
		return nil
	}
	var one int
	_, err := t.one(ctx, LockID, []any{&one}, id)
	return err
}

// begun is the lease that an arrival begins, waiting.
func begun(a pool.Arrival, generation int64) (*lease, error) {
	now := cut(a.Now)
	l := &lease{
		Lease: pool.Lease{
			ID: a.ID, Generation: generation, Kind: cmp.Or(a.Kind, pool.Build), State: pool.LeaseWaiting, Waiter: clean(a.Waiter),
			Want: a.Want, Choices: slices.Clone(a.Choices), Arrived: now, LastCall: now, WaitUntil: cut(a.WaitUntil),
			Due: cut(a.Due), Digest: clean(a.Digest),
		},
		noClaim: a.NoClaim, needUntil: ms(a.NeedUntil), startMS: span(a.LeaseDue, a.Now),
	}
	return l, l.encode()
}

// join answers an arrival for a lease that is there already, and that nothing
// has locked yet.
func (t txn) join(ctx context.Context, l *lease, a pool.Arrival) (pool.Grant, error) {
	if err := l.decode(); err != nil {
		return pool.Grant{}, err
	}
	now, due := cut(a.Now), cut(a.LeaseDue)
	waiter := clean(a.Waiter)
	// Its process was gone and with it its turn in the queues; the new request
	// brings its own times.
	revived := l.State == pool.LeaseWaiting && l.Waiter == "" && waiter != ""
	var claimed *instance
	if revived {
		if err := t.lockPools(ctx, poolsOf(l.Choices)...); err != nil {
			return pool.Grant{}, err
		}
		wish := *l
		wish.Waiter, wish.needUntil = waiter, ms(a.NeedUntil)
		var err error
		if claimed, err = t.claim(ctx, &wish, now, due, ""); err != nil {
			return pool.Grant{}, err
		}
	}
	l, err := t.relock(ctx, l)
	if err != nil {
		return pool.Grant{}, err
	}
	if err := l.decode(); err != nil {
		return pool.Grant{}, err
	}

	write := now.Sub(l.LastCall) >= callGrain
	displaced := ""
	if (l.State == pool.LeaseWaiting || l.State == pool.LeaseStarting) && l.Waiter != waiter {
		write, displaced = true, l.Waiter
		l.Waiter = waiter
	}
	if revived {
		l.WaitUntil, l.Due = cut(a.WaitUntil), cut(a.Due)
		l.needUntil, l.startMS = ms(a.NeedUntil), span(a.LeaseDue, a.Now)
	}
	if claimed != nil {
		l.start(claimed, now, due)
	}
	if write && now.After(l.LastCall) {
		l.LastCall = now
	}
	if write {
		if err := t.saveLease(ctx, l); err != nil {
			return pool.Grant{}, err
		}
	}
	if revived && claimed == nil {
		if err := t.queue(ctx, l); err != nil {
			return pool.Grant{}, err
		}
	}
	g := grant(l, claimed, claimed != nil)
	g.Joined, g.Displaced = true, displaced
	if claimed == nil {
		i, err := t.machine(ctx, SelectInstance, l.InstanceID)
		if err != nil {
			return pool.Grant{}, err
		}
		if i != nil {
			if err := t.open(i); err != nil {
				return pool.Grant{}, err
			}
			g.Instance = &i.Instance
		}
	}
	return g, nil
}

// claim gives l the first free machine that fits; the caller makes l starting
// on it. It returns nil if there is none, or if l is not to have one. The pools
// of l are locked, so that a machine proven meanwhile finds l in the queue. An
// id that is buried, if not "", gets none.
func (t txn) claim(ctx context.Context, l *lease, now, due time.Time, buried string) (*instance, error) {
	if l.Waiter == "" || l.noClaim {
		return nil, nil
	}
	for _, c := range l.Choices {
		i, err := t.found(ctx, ClaimFree, ms(now), ms(due), l.ID, l.Generation, string(l.Kind),
			c.Pool, c.Shape, c.Zone, l.needUntil, buried)
		if err != nil {
			return nil, err
		}
		if i != nil {
			return i, t.open(i)
		}
	}
	return nil, nil
}

// start makes l starting on i, in memory.
func (l *lease) start(i *instance, now, due time.Time) {
	l.State = pool.LeaseStarting
	l.Pool, l.InstanceID = i.Pool, i.ID
	l.Claimed, l.Due = now, due
	l.Reason, l.Detail = "", ""
}

// queue puts a waiting lease into the queues of its choices.
func (t txn) queue(ctx context.Context, l *lease) error {
	if l.Waiter == "" {
		return nil
	}
	for ord, c := range l.Choices {
		if _, err := t.Exec(ctx, InsertChoice, c.Pool, l.Seq, int64(ord), c.Shape, c.Zone, bit(l.noClaim), l.needUntil,
			flavoured(c.Tenant), flavoured(c.Variant)); err != nil {
			return err
		}
	}
	return nil
}

// handOut gives a machine that has just become free, in memory, to the first
// waiting lease that fits it: a warm one is leased then, a hibernated one on its
// way back. It returns nil if there is none, or if an operator holds the
// machine. The machine's pool is locked. The lease is written, the machine is
// not. due is for the lease; the zero time means as long from now as its setup
// asked for.
func (t txn) handOut(ctx context.Context, i *instance, now, due time.Time) (*lease, error) {
	if i.Held {
		return nil, nil
	}
	until := ms(i.Deadline)
	if until == 0 {
		until = math.MaxInt64
	}
	var last int64
	for {
		var seq int64
		found, err := t.one(ctx, MatchWaiter, []any{&seq}, i.Pool, i.Shape, until, i.Zone)
		if err != nil || !found {
			return nil, err
		}
		if seq == last {
			return nil, ErrRaced
		}
		last = seq
		l, err := t.waiter(ctx, i.Pool, seq)
		if err != nil {
			return nil, err
		}
		if l == nil {
			// Another writer took it between the two statements, out of the queues
			// too; if it is in one again, that is not ours to undo.
			continue
		}
		if _, err := t.Exec(ctx, DropChoices, seq); err != nil {
			return nil, err
		}
		if err := l.decode(); err != nil {
			return nil, err
		}
		if due.IsZero() {
			due = now.Add(time.Duration(l.startMS) * time.Millisecond)
		}
		l.start(i, now, due)
		next := pool.Leased
		if i.State == pool.Hibernated {
			next = pool.Resuming
		}
		i.enter(next, now, due)
		i.Kind, i.Cold = l.Kind, false
		i.LeaseID, i.LeaseGeneration, i.bound = l.ID, l.Generation, true
		return l, t.saveLease(ctx, l)
	}
}

// waiter locks a lease that was seen in a pool's queue; nil if it does not wait
// any more.
func (t txn) waiter(ctx context.Context, name string, seq int64) (*lease, error) {
	var l lease
	found, err := t.one(ctx, LockWaitingLease, l.fields(), seq)
	if err != nil || !found {
		return nil, err
	}
	if t.Shared() {
		// It may wait again, and for other pools. For this one it cannot have
		// begun to wait meanwhile.
		if waits, err := t.one(ctx, SelectPlace, []any{&seq}, name, seq); err != nil || !waits {
			return nil, cmp.Or(err, ErrRaced)
		}
	}
	return &l, nil
}

func grant(l *lease, i *instance, claimed bool) pool.Grant {
	g := pool.Grant{Lease: l.Lease, Claimed: claimed}
	if i != nil {
		g.Instance = &i.Instance
	}
	return g
}

// span is how long after now due is, in milliseconds, never negative.
func span(due, now time.Time) int64 {
	if due.IsZero() {
		return 0
	}
	return max(0, ms(due)-ms(now))
}
