package storetest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vm-runner/drone-runner-aws/pool"
)

func isErr(err, target error) bool { return errors.Is(err, target) }

func asLimit(err error) (*pool.LimitError, bool) { return errors.AsType[*pool.LimitError](err) }

var arriveTests = []test{
	{"a new lease waits with everything the setup said", func(h *harness) {
		h.pools(5, "a", "b")
		a := h.arrival("lease-1", "a", "b")
		a.Now = a.Now.Add(123*time.Microsecond + 456).In(time.FixedZone("east", 3600))
		a.Want = pool.Want{
			Account: "t", ResourceClass: "large", Image: "i", ImageVersion: "v", MachineType: "m", Zone: "z", DiskGiB: 5, Nested: true, GPU: true,
			Life: time.Hour, Ports: []int{1, 2}, Storage: "s", Labels: map[string]string{"k": "v", "<": "&"},
		}
		g := h.arrive(a)
		want := pool.Lease{
			ID: "lease-1", Generation: 1, Kind: pool.Build, State: pool.LeaseWaiting, Waiter: "run-1", Want: a.Want,
			Choices: a.Choices, Arrived: a.Now.UTC().Truncate(time.Millisecond), LastCall: a.Now.UTC().Truncate(time.Millisecond),
			WaitUntil: a.WaitUntil, Due: a.Due, Digest: a.Digest,
		}
		if diff := cmp.Diff(want, g.Lease, cmpopts.IgnoreFields(pool.Lease{}, "Seq")); diff != "" {
			h.Fatalf("lease differs (-want +got):\n%s", diff)
		}
		h.equal("lease read back", h.lease("lease-1"), g.Lease)
		if g.Joined || g.Claimed || g.Instance != nil {
			h.Fatalf("grant is %+v", g)
		}
		if got := h.lease("lease-1").Arrived; got.Location() != time.UTC {
			h.Errorf("time is in %v, want UTC", got.Location())
		}
	}},
	{"a warm machine is given at once, in one transaction, with all its data", func(h *harness) {
		h.pools(5, "a")
		warm := h.warm("a")
		a := h.arrival("lease-1", "a")
		g := h.arrive(a)
		if !g.Claimed || g.Joined || g.Instance == nil {
			h.Fatalf("grant is %+v", g)
		}
		want := warm
		want.State, want.Since, want.Due = pool.Leased, a.Now, a.LeaseDue
		want.LeaseID, want.LeaseGeneration = "lease-1", 1
		h.equal("instance", *g.Instance, want)
		h.equal("instance read back", h.get(warm.ID), want)
		l := h.lease("lease-1")
		h.equal("lease", l, g.Lease)
		if l.State != pool.LeaseStarting || l.Pool != "a" || l.InstanceID != warm.ID || !l.Claimed.Equal(a.Now) || !l.Due.Equal(a.LeaseDue) {
			h.Fatalf("lease is %+v", l)
		}
		h.sound()
	}},
	{"the oldest machine is given first", func(h *harness) {
		h.pools(9, "a")
		var want, got []string
		for range 4 {
			want = append(want, h.creating("a").ID)
		}
		for _, k := range []int{2, 0, 3, 1} {
			h.prove(h.accept(h.get(want[k])))
		}
		for k := range 4 {
			_, i := h.claimed(fmt.Sprint("lease-", k), "a")
			got = append(got, i.ID)
		}
		h.equal("order", got, want)
	}},
	{"choices are tried in their order", func(h *harness) {
		h.pools(5, "a", "b", "c")
		older, newer := h.warm("c"), h.warm("b")
		if _, i := h.claimed("lease-1", "a", "b", "c"); i.ID != newer.ID {
			h.Fatalf("got %s, want %s of the earlier choice", i.ID, newer.ID)
		}
		if l, i := h.claimed("lease-2", "a", "b", "c"); i.ID != older.ID || l.Pool != "c" {
			h.Fatalf("got %s of %s, want %s", i.ID, l.Pool, older.ID)
		}
	}},
	{"only a machine of the wanted shape, zone and life is given", func(h *harness) {
		h.pools(9, "a")
		h.warm("a", func(i *pool.Instance) { i.Shape = "other" })
		h.warm("a", func(i *pool.Instance) { i.Zone = "zone-b" })
		h.warm("a", func(i *pool.Instance) { i.Deadline = h.now.Add(time.Minute) })
		a := h.arrival("lease-1", "a")
		a.Choices[0].Zone = "zone-a"
		if g := h.arrive(a); g.Claimed {
			h.Fatalf("got %+v, which does not fit", g.Instance)
		}
		fits := h.creating("a")
		i, l := h.prove(h.accept(fits))
		if l == nil || l.ID != "lease-1" || i.LeaseID != "lease-1" {
			h.Fatalf("the machine that fits is %s of lease %v", i.State, l)
		}
		h.sound()
	}},
	{"a machine with exactly enough life fits, one without deadline always", func(h *harness) {
		h.pools(9, "a")
		first := h.warm("a", func(i *pool.Instance) { i.Deadline = h.now.Add(time.Hour) })
		second := h.warm("a", func(i *pool.Instance) { i.Deadline = time.Time{} })
		a := h.arrival("lease-1", "a")
		a.NeedUntil = first.Deadline.Add(time.Millisecond)
		if g := h.arrive(a); g.Instance == nil || g.Instance.ID != second.ID {
			h.Fatalf("got %+v, want the one without deadline", g.Instance)
		}
		a = h.arrival("lease-2", "a")
		a.NeedUntil = first.Deadline
		if g := h.arrive(a); g.Instance == nil || g.Instance.ID != first.ID {
			h.Fatalf("got %+v, want the one with exactly enough", g.Instance)
		}
	}},
	{"a shape of the zero value matches only itself", func(h *harness) {
		h.pools(9, "a")
		h.warm("a")
		a := h.arrival("lease-1", "a")
		a.Choices[0].Shape = ""
		if g := h.arrive(a); g.Claimed {
			h.Fatal("a machine of another shape was given")
		}
	}},
	{"a lease that wants its own machine takes no warm one, now or later", func(h *harness) {
		h.pools(5, "a")
		h.warm("a")
		a := h.arrival("space-1", "a")
		a.Kind, a.NoClaim = pool.Gitspace, true
		if g := h.arrive(a); g.Claimed {
			h.Fatal("it was given a warm machine")
		}
		if i, l := h.prove(h.booting("a")); l != nil || i.State != pool.Warm {
			h.Fatalf("a machine that became warm is %s of %v", i.State, l)
		}
	}},
	{"a gitspace that may claim makes the machine its kind", func(h *harness) {
		h.pools(5, "a")
		h.warm("a")
		a := h.arrival("space-1", "a")
		a.Kind = pool.Gitspace
		if g := h.arrive(a); g.Instance == nil || g.Instance.Kind != pool.Gitspace {
			h.Fatalf("instance is %+v", g.Instance)
		}
	}},
	{"a second setup joins: waiting, starting and active", func(h *harness) {
		h.pools(5, "a")
		first := h.waiting("lease-1", "a")
		again := h.arrival("lease-1", "a")
		again.Digest, again.Choices = "other", []pool.Choice{{Pool: "b", Shape: "x"}}
		g := h.arrive(again)
		if !g.Joined || g.Claimed || g.Instance != nil {
			h.Fatalf("grant is %+v", g)
		}
		h.equal("waiting lease", g.Lease, first)

		i, l := h.prove(h.booting("a"))
		if l == nil {
			h.Fatal("the waiting lease was not given the machine")
		}
		g = h.arrive(h.arrival("lease-1", "a"))
		h.equal("starting lease", g.Lease, *l)
		h.equal("its machine", *g.Instance, i)
		if !g.Joined || g.Claimed {
			h.Fatalf("grant is %+v", g)
		}

		active := h.activate(*l)
		g = h.arrive(h.arrival("lease-1", "a"))
		if !g.Joined || g.Lease.State != pool.LeaseActive || g.Lease.Active != active.Active || g.Instance == nil {
			h.Fatalf("grant is %+v", g)
		}
		h.equal("leases", len(h.all()), 1)
	}},
	{"joining shows no machine that is gone", func(h *harness) {
		h.pools(5, "a")
		_, i := h.active("lease-1", "a")
		h.gone(i.ID)
		if g := h.arrive(h.arrival("lease-1", "a")); !g.Joined || g.Instance != nil {
			h.Fatalf("grant is %+v", g)
		}
	}},
	{"joining makes the new process the one that waits", func(h *harness) {
		h.pools(5, "a")
		first := h.waiting("lease-1", "a")
		a := h.arrival("lease-1", "a")
		a.Waiter = "run-2"
		g := h.arrive(a)
		if g.Lease.Waiter != "run-2" || !g.Lease.WaitUntil.Equal(first.WaitUntil) || !g.Lease.Due.Equal(first.Due) {
			h.Fatalf("lease is %+v, want the new waiter and the old times", g.Lease)
		}
		h.equal("lease read back", h.lease("lease-1"), g.Lease)
	}},
	{"an orphan that is asked for again waits at its old place with new times", func(h *harness) {
		h.pools(5, "a")
		first := h.waiting("lease-1", "a")
		h.waiting("lease-2", "a")
		h.no(h.Unwait(h.ctx, first.Key(), "run-1", h.tick(), h.now))
		a := h.arrival("lease-1", "a")
		a.Waiter, a.WaitUntil, a.Due = "run-2", a.WaitUntil.Add(time.Hour), a.Due.Add(time.Hour)
		g := h.arrive(a)
		if !g.Joined || g.Lease.Waiter != "run-2" || !g.Lease.WaitUntil.Equal(a.WaitUntil) || !g.Lease.Due.Equal(a.Due) || g.Lease.Seq != first.Seq {
			h.Fatalf("lease is %+v", g.Lease)
		}
		if _, l := h.prove(h.booting("a")); l == nil || l.ID != "lease-1" {
			h.Fatalf("the machine went to %v, want the older lease", l)
		}
	}},
	{"an orphan that is asked for again takes a machine that became warm meanwhile", func(h *harness) {
		h.pools(5, "a")
		first := h.waiting("lease-1", "a")
		h.no(h.Unwait(h.ctx, first.Key(), "run-1", h.tick(), h.now))
		warm := h.warm("a")
		g := h.arrive(h.arrival("lease-1", "a"))
		if !g.Joined || !g.Claimed || g.Instance == nil || g.Instance.ID != warm.ID || g.Lease.State != pool.LeaseStarting {
			h.Fatalf("grant is %+v", g)
		}
		h.equal("lease read back", h.lease("lease-1"), g.Lease)
		h.sound()
	}},
	{"after its end the same id is a new generation", func(h *harness) {
		h.pools(5, "a")
		_, i := h.active("lease-1", "a")
		h.end("lease-1")
		g := h.arrive(h.arrival("lease-1", "a"))
		if g.Joined || g.Lease.Generation != 2 || g.Lease.State != pool.LeaseWaiting {
			h.Fatalf("grant is %+v", g)
		}
		old, err := h.LeaseAt(h.ctx, pool.LeaseKey{ID: "lease-1", Generation: 1})
		h.no(err)
		if old.State != pool.LeaseEnded || old.InstanceID != i.ID {
			h.Fatalf("the old generation is %+v", old)
		}
		latest, err := h.LeaseAt(h.ctx, pool.LeaseKey{ID: "lease-1"})
		h.no(err)
		h.equal("latest", latest.Generation, int64(2))
	}},
	{"a tombstone refuses a build, not a gitspace, until its time", func(h *harness) {
		h.pools(5, "a")
		until := h.tick().Add(10 * time.Minute)
		for _, id := range []string{"build-1", "space-1"} {
			e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: id}, Tombstone: until, Now: h.now})
			h.no(err)
			h.equal("outcome", e.Outcome, pool.EndUnknown)
		}
		_, err := h.Arrive(h.ctx, h.arrival("build-1", "a"))
		h.is(err, pool.ErrDestroyedFirst)
		_, err = h.Lease(h.ctx, "build-1")
		h.is(err, pool.ErrNotFound)
		a := h.arrival("space-1", "a")
		a.Kind, a.NoClaim = pool.Gitspace, true
		h.arrive(a)
		a = h.arrival("build-1", "a")
		a.Now = until
		h.arrive(a)
	}},
	{"a tombstone refuses although a machine is warm, which stays so", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		until := h.tick().Add(10 * time.Minute)
		_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "build-1"}, Tombstone: until, Now: h.now})
		h.no(err)
		_, err = h.Arrive(h.ctx, h.arrival("build-1", "a"))
		h.is(err, pool.ErrDestroyedFirst)
		h.equal("machine", h.get(i.ID).State, pool.Warm)
		if g := h.arrive(h.arrival("build-2", "a")); !g.Claimed || g.Instance.ID != i.ID {
			h.Errorf("another setup got %+v", g)
		}
		h.sound()
	}},
	{"ids are compared byte for byte", func(h *harness) {
		h.pools(50, "a")
		ids := []string{
			"1", "01", "1.0", " 1", "1 ", "A", "a", "é", "e\u0301", "../etc/passwd", "'; DROP TABLE leases; --", "%", "_", "🚀", "null", "0x1", "1e0",
			"-0", "0", strings.Repeat("9", 30), strings.Repeat("x", 500), strings.Repeat("x", 499) + "y", "tab\there", "new\nline", "\u202eright",
		}
		for _, id := range ids {
			if g := h.arrive(h.arrival(id, "a")); g.Joined || g.Lease.ID != id {
				h.Errorf("id %q became %q, joined %v", id, g.Lease.ID, g.Joined)
			}
		}
		for _, id := range ids {
			if got := h.lease(id); got.ID != id {
				h.Errorf("id %q is read back as %q", id, got.ID)
			}
		}
		h.equal("leases", len(h.all()), len(ids))
	}},
	{"an id that no database keeps is refused", func(h *harness) {
		h.pools(5, "a")
		for _, id := range []string{"", "nul\x00byte", "not utf-8 \xff", strings.Repeat("x", 5000)} {
			_, err := h.Arrive(h.ctx, h.arrival(id, "a"))
			h.is(err, pool.ErrInvalid)
		}
		_, err := h.Arrive(h.ctx, h.arrival("no choices"))
		h.is(err, pool.ErrInvalid)
	}},
	{"machines become warm for those who wait, first come first served", func(h *harness) {
		h.pools(20, "a", "b")
		for k := range 4 {
			h.waiting(fmt.Sprint("lease-", k), []string{"a", "b"}[k%2:]...)
		}
		// 0 and 2 wait for a and b, 1 and 3 for b alone.
		for _, step := range []struct{ pool, want string }{
			{"b", "lease-0"}, {"a", "lease-2"}, {"a", ""}, {"b", "lease-1"}, {"b", "lease-3"}, {"b", ""},
		} {
			i, l := h.prove(h.booting(step.pool))
			got := ""
			if l != nil {
				got = l.ID
				if l.State != pool.LeaseStarting || l.Pool != step.pool || l.InstanceID != i.ID || i.State != pool.Leased || i.LeaseID != l.ID {
					h.Errorf("lease %+v on machine %+v", l, i)
				}
				h.equal("lease read back", h.lease(l.ID), *l)
			}
			if got != step.want {
				h.Fatalf("a machine of %s went to %q, want %q", step.pool, got, step.want)
			}
		}
		h.sound()
	}},
	{"a waiting lease that a machine does not fit is passed over", func(h *harness) {
		h.pools(20, "a")
		long := h.arrival("long", "a")
		long.NeedUntil = long.Now.Add(1000 * time.Hour)
		h.arrive(long)
		zone := h.arrival("zone", "a")
		zone.Choices[0].Zone = "elsewhere"
		h.arrive(zone)
		h.waiting("plain", "a")
		if _, l := h.prove(h.booting("a")); l == nil || l.ID != "plain" {
			h.Fatalf("the machine went to %v", l)
		}
		if _, l := h.prove(h.booting("a", func(i *pool.Instance) { i.Zone = "elsewhere" })); l == nil || l.ID != "zone" {
			h.Fatalf("the machine went to %v", l)
		}
		if _, l := h.prove(h.booting("a", func(i *pool.Instance) { i.Deadline = time.Time{} })); l == nil || l.ID != "long" {
			h.Fatalf("the machine went to %v", l)
		}
	}},
	{"nothing is given to a lease whose process is gone", func(h *harness) {
		h.pools(5, "a")
		first := h.waiting("lease-1", "a")
		h.waiting("lease-2", "a")
		h.no(h.Unwait(h.ctx, first.Key(), "run-1", h.tick(), h.now))
		if _, l := h.prove(h.booting("a")); l == nil || l.ID != "lease-2" {
			h.Fatalf("the machine went to %v", l)
		}
		if i, l := h.prove(h.booting("a")); l != nil || i.State != pool.Warm {
			h.Fatalf("the machine went to %v", l)
		}
	}},
	{"a hibernation taken back gives its machine to who waits", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		h.change(i.ID, pool.Warm, pool.Hibernating)
		h.waiting("lease-1", "a")
		got := h.change(i.ID, pool.Hibernating, pool.Warm)
		if got.State != pool.Leased || got.LeaseID != "lease-1" || h.lease("lease-1").InstanceID != i.ID {
			h.Fatalf("machine is %s of %q", got.State, got.LeaseID)
		}
		h.sound()
	}},
	{"a resumed machine is warm again, or somebody's", func(h *harness) {
		h.pools(5, "a")
		i := h.warm("a")
		for _, s := range []pool.InstanceState{pool.Hibernating, pool.Hibernated, pool.Resuming} {
			i = h.change(i.ID, i.State, s)
		}
		h.waiting("lease-1", "a")
		if got, l := h.prove(i); l == nil || got.State != pool.Leased || l.ID != "lease-1" {
			h.Fatalf("machine is %s of %v", got.State, l)
		}
	}},
	{"what falls asleep, sleeps for somebody, failed or is leased is never claimed", func(h *harness) {
		h.pools(20, "a")
		for _, states := range [][]pool.InstanceState{
			{pool.Hibernating}, {pool.Hibernating, pool.Hibernated, pool.Resuming}, {pool.Failed}, {pool.Destroying}, {pool.Destroying, pool.Gone},
		} {
			i := h.warm("a")
			for _, s := range states {
				i = h.change(i.ID, i.State, s)
			}
		}
		h.creating("a")
		h.booting("a")
		l, _ := h.gitspace("space-1", "a")
		_, _, err := h.Sleep(h.ctx, l.Key(), h.tick(), h.now)
		h.no(err)
		h.waiting("lease-1", "a")
	}},
}

// end ends a lease that must be open.
func (h *harness) end(id string) pool.Ended {
	h.Helper()
	e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: id}, Reason: "destroyed", Now: h.tick()})
	h.no(err)
	if e.Outcome != pool.EndNow {
		h.Fatalf("end of %q: %s", id, e.Outcome)
	}
	return e
}

func (h *harness) all() []pool.Lease {
	h.Helper()
	ls, err := h.Leases(h.ctx, pool.LeaseQuery{})
	h.no(err)
	return ls
}
