package storetest

import (
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var intendTests = []test{
	{"an intent is a row in creating with all its fields, counted", func(h *harness) {
		h.pools(5, "a")
		spec := h.spec("a")
		spec.StorageID, spec.Held, spec.Disks = "disk", true, drivers.Delete
		spec.Created = spec.Created.Add(999 * time.Microsecond)
		i, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Now: h.tick(), Events: []pool.Event{{Pool: "a", Instance: spec.ID, Reason: "refill", Message: "m"}}})
		h.no(err)
		want := spec
		want.State, want.Since, want.Created = pool.Creating, h.now, spec.Created.Truncate(time.Millisecond)
		h.equal("instance", i, want)
		h.equal("instance read back", h.get(spec.ID), want)
		h.equal("counter", h.counted("a"), 1)
		events, err := h.Events(h.ctx, pool.EventQuery{})
		h.no(err)
		h.equal("events", events, []pool.Event{{ID: events[0].ID, At: h.now, Pool: "a", Instance: spec.ID, Reason: "refill", Message: "m"}})
	}},
	{"the limit holds and says its numbers", func(h *harness) {
		h.pools(2, "a")
		h.creating("a")
		h.booting("a")
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now, Events: []pool.Event{{Reason: "never"}}})
		h.is(err, pool.ErrLimit)
		limit, ok := asLimit(err)
		if !ok || *limit != (pool.LimitError{Pool: "a", Counted: 2, Max: 2}) {
			h.Fatalf("limit error is %+v", limit)
		}
		h.equal("counter", h.counted("a"), 2)
		h.equal("events", h.story(pool.EventQuery{}), []string{})
	}},
	{"every state but gone costs a place", func(h *harness) {
		h.pools(1, "a")
		i := h.creating("a")
		full := func() {
			h.Helper()
			_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
			h.is(err, pool.ErrLimit)
		}
		full()
		h.change(i.ID, pool.Creating, pool.Failed)
		full()
		h.change(i.ID, pool.Failed, pool.Destroying)
		full()
		h.change(i.ID, pool.Destroying, pool.Gone)
		h.equal("counter", h.counted("a"), 0)
		h.creating("a")
	}},
	{"a retired or unknown pool makes nothing", func(h *harness) {
		h.pools(5, "a", "b")
		l := h.waiting("lease-1", "a")
		h.pools(5, "b")
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.is(err, pool.ErrRetired)
		_, err = h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: l.Key(), Now: h.now})
		h.is(err, pool.ErrRetired)
		_, err = h.Intend(h.ctx, pool.Intent{Instance: h.spec("nowhere"), Now: h.now})
		h.is(err, pool.ErrNotFound)
	}},
	{"an id or a name is used once", func(h *harness) {
		h.pools(5, "a")
		i := h.creating("a")
		for _, edit := range []func(*pool.Instance){
			func(s *pool.Instance) { s.ID = i.ID }, func(s *pool.Instance) { s.Name = i.Name },
		} {
			spec := h.spec("a")
			edit(&spec)
			_, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Now: h.now})
			h.is(err, pool.ErrConflict)
		}
		h.equal("counter", h.counted("a"), 1)
	}},
	{"for a lease: it becomes starting on the machine made for it", func(h *harness) {
		h.pools(5, "a")
		l := h.waiting("lease-1", "a")
		i := h.cold(l, "a")
		if !i.Cold || i.LeaseID != "lease-1" || i.LeaseGeneration != 1 || i.State != pool.Creating {
			h.Fatalf("instance is %+v", i)
		}
		got := h.lease("lease-1")
		if got.State != pool.LeaseStarting || got.InstanceID != i.ID || got.Pool != "a" || got.Waiter != "run-1" || got.Claimed.IsZero() {
			h.Fatalf("lease is %+v", got)
		}
		h.sound()
		// It is in no queue any more.
		if other, to := h.prove(h.booting("a")); to != nil || other.State != pool.Warm {
			h.Fatalf("another machine went to %v", to)
		}
		i, to := h.prove(h.accept(i))
		if to == nil || to.ID != "lease-1" || to.State != pool.LeaseStarting || i.State != pool.Leased || !i.Cold {
			h.Fatalf("its machine is %s of %v", i.State, to)
		}
		h.sound()
	}},
	{"for a lease that does not wait: refused", func(h *harness) {
		h.pools(5, "a")
		l, _ := h.active("lease-1", "a")
		for _, k := range []pool.LeaseKey{l.Key(), {ID: "lease-1"}} {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: k, Now: h.now})
			h.is(err, pool.ErrConflict)
		}
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: pool.LeaseKey{ID: "never"}, Now: h.now})
		h.is(err, pool.ErrNotFound)
		w := h.waiting("lease-2", "a")
		h.no(h.Unwait(h.ctx, w.Key(), "run-1", h.tick(), h.now))
		_, err = h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: w.Key(), Now: h.now})
		h.is(err, pool.ErrConflict)
		h.equal("counter", h.counted("a"), 1)
	}},
	{"an older generation gets nothing", func(h *harness) {
		h.pools(5, "a")
		old := h.waiting("lease-1", "a")
		h.end("lease-1")
		h.waiting("lease-1", "a")
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: old.Key(), Now: h.now})
		h.is(err, pool.ErrConflict)
	}},
	{"a refill never takes a place from who waits", func(h *harness) {
		h.pools(3, "a")
		h.creating("a")
		h.waiting("lease-1", "a")
		h.creating("a") // two free, one waits
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.is(err, pool.ErrLimit)
		if limit, ok := asLimit(err); !ok || limit.Ahead != 1 || limit.Counted != 2 || limit.Max != 3 {
			h.Fatalf("limit error is %+v", limit)
		}
		h.cold(h.lease("lease-1"), "a")
	}},
	{"an orphan does not keep a refill waiting", func(h *harness) {
		h.pools(1, "a")
		l := h.waiting("lease-1", "a")
		h.no(h.Unwait(h.ctx, l.Key(), "run-1", h.tick(), h.now))
		h.creating("a")
	}},
	{"a lease is refused while earlier ones could take the free places", func(h *harness) {
		h.pools(2, "a")
		first, second, third := h.waiting("lease-1", "a"), h.waiting("lease-2", "a"), h.waiting("lease-3", "a")
		_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: third.Key(), Now: h.now})
		h.is(err, pool.ErrLimit)
		if limit, ok := asLimit(err); !ok || limit.Ahead != 2 || limit.Counted != 0 {
			h.Fatalf("limit error is %+v", limit)
		}
		h.cold(second, "a")
		h.cold(first, "a")
		_, err = h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: third.Key(), Now: h.now})
		h.is(err, pool.ErrLimit)
		h.sound()
	}},
	{"a refusal is told once: in the lease and as an event", func(h *harness) {
		h.pools(1, "a")
		h.creating("a")
		l := h.waiting("lease-1", "a")
		for range 3 {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Lease: l.Key(), Now: h.tick(), Events: []pool.Event{{Reason: "never"}}})
			h.is(err, pool.ErrLimit)
		}
		got := h.lease("lease-1")
		if got.State != pool.LeaseWaiting || got.Reason != "limit_reached" || got.Detail == "" {
			h.Fatalf("lease is %+v", got)
		}
		events, err := h.Events(h.ctx, pool.EventQuery{Lease: "lease-1"})
		h.no(err)
		if len(events) != 1 || events[0].Reason != "limit_reached" || events[0].Pool != "a" || events[0].Generation != 1 || events[0].Message != got.Detail {
			h.Fatalf("events are %+v", events)
		}
		if _, to := h.prove(h.accept(h.get("a-i0001"))); to == nil || to.Reason != "" {
			h.Fatalf("lease that got its machine is %+v", to)
		}
	}},
	{"a loop's write needs the pool", func(h *harness) {
		h.pools(5, "a")
		mine, err := h.Hold(h.ctx, "a", "replica-1", time.Nanosecond*1_000_000)
		h.no(err)
		_, err = h.Fence(mine).Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.no(err)
		stale := mine
		stale.Generation--
		_, err = h.Fence(pool.Hold{Pool: "a", Replica: "replica-0", Generation: mine.Generation + 1}).Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.is(err, pool.ErrHeld)
		_, err = h.Fence(stale).Intend(h.ctx, pool.Intent{Instance: h.spec("a"), Now: h.now})
		h.is(err, pool.ErrHeld)
		i := h.creating("a")
		c := pool.Change{ID: i.ID, From: []pool.InstanceState{pool.Creating}, To: pool.Failed, Now: h.now}
		_, err = h.Fence(stale).Change(h.ctx, c)
		h.is(err, pool.ErrHeld)
		_, err = h.Fence(mine).Change(h.ctx, c)
		h.no(err)
	}},
	{"an event of an operation that fails is not told", func(h *harness) {
		h.pools(5, "a")
		i := h.creating("a")
		never := []pool.Event{{At: h.now, Reason: "never"}}
		_, err := h.Intend(h.ctx, pool.Intent{Instance: i, Now: h.now, Events: never})
		h.is(err, pool.ErrConflict)
		_, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{pool.Warm}, To: pool.Destroying, Now: h.now, Events: never})
		h.is(err, pool.ErrConflict)
		h.is(h.Postpone(h.ctx, i.ID, pool.Warm, pool.Postponement{Now: h.now, Events: never}), pool.ErrConflict)
		_, err = h.Activate(h.ctx, pool.LeaseKey{ID: "never"}, h.now, h.now, never...)
		h.is(err, pool.ErrNotFound)
		_, _, err = h.Proven(h.ctx, pool.Proof{ID: i.ID, Now: h.now, Events: never})
		h.is(err, pool.ErrConflict)
		h.equal("events", h.story(pool.EventQuery{}), []string{})
	}},
}

var instanceTests = []test{
	{"accepted: where it is, and booting", func(h *harness) {
		h.pools(5, "a")
		i := h.creating("a")
		due := h.tick().Add(time.Minute)
		got, err := h.Accepted(h.ctx, pool.Acceptance{
			ID: i.ID, CloudID: "cloud", Zone: "zone-x", Address: "10.1.1.1", Port: 19079, Due: due, Now: h.now,
			Events: []pool.Event{{Instance: i.ID, Reason: "accepted"}},
		})
		h.no(err)
		want := i
		want.State, want.CloudID, want.Zone, want.Address, want.Port = pool.Booting, "cloud", "zone-x", "10.1.1.1", 19079
		want.Due, want.Since = due, h.now
		h.equal("instance", got, want)
		h.equal("instance read back", h.get(i.ID), want)
		h.equal("events", h.story(pool.EventQuery{Instance: i.ID}), []string{"accepted"})
	}},
	{"accepted leaves out what the cloud did not say", func(h *harness) {
		h.pools(5, "a")
		i := h.creating("a")
		got, err := h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, CloudID: "cloud", Now: h.tick()})
		h.no(err)
		h.equal("zone", got.Zone, i.Zone)
	}},
	{"accepted on a machine that is being destroyed records where it is", func(h *harness) {
		h.pools(5, "a")
		for _, state := range []pool.InstanceState{pool.Destroying, pool.Failed} {
			i := h.creating("a")
			i = h.change(i.ID, pool.Creating, state)
			_, err := h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, CloudID: "cloud-" + i.ID, Zone: "zone-x", Now: h.tick(), Events: []pool.Event{{Reason: "never"}}})
			h.is(err, pool.ErrConflict)
			want := i
			want.CloudID, want.Zone = "cloud-"+i.ID, "zone-x"
			h.equal("instance", h.get(i.ID), want)
		}
		h.equal("events", h.story(pool.EventQuery{}), []string{})
	}},
	{"accepted in any other state changes nothing", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		_, err := h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, CloudID: "other", Now: h.tick()})
		h.is(err, pool.ErrConflict)
		h.equal("instance", h.get(i.ID), i)
		_, err = h.Accepted(h.ctx, pool.Acceptance{ID: "never", Now: h.now})
		h.is(err, pool.ErrNotFound)
	}},
	{"proven: warm, with what the agent said", func(h *harness) {
		h.pools(5, "a")
		i := h.booting("a")
		due := h.tick().Add(time.Hour)
		got, l, err := h.Proven(h.ctx, pool.Proof{
			ID: i.ID, AgentVersion: "9.9", Address: "10.2.2.2", Port: 99, Due: due, LeaseDue: h.now.Add(time.Minute), Now: h.now,
			Events: []pool.Event{{Instance: i.ID, Reason: "proven"}},
		})
		h.no(err)
		if l != nil {
			h.Fatalf("lease is %v", l)
		}
		want := i
		want.State, want.AgentVersion, want.Warmed, want.Since, want.Due = pool.Warm, "9.9", h.now, h.now, due
		want.Address, want.Port = "10.2.2.2", 99
		h.equal("instance", got, want)
		h.equal("instance read back", h.get(i.ID), want)
	}},
	{"proven needs a booting machine", func(h *harness) {
		h.pools(9, "a")
		_, leased := h.active("lease-1", "a")
		for _, id := range []string{h.creating("a").ID, h.warm("a").ID, leased.ID} {
			before := h.get(id)
			_, l, err := h.Proven(h.ctx, pool.Proof{ID: id, Now: h.tick()})
			h.is(err, pool.ErrConflict)
			h.equal("lease", l, (*pool.Lease)(nil))
			h.equal("instance", h.get(id), before)
		}
		_, _, err := h.Proven(h.ctx, pool.Proof{ID: "never", Now: h.now})
		h.is(err, pool.ErrNotFound)
	}},
	{"a machine made for a lease that was destroyed is destroyed", func(h *harness) {
		h.pools(5, "a")
		l := h.waiting("lease-1", "a")
		i := h.accept(h.cold(l, "a"))
		h.end("lease-1")
		h.waiting("lease-2", "a")
		_, to, err := h.Proven(h.ctx, pool.Proof{ID: i.ID, Now: h.tick()})
		h.is(err, pool.ErrConflict)
		if to != nil || h.get(i.ID).State != pool.Destroying {
			h.Fatalf("it went to %v", to)
		}
	}},
	{"postponed: later, with what went wrong, and nothing else", func(h *harness) {
		h.pools(5, "a")
		i := h.booting("a")
		due := h.tick().Add(time.Minute)
		h.no(h.Postpone(h.ctx, i.ID, pool.Booting, pool.Postponement{
			Due: due, Attempts: 3, Reason: "agent_silent", Detail: "d", Now: h.now, Events: []pool.Event{{Instance: i.ID, Reason: "agent_silent"}},
		}))
		want := i
		want.Due, want.Attempts, want.Reason, want.Detail = due, 3, "agent_silent", "d"
		h.equal("instance", h.get(i.ID), want)
		h.equal("events", h.story(pool.EventQuery{Instance: i.ID}), []string{"agent_silent"})
		h.is(h.Postpone(h.ctx, i.ID, pool.Creating, pool.Postponement{Now: h.now}), pool.ErrConflict)
		h.is(h.Postpone(h.ctx, "never", pool.Creating, pool.Postponement{Now: h.now}), pool.ErrNotFound)
		if i, _ := h.prove(want); i.Attempts != 0 || i.Reason != "" {
			h.Errorf("the next state starts with %d attempts, reason %q", i.Attempts, i.Reason)
		}
	}},
	{"a change writes what it says", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		due := h.tick().Add(time.Minute)
		got, err := h.Change(h.ctx, pool.Change{
			ID: i.ID, From: []pool.InstanceState{pool.Booting, pool.Warm}, To: pool.Failed, Address: "10.9.9.9", Port: 1, Due: due,
			Reason: "agent_dead", Detail: "tail \xff\x00 of a console", Now: h.now, Events: []pool.Event{{Instance: i.ID, Reason: "agent_dead", Message: "bad \xfe byte"}},
		})
		h.no(err)
		want := i
		want.State, want.Address, want.Port, want.Due, want.Since = pool.Failed, "10.9.9.9", 1, due, h.now
		want.Reason, want.Detail = "agent_dead", "tail \uFFFD\uFFFD of a console"
		h.equal("instance", got, want)
		h.equal("instance read back", h.get(i.ID), want)
		h.equal("events", h.story(pool.EventQuery{Instance: i.ID}), []string{"agent_dead"})
		_, err = h.Change(h.ctx, pool.Change{ID: "never", From: []pool.InstanceState{pool.Warm}, To: pool.Failed, Now: h.now})
		h.is(err, pool.ErrNotFound)
	}},
	{"a machine that is gone keeps no keys", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		h.gone(i.ID)
		got := h.get(i.ID)
		h.equal("identity", got.Identity, drivers.Identity{})
		if got.State != pool.Gone || !got.Due.IsZero() {
			h.Errorf("instance is %+v", got)
		}
	}},
	{"a certificate that is being renewed is kept beside the present one until the machine has it", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a", func(i *pool.Instance) { i.InitScript = "echo" })
		next := identity("next")
		want := i
		want.NextIdentity = i.Identity
		want.NextIdentity.CACert, want.NextIdentity.Key, want.NextIdentity.Cert = next.CACert, next.Key, next.Cert
		got, err := h.Renewing(h.ctx, pool.Renewal{ID: i.ID, From: i.Identity.Cert, Next: next, Now: h.tick(), Events: []pool.Event{{Instance: i.ID, Reason: "begun"}}})
		h.no(err)
		h.equal("row", got, want)
		h.equal("row read back", h.get(i.ID), want)

		// A second one, of another process, finds the first.
		got, err = h.Renewing(h.ctx, pool.Renewal{ID: i.ID, From: i.Identity.Cert, Next: identity("other"), Now: h.tick(), Events: []pool.Event{{Instance: i.ID, Reason: "again"}}})
		h.no(err)
		h.equal("row after a second begin", got, want)
		_, err = h.Renewed(h.ctx, pool.Renewal{ID: i.ID, Next: identity("other"), Now: h.tick(), Events: []pool.Event{{Instance: i.ID, Reason: "wrong"}}})
		h.is(err, pool.ErrConflict)
		h.equal("row after a wrong end", h.get(i.ID), want)

		want.Identity, want.NextIdentity = want.NextIdentity, drivers.Identity{}
		for range 2 { // the second time it is so already
			got, err = h.Renewed(h.ctx, pool.Renewal{ID: i.ID, Next: next, Now: h.tick(), Events: []pool.Event{{Instance: i.ID, Reason: "done"}}})
			h.no(err)
			h.equal("row in the end", got, want)
			h.equal("row in the end read back", h.get(i.ID), want)
		}
		h.equal("events", h.story(pool.EventQuery{Instance: i.ID}), []string{"begun", "done"})

		// Whoever read the row before the renewal begins nothing.
		got, err = h.Renewing(h.ctx, pool.Renewal{ID: i.ID, From: i.Identity.Cert, Next: identity("late"), Now: h.tick()})
		h.no(err)
		h.equal("row after a late begin", got, want)
		h.gone(i.ID)
		_, err = h.Renewing(h.ctx, pool.Renewal{ID: i.ID, From: next.Cert, Next: identity("late"), Now: h.tick()})
		h.is(err, pool.ErrConflict)
		_, err = h.Renewed(h.ctx, pool.Renewal{ID: i.ID, Next: next, Now: h.tick()})
		h.is(err, pool.ErrConflict)
		_, err = h.Renewing(h.ctx, pool.Renewal{ID: "never", Next: next, Now: h.now})
		h.is(err, pool.ErrNotFound)
		h.is(func() error { _, err := h.Renewing(h.ctx, pool.Renewal{ID: i.ID, Now: h.now}); return err }(), pool.ErrInvalid)
	}},
	{"unknown ids are not found", func(h *harness) {
		_, err := h.Instance(h.ctx, "never")
		h.is(err, pool.ErrNotFound)
		_, err = h.Lease(h.ctx, "never")
		h.is(err, pool.ErrNotFound)
		_, err = h.LeaseAt(h.ctx, pool.LeaseKey{ID: "never", Generation: 1})
		h.is(err, pool.ErrNotFound)
	}},
}

// reach brings a machine into a state by the shortest way the operations have.
func (h *harness) reach(state pool.InstanceState) pool.Instance {
	h.Helper()
	switch state {
	case pool.Creating:
		return h.creating("a")
	case pool.Booting:
		return h.booting("a")
	case pool.Warm:
		return h.warm("a")
	case pool.Hibernating:
		return h.change(h.warm("a").ID, pool.Warm, pool.Hibernating)
	case pool.Hibernated:
		return h.change(h.reach(pool.Hibernating).ID, pool.Hibernating, pool.Hibernated)
	case pool.Resuming:
		return h.change(h.reach(pool.Hibernated).ID, pool.Hibernated, pool.Resuming)
	case pool.Leased:
		h.n++
		_, i := h.gitspace(fmt.Sprint("space-", h.n), "a")
		return i
	case pool.Suspending:
		i := h.reach(pool.Leased)
		_, i, err := h.Sleep(h.ctx, pool.LeaseKey{ID: i.LeaseID}, h.tick(), h.now)
		h.no(err)
		return i
	case pool.Suspended:
		return h.change(h.reach(pool.Suspending).ID, pool.Suspending, pool.Suspended)
	case pool.Failed:
		return h.change(h.creating("a").ID, pool.Creating, pool.Failed)
	case pool.Destroying:
		return h.change(h.creating("a").ID, pool.Creating, pool.Destroying)
	case pool.Gone:
		return h.change(h.reach(pool.Destroying).ID, pool.Destroying, pool.Gone)
	}
	h.Fatalf("no way to %s", state)
	return pool.Instance{}
}

var transitionTests = []test{
	{"every pair of states: the table allows it or it conflicts and changes nothing", func(h *harness) {
		h.pools(1000, "a")
		for _, from := range pool.InstanceStates() {
			for _, to := range pool.InstanceStates() {
				i := h.reach(from)
				counted := h.counted("a")
				got, err := h.Change(h.ctx, pool.Change{
					ID: i.ID, From: []pool.InstanceState{from}, To: to, Due: h.tick().Add(time.Minute), Now: h.now,
					Events: []pool.Event{{Instance: i.ID, Reason: "changed"}},
				})
				allowed := from.May(to)
				if to == pool.Leased && (from == pool.Warm || from == pool.Resuming) {
					// Only a claim makes a machine somebody's.
					allowed = false
				}
				if !allowed {
					if !isErr(err, pool.ErrConflict) {
						h.Errorf("%s to %s: error %v, want a conflict", from, to, err)
					}
					if diff := cmp.Diff(i, h.get(i.ID)); diff != "" {
						h.Errorf("%s to %s was refused, but (-before +after):\n%s", from, to, diff)
					}
					h.equal("events", h.story(pool.EventQuery{Instance: i.ID}), []string{})
					h.equal("counter", h.counted("a"), counted)
					continue
				}
				if err != nil {
					h.Errorf("%s to %s: %v", from, to, err)
					continue
				}
				if got.State != to || h.get(i.ID).State != to {
					h.Errorf("%s to %s: it is %s", from, to, got.State)
				}
				if to == pool.Gone {
					counted--
				}
				h.equal("counter", h.counted("a"), counted)
			}
		}
	}},
	{"a machine in another state than expected conflicts", func(h *harness) {
		h.pools(100, "a")
		for _, state := range pool.InstanceStates() {
			i := h.reach(state)
			for _, from := range [][]pool.InstanceState{nil, {pool.InstanceState("other")}} {
				_, err := h.Change(h.ctx, pool.Change{ID: i.ID, From: from, To: pool.Destroying, Now: h.now})
				h.is(err, pool.ErrConflict)
			}
		}
	}},
	{"a machine that somebody had never becomes warm", func(h *harness) {
		h.pools(100, "a")
		_, i := h.gitspace("space-1", "a")
		h.change(i.ID, pool.Leased, pool.Failed)
		h.change(i.ID, pool.Failed, pool.Resuming)
		_, err := h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{pool.Resuming}, To: pool.Warm, Now: h.now})
		h.is(err, pool.ErrConflict)
		_, _, err = h.Proven(h.ctx, pool.Proof{ID: i.ID, Now: h.now})
		h.is(err, pool.ErrConflict)
		h.end("space-1")
		_, _, err = h.Proven(h.ctx, pool.Proof{ID: i.ID, Now: h.now})
		h.is(err, pool.ErrConflict)
	}},
}
