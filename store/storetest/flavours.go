package storetest

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// of makes a machine one of a flavour.
func of(tenant, variant string) func(*pool.Instance) {
	return func(i *pool.Instance) { i.Tenant, i.Variant = tenant, variant }
}

// flavoured configures pool a with a limit and the limits of flavours.
func (h *harness) flavoured(limit int, flavours ...pool.FlavourRow) {
	h.Helper()
	h.no(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", Max: limit, SpecHash: "recipe-1", Flavours: flavours}}, h.now))
}

// wants is a setup that needs a machine of a flavour of its own.
func (h *harness) wants(id, tenant, variant string) pool.Lease {
	h.Helper()
	a := h.arrival(id, "a")
	a.Choices[0].Shape, a.Choices[0].Tenant, a.Choices[0].Variant = tenant+variant, tenant, variant
	g := h.arrive(a)
	if g.Lease.State != pool.LeaseWaiting {
		h.Fatalf("lease %q is %s", id, g.Lease.State)
	}
	return g.Lease
}

// limited tries to begin a machine, which must be refused by a limit.
func (h *harness) limited(l pool.LeaseKey, edit ...func(*pool.Instance)) pool.LimitError {
	h.Helper()
	spec := h.spec("a")
	for _, e := range edit {
		e(&spec)
	}
	_, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Lease: l, Now: h.now})
	limit, ok := asLimit(err)
	if !ok {
		h.Fatalf("error is %v, want a limit", err)
	}
	return *limit
}

var flavourTests = []test{
	{"flavours are kept by tenant and variant, counted from the machines that are there", func(h *harness) {
		h.flavoured(9)
		h.creating("a", of("t1", "big"))
		h.creating("a", of("t1", "big"))
		h.gone(h.creating("a", of("t1", "big")).ID)
		h.creating("a")
		h.flavoured(9, pool.FlavourRow{Tenant: "t1", Variant: "big", Max: 3}, pool.FlavourRow{Max: -1, Counted: 77}, pool.FlavourRow{Variant: "x", Max: 0})
		want := []pool.FlavourRow{
			{Tenant: "default", Variant: "default", Max: -1, Counted: 1},
			{Tenant: "default", Variant: "x", Max: 0},
			{Tenant: "t1", Variant: "big", Max: 3, Counted: 2},
		}
		h.equal("in the row", h.row("a").Flavours, want)
		h.equal("in the snapshot", h.snapshot("a").Flavours, want)
		h.flavoured(9, pool.FlavourRow{Tenant: "t1", Variant: "big", Max: 1})
		h.equal("after a new configuration", h.row("a").Flavours, []pool.FlavourRow{{Tenant: "t1", Variant: "big", Max: 1, Counted: 2}})
		h.flavoured(9)
		h.equal("without any", h.row("a").Flavours, []pool.FlavourRow(nil))
		h.is(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", Flavours: []pool.FlavourRow{{Variant: "default"}, {Tenant: "default"}}}}, h.now), pool.ErrInvalid)
	}},
	{"a flavour's own limit holds under the pool's, and names it", func(h *harness) {
		h.flavoured(9, pool.FlavourRow{Tenant: "t1", Variant: "big", Max: 2})
		i := h.creating("a", of("t1", "big"))
		h.creating("a", of("t1", "big"))
		h.equal("refusal", h.limited(pool.LeaseKey{}, of("t1", "big")), pool.LimitError{Pool: "a", Tenant: "t1", Variant: "big", Counted: 2, Max: 2})
		h.equal("pool's counter", h.counted("a"), 2)
		h.creating("a", of("t1", "small"))
		h.creating("a", of("t2", "big"))
		l := h.wants("lease-1", "t1", "big")
		h.limited(l.Key(), of("t1", "big"))
		h.equal("the lease's reason", h.lease("lease-1").Reason, "limit_reached")
		h.equal("events", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"limit_reached"})
		h.gone(i.ID)
		h.cold(l, "a", of("t1", "big"))
		h.sound()
	}},
	{"who waits for a flavour at its limit keeps no place from others", func(h *harness) {
		h.flavoured(5, pool.FlavourRow{Tenant: "t1", Variant: "big", Max: 2})
		h.creating("a", of("t1", "big"))
		for _, id := range []string{"big-1", "big-2", "big-3", "big-4", "big-5"} {
			h.wants(id, "t1", "big")
		}
		small := h.wants("small-1", "", "")
		// Four places are free. One is for the first that wants a big one, one
		// for small-1, and two are nobody's.
		h.creating("a")
		h.creating("a")
		h.equal("refusal of a third refill", h.limited(pool.LeaseKey{}).Counted, 3)
		h.cold(small, "a")
		h.limited(h.wants("small-2", "", "").Key())
		h.cold(h.lease("big-1"), "a", of("t1", "big"))
		h.sound()
	}},
	{"100 goroutines against a flavour's limit of 3: never 4", func(h *harness) {
		h.flavoured(50, pool.FlavourRow{Tenant: "t1", Variant: "big", Max: 3})
		specs := make([]pool.Instance, 100)
		for k := range specs {
			specs[k] = h.spec("a")
			specs[k].Tenant, specs[k].Variant = "t1", "big"
		}
		var made atomic.Int64
		together(h, len(specs), 1, func(_, n int) error {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			if err == nil {
				made.Add(1)
			} else if errors.Is(err, pool.ErrLimit) {
				err = nil
			}
			return err
		})
		h.equal("made", made.Load(), int64(3))
		h.sound()
	}},
	{"machines of a flavour come and go: its counter is true", func(h *harness) {
		h.flavoured(50, pool.FlavourRow{Tenant: "t1", Variant: "big", Max: 4})
		specs := make([]pool.Instance, 16*8)
		for k := range specs {
			specs[k] = h.spec("a")
			specs[k].Tenant, specs[k].Variant = "t1", "big"
		}
		together(h, 16, 8, func(_, n int) error {
			i, err := h.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			if errors.Is(err, pool.ErrLimit) {
				return nil
			}
			for _, s := range []pool.InstanceState{pool.Destroying, pool.Gone} {
				if err == nil {
					i, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{i.State}, To: s, Now: h.now})
				}
			}
			return err
		})
		h.equal("flavours", h.row("a").Flavours, []pool.FlavourRow{{Tenant: "t1", Variant: "big", Max: 4}})
		h.sound()
	}},
	{"a lease's choices keep their flavour", func(h *harness) {
		h.pools(5, "a", "b")
		a := h.arrival("lease-1", "a", "b")
		a.Choices[0].Shape, a.Choices[0].Tenant, a.Choices[0].Variant = "odd", "t1", "big"
		g := h.arrive(a)
		h.equal("choices", g.Lease.Choices, a.Choices)
		h.equal("choices read back", h.lease("lease-1").Choices, a.Choices)
		a.ID, a.Choices[0].Tenant = "lease-2", "a\x00b"
		_, err := h.Arrive(h.ctx, a)
		h.is(err, pool.ErrInvalid)
	}},
	{"drifted is what was made of none of the pool's recipes", func(h *harness) {
		h.no(h.Configure(h.ctx, []pool.PoolRow{{Name: "a", Max: 50, SpecHash: "recipe-1", Recipes: []string{"recipe-1", "recipe-big"}}}, h.now))
		h.equal("recipes in the row", h.row("a").Recipes, []string{"recipe-1", "recipe-big"})
		recipe := func(r string) func(*pool.Instance) { return func(i *pool.Instance) { i.Recipe = r } }
		h.warm("a", recipe("recipe-1"))
		h.warm("a", recipe("recipe-big"))
		first := h.warm("a", recipe("recipe-0"))
		asleep := h.warm("a", recipe("recipe-big-0"))
		for _, s := range []pool.InstanceState{pool.Hibernating, pool.Hibernated} {
			asleep = h.change(asleep.ID, asleep.State, s)
		}
		held := h.warm("a", recipe("recipe-0"))
		_, err := h.SetHeld(h.ctx, held.ID, true, h.now)
		h.no(err)
		h.booting("a", recipe("recipe-0"))
		h.equal("drifted", h.snapshot("a").Drifted, []pool.Instance{first, asleep})
	}},
}

var positionTests = []test{
	{"the position of a lease is its place in a pool's queue", func(h *harness) {
		h.pools(5, "a", "b")
		first := h.waiting("lease-1", "a")
		h.waiting("lease-2", "b")
		third := h.waiting("lease-3", "a", "b")
		odd := h.arrival("lease-4", "a", "a")
		odd.Choices[1].Shape = "odd"
		fourth := h.arrive(odd).Lease
		at := func(l pool.Lease, in string, limit int) int {
			h.Helper()
			n, err := h.Position(h.ctx, l.Key(), in, limit)
			h.no(err)
			return n
		}
		h.equal("first", at(first, "a", 10), 1)
		h.equal("third in a", at(third, "a", 10), 2)
		h.equal("third in b", at(third, "b", 10), 2)
		h.equal("fourth, counted once", at(fourth, "a", 10), 3)
		h.equal("counted up to the limit", at(fourth, "a", 2), 2)
		h.equal("where it does not wait", at(first, "b", 10), 0)
		h.equal("in no pool", at(first, "never", 10), 0)
		h.no(h.Unwait(h.ctx, first.Key(), "run-1", h.now, h.now))
		h.equal("nobody's lease", at(first, "a", 10), 0)
		h.equal("third is next", at(third, "a", 10), 1)
		h.end("lease-3")
		h.equal("ended", at(third, "a", 10), 0)
		_, err := h.Position(h.ctx, pool.LeaseKey{ID: "never"}, "a", 10)
		h.is(err, pool.ErrNotFound)
	}},
}

// asleep puts a warm machine to disk.
func (h *harness) asleep(in string, edit ...func(*pool.Instance)) pool.Instance {
	h.Helper()
	i := h.warm(in, edit...)
	for _, s := range []pool.InstanceState{pool.Hibernating, pool.Hibernated} {
		i = h.change(i.ID, i.State, s)
	}
	if i.State != pool.Hibernated {
		h.Fatalf("machine is %s, want hibernated", i.State)
	}
	return i
}

var hibernatedTests = []test{
	{"a lease takes the oldest hibernated machine if none is warm, and it is on its way back", func(h *harness) {
		h.pools(9, "a")
		first := h.asleep("a")
		h.asleep("a")
		a := h.arrival("lease-1", "a")
		g := h.arrive(a)
		if !g.Claimed || g.Instance == nil || g.Instance.ID != first.ID || g.Lease.State != pool.LeaseStarting || g.Lease.InstanceID != first.ID {
			h.Fatalf("grant is %+v of %+v", g, g.Instance)
		}
		i := h.get(first.ID)
		if i.State != pool.Resuming || i.LeaseID != "lease-1" || !i.Since.Equal(a.Now) || !i.Due.Equal(a.LeaseDue) {
			h.Fatalf("instance is %+v", i)
		}
		h.equal("instance given", *g.Instance, i)
		h.sound()
		i, err := h.Woken(h.ctx, pool.Acceptance{ID: i.ID, Address: "10.0.0.9", Port: 9080, Due: h.tick().Add(time.Minute), Now: h.now})
		h.no(err)
		if i.State != pool.Leased || i.Address != "10.0.0.9" || i.LeaseID != "lease-1" {
			h.Fatalf("instance is %+v", i)
		}
		h.equal("lease", h.activate(g.Lease).State, pool.LeaseActive)
		h.sound()
	}},
	{"a younger warm machine comes before an older hibernated one", func(h *harness) {
		h.pools(9, "a")
		old := h.asleep("a")
		warm := h.warm("a")
		if _, i := h.claimed("lease-1", "a"); i.ID != warm.ID || i.State != pool.Leased {
			h.Fatalf("it was given %s, %s", i.ID, i.State)
		}
		if g := h.arrive(h.arrival("lease-2", "a")); !g.Claimed || g.Instance.ID != old.ID {
			h.Fatalf("it was given %+v", g.Instance)
		}
	}},
	{"choices go in their order: a hibernated machine of the first before a warm one of the second", func(h *harness) {
		h.pools(9, "a", "b")
		asleep := h.asleep("a")
		h.warm("b")
		if g := h.arrive(h.arrival("lease-1", "a", "b")); !g.Claimed || g.Instance.ID != asleep.ID {
			h.Fatalf("it was given %+v", g.Instance)
		}
	}},
	{"a hibernated machine that does not fit is passed over", func(h *harness) {
		h.pools(9, "a")
		h.asleep("a", func(i *pool.Instance) { i.Shape = "odd" })
		h.asleep("a", func(i *pool.Instance) { i.Deadline = h.now.Add(time.Minute) })
		a := h.arrival("lease-1", "a")
		a.Choices[0].Zone = "zone-b"
		if g := h.arrive(a); g.Claimed {
			h.Fatalf("it was given %+v", g.Instance)
		}
		fits := h.asleep("a")
		g := h.arrive(h.arrival("lease-2", "a"))
		if !g.Claimed || g.Instance.ID != fits.ID {
			h.Fatalf("it was given %+v", g.Instance)
		}
	}},
	{"a machine that becomes hibernated goes to who waits for it, in order of arrival", func(h *harness) {
		h.pools(9, "a")
		i := h.change(h.warm("a").ID, pool.Warm, pool.Hibernating)
		l := h.waiting("lease-1", "a")
		h.waiting("lease-2", "a")
		i = h.change(i.ID, pool.Hibernating, pool.Hibernated)
		if i.State != pool.Resuming || i.LeaseID != "lease-1" {
			h.Fatalf("machine is %s of %q", i.State, i.LeaseID)
		}
		if got := h.lease("lease-1"); got.State != pool.LeaseStarting || got.InstanceID != i.ID || got.Generation != l.Generation {
			h.Fatalf("lease is %+v", got)
		}
		h.equal("still waiting", h.waits("a"), []string{"lease-2"})
		h.sound()
	}},
	{"hibernation that is taken back makes it warm, or somebody's", func(h *harness) {
		h.pools(9, "a")
		i := h.change(h.warm("a").ID, pool.Warm, pool.Hibernating)
		i = h.change(i.ID, pool.Hibernating, pool.Warm)
		i = h.change(i.ID, pool.Warm, pool.Hibernating)
		h.waiting("lease-1", "a")
		if i = h.change(i.ID, pool.Hibernating, pool.Warm); i.State != pool.Leased || i.LeaseID != "lease-1" {
			h.Fatalf("machine is %s of %q", i.State, i.LeaseID)
		}
	}},
	{"a hibernated machine is woken for the pool, proven, and warm again", func(h *harness) {
		h.pools(9, "a")
		i := h.asleep("a")
		i = h.change(i.ID, pool.Hibernated, pool.Resuming)
		i, l := h.prove(i)
		if l != nil || i.State != pool.Warm {
			h.Fatalf("machine is %s of %v", i.State, l)
		}
		if _, got := h.claimed("lease-1", "a"); got.ID != i.ID {
			h.Fatalf("it was given %s", got.ID)
		}
	}},
	{"one that resumes for a lease is not proven warm, nor anybody else's", func(h *harness) {
		h.pools(9, "a")
		i := h.asleep("a")
		g := h.arrive(h.arrival("lease-1", "a"))
		_, _, err := h.Proven(h.ctx, pool.Proof{ID: i.ID, Now: h.now})
		h.is(err, pool.ErrConflict)
		h.waiting("lease-2", "a")
		e := h.end("lease-1")
		if e.Instance == nil || e.Instance.State != pool.Destroying {
			h.Fatalf("end gave %+v", e.Instance)
		}
		_, err = h.Woken(h.ctx, pool.Acceptance{ID: i.ID, Now: h.now})
		h.is(err, pool.ErrConflict)
		h.equal("generation", g.Lease.Generation, int64(1))
		h.sound()
	}},
	{"a machine whose resume fails is taken from its lease, which may get another that sleeps", func(h *harness) {
		h.pools(9, "a")
		h.asleep("a")
		second := h.asleep("a")
		g := h.arrive(h.arrival("lease-1", "a"))
		got, err := h.requeue(g.Lease, false, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		if !got.Claimed || got.Instance.ID != second.ID || got.Instance.State != pool.Resuming {
			h.Fatalf("it was given %+v", got.Instance)
		}
		h.equal("the first", h.get(g.Lease.InstanceID).State, pool.Destroying)
		h.sound()
	}},
	{"64 claimers on warm and hibernated machines: every machine is given once", func(h *harness) {
		h.pools(1000, "a")
		for range 20 {
			h.warm("a")
			h.asleep("a")
		}
		var t tally
		together(h, 64, 1, func(_, n int) error {
			g, err := h.Arrive(h.ctx, h.arrivalAt(string(rune('A'+n)), "a"))
			if err == nil && g.Claimed {
				t.add(g.Instance.ID)
			}
			return err
		})
		h.equal("machines given", len(t.given), 40)
		h.equal("waiting", len(h.waits("a")), 24)
		h.sound()
	}},
}

// waits is who waits for a pool, in order.
func (h *harness) waits(in string) []string {
	h.Helper()
	var ids []string
	for _, l := range h.snapshot(in).Waiting {
		ids = append(ids, l.ID)
	}
	return ids
}

// hold sets or clears an operator's hold.
func (h *harness) hold(id string, held bool) pool.Instance {
	h.Helper()
	i, err := h.SetHeld(h.ctx, id, held, h.tick())
	h.no(err)
	return i
}

var heldTests = []test{
	{"a held machine is never given away, warm or hibernated", func(h *harness) {
		h.pools(9, "a")
		for _, i := range []pool.Instance{h.warm("a"), h.asleep("a")} {
			want := h.get(i.ID)
			want.Held = true
			h.equal("held", h.hold(i.ID, true), want)
			h.equal("held read back", h.get(i.ID), want)
		}
		h.waiting("lease-1", "a")
		h.sound()
	}},
	{"a machine held while it is made becomes warm and stays", func(h *harness) {
		h.pools(9, "a")
		i := h.booting("a")
		h.hold(i.ID, true)
		h.waiting("lease-1", "a")
		if i, l := h.prove(i); l != nil || i.State != pool.Warm || !i.Held {
			h.Fatalf("machine is %s of %v, held %v", i.State, l, i.Held)
		}
		h.sound()
	}},
	{"a machine held on its way to disk gets there and stays", func(h *harness) {
		h.pools(9, "a")
		i := h.warm("a")
		h.change(i.ID, pool.Warm, pool.Hibernating)
		h.hold(i.ID, true)
		h.waiting("lease-1", "a")
		if got := h.change(i.ID, pool.Hibernating, pool.Hibernated); got.State != pool.Hibernated || !got.Held {
			h.Fatalf("machine is %s, held %v", got.State, got.Held)
		}
		h.sound()
	}},
	{"a held machine that is free only fails, whatever was decided before it was held", func(h *harness) {
		h.pools(9, "a")
		for _, i := range []pool.Instance{h.warm("a"), h.asleep("a")} {
			h.hold(i.ID, true)
			was := h.get(i.ID)
			for _, to := range []pool.InstanceState{pool.Hibernating, pool.Resuming, pool.Destroying} {
				_, err := h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{was.State}, To: to, Due: h.now, Now: h.tick()})
				h.is(err, pool.ErrConflict)
			}
			h.equal("held", h.get(i.ID), was)
			h.change(i.ID, was.State, pool.Failed)
		}
		h.sound()
	}},
	{"a machine that is let go is due, and not put off any more because it was held", func(h *harness) {
		h.pools(9, "a")
		i := h.warm("a")
		h.change(i.ID, pool.Warm, pool.Destroying)
		h.hold(i.ID, true)
		later := pool.Postponement{Due: h.now.Add(time.Hour), Held: true, Reason: "held", Now: h.now}
		h.no(h.Postpone(h.ctx, i.ID, pool.Destroying, later))
		h.equal("due while held", h.get(i.ID).Due, later.Due)
		got := h.hold(i.ID, false)
		h.equal("due", got.Due, h.now)
		h.is(h.Postpone(h.ctx, i.ID, pool.Destroying, later), pool.ErrConflict)
		h.equal("still due", h.get(i.ID).Due, got.Due)
	}},
	{"a warm machine that is let go is handed to who waits for it", func(h *harness) {
		h.pools(9, "a")
		i := h.warm("a")
		h.hold(i.ID, true)
		h.waiting("lease-1", "a")
		h.waiting("lease-2", "a")
		i = h.hold(i.ID, false)
		if i.State != pool.Leased || i.LeaseID != "lease-1" || i.Held {
			h.Fatalf("machine is %s of %q", i.State, i.LeaseID)
		}
		h.equal("read back", h.get(i.ID), i)
		h.equal("lease", h.lease("lease-1").State, pool.LeaseStarting)
		h.equal("still waiting", h.waits("a"), []string{"lease-2"})
		h.sound()
	}},
	{"a hibernated machine that is let go is handed on too, and resumes", func(h *harness) {
		h.pools(9, "a")
		i := h.asleep("a")
		h.hold(i.ID, true)
		h.waiting("lease-1", "a")
		if i = h.hold(i.ID, false); i.State != pool.Resuming || i.LeaseID != "lease-1" {
			h.Fatalf("machine is %s of %q", i.State, i.LeaseID)
		}
		h.sound()
	}},
	{"holding leaves a lease's machine as it is, with its events", func(h *harness) {
		h.pools(9, "a")
		l, i := h.active("lease-1", "a")
		before := h.get(i.ID)
		got, err := h.SetHeld(h.ctx, i.ID, true, h.tick(), pool.Event{Instance: i.ID, Reason: "held", Message: "by ann"})
		h.no(err)
		before.Held = true
		h.equal("instance", got, before)
		h.equal("lease", h.lease("lease-1"), l)
		h.equal("events", h.story(pool.EventQuery{Instance: i.ID}), []string{"held"})
		h.hold(i.ID, true)
		h.hold(i.ID, false)
		h.hold(i.ID, false)
		h.sound()
	}},
	{"what is gone or unknown cannot be held", func(h *harness) {
		h.pools(9, "a")
		i := h.warm("a")
		h.gone(i.ID)
		_, err := h.SetHeld(h.ctx, i.ID, true, h.now)
		h.is(err, pool.ErrConflict)
		_, err = h.SetHeld(h.ctx, "never", true, h.now)
		h.is(err, pool.ErrNotFound)
	}},
}
