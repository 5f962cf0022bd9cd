package storetest

import (
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// shut closes a pool's gate.
func (h *harness) shut(in string, g pool.Gate) {
	h.Helper()
	h.no(h.SetGate(h.ctx, in, g, h.now))
}

// closed tries to begin a machine, which must be refused as closed, and returns
// the gate it was refused for.
func (h *harness) closed(in string, l pool.LeaseKey) pool.Gate {
	h.Helper()
	_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec(in), Lease: l, Now: h.now})
	h.is(err, pool.ErrClosed)
	c, ok := errors.AsType[*pool.ClosedError](err)
	if !ok || c.Pool != in {
		h.Fatalf("error is %v", err)
	}
	return c.Gate
}

// row is a pool as it is listed.
func (h *harness) row(in string) pool.PoolRow {
	h.Helper()
	rows, err := h.Pools(h.ctx)
	h.no(err)
	for _, r := range rows {
		if r.Name == in {
			return r
		}
	}
	h.Fatalf("no pool %s", in)
	return pool.PoolRow{}
}

func (h *harness) snapshot(in string) pool.Snapshot {
	h.Helper()
	s, err := h.Snapshot(h.ctx, in, 100, h.now)
	h.no(err)
	return s
}

func ptr[T any](v T) *T { return &v }

var gateTests = []test{
	{"a gate is kept with all it says, through a new configuration, until it is opened", func(h *harness) {
		h.pools(5, "a", "b")
		g := pool.Gate{
			Reason: "breaker_open", Detail: "5 boots failed: <no image>", Since: h.now, Until: h.now.Add(time.Minute),
			Canary: 3 * time.Minute, Failures: 5, Trips: 2, Kept: "a-i0001",
		}
		h.no(h.SetGate(h.ctx, "a", g, h.now, pool.Event{Pool: "a", Reason: "breaker_open", Message: "m"}))
		h.equal("gate in the row", h.row("a").Gate, g)
		h.equal("gate in the snapshot", h.snapshot("a").Gate, g)
		h.equal("gate of another pool", h.row("b").Gate, pool.Gate{})
		h.equal("events", h.story(pool.EventQuery{Pool: "a"}), []string{"breaker_open"})
		h.pools(6, "a", "b")
		h.equal("gate after a new configuration", h.row("a").Gate, g)
		h.shut("a", pool.Gate{})
		h.equal("opened", h.row("a").Gate, pool.Gate{})
		h.creating("a")
		h.is(h.SetGate(h.ctx, "never", g, h.now), pool.ErrNotFound)
	}},
	{"a closed gate lets nothing be begun, and tells why and until when", func(h *harness) {
		h.pools(5, "a", "b")
		for _, g := range []pool.Gate{
			{Reason: "throttled", Detail: "slow down", Since: h.now, Until: h.now.Add(time.Hour)},
			{Reason: "cost_cap", Since: h.now},
			{Reason: "breaker_open", Until: h.now.Add(time.Hour), Canary: time.Minute},
		} {
			h.shut("a", g)
			h.equal("refused for", h.closed("a", pool.LeaseKey{}), g)
			h.equal("counter", h.counted("a"), 0)
		}
		h.creating("b")
	}},
	{"a gate without a canary opens by itself when its time has come", func(h *harness) {
		h.pools(5, "a")
		h.shut("a", pool.Gate{Reason: "throttled", Until: h.now.Add(time.Minute)})
		h.now = h.now.Add(time.Minute - time.Millisecond)
		at := h.now
		spec := h.spec("a")
		_, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Now: at})
		h.is(err, pool.ErrClosed)
		for range 3 {
			_, err = h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: at.Add(time.Millisecond)})
			h.no(err)
		}
	}},
	{"a gate that only counts failures is open", func(h *harness) {
		h.pools(5, "a")
		h.shut("a", pool.Gate{Failures: 3, Trips: 1})
		h.creating("a")
		h.equal("gate", h.row("a").Gate, pool.Gate{Failures: 3, Trips: 1})
	}},
	{"one canary is let through in each period, and moves the gate on", func(h *harness) {
		h.pools(5, "a")
		g := pool.Gate{Reason: "breaker_open", Since: h.now, Until: h.now.Add(time.Minute), Canary: 5 * time.Minute, Trips: 1}
		h.shut("a", g)
		for range 2 {
			h.now = h.now.Add(20 * time.Minute)
			h.creating("a")
			g.Until = h.now.Add(5 * time.Minute)
			h.equal("gate after the canary", h.row("a").Gate, g)
			h.equal("second try", h.closed("a", pool.LeaseKey{}), g)
		}
	}},
	{"what has no place is no canary", func(h *harness) {
		h.pools(1, "a")
		h.creating("a")
		g := pool.Gate{Reason: "breaker_open", Until: h.now, Canary: time.Hour}
		h.shut("a", g)
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.is(err, pool.ErrLimit)
		h.equal("gate", h.row("a").Gate, g)
	}},
	{"one canary also among many that try at once", func(h *harness) {
		h.pools(100, "a")
		h.shut("a", pool.Gate{Reason: "breaker_open", Until: h.now, Canary: time.Hour})
		specs := make([]pool.Instance, 64)
		for k := range specs {
			specs[k] = h.spec("a")
		}
		var made atomic.Int64
		together(h, len(specs), 1, func(_, n int) error {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			if err == nil {
				made.Add(1)
				return nil
			}
			if !errors.Is(err, pool.ErrClosed) {
				return err
			}
			return nil
		})
		h.equal("machines begun", made.Load(), int64(1))
		h.sound()
	}},
	{"a closed pool still lends what is warm", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		h.shut("a", pool.Gate{Reason: "quota"})
		if _, got := h.claimed("lease-1", "a"); got.ID != i.ID {
			h.Fatalf("it was given %s", got.ID)
		}
	}},
	{"a lease that is refused says why, and once as an event for each pool and reason", func(h *harness) {
		h.pools(1, "a", "b")
		h.creating("b")
		h.shut("a", pool.Gate{Reason: "throttled", Detail: "slow down", Until: h.now.Add(time.Hour)})
		l := h.waiting("lease-1", "a", "b")
		refused := func(in, reason string) {
			h.Helper()
			before := h.lease("lease-1").Reason
			told := slices.Contains(h.story(pool.EventQuery{Lease: "lease-1", Pool: in}), reason)
			_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec(in), Lease: l.Key(), Now: h.now})
			if err == nil {
				h.Fatal("it was not refused")
			}
			if told {
				// Nothing is new, so nothing is written.
				reason = before
			}
			if got := h.lease("lease-1"); got.State != pool.LeaseWaiting || got.Reason != reason || got.Detail == "" {
				h.Fatalf("lease is %s for %s: %s", got.State, got.Reason, got.Detail)
			}
		}
		for range 3 {
			refused("a", "throttled")
			refused("b", "limit_reached")
		}
		h.no(h.SetOverride(h.ctx, "a", pool.Override{Stopped: true}, h.now))
		refused("a", "stopped")
		h.equal("events", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"throttled", "limit_reached", "stopped"})
		h.no(h.SetOverride(h.ctx, "a", pool.Override{}, h.now))
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: l.Key(), Now: h.now})
		h.is(err, pool.ErrClosed)
		h.equal("reason when the pool is back at an earlier one", h.lease("lease-1").Reason, "throttled")
		h.equal("events then", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"throttled", "limit_reached", "stopped"})
		if got := h.waits("a"); len(got) != 1 {
			h.Fatalf("%d leases wait", len(got))
		}
		h.sound()
	}},
	{"an override is kept with all it says, through a new configuration", func(h *harness) {
		h.pools(5, "a")
		o := pool.Override{Min: ptr(0), By: "ann", Why: "bill", Since: h.now}
		h.no(h.SetOverride(h.ctx, "a", o, h.now, pool.Event{Pool: "a", Reason: "scaled", Message: "m"}))
		h.pools(6, "a")
		h.equal("override in the row", h.row("a").Override, o)
		h.equal("override in the snapshot", h.snapshot("a").Override, o)
		h.equal("events", h.story(pool.EventQuery{Pool: "a"}), []string{"scaled"})
		h.creating("a")
		h.no(h.SetOverride(h.ctx, "a", pool.Override{}, h.now))
		h.equal("taken back", h.row("a").Override, pool.Override{})
		h.is(h.SetOverride(h.ctx, "never", o, h.now), pool.ErrNotFound)
		h.is(h.SetOverride(h.ctx, "a", pool.Override{Min: ptr(-1)}, h.now), pool.ErrInvalid)
	}},
	{"a stopped pool begins nothing, also not for requests, whatever its gate", func(h *harness) {
		h.pools(5, "a")
		l := h.waiting("lease-1", "a")
		h.no(h.SetOverride(h.ctx, "a", pool.Override{Stopped: true, Why: "bill", Since: h.now}, h.now))
		h.shut("a", pool.Gate{Reason: "throttled"})
		want := pool.Gate{Reason: "stopped", Detail: "bill", Since: h.now}
		h.equal("refused for", h.closed("a", l.Key()), want)
		h.shut("a", pool.Gate{Reason: "breaker_open", Until: h.now, Canary: time.Hour})
		h.equal("no canary either", h.closed("a", pool.LeaseKey{}).Reason, "stopped")
		h.no(h.SetOverride(h.ctx, "a", pool.Override{}, h.now))
		h.cold(l, "a")
	}},
	{"no more machines are begun in a minute by the clock than the pool's bound", func(h *harness) {
		h.no(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", Max: 100, PerMinute: 3}, {Name: "b", Max: 100}}, h.now))
		h.equal("bound in the row", h.row("a").PerMinute, 3)
		minute := h.now.Truncate(time.Minute).Add(time.Minute)
		intend := func(at time.Time) error {
			h.Helper()
			_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: at})
			return err
		}
		h.no(intend(minute.Add(-time.Millisecond)))
		i := h.spec("a")
		_, err := h.Intend(h.ctx, pool.Intent{Instance: i, Now: minute})
		h.no(err)
		h.gone(i.ID) // what has ended was begun all the same
		h.no(intend(minute.Add(time.Second)))
		h.no(intend(minute.Add(2 * time.Second)))
		l := h.waiting("lease-1", "a")
		h.now = minute.Add(59 * time.Second)
		_, err = h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: l.Key(), Now: minute.Add(59 * time.Second)})
		h.is(err, pool.ErrClosed)
		c, _ := errors.AsType[*pool.ClosedError](err)
		if c == nil || c.Gate.Reason != "per_minute" || !c.Gate.Until.Equal(minute.Add(time.Minute)) {
			h.Fatalf("refused with %+v", c)
		}
		h.equal("the lease's reason", h.lease("lease-1").Reason, "per_minute")
		h.no(intend(minute.Add(3 * time.Minute)))
		for range 5 {
			h.creating("b")
		}
		h.is(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", PerMinute: -1}}, h.now), pool.ErrInvalid)
	}},
	{"what is decided in one minute and written in the next counts there, and does not begin that one anew", func(h *harness) {
		h.no(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", Max: 100, PerMinute: 2}}, h.now))
		intend := func(at time.Time) error {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: at})
			return err
		}
		minute := h.now.Truncate(time.Minute).Add(time.Minute)
		h.no(intend(minute))
		h.no(intend(minute.Add(-time.Second)))
		h.is(intend(minute.Add(time.Second)), pool.ErrClosed)
		h.is(intend(minute.Add(-time.Second)), pool.ErrClosed)
		h.no(intend(minute.Add(-time.Hour))) // the clock was set back
	}},
	{"the bound of a minute holds among many that try at once", func(h *harness) {
		h.no(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", Max: 100, PerMinute: 7}}, h.now))
		specs := make([]pool.Instance, 64)
		for k := range specs {
			specs[k] = h.spec("a")
		}
		var made atomic.Int64
		together(h, len(specs), 1, func(_, n int) error {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			if err == nil {
				made.Add(1)
			} else if errors.Is(err, pool.ErrClosed) {
				err = nil
			}
			return err
		})
		h.equal("machines begun", made.Load(), int64(7))
	}},
}

var spentTests = []test{
	{"what is spent is the machines' time between two moments, and how many were begun", func(h *harness) {
		h.pools(9, "a", "b")
		zero := h.now.Add(time.Hour)
		at := func(m int) time.Time { return zero.Add(time.Duration(m) * time.Minute) }
		lives := func(in string, from, to int) {
			spec := h.spec(in)
			spec.Created = at(from)
			_, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Now: at(from)})
			h.no(err)
			if to == 0 {
				return
			}
			for k, s := range []pool.InstanceState{pool.Destroying, pool.Gone} {
				_, err := h.Change(h.ctx, pool.Change{ID: spec.ID, From: []pool.InstanceState{pool.Creating, pool.Destroying}, To: s, Now: at(to - 1 + k)})
				h.no(err)
			}
		}
		lives("a", 0, 10)  // wholly before
		lives("a", 5, 25)  // over the beginning
		lives("a", 22, 30) // inside
		lives("a", 35, 50) // over the end
		lives("a", 10, 60) // around
		lives("a", 30, 0)  // still there
		lives("a", 45, 0)  // not yet
		lives("b", 20, 0)
		got, err := h.Spent(h.ctx, "a", at(20), at(40))
		h.no(err)
		h.equal("spent", got, pool.Spent{Time: (5 + 8 + 5 + 20 + 10) * time.Minute, Begun: 3})
		got, err = h.Spent(h.ctx, "b", at(20), at(40))
		h.no(err)
		h.equal("spent by the other pool", got, pool.Spent{Time: 20 * time.Minute, Begun: 1})
		got, err = h.Spent(h.ctx, "a", at(100), at(100))
		h.no(err)
		h.equal("in no time", got, pool.Spent{})
		_, err = h.Spent(h.ctx, "never", at(0), at(1))
		h.is(err, pool.ErrNotFound)
	}},
}

var holdTests = []test{
	{"a hold given up is free at once, with a new generation for the next", func(h *harness) {
		h.pools(5, "a")
		first, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		h.no(h.Unhold(h.ctx, first))
		h.equal("hold in the row", h.row("a").Hold, pool.Hold{})
		second, err := h.Hold(h.ctx, "a", "replica-2", time.Hour)
		h.no(err)
		h.equal("generation", second.Generation, first.Generation+1)
		h.no(h.Unhold(h.ctx, second))
		again, err := h.Hold(h.ctx, "a", "replica-2", time.Hour)
		h.no(err)
		h.equal("generation of the same replica", again.Generation, second.Generation+1)
	}},
	{"giving up a hold that is another's by now changes nothing", func(h *harness) {
		h.pools(5, "a")
		first, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		h.no(h.Unhold(h.ctx, first))
		second, err := h.Hold(h.ctx, "a", "replica-2", time.Hour)
		h.no(err)
		h.no(h.Unhold(h.ctx, first))
		h.no(h.Unhold(h.ctx, pool.Hold{Pool: "a", Replica: "replica-2", Generation: second.Generation - 1}))
		h.equal("hold", h.row("a").Hold, second)
		h.is(h.Unhold(h.ctx, pool.Hold{Pool: "never", Replica: "r", Generation: 1}), pool.ErrNotFound)
	}},
	{"behind a fence a write works while the hold lasts, and afterwards changes nothing", func(h *harness) {
		h.pools(9, "a", "b")
		hold, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		f := h.Fence(hold)
		spec := h.spec("a")
		_, err = f.Intend(h.ctx, pool.Intent{Instance: spec, Now: h.now})
		h.no(err)
		h.no(f.Heartbeat(h.ctx, h.born("run-1"), h.now))
		// Renewing is no change of holder.
		_, err = h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		_, err = f.Accepted(h.ctx, pool.Acceptance{ID: spec.ID, Now: h.now})
		h.no(err)
		i, l := h.gitspace("space-1", "a")
		h.warm("b")
		for _, lost := range []string{"given up", "another's", "another's again"} {
			switch lost {
			case "given up":
				h.no(h.Unhold(h.ctx, hold))
			case "another's":
				_, err = h.Hold(h.ctx, "a", "replica-2", time.Millisecond)
				h.no(err)
			default:
				// The same replica, but not the hold it was.
				h.eventually("the other hold ends", func() bool {
					_, err = h.Hold(h.ctx, "a", "replica-1", time.Hour)
					return err == nil
				})
			}
			before := h.state()
			for what, write := range writes(h, f, spec.ID, l.ID, i) {
				if err := write(); !errors.Is(err, pool.ErrHeld) {
					h.Errorf("%s once the pool is %s: %v", what, lost, err)
				}
			}
			h.equal("the store after refused writes", h.state(), before)
		}
		// Reads are not checked.
		_, err = f.Instance(h.ctx, spec.ID)
		h.no(err)
		_, err = f.Snapshot(h.ctx, "a", 5, h.now)
		h.no(err)
	}},
	{"the fence of no hold is the store itself, that of an unknown pool refuses", func(h *harness) {
		h.pools(5, "a")
		_, err := h.Fence(pool.Hold{}).Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.no(err)
		_, err = h.Fence(pool.Hold{Pool: "never", Replica: "r", Generation: 1}).Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		if err == nil {
			h.Fatal("it wrote")
		}
		h.equal("counter", h.counted("a"), 1)
	}},
	{"many fenced writes at once neither wait for ever nor pass a change of holder", func(h *harness) {
		h.pools(1000, "a")
		hold, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		f := h.Fence(hold)
		specs := make([]pool.Instance, 32*8)
		for k := range specs {
			specs[k] = h.spec("a")
		}
		var held, made atomic.Int64
		var second atomic.Pointer[pool.Hold]
		together(h, 32, 8, func(w, n int) error {
			if n == 32*4 {
				// In the midst of it the pool changes hands, even if a renewal
				// comes between.
				for {
					mine, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
					if err == nil {
						err = h.Unhold(h.ctx, mine)
					}
					if err != nil {
						return err
					}
					got, err := h.Hold(h.ctx, "a", "replica-2", time.Hour)
					if err == nil {
						second.Store(&got)
						return nil
					}
					if !errors.Is(err, pool.ErrHeld) {
						return err
					}
				}
			}
			if w == 1 && second.Load() == nil {
				_, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
				if err != nil && !errors.Is(err, pool.ErrHeld) {
					return err
				}
			}
			lost := second.Load() != nil
			_, err := f.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			switch {
			case err == nil && lost:
				return errors.New("a write passed after the pool was another's")
			case err == nil:
				made.Add(1)
			case errors.Is(err, pool.ErrHeld):
				held.Add(1)
				err = nil
			}
			return err
		})
		h.equal("counter", h.counted("a"), int(made.Load()))
		h.equal("writes", made.Load()+held.Load(), int64(len(specs)-1))
		h.sound()
	}},
}

// born records an incarnation.
func (h *harness) born(incarnation string) string {
	h.Helper()
	_, err := h.Controller(h.ctx, incarnation, h.now)
	h.no(err)
	return incarnation
}

// state is everything that a write could change, as text.
func (h *harness) state() string {
	h.Helper()
	var all struct {
		Instances []pool.Instance
		Leases    []pool.Lease
		Events    []pool.Event
		Pools     []pool.PoolRow
		Lives     []pool.Lifetime
		Exported  map[string]string
	}
	var err error
	all.Instances, err = h.Instances(h.ctx, pool.InstanceQuery{})
	h.no(err)
	all.Leases, err = h.Leases(h.ctx, pool.LeaseQuery{})
	h.no(err)
	all.Events, err = h.Events(h.ctx, pool.EventQuery{})
	h.no(err)
	all.Pools, err = h.Pools(h.ctx)
	h.no(err)
	all.Lives, err = h.Lifetimes(h.ctx)
	h.no(err)
	all.Exported, err = h.Exported(h.ctx, pool.LeaseKey{ID: "space-1"})
	h.no(err)
	b, err := json.MarshalIndent(all, "", " ")
	h.no(err)
	return string(b)
}

// writes is every operation that changes something: on a booting machine, and
// on an active gitspace on a machine of its own.
func writes(h *harness, f pool.Store, booting, leased string, l pool.Lease) map[string]func() error {
	k, now, e := l.Key(), h.now, pool.Event{At: h.now, Reason: "never"}
	one := func(err error) error { return err }
	spec := h.spec("b")
	return map[string]func() error{
		"Controller": func() error { _, err := f.Controller(h.ctx, "run-2", now); return one(err) },
		"Heartbeat":  func() error { return f.Heartbeat(h.ctx, "run-1", now.Add(time.Hour)) },
		"Configure":  func() error { return f.Configure(h.ctx, nil, now) },
		"SetGate":    func() error { return f.SetGate(h.ctx, "a", pool.Gate{Reason: "r"}, now, e) },
		"SetOverride": func() error {
			return f.SetOverride(h.ctx, "a", pool.Override{Stopped: true}, now, e)
		},
		"Intend": func() error { _, err := f.Intend(h.ctx, pool.Intent{Instance: spec, Now: now}); return err },
		"Accepted": func() error {
			_, err := f.Accepted(h.ctx, pool.Acceptance{ID: booting, Now: now})
			return err
		},
		"Proven": func() error { _, _, err := f.Proven(h.ctx, pool.Proof{ID: booting, Now: now}); return err },
		"Change": func() error {
			_, err := f.Change(h.ctx, pool.Change{ID: booting, From: []pool.InstanceState{pool.Booting}, To: pool.Failed, Now: now})
			return err
		},
		"SetHeld":  func() error { _, err := f.SetHeld(h.ctx, leased, true, now, e); return err },
		"Postpone": func() error { return f.Postpone(h.ctx, booting, pool.Booting, pool.Postponement{Now: now}) },
		"Arrive":   func() error { _, err := f.Arrive(h.ctx, h.arrivalAt("lease-9", "b")); return err },
		"Activate": func() error { _, err := f.Activate(h.ctx, k, now, now, e); return err },
		"Requeue": func() error {
			_, err := f.Requeue(h.ctx, pool.Requeue{Lease: k, Choices: []pool.Choice{{Pool: "a"}}, Now: now})
			return err
		},
		"End":           func() error { _, err := f.End(h.ctx, pool.Ending{Lease: k, Now: now}); return err },
		"Lose":          func() error { _, err := f.Lose(h.ctx, k, "", "r", "", now, now, e); return err },
		"Sleep":         func() error { _, _, err := f.Sleep(h.ctx, k, now, now, e); return err },
		"Waking":        func() error { _, _, err := f.Waking(h.ctx, k, "run-1", now, now); return err },
		"Woken":         func() error { _, err := f.Woken(h.ctx, pool.Acceptance{ID: leased, Now: now}); return err },
		"Asleep":        func() error { _, err := f.Asleep(h.ctx, k, "r", "", now, now, e); return err },
		"PostponeLease": func() error { return f.PostponeLease(h.ctx, k, now, now) },
		"Touch": func() error {
			return f.Touch(h.ctx, map[pool.LeaseKey]time.Time{k: now.Add(time.Hour)})
		},
		"Unwait":  func() error { return f.Unwait(h.ctx, k, "run-1", now, now) },
		"Orphans": func() error { _, err := f.Orphans(h.ctx, nil, now, now); return err },
		"Export":  func() error { return f.Export(h.ctx, k, map[string]string{"k": "v"}, now) },
		"Adopt":   func() error { _, err := f.Adopt(h.ctx, nil, now); return err },
		"Note":    func() error { return f.Note(h.ctx, e) },
		"Recount": func() error { _, err := f.Recount(h.ctx); return err },
		"Purge": func() error {
			_, err := f.Purge(h.ctx, pool.Purge{Rows: now, Events: now, Now: now, Limit: 5})
			return err
		},
	}
}
