package sim

import (
	"context"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// fused is the store one process has: from its crash on nothing it calls has
// an effect, and the call at which it crashes may have had one. Answers may be
// late, so that what is decided on them is decided on an old state; after each
// write the witness looks at what has become of the rows.
type fused struct {
	s pool.Store
	p *process
	w *witness
}

var _ pool.Store = fused{}

// read makes one call that changes nothing. Its answer may be old when it
// comes.
func read[T any](ctx context.Context, f fused, op string, call func() (T, error)) (T, error) {
	var zero T
	if err := f.p.before(ctx, op); err != nil {
		return zero, err
	}
	var v T
	var err error
	f.w.see(func() { v, err = call() })
	if err := f.p.dawdle(ctx, op); err != nil {
		return zero, err
	}
	if crash := f.p.after(ctx, op); crash != nil {
		return zero, crash
	}
	return v, err
}

// write makes one call that changes rows.
func write[T any](ctx context.Context, f fused, op string, call func() (T, error)) (T, error) {
	var zero T
	if err := f.p.before(ctx, op); err != nil {
		return zero, err
	}
	if err := f.p.dawdle(ctx, op); err != nil {
		return zero, err
	}
	var v T
	err := f.w.step(f.p, op, func() (err error) {
		v, err = call()
		return err
	})
	if crash := f.p.after(ctx, op); crash != nil {
		return zero, crash
	}
	return v, err
}

type none = struct{}

func (f fused) do(ctx context.Context, op string, call func() error) error {
	_, err := write(ctx, f, op, func() (none, error) { return none{}, call() })
	return err
}

func (f fused) look(ctx context.Context, op string, call func() error) error {
	_, err := read(ctx, f, op, func() (none, error) { return none{}, call() })
	return err
}

// note is a write of nothing the promise is about, as Hold is too, which comes
// every few seconds: it is not looked at.
func (f fused) note(ctx context.Context, op string, call func() error) error {
	return f.look(ctx, op, call)
}

// Close does nothing: the store outlives the process.
func (f fused) Close() error { return nil }

// Fence implements pool.Store.
func (f fused) Fence(h pool.Hold) pool.Store { return fused{f.s.Fence(h), f.p, f.w} }

func (f fused) Controller(ctx context.Context, incarnation string, now time.Time) (pool.Controller, error) {
	return write(ctx, f, "Controller", func() (pool.Controller, error) { return f.s.Controller(ctx, incarnation, now) })
}

func (f fused) Heartbeat(ctx context.Context, incarnation string, now time.Time) error {
	return f.note(ctx, "Heartbeat", func() error { return f.s.Heartbeat(ctx, incarnation, now) })
}

func (f fused) Lifetimes(ctx context.Context) ([]pool.Lifetime, error) {
	return read(ctx, f, "Lifetimes", func() ([]pool.Lifetime, error) { return f.s.Lifetimes(ctx) })
}

func (f fused) Configure(ctx context.Context, pools []pool.PoolRow, now time.Time) error {
	return f.do(ctx, "Configure", func() error { return f.s.Configure(ctx, pools, now) })
}

func (f fused) ConfigurePool(ctx context.Context, row pool.PoolRow, now time.Time) error {
	return f.do(ctx, "ConfigurePool", func() error { return f.s.ConfigurePool(ctx, row, now) })
}

func (f fused) Pools(ctx context.Context) ([]pool.PoolRow, error) {
	return read(ctx, f, "Pools", func() ([]pool.PoolRow, error) { return f.s.Pools(ctx) })
}

func (f fused) Hold(ctx context.Context, name, replica string, ttl time.Duration) (pool.Hold, error) {
	return read(ctx, f, "Hold", func() (pool.Hold, error) { return f.s.Hold(ctx, name, replica, ttl) })
}

func (f fused) Snapshot(ctx context.Context, name string, waiters int, now time.Time) (pool.Snapshot, error) {
	return read(ctx, f, "Snapshot", func() (pool.Snapshot, error) { return f.s.Snapshot(ctx, name, waiters, now) })
}

func (f fused) Intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	return write(ctx, f, "Intend", func() (pool.Instance, error) { return f.s.Intend(ctx, in) })
}

func (f fused) Accepted(ctx context.Context, a pool.Acceptance) (pool.Instance, error) {
	return write(ctx, f, "Accepted", func() (pool.Instance, error) { return f.s.Accepted(ctx, a) })
}

func (f fused) Proven(ctx context.Context, p pool.Proof) (pool.Instance, *pool.Lease, error) {
	type both struct {
		a pool.Instance
		b *pool.Lease
	}
	v, err := write(ctx, f, "Proven", func() (both, error) {
		a, b, err := f.s.Proven(ctx, p)
		return both{a, b}, err
	})
	return v.a, v.b, err
}

func (f fused) Change(ctx context.Context, c pool.Change) (pool.Instance, error) {
	return write(ctx, f, "Change", func() (pool.Instance, error) { return f.s.Change(ctx, c) })
}

func (f fused) Postpone(ctx context.Context, id string, state pool.InstanceState, p pool.Postponement) error {
	return f.do(ctx, "Postpone", func() error { return f.s.Postpone(ctx, id, state, p) })
}

func (f fused) Arrive(ctx context.Context, a pool.Arrival) (pool.Grant, error) {
	return write(ctx, f, "Arrive", func() (pool.Grant, error) { return f.s.Arrive(ctx, a) })
}

func (f fused) Activate(ctx context.Context, k pool.LeaseKey, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	return write(ctx, f, "Activate", func() (pool.Lease, error) { return f.s.Activate(ctx, k, due, now, events...) })
}

func (f fused) Requeue(ctx context.Context, r pool.Requeue) (pool.Grant, error) {
	return write(ctx, f, "Requeue", func() (pool.Grant, error) { return f.s.Requeue(ctx, r) })
}

func (f fused) End(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	return write(ctx, f, "End", func() (pool.Ended, error) { return f.s.End(ctx, e) })
}

func (f fused) Lose(ctx context.Context, k pool.LeaseKey, instance, reason, detail string, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	return write(ctx, f, "Lose", func() (pool.Lease, error) { return f.s.Lose(ctx, k, instance, reason, detail, due, now, events...) })
}

func (f fused) Sleep(ctx context.Context, k pool.LeaseKey, due, now time.Time, events ...pool.Event) (pool.Lease, pool.Instance, error) {
	type both struct {
		a pool.Lease
		b pool.Instance
	}
	v, err := write(ctx, f, "Sleep", func() (both, error) {
		a, b, err := f.s.Sleep(ctx, k, due, now, events...)
		return both{a, b}, err
	})
	return v.a, v.b, err
}

func (f fused) Waking(ctx context.Context, k pool.LeaseKey, waiter string, due, now time.Time) (pool.Lease, pool.Instance, error) {
	type both struct {
		a pool.Lease
		b pool.Instance
	}
	v, err := write(ctx, f, "Waking", func() (both, error) {
		a, b, err := f.s.Waking(ctx, k, waiter, due, now)
		return both{a, b}, err
	})
	return v.a, v.b, err
}

func (f fused) Renewing(ctx context.Context, r pool.Renewal) (pool.Instance, error) {
	return write(ctx, f, "Renewing", func() (pool.Instance, error) { return f.s.Renewing(ctx, r) })
}

func (f fused) Renewed(ctx context.Context, r pool.Renewal) (pool.Instance, error) {
	return write(ctx, f, "Renewed", func() (pool.Instance, error) { return f.s.Renewed(ctx, r) })
}

func (f fused) Woken(ctx context.Context, a pool.Acceptance) (pool.Instance, error) {
	return write(ctx, f, "Woken", func() (pool.Instance, error) { return f.s.Woken(ctx, a) })
}

func (f fused) Asleep(ctx context.Context, k pool.LeaseKey, reason, detail string, due, now time.Time, events ...pool.Event) (pool.Lease, error) {
	return write(ctx, f, "Asleep", func() (pool.Lease, error) { return f.s.Asleep(ctx, k, reason, detail, due, now, events...) })
}

func (f fused) PostponeLease(ctx context.Context, k pool.LeaseKey, due, now time.Time) error {
	return f.do(ctx, "PostponeLease", func() error { return f.s.PostponeLease(ctx, k, due, now) })
}

func (f fused) Touch(ctx context.Context, calls map[pool.LeaseKey]time.Time) error {
	return f.note(ctx, "Touch", func() error { return f.s.Touch(ctx, calls) })
}

func (f fused) Unwait(ctx context.Context, k pool.LeaseKey, waiter string, due, now time.Time) error {
	return f.do(ctx, "Unwait", func() error { return f.s.Unwait(ctx, k, waiter, due, now) })
}

func (f fused) Orphans(ctx context.Context, living []string, due, now time.Time) (int, error) {
	return write(ctx, f, "Orphans", func() (int, error) { return f.s.Orphans(ctx, living, due, now) })
}

func (f fused) Export(ctx context.Context, k pool.LeaseKey, vars map[string]string, now time.Time) error {
	return f.do(ctx, "Export", func() error { return f.s.Export(ctx, k, vars, now) })
}

func (f fused) Exported(ctx context.Context, k pool.LeaseKey) (map[string]string, error) {
	return read(ctx, f, "Exported", func() (map[string]string, error) { return f.s.Exported(ctx, k) })
}

func (f fused) DueInstances(ctx context.Context, pools []string, now time.Time, limit int) ([]pool.Instance, error) {
	return read(ctx, f, "DueInstances", func() ([]pool.Instance, error) { return f.s.DueInstances(ctx, pools, now, limit) })
}

func (f fused) DueLeases(ctx context.Context, now time.Time, limit int) ([]pool.Lease, error) {
	return read(ctx, f, "DueLeases", func() ([]pool.Lease, error) { return f.s.DueLeases(ctx, now, limit) })
}

func (f fused) Adopt(ctx context.Context, pools []string, now time.Time) (int, error) {
	return write(ctx, f, "Adopt", func() (int, error) { return f.s.Adopt(ctx, pools, now) })
}

func (f fused) Lease(ctx context.Context, id string) (pool.Lease, error) {
	return read(ctx, f, "Lease", func() (pool.Lease, error) { return f.s.Lease(ctx, id) })
}

func (f fused) LeaseAt(ctx context.Context, k pool.LeaseKey) (pool.Lease, error) {
	return read(ctx, f, "LeaseAt", func() (pool.Lease, error) { return f.s.LeaseAt(ctx, k) })
}

func (f fused) Instance(ctx context.Context, id string) (pool.Instance, error) {
	return read(ctx, f, "Instance", func() (pool.Instance, error) { return f.s.Instance(ctx, id) })
}

func (f fused) Instances(ctx context.Context, q pool.InstanceQuery) ([]pool.Instance, error) {
	return read(ctx, f, "Instances", func() ([]pool.Instance, error) { return f.s.Instances(ctx, q) })
}

func (f fused) Leases(ctx context.Context, q pool.LeaseQuery) ([]pool.Lease, error) {
	return read(ctx, f, "Leases", func() ([]pool.Lease, error) { return f.s.Leases(ctx, q) })
}

func (f fused) Events(ctx context.Context, q pool.EventQuery) ([]pool.Event, error) {
	return read(ctx, f, "Events", func() ([]pool.Event, error) { return f.s.Events(ctx, q) })
}

func (f fused) Note(ctx context.Context, events ...pool.Event) error {
	return f.note(ctx, "Note", func() error { return f.s.Note(ctx, events...) })
}

func (f fused) Recount(ctx context.Context) ([]pool.Drift, error) {
	return write(ctx, f, "Recount", func() ([]pool.Drift, error) { return f.s.Recount(ctx) })
}

func (f fused) Purge(ctx context.Context, p pool.Purge) (int, error) {
	return write(ctx, f, "Purge", func() (int, error) { return f.s.Purge(ctx, p) })
}

func (f fused) Ping(ctx context.Context) error {
	return f.look(ctx, "Ping", func() error { return f.s.Ping(ctx) })
}

func (f fused) Unhold(ctx context.Context, h pool.Hold) error {
	return f.note(ctx, "Unhold", func() error { return f.s.Unhold(ctx, h) })
}

func (f fused) SetGate(ctx context.Context, name string, g pool.Gate, now time.Time, events ...pool.Event) error {
	return f.do(ctx, "SetGate", func() error { return f.s.SetGate(ctx, name, g, now, events...) })
}

func (f fused) SetOverride(ctx context.Context, name string, o pool.Override, now time.Time, events ...pool.Event) error {
	return f.do(ctx, "SetOverride", func() error { return f.s.SetOverride(ctx, name, o, now, events...) })
}

func (f fused) Spent(ctx context.Context, name string, from, to time.Time) (pool.Spent, error) {
	return read(ctx, f, "Spent", func() (pool.Spent, error) { return f.s.Spent(ctx, name, from, to) })
}

func (f fused) SetHeld(ctx context.Context, id string, held bool, now time.Time, events ...pool.Event) (pool.Instance, error) {
	return write(ctx, f, "SetHeld", func() (pool.Instance, error) { return f.s.SetHeld(ctx, id, held, now, events...) })
}

func (f fused) Position(ctx context.Context, k pool.LeaseKey, name string, limit int) (int, error) {
	return read(ctx, f, "Position", func() (int, error) { return f.s.Position(ctx, k, name, limit) })
}

func (f fused) Disks(ctx context.Context, q pool.DiskQuery) ([]pool.Disk, error) {
	return read(ctx, f, "Disks", func() ([]pool.Disk, error) { return f.s.Disks(ctx, q) })
}

func (f fused) SaveDisk(ctx context.Context, d pool.Disk) error {
	return f.do(ctx, "SaveDisk", func() error { return f.s.SaveDisk(ctx, d) })
}

func (f fused) DoomDisks(ctx context.Context, d pool.Doom) ([]pool.Disk, error) {
	return write(ctx, f, "DoomDisks", func() ([]pool.Disk, error) { return f.s.DoomDisks(ctx, d) })
}

func (f fused) DropDisk(ctx context.Context, d pool.Disk) error {
	return f.do(ctx, "DropDisk", func() error { return f.s.DropDisk(ctx, d) })
}

func (f fused) Readmit(ctx context.Context, r pool.Readmission) (pool.Lease, pool.Instance, error) {
	type both struct {
		a pool.Lease
		b pool.Instance
	}
	v, err := write(ctx, f, "Readmit", func() (both, error) {
		a, b, err := f.s.Readmit(ctx, r)
		return both{a, b}, err
	})
	return v.a, v.b, err
}
