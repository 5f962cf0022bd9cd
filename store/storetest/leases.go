package storetest

import (
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// requeue takes a lease off its machine with a cause.
func (h *harness) requeue(l pool.Lease, keep bool, choices ...pool.Choice) (pool.Grant, error) {
	return h.Requeue(h.ctx, pool.Requeue{
		Lease: l.Key(), Choices: choices, Keep: keep,
		Cause:       pool.Cause{Pool: l.Pool, Instance: l.InstanceID, Phase: "health", Kind: "agent_dead", Message: "no answer", Console: "tail"},
		InstanceDue: h.tick().Add(time.Second), NeedUntil: l.Arrived.Add(time.Hour), Due: h.now.Add(time.Minute), LeaseDue: h.now.Add(2 * time.Minute), Now: h.now,
		Events: []pool.Event{{Lease: l.ID, Generation: l.Generation, Reason: "agent_dead"}},
	})
}

var leaseTests = []test{
	{"activated: the caller can be answered", func(h *harness) {
		h.pools(5, "a")
		h.warm("a")
		l, _ := h.claimed("lease-1", "a")
		due := h.tick().Add(time.Hour)
		got, err := h.Activate(h.ctx, l.Key(), due, h.now, pool.Event{Lease: "lease-1", Reason: "active"})
		h.no(err)
		if got.State != pool.LeaseActive || !got.Active.Equal(h.now) || !got.Due.Equal(due) || got.InstanceID != l.InstanceID {
			h.Fatalf("lease is %+v", got)
		}
		h.equal("lease read back", h.lease("lease-1"), got)
		h.equal("events", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"active"})
		_, err = h.Activate(h.ctx, l.Key(), due, h.now)
		h.is(err, pool.ErrConflict)
	}},
	{"only a starting lease is activated", func(h *harness) {
		h.pools(5, "a")
		l := h.waiting("lease-1", "a")
		_, err := h.Activate(h.ctx, l.Key(), h.now, h.now)
		h.is(err, pool.ErrConflict)
		h.end("lease-1")
		_, err = h.Activate(h.ctx, l.Key(), h.now, h.now)
		h.is(err, pool.ErrConflict)
		_, err = h.Activate(h.ctx, pool.LeaseKey{ID: "lease-1", Generation: 7}, h.now, h.now)
		h.is(err, pool.ErrNotFound)
	}},
	{"requeued: it waits at its old place with its causes, its machine goes", func(h *harness) {
		h.pools(9, "a", "b")
		bad := h.warm("a")
		l, _ := h.claimed("lease-1", "a")
		h.waiting("lease-2", "a", "b")
		g, err := h.requeue(l, false, pool.Choice{Pool: "a", Shape: shape}, pool.Choice{Pool: "b", Shape: shape})
		h.no(err)
		if g.Claimed || g.Instance != nil || g.Joined || g.Lease.State != pool.LeaseWaiting || g.Lease.InstanceID != "" || g.Lease.Seq != l.Seq ||
			len(g.Lease.Choices) != 2 || len(g.Lease.Causes) != 1 || g.Lease.Causes[0].Console != "tail" || !g.Lease.Due.Equal(h.now.Add(time.Minute)) {
			h.Fatalf("grant is %+v", g)
		}
		h.equal("lease read back", h.lease("lease-1"), g.Lease)
		i := h.get(bad.ID)
		if i.State != pool.Destroying || !i.Due.Equal(h.now.Add(time.Second)) || i.LeaseID != "lease-1" || i.Detail != "no answer" {
			h.Fatalf("machine is %+v", i)
		}
		h.equal("events", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"agent_dead"})
		if _, to := h.prove(h.booting("b")); to == nil || to.ID != "lease-1" || len(to.Causes) != 1 {
			h.Fatalf("the next machine went to %v, want the older lease", to)
		}
		h.sound()
	}},
	{"requeued or lost for a machine it is no longer on: nothing happens", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		l, i := h.claimed("lease-1", "a")
		_, err := h.Requeue(h.ctx, pool.Requeue{
			Lease: l.Key(), Instance: "another", Cause: pool.Cause{Pool: "a", Phase: "health", Message: "late"},
			Choices: []pool.Choice{{Pool: "a", Shape: shape}}, Now: h.now, Due: h.now, LeaseDue: h.now, InstanceDue: h.now,
		})
		h.is(err, pool.ErrConflict)
		_, err = h.Lose(h.ctx, l.Key(), "another", "machine_died", "late", h.now, h.now)
		h.is(err, pool.ErrConflict)
		h.equal("lease", h.lease("lease-1"), l)
		h.equal("machine", h.get(i.ID).State, pool.Leased)
		h.sound()
	}},
	{"requeued with keep: its machine is failed, not destroyed", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		l, i := h.claimed("lease-1", "a")
		_, err := h.requeue(l, true, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		h.equal("state", h.get(i.ID).State, pool.Failed)
		h.equal("counter", h.counted("a"), 1)
	}},
	{"requeued: another warm machine is given at once", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		l, bad := h.claimed("lease-1", "a")
		good := h.warm("a")
		g, err := h.requeue(l, false, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		if !g.Claimed || g.Instance == nil || g.Instance.ID != good.ID || g.Lease.State != pool.LeaseStarting || !g.Lease.Due.Equal(h.now.Add(2*time.Minute)) {
			h.Fatalf("grant is %+v", g)
		}
		h.equal("lease read back", h.lease("lease-1"), g.Lease)
		h.equal("the bad machine", h.get(bad.ID).State, pool.Destroying)
		h.sound()
		e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease-1"}, Now: h.tick()})
		h.no(err)
		h.equal("ended machine", e.Instance.ID, good.ID)
	}},
	{"requeued twice: both causes are told", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		l, _ := h.claimed("lease-1", "a")
		h.warm("a")
		g, err := h.requeue(l, false, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		g, err = h.requeue(g.Lease, false, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		h.equal("causes", len(h.lease("lease-1").Causes), 2)
		if g.Lease.State != pool.LeaseWaiting {
			h.Fatalf("grant is %+v", g)
		}
	}},
	{"requeued: nothing left to try, not starting, machine already failed", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		l, i := h.claimed("lease-1", "a")
		_, err := h.requeue(l, false)
		h.is(err, pool.ErrInvalid)
		h.equal("lease", h.lease("lease-1").State, pool.LeaseStarting)
		h.change(i.ID, pool.Leased, pool.Failed)
		_, err = h.requeue(l, true, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		h.equal("machine", h.get(i.ID).State, pool.Failed)
		_, err = h.requeue(l, true, pool.Choice{Pool: "a", Shape: shape})
		h.is(err, pool.ErrConflict)
		_, err = h.requeue(pool.Lease{ID: "never"}, true, pool.Choice{Pool: "a", Shape: shape})
		h.is(err, pool.ErrNotFound)
	}},
	{"a cold machine that fails gives its lease back", func(h *harness) {
		h.pools(9, "a")
		l := h.waiting("lease-1", "a")
		i := h.cold(l, "a")
		_, err := h.requeue(h.lease("lease-1"), false, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		h.equal("machine", h.get(i.ID).State, pool.Destroying)
		if _, to := h.prove(h.booting("a")); to == nil || to.ID != "lease-1" {
			h.Fatalf("the next machine went to %v", to)
		}
		h.sound()
	}},
	{"lost: the lease ends, its machine is failed and never warm again", func(h *harness) {
		h.pools(9, "a")
		l, i := h.active("lease-1", "a")
		due := h.tick().Add(time.Minute)
		got, err := h.Lose(h.ctx, l.Key(), "", "machine_dead", "killed", due, h.now, pool.Event{Lease: l.ID, Reason: "machine_dead"})
		h.no(err)
		if got.State != pool.LeaseLost || got.Reason != "machine_dead" || got.Detail != "killed" || !got.Ended.Equal(h.now) {
			h.Fatalf("lease is %+v", got)
		}
		h.equal("lease read back", h.lease("lease-1"), got)
		m := h.get(i.ID)
		if m.State != pool.Failed || !m.Due.Equal(due) || m.Reason != "machine_dead" {
			h.Fatalf("machine is %+v", m)
		}
		h.equal("events", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"machine_dead"})
		_, err = h.Lose(h.ctx, l.Key(), "", "again", "", due, h.now)
		h.is(err, pool.ErrConflict)
		h.change(i.ID, pool.Failed, pool.Resuming)
		_, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{pool.Resuming}, To: pool.Warm, Now: h.now})
		h.is(err, pool.ErrConflict)
		_, _, err = h.Proven(h.ctx, pool.Proof{ID: i.ID, Now: h.now})
		h.is(err, pool.ErrConflict)
		if g := h.arrive(h.arrival("lease-1", "a")); g.Joined || g.Lease.Generation != 2 {
			h.Fatalf("the next setup is %+v", g)
		}
	}},
	{"a waiting lease cannot be lost", func(h *harness) {
		h.pools(9, "a")
		l := h.waiting("lease-1", "a")
		_, err := h.Lose(h.ctx, l.Key(), "", "r", "", h.now, h.now)
		h.is(err, pool.ErrConflict)
	}},
	{"touched: the last call, never backwards", func(h *harness) {
		h.pools(9, "a")
		l, _ := h.active("lease-1", "a")
		later, earlier := h.tick().Add(time.Minute), h.now.Add(-time.Hour)
		h.no(h.Touch(h.ctx, map[pool.LeaseKey]time.Time{l.Key(): later}))
		h.no(h.Touch(h.ctx, map[pool.LeaseKey]time.Time{{ID: "lease-1"}: earlier}))
		h.equal("last call", h.lease("lease-1").LastCall, later)
		h.no(h.Touch(h.ctx, nil))
	}},
	{"touching an unknown lease is an error and does not lose the others", func(h *harness) {
		h.pools(9, "a")
		l, _ := h.active("lease-1", "a")
		at := h.tick().Add(time.Minute)
		err := h.Touch(h.ctx, map[pool.LeaseKey]time.Time{{ID: "a-never"}: at, l.Key(): at, {ID: "never", Generation: 3}: at})
		h.is(err, pool.ErrNotFound)
		h.equal("last call", h.lease("lease-1").LastCall, at)
	}},
	{"unwaited: nobody's, and due", func(h *harness) {
		h.pools(9, "a")
		l := h.waiting("lease-1", "a")
		due := h.tick()
		h.no(h.Unwait(h.ctx, l.Key(), "another", due.Add(time.Hour), h.now))
		h.equal("unchanged for another waiter", h.lease("lease-1"), l)
		h.no(h.Unwait(h.ctx, l.Key(), "run-1", due, h.now))
		got := h.lease("lease-1")
		if got.Waiter != "" || !got.Due.Equal(due) || got.State != pool.LeaseWaiting {
			h.Fatalf("lease is %+v", got)
		}
		h.is(h.Unwait(h.ctx, pool.LeaseKey{ID: "never"}, "run-1", due, h.now), pool.ErrNotFound)
		a, _ := h.active("lease-2", "a")
		h.is(h.Unwait(h.ctx, a.Key(), "run-1", due, h.now), pool.ErrConflict)
	}},
	{"orphans are the waiting and starting leases of dead processes", func(h *harness) {
		h.pools(9, "a", "b")
		h.active("active", "a")
		h.warm("a")
		h.claimed("starting", "a")
		h.waiting("waiting", "b")
		other := h.arrival("living", "b")
		other.Waiter = "run-2"
		h.arrive(other)
		due := h.tick()
		n, err := h.Orphans(h.ctx, []string{"run-2", "run-3"}, due, h.now)
		h.no(err)
		h.equal("orphans", n, 2)
		for id, waiter := range map[string]string{"starting": "", "waiting": "", "living": "run-2"} {
			l := h.lease(id)
			h.equal("waiter of "+id, l.Waiter, waiter)
			if waiter == "" && !l.Due.Equal(due) {
				h.Errorf("%s is due at %s", id, l.Due)
			}
		}
		n, err = h.Orphans(h.ctx, nil, due, h.now)
		h.no(err)
		h.equal("orphans when nobody lives", n, 1)
		if i, l := h.prove(h.booting("b")); l != nil || i.State != pool.Warm {
			h.Fatalf("a machine went to orphan %v", l)
		}
	}},
	{"a lease's due time is moved while it is not final", func(h *harness) {
		h.pools(9, "a")
		l := h.waiting("lease-1", "a")
		due := h.tick().Add(time.Hour)
		h.no(h.PostponeLease(h.ctx, l.Key(), due, h.now))
		l.Due = due
		h.equal("lease", h.lease("lease-1"), l)
		h.end("lease-1")
		h.is(h.PostponeLease(h.ctx, l.Key(), due, h.now), pool.ErrConflict)
		h.is(h.PostponeLease(h.ctx, pool.LeaseKey{ID: "never"}, due, h.now), pool.ErrNotFound)
	}},
}

var endTests = []test{
	{"ended: the lease is final, its machine is to be destroyed, at once", func(h *harness) {
		h.pools(9, "a")
		l, i := h.active("lease-1", "a")
		e, err := h.End(h.ctx, pool.Ending{
			Lease: l.Key(), Kind: pool.Build, Disks: drivers.Delete, States: []pool.LeaseState{pool.LeaseActive}, Reason: "destroyed", Detail: "d",
			Cause: pool.Cause{Pool: "a", Phase: "setup", Message: "why"}, Tombstone: h.tick().Add(time.Hour), Now: h.now,
			Events: []pool.Event{{Lease: "lease-1", Reason: "destroyed"}},
		})
		h.no(err)
		if e.Outcome != pool.EndNow || e.Lease.State != pool.LeaseEnded || !e.Lease.Ended.Equal(h.now) || e.Lease.Reason != "destroyed" || len(e.Lease.Causes) != 1 {
			h.Fatalf("ended is %+v", e)
		}
		h.equal("lease read back", h.lease("lease-1"), e.Lease)
		m := h.get(i.ID)
		h.equal("instance", *e.Instance, m)
		if m.State != pool.Destroying || m.Disks != drivers.Delete || !m.Due.Equal(h.now) || m.Reason != "destroyed" || m.LeaseID != "lease-1" {
			h.Fatalf("machine is %+v", m)
		}
		h.equal("events", h.story(pool.EventQuery{Lease: "lease-1"}), []string{"destroyed"})
		h.equal("counter", h.counted("a"), 1)
		h.arrive(h.arrival("lease-1", "a")) // no tombstone
	}},
	{"ended in every state it can be in", func(h *harness) {
		h.pools(20, "a")
		h.waiting("waiting", "a")
		e := h.end("waiting")
		if e.Instance != nil {
			h.Fatalf("instance is %+v", e.Instance)
		}
		if _, to := h.prove(h.booting("a")); to != nil {
			h.Fatalf("an ended lease was given a machine: %+v", to)
		}
		h.claimed("starting", "a")
		h.equal("starting", h.end("starting").Instance.State, pool.Destroying)
		cold := h.waiting("cold", "a")
		i := h.cold(cold, "a")
		h.equal("cold", h.end("cold").Instance.ID, i.ID)
		_, err := h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, CloudID: "late", Now: h.tick()})
		h.is(err, pool.ErrConflict)
		h.equal("reference of the machine that came too late", h.get(i.ID).CloudID, "late")
		l, _ := h.gitspace("asleep", "a")
		_, m, err := h.Sleep(h.ctx, l.Key(), h.tick(), h.now)
		h.no(err)
		h.change(m.ID, pool.Suspending, pool.Suspended)
		h.equal("asleep", h.end("asleep").Instance.State, pool.Destroying)
		_, m = h.gitspace("dead", "a")
		h.change(m.ID, pool.Leased, pool.Failed)
		h.equal("dead", h.end("dead").Instance.State, pool.Destroying)
		h.sound()
	}},
	{"ended twice: already, with its machine until that is gone", func(h *harness) {
		h.pools(9, "a")
		l, i := h.active("lease-1", "a")
		h.end("lease-1")
		before := h.get(i.ID)
		e, err := h.End(h.ctx, pool.Ending{Lease: l.Key(), Now: h.tick()})
		h.no(err)
		if e.Outcome != pool.EndAlready || e.Instance == nil || e.Instance.ID != i.ID || e.Lease.State != pool.LeaseEnded {
			h.Fatalf("ended is %+v", e)
		}
		h.equal("machine", h.get(i.ID), before)
		h.gone(i.ID)
		e, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease-1"}, Instance: i.CloudID, Now: h.tick()})
		h.no(err)
		if e.Outcome != pool.EndAlready || e.Instance != nil {
			h.Fatalf("ended is %+v", e)
		}
	}},
	{"a later wish to delete the disks is kept, never taken back", func(h *harness) {
		h.pools(9, "a")
		_, i := h.gitspace("space-1", "a")
		h.end("space-1")
		h.equal("at first", h.get(i.ID).Disks, drivers.Keep)
		for _, disks := range []drivers.DiskPolicy{drivers.Delete, drivers.Keep} {
			_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "space-1"}, Disks: disks, Now: h.tick()})
			h.no(err)
			h.equal("then", h.get(i.ID).Disks, drivers.Delete)
		}
	}},
	{"the states asked for are the lease's, or nothing happens", func(h *harness) {
		h.pools(9, "a")
		l, _ := h.active("lease-1", "a")
		_, err := h.End(h.ctx, pool.Ending{
			Lease: l.Key(), States: []pool.LeaseState{pool.LeaseWaiting, pool.LeaseStarting}, Now: h.tick(), Events: []pool.Event{{Reason: "never"}},
		})
		h.is(err, pool.ErrConflict)
		h.equal("lease", h.lease("lease-1"), l)
		h.equal("events", h.story(pool.EventQuery{}), []string{})
	}},
	{"an older generation is named: only its machine is touched", func(h *harness) {
		h.pools(9, "a")
		old, i := h.active("lease-1", "a")
		_, err := h.Lose(h.ctx, old.Key(), "", "machine_dead", "", h.tick(), h.now)
		h.no(err)
		now, present := h.active("lease-1", "a")
		e, err := h.End(h.ctx, pool.Ending{Lease: old.Key(), Now: h.tick()})
		h.no(err)
		if e.Outcome != pool.EndStale || e.Instance == nil || e.Instance.ID != i.ID || e.Instance.State != pool.Destroying {
			h.Fatalf("ended is %+v", e)
		}
		h.equal("the present lease", h.lease("lease-1"), now)
		h.equal("the present machine", h.get(present.ID).State, pool.Leased)
		_, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease-1", Generation: 9}, Now: h.now})
		h.is(err, pool.ErrNotFound)
	}},
	{"an older machine is named, by id, cloud id or name: only it is touched", func(h *harness) {
		h.pools(9, "a")
		for n, name := range []func(pool.Instance) string{
			func(i pool.Instance) string { return i.ID }, func(i pool.Instance) string { return "cloud-" + i.ID }, func(i pool.Instance) string { return i.Name },
		} {
			id := fmt.Sprint("lease-", n)
			old, i := h.active(id, "a")
			_, err := h.Lose(h.ctx, old.Key(), "", "machine_dead", "", h.tick(), h.now)
			h.no(err)
			now, present := h.active(id, "a")
			e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: id}, Instance: name(i), Now: h.tick()})
			h.no(err)
			if e.Outcome != pool.EndStale || e.Instance == nil || e.Instance.ID != i.ID || e.Instance.State != pool.Destroying {
				h.Fatalf("ended is %+v", e)
			}
			h.equal("the present lease", h.lease(id), now)
			e, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: id}, Instance: name(present), Now: h.tick()})
			h.no(err)
			if e.Outcome != pool.EndNow || e.Instance == nil || e.Instance.ID != present.ID {
				h.Fatalf("ended is %+v", e)
			}
		}
	}},
	{"a machine of somebody else is never touched", func(h *harness) {
		h.pools(9, "a")
		mine, _ := h.active("mine", "a")
		_, theirs := h.active("theirs", "a")
		warm := h.warm("a")
		for _, name := range []string{theirs.ID, theirs.CloudID, theirs.Name, warm.ID, "never"} {
			e, err := h.End(h.ctx, pool.Ending{Lease: mine.Key(), Instance: name, Now: h.tick()})
			h.no(err)
			if e.Outcome != pool.EndStale || e.Instance != nil {
				h.Fatalf("ended is %+v", e)
			}
		}
		h.equal("my lease", h.lease("mine"), mine)
		h.equal("their machine", h.get(theirs.ID), theirs)
		h.equal("the warm machine", h.get(warm.ID), warm)
	}},
	{"a stale destroy while its lease waits again", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		l, i := h.claimed("lease-1", "a")
		_, err := h.requeue(l, true, pool.Choice{Pool: "a", Shape: shape})
		h.no(err)
		e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease-1"}, Instance: i.ID, Now: h.tick()})
		h.no(err)
		if e.Outcome != pool.EndStale || e.Instance == nil || h.get(i.ID).State != pool.Destroying || h.lease("lease-1").State != pool.LeaseWaiting {
			h.Fatalf("ended is %+v", e)
		}
	}},
	{"unknown: no error, and no tombstone unless asked for", func(h *harness) {
		h.pools(9, "a")
		e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease-1"}, Instance: "x", Now: h.tick()})
		h.no(err)
		h.equal("ended", e, pool.Ended{Outcome: pool.EndUnknown})
		h.arrive(h.arrival("lease-1", "a"))
		_, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{}, Now: h.now})
		h.is(err, pool.ErrInvalid)
	}},
	{"a tombstone asked for again lasts as long as the longer of the two", func(h *harness) {
		h.pools(9, "a")
		long := h.tick().Add(time.Hour)
		for _, until := range []time.Time{long, long.Add(-30 * time.Minute)} {
			_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease-1"}, Tombstone: until, Now: h.now})
			h.no(err)
		}
		a := h.arrival("lease-1", "a")
		a.Now = long.Add(-time.Second)
		_, err := h.Arrive(h.ctx, a)
		h.is(err, pool.ErrDestroyedFirst)
	}},
	{"tombstones are bounded: the oldest go", func(h *harness) {
		h.pools(9, "a")
		until := h.tick().Add(24 * time.Hour)
		together(h, 16, pool.MaxTombstones/16+1, func(_, n int) error {
			_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: fmt.Sprint("flood-", n)}, Tombstone: until, Now: h.now})
			return err
		})
		for k := range 20 {
			_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: fmt.Sprint("last-", k)}, Tombstone: until, Now: h.now})
			h.no(err)
		}
		for k := range 20 {
			_, err := h.Arrive(h.ctx, h.arrival(fmt.Sprint("last-", k), "a"))
			h.is(err, pool.ErrDestroyedFirst)
		}
		n, err := h.Purge(h.ctx, pool.Purge{Now: until.Add(time.Second), Limit: 1_000_000})
		h.no(err)
		if n > pool.MaxTombstones || n < pool.MaxTombstones-100 {
			h.Errorf("%d tombstones were kept, want about %d and not more", n, pool.MaxTombstones)
		}
	}},
}

var gitspaceTests = []test{
	{"a gitspace sleeps and wakes on the same machine", func(h *harness) {
		h.pools(9, "a")
		l, i := h.gitspace("space-1", "a")
		due := h.tick().Add(time.Minute)
		sleeping, m, err := h.Sleep(h.ctx, l.Key(), due, h.now, pool.Event{Lease: "space-1", Reason: "asleep"})
		h.no(err)
		if sleeping.State != pool.LeaseSuspended || m.State != pool.Suspending || !m.Due.Equal(due) || !sleeping.Due.Equal(due) || m.LeaseID != "space-1" {
			h.Fatalf("lease %+v, machine %+v", sleeping, m)
		}
		h.equal("lease read back", h.lease("space-1"), sleeping)
		h.equal("machine read back", h.get(i.ID), m)
		h.equal("events", h.story(pool.EventQuery{Lease: "space-1"}), []string{"asleep"})
		_, _, err = h.Waking(h.ctx, l.Key(), "run-2", due, h.now)
		h.is(err, pool.ErrConflict) // still on its way to disk
		h.change(i.ID, pool.Suspending, pool.Suspended)
		waking, m, err := h.Waking(h.ctx, l.Key(), "run-2", due, h.tick())
		h.no(err)
		if waking.State != pool.LeaseStarting || waking.Waiter != "run-2" || m.State != pool.Resuming || waking.InstanceID != i.ID {
			h.Fatalf("lease %+v, machine %+v", waking, m)
		}
		woken, err := h.Woken(h.ctx, pool.Acceptance{ID: i.ID, CloudID: "cloud-2", Address: "10.7.7.7", Port: 7, Due: due, Now: h.tick()})
		h.no(err)
		if woken.State != pool.Leased || woken.Address != "10.7.7.7" || woken.Port != 7 || woken.CloudID != "cloud-2" || woken.LeaseID != "space-1" || woken.Created != i.Created {
			h.Fatalf("machine %+v", woken)
		}
		again := h.activate(waking)
		h.equal("want is kept", again.Want, l.Want)
		h.sound()
	}},
	{"only an active gitspace sleeps", func(h *harness) {
		h.pools(9, "a")
		build, _ := h.active("build-1", "a")
		_, _, err := h.Sleep(h.ctx, build.Key(), h.now, h.now)
		h.is(err, pool.ErrInvalid)
		l, i := h.gitspace("space-1", "a")
		_, _, err = h.Sleep(h.ctx, l.Key(), h.now, h.now)
		h.no(err)
		_, _, err = h.Sleep(h.ctx, l.Key(), h.now, h.now)
		h.is(err, pool.ErrConflict)
		_, err = h.Woken(h.ctx, pool.Acceptance{ID: i.ID, Now: h.now})
		h.is(err, pool.ErrConflict)
		_, _, err = h.Sleep(h.ctx, pool.LeaseKey{ID: "never"}, h.now, h.now)
		h.is(err, pool.ErrNotFound)
	}},
	{"a sleeping gitspace is never given to anybody", func(h *harness) {
		h.pools(100, "a")
		l, i := h.gitspace("space-1", "a")
		_, _, err := h.Sleep(h.ctx, l.Key(), h.now, h.now)
		h.no(err)
		h.change(i.ID, pool.Suspending, pool.Suspended)
		together(h, 16, 64, func(_, n int) error {
			g, err := h.Arrive(h.ctx, h.arrivalAt(fmt.Sprint("thief-", n), "a"))
			if err == nil && g.Instance != nil {
				err = fmt.Errorf("%s was given %s", g.Lease.ID, g.Instance.ID)
			}
			return err
		})
		h.equal("machine", h.get(i.ID).LeaseID, "space-1")
	}},
	{"a resume that fails leaves the gitspace asleep, with the reason", func(h *harness) {
		h.pools(9, "a")
		l, i := h.gitspace("space-1", "a")
		_, _, err := h.Sleep(h.ctx, l.Key(), h.now, h.now)
		h.no(err)
		h.change(i.ID, pool.Suspending, pool.Suspended)
		_, _, err = h.Waking(h.ctx, l.Key(), "run-1", h.now, h.tick())
		h.no(err)
		due := h.tick().Add(time.Hour)
		got, err := h.Asleep(h.ctx, l.Key(), "resume_failed", "no address", due, h.now, pool.Event{Lease: "space-1", Reason: "resume_failed"})
		h.no(err)
		if got.State != pool.LeaseSuspended || got.Reason != "resume_failed" || got.Detail != "no address" || got.InstanceID != i.ID {
			h.Fatalf("lease is %+v", got)
		}
		h.equal("lease read back", h.lease("space-1"), got)
		h.equal("machine", h.get(i.ID).State, pool.Suspended)
		_, err = h.Asleep(h.ctx, l.Key(), "again", "", due, h.now)
		h.is(err, pool.ErrConflict)
		_, _, err = h.Waking(h.ctx, l.Key(), "run-1", h.now, h.tick())
		h.no(err)
	}},
	{"a gitspace whose machine died is restarted on it", func(h *harness) {
		h.pools(9, "a")
		l, i := h.gitspace("space-1", "a")
		_, _, err := h.Waking(h.ctx, l.Key(), "run-1", h.now, h.tick())
		h.is(err, pool.ErrConflict) // it runs
		h.change(i.ID, pool.Leased, pool.Failed)
		waking, m, err := h.Waking(h.ctx, l.Key(), "run-1", h.now, h.tick())
		h.no(err)
		if waking.State != pool.LeaseStarting || m.State != pool.Resuming {
			h.Fatalf("lease %+v, machine %+v", waking, m)
		}
	}},
}

var variableTests = []test{
	{"exported variables add up, the later value wins", func(h *harness) {
		h.pools(9, "a")
		l, _ := h.active("lease-1", "a")
		vars, err := h.Exported(h.ctx, l.Key())
		h.no(err)
		h.equal("at first", vars, map[string]string{})
		h.no(h.Export(h.ctx, l.Key(), map[string]string{"A": "1", "B": "two\nlines", "E": ""}, h.tick()))
		h.no(h.Export(h.ctx, pool.LeaseKey{ID: "lease-1"}, map[string]string{"A": "3", "C": "\x00\xff"}, h.tick()))
		h.no(h.Export(h.ctx, l.Key(), nil, h.tick()))
		vars, err = h.Exported(h.ctx, l.Key())
		h.no(err)
		h.equal("variables", vars, map[string]string{"A": "3", "B": "two\nlines", "C": "\x00\xff", "E": ""})
		h.equal("lease", h.lease("lease-1"), l)
	}},
	{"generations do not share variables, and the end forgets them", func(h *harness) {
		h.pools(9, "a")
		old, _ := h.active("lease-1", "a")
		h.no(h.Export(h.ctx, old.Key(), map[string]string{"A": "1"}, h.tick()))
		h.end("lease-1")
		vars, err := h.Exported(h.ctx, old.Key())
		h.no(err)
		h.equal("after the end", vars, map[string]string{})
		h.is(h.Export(h.ctx, old.Key(), map[string]string{"A": "1"}, h.tick()), pool.ErrConflict)
		h.active("lease-1", "a")
		vars, err = h.Exported(h.ctx, pool.LeaseKey{ID: "lease-1"})
		h.no(err)
		h.equal("of the new generation", vars, map[string]string{})
		_, err = h.Exported(h.ctx, pool.LeaseKey{ID: "never"})
		h.is(err, pool.ErrNotFound)
		h.is(h.Export(h.ctx, pool.LeaseKey{ID: "never"}, map[string]string{"A": "1"}, h.tick()), pool.ErrNotFound)
		now := h.lease("lease-1")
		h.is(h.Export(h.ctx, now.Key(), map[string]string{"nul\x00": "1"}, h.tick()), pool.ErrInvalid)
	}},
}
