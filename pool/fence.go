package pool

import (
	"context"
	"errors"
	"time"
)

// fencing is the store as the engine has it. What is written under the context
// of a tenure goes through that tenure's fence, so that no loop can forget to;
// what a request writes goes to the store itself. Reads are never fenced. It
// names every write, so that one the contract gains does not compile until
// somebody has thought about it here.
type fencing struct {
	reads
	s Store
}

// reads are the operations of Store that change nothing of a pool's, or only
// what is the process's own.
type reads interface {
	Controller(ctx context.Context, incarnation string, now time.Time) (Controller, error)
	Heartbeat(ctx context.Context, incarnation string, now time.Time) error
	Lifetimes(ctx context.Context) ([]Lifetime, error)
	Pools(ctx context.Context) ([]PoolRow, error)
	Hold(ctx context.Context, pool, replica string, ttl time.Duration) (Hold, error)
	Unhold(ctx context.Context, h Hold) error
	Fence(h Hold) Store
	Spent(ctx context.Context, pool string, from, to time.Time) (Spent, error)
	Snapshot(ctx context.Context, pool string, waiters int, now time.Time) (Snapshot, error)
	Exported(ctx context.Context, k LeaseKey) (map[string]string, error)
	DueInstances(ctx context.Context, pools []string, now time.Time, limit int) ([]Instance, error)
	DueLeases(ctx context.Context, now time.Time, limit int) ([]Lease, error)
	Position(ctx context.Context, k LeaseKey, pool string, limit int) (int, error)
	Lease(ctx context.Context, id string) (Lease, error)
	LeaseAt(ctx context.Context, k LeaseKey) (Lease, error)
	Instance(ctx context.Context, id string) (Instance, error)
	Instances(ctx context.Context, q InstanceQuery) ([]Instance, error)
	Leases(ctx context.Context, q LeaseQuery) ([]Lease, error)
	Events(ctx context.Context, q EventQuery) ([]Event, error)
	Disks(ctx context.Context, q DiskQuery) ([]Disk, error)
	Ping(ctx context.Context) error
	Close() error
}

var _ Store = fencing{}

func newFencing(s Store) fencing { return fencing{reads: s, s: s} }

// write makes one write under the right that ctx carries. One that comes too
// late ends its tenure.
func (f fencing) write(ctx context.Context, op func(Store) error) error {
	tn := tenureOf(ctx)
	if tn == nil {
		return op(f.s)
	}
	if err := tn.check(); err != nil {
		return err
	}
	err := op(tn.fenced)
	if errors.Is(err, ErrHeld) {
		tn.end(err)
	}
	return err
}

// wrote is write for what answers with a value.
func wrote[T any](ctx context.Context, f fencing, op func(Store) (T, error)) (v T, err error) {
	err = f.write(ctx, func(s Store) (err error) {
		v, err = op(s)
		return err
	})
	return v, err
}

func (f fencing) Configure(ctx context.Context, pools []PoolRow, now time.Time) error {
	return f.write(ctx, func(s Store) error { return s.Configure(ctx, pools, now) })
}

func (f fencing) ConfigurePool(ctx context.Context, pool PoolRow, now time.Time) error {
	return f.write(ctx, func(s Store) error { return s.ConfigurePool(ctx, pool, now) })
}

func (f fencing) SetGate(ctx context.Context, pool string, g Gate, now time.Time, events ...Event) error {
	return f.write(ctx, func(s Store) error { return s.SetGate(ctx, pool, g, now, events...) })
}

func (f fencing) SetOverride(ctx context.Context, pool string, o Override, now time.Time, events ...Event) error {
	return f.write(ctx, func(s Store) error { return s.SetOverride(ctx, pool, o, now, events...) })
}

func (f fencing) Intend(ctx context.Context, in Intent) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.Intend(ctx, in) })
}

func (f fencing) Accepted(ctx context.Context, a Acceptance) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.Accepted(ctx, a) })
}

func (f fencing) Proven(ctx context.Context, p Proof) (inst Instance, l *Lease, err error) {
	err = f.write(ctx, func(s Store) (err error) {
		inst, l, err = s.Proven(ctx, p)
		return err
	})
	return inst, l, err
}

func (f fencing) Change(ctx context.Context, c Change) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.Change(ctx, c) })
}

func (f fencing) SetHeld(ctx context.Context, id string, held bool, now time.Time, events ...Event) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.SetHeld(ctx, id, held, now, events...) })
}

func (f fencing) Postpone(ctx context.Context, id string, state InstanceState, p Postponement) error {
	return f.write(ctx, func(s Store) error { return s.Postpone(ctx, id, state, p) })
}

func (f fencing) Arrive(ctx context.Context, a Arrival) (Grant, error) {
	return wrote(ctx, f, func(s Store) (Grant, error) { return s.Arrive(ctx, a) })
}

func (f fencing) Activate(ctx context.Context, k LeaseKey, due, now time.Time, events ...Event) (Lease, error) {
	return wrote(ctx, f, func(s Store) (Lease, error) { return s.Activate(ctx, k, due, now, events...) })
}

func (f fencing) Requeue(ctx context.Context, r Requeue) (Grant, error) {
	return wrote(ctx, f, func(s Store) (Grant, error) { return s.Requeue(ctx, r) })
}

func (f fencing) End(ctx context.Context, e Ending) (Ended, error) {
	return wrote(ctx, f, func(s Store) (Ended, error) { return s.End(ctx, e) })
}

func (f fencing) Lose(ctx context.Context, k LeaseKey, instance, reason, detail string, due, now time.Time, events ...Event) (Lease, error) {
	return wrote(ctx, f, func(s Store) (Lease, error) { return s.Lose(ctx, k, instance, reason, detail, due, now, events...) })
}

func (f fencing) Sleep(ctx context.Context, k LeaseKey, due, now time.Time, events ...Event) (l Lease, inst Instance, err error) {
	err = f.write(ctx, func(s Store) (err error) {
		l, inst, err = s.Sleep(ctx, k, due, now, events...)
		return err
	})
	return l, inst, err
}

func (f fencing) Waking(ctx context.Context, k LeaseKey, waiter string, due, now time.Time) (l Lease, inst Instance, err error) {
	err = f.write(ctx, func(s Store) (err error) {
		l, inst, err = s.Waking(ctx, k, waiter, due, now)
		return err
	})
	return l, inst, err
}

func (f fencing) Renewing(ctx context.Context, r Renewal) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.Renewing(ctx, r) })
}

func (f fencing) Renewed(ctx context.Context, r Renewal) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.Renewed(ctx, r) })
}

func (f fencing) Woken(ctx context.Context, a Acceptance) (Instance, error) {
	return wrote(ctx, f, func(s Store) (Instance, error) { return s.Woken(ctx, a) })
}

func (f fencing) Asleep(ctx context.Context, k LeaseKey, reason, detail string, due, now time.Time, events ...Event) (Lease, error) {
	return wrote(ctx, f, func(s Store) (Lease, error) { return s.Asleep(ctx, k, reason, detail, due, now, events...) })
}

func (f fencing) PostponeLease(ctx context.Context, k LeaseKey, due, now time.Time) error {
	return f.write(ctx, func(s Store) error { return s.PostponeLease(ctx, k, due, now) })
}

func (f fencing) Touch(ctx context.Context, calls map[LeaseKey]time.Time) error {
	return f.write(ctx, func(s Store) error { return s.Touch(ctx, calls) })
}

func (f fencing) Unwait(ctx context.Context, k LeaseKey, waiter string, due, now time.Time) error {
	return f.write(ctx, func(s Store) error { return s.Unwait(ctx, k, waiter, due, now) })
}

func (f fencing) Orphans(ctx context.Context, living []string, due, now time.Time) (int, error) {
	return wrote(ctx, f, func(s Store) (int, error) { return s.Orphans(ctx, living, due, now) })
}

func (f fencing) Export(ctx context.Context, k LeaseKey, vars map[string]string, now time.Time) error {
	return f.write(ctx, func(s Store) error { return s.Export(ctx, k, vars, now) })
}

func (f fencing) Adopt(ctx context.Context, pools []string, now time.Time) (int, error) {
	return wrote(ctx, f, func(s Store) (int, error) { return s.Adopt(ctx, pools, now) })
}

func (f fencing) Note(ctx context.Context, events ...Event) error {
	return f.write(ctx, func(s Store) error { return s.Note(ctx, events...) })
}

func (f fencing) Recount(ctx context.Context) ([]Drift, error) {
	return wrote(ctx, f, func(s Store) ([]Drift, error) { return s.Recount(ctx) })
}

func (f fencing) Purge(ctx context.Context, p Purge) (int, error) {
	return wrote(ctx, f, func(s Store) (int, error) { return s.Purge(ctx, p) })
}

func (f fencing) SaveDisk(ctx context.Context, d Disk) error {
	return f.write(ctx, func(s Store) error { return s.SaveDisk(ctx, d) })
}

func (f fencing) DoomDisks(ctx context.Context, d Doom) ([]Disk, error) {
	return wrote(ctx, f, func(s Store) ([]Disk, error) { return s.DoomDisks(ctx, d) })
}

func (f fencing) DropDisk(ctx context.Context, d Disk) error {
	return f.write(ctx, func(s Store) error { return s.DropDisk(ctx, d) })
}

func (f fencing) Readmit(ctx context.Context, r Readmission) (l Lease, inst Instance, err error) {
	err = f.write(ctx, func(s Store) (err error) {
		l, inst, err = s.Readmit(ctx, r)
		return err
	})
	return l, inst, err
}
