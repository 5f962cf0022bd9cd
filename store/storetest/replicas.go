package storetest

import (
	"errors"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// replicaTests are what several runners on one database rely on.
var replicaTests = []test{
	{"configuring one pool leaves the others, their counters and holds alone", func(h *harness) {
		h.pools(5, "a", "b")
		h.creating("a")
		held, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		before, err := h.Pools(h.ctx)
		h.no(err)
		h.no(h.ConfigurePool(h.ctx, pool.PoolRow{Name: "a", Driver: "noop", Scope: "elsewhere", Max: 7, SpecHash: "recipe-2"}, h.tick()))
		h.no(h.ConfigurePool(h.ctx, pool.PoolRow{Name: "new", Driver: "noop", Max: 1}, h.now))
		rows, err := h.Pools(h.ctx)
		h.no(err)
		if len(rows) != 3 {
			h.Fatalf("pools are %+v", rows)
		}
		a := rows[0]
		if a.Counted != 1 || a.Hold != held || a.Max != 7 || a.SpecHash != "recipe-2" || a.Scope != "elsewhere" {
			h.Fatalf("the configured pool is %+v", a)
		}
		h.equal("the other pool", rows[1], before[1])
		h.equal("the new pool", rows[2].Name, "new")
		h.is(h.ConfigurePool(h.ctx, pool.PoolRow{Name: "a", Max: -1}, h.now), pool.ErrInvalid)
	}},
	{"retiring one pool keeps its last spec and retires no other", func(h *harness) {
		h.pools(5, "a", "b")
		h.no(h.ConfigurePool(h.ctx, pool.PoolRow{Name: "a", Retired: true}, h.tick()))
		rows, err := h.Pools(h.ctx)
		h.no(err)
		if !rows[0].Retired || rows[0].SpecHash != "recipe-1" || rows[0].Max != 5 || rows[1].Retired {
			h.Fatalf("pools are %+v", rows)
		}
	}},
	{"who is refused a hold learns whose it is and for how long", func(h *harness) {
		h.pools(5, "a")
		held, err := h.Hold(h.ctx, "a", "replica-1", time.Minute)
		h.no(err)
		_, err = h.Hold(h.ctx, "a", "replica-2", time.Minute)
		refusal, ok := errors.AsType[*pool.HeldError](err)
		if !ok || refusal.Holder != "replica-1" || refusal.Pool != "a" || !refusal.Until.Equal(held.Until) {
			h.Fatalf("refused with %v", err)
		}
		if refusal.Left <= 0 || refusal.Left > time.Minute {
			h.Errorf("%s are left, want a minute at most", refusal.Left)
		}
	}},
	{"a setup that takes a lease over learns who waited for it", func(h *harness) {
		h.pools(5, "a")
		a := h.arrival("lease-1", "a")
		h.equal("a new lease displaces nobody", h.arrive(a).Displaced, "")
		h.equal("neither does the same waiter again", h.arrive(a).Displaced, "")
		a.Waiter = "run-2"
		g := h.arrive(a)
		h.equal("another one does", g.Displaced, "run-1")
		h.equal("and waits now", g.Lease.Waiter, "run-2")
		h.no(h.Unwait(h.ctx, g.Lease.Key(), "run-2", h.now.Add(time.Minute), h.now))
		h.equal("nobody waited", h.arrive(a).Displaced, "")
	}},
	{"what ends an abandoned lease spares one that somebody waits for again", func(h *harness) {
		h.pools(5, "a")
		g := h.arrive(h.arrival("lease-1", "a"))
		abandoned := pool.Ending{
			Lease: g.Lease.Key(), States: []pool.LeaseState{pool.LeaseWaiting}, Unwaited: true, Reason: "abandoned", Now: h.tick(),
		}
		_, err := h.End(h.ctx, abandoned)
		h.is(err, pool.ErrConflict)
		h.equal("state", h.lease("lease-1").State, pool.LeaseWaiting)
		h.no(h.Unwait(h.ctx, g.Lease.Key(), "run-1", h.now.Add(time.Minute), h.now))
		_, err = h.End(h.ctx, abandoned)
		h.no(err)
		h.equal("state", h.lease("lease-1").State, pool.LeaseEnded)
	}},
}
