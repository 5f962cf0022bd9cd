package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var controllerTests = []test{
	{"the controller's id is made once and outlives incarnations", func(h *harness) {
		first, err := h.Controller(h.ctx, "run-1", h.now)
		h.no(err)
		if len(first.ID) < 16 || !first.Born.Equal(h.now) {
			h.Fatalf("controller is %+v", first)
		}
		second, err := h.Controller(h.ctx, "run-2", h.tick())
		h.no(err)
		h.equal("controller", second, first)
		_, err = h.Controller(h.ctx, "", h.now)
		h.is(err, pool.ErrInvalid)
	}},
	{"lifetimes are from the start of an incarnation to its last heartbeat", func(h *harness) {
		lives, err := h.Lifetimes(h.ctx)
		h.no(err)
		h.equal("at first", len(lives), 0)
		begun := h.now
		for _, run := range []string{"run-2", "run-1"} {
			_, err := h.Controller(h.ctx, run, h.tick())
			h.no(err)
		}
		h.no(h.Heartbeat(h.ctx, "run-2", h.tick()))
		h.no(h.Heartbeat(h.ctx, "run-2", begun)) // never backwards
		lives, err = h.Lifetimes(h.ctx)
		h.no(err)
		h.equal("lifetimes", lives, []pool.Lifetime{
			{Incarnation: "run-2", From: begun.Add(time.Second), To: begun.Add(3 * time.Second)},
			{Incarnation: "run-1", From: begun.Add(2 * time.Second), To: begun.Add(2 * time.Second)},
		})
		h.is(h.Heartbeat(h.ctx, "run-3", h.now), pool.ErrNotFound)
	}},
	{"it answers a ping", func(h *harness) { h.no(h.Ping(h.ctx)) }},
	{"after Close everything is unavailable, and closing again is no error", func(h *harness) {
		h.no(h.Close())
		h.no(h.Close())
		h.is(h.Ping(h.ctx), pool.ErrUnavailable)
		_, err := h.Lease(h.ctx, "x")
		h.is(err, pool.ErrUnavailable)
	}},
}

var poolTests = []test{
	{"configured pools are listed by name with all their fields", func(h *harness) {
		row := pool.PoolRow{
			Name: "b", Driver: "noop", Scope: "s", Min: 2, Max: 7, SpecHash: "hash", LastSpec: json.RawMessage(`{"a": [1, 2]}`),
			Platform: drivers.Platform{OS: "linux", Arch: "arm64", Version: "v"},
		}
		other := pool.PoolRow{Name: "a", Max: 1}
		h.no(h.Configure(h.ctx, []pool.PoolRow{row, other}, h.now))
		row.Updated, other.Updated = h.now, h.now
		rows, err := h.Pools(h.ctx)
		h.no(err)
		h.equal("pools", rows, []pool.PoolRow{other, row})
	}},
	{"a pool that leaves the file is retired with its last spec, and may return", func(h *harness) {
		row := pool.PoolRow{Name: "a", Driver: "noop", Max: 3, SpecHash: "1", LastSpec: json.RawMessage(`{"v":1}`)}
		h.no(h.Configure(h.ctx, []pool.PoolRow{row}, h.now))
		h.creating("a")
		retired := h.tick()
		h.no(h.Configure(h.ctx, nil, retired))
		h.no(h.Configure(h.ctx, nil, h.tick()))
		row.Retired, row.Counted, row.Updated = true, 1, retired
		rows, err := h.Pools(h.ctx)
		h.no(err)
		h.equal("retired", rows, []pool.PoolRow{row})
		s, err := h.Snapshot(h.ctx, "a", 5, h.now)
		h.no(err)
		h.equal("snapshot says so", s.Retired, true)
		row.Max, row.SpecHash, row.Retired = 4, "2", false
		h.no(h.Configure(h.ctx, []pool.PoolRow{row}, h.tick()))
		row.Updated = h.now
		rows, err = h.Pools(h.ctx)
		h.no(err)
		h.equal("returned", rows, []pool.PoolRow{row})
	}},
	{"nonsense is refused as a whole", func(h *harness) {
		for _, rows := range [][]pool.PoolRow{{{Name: ""}}, {{Name: "a"}, {Name: "a"}}, {{Name: "a", Max: -1}}} {
			h.is(h.Configure(h.ctx, rows, h.now), pool.ErrInvalid)
		}
		rows, err := h.Pools(h.ctx)
		h.no(err)
		h.equal("pools", len(rows), 0)
	}},
	{"a pool is held by one replica at a time, and a change raises the generation", func(h *harness) {
		h.pools(5, "a")
		first, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		if first.Generation != 1 || first.Replica != "replica-1" || first.Until.IsZero() {
			h.Fatalf("hold is %+v", first)
		}
		again, err := h.Hold(h.ctx, "a", "replica-1", time.Hour)
		h.no(err)
		if again.Generation != 1 || again.Until.Before(first.Until) {
			h.Fatalf("renewed hold is %+v after %+v", again, first)
		}
		_, err = h.Hold(h.ctx, "a", "replica-2", time.Hour)
		h.is(err, pool.ErrHeld)
		_, err = h.Hold(h.ctx, "a", "replica-1", time.Millisecond)
		h.no(err)
		var second pool.Hold
		h.eventually("the hold ends by itself", func() bool {
			second, err = h.Hold(h.ctx, "a", "replica-2", time.Hour)
			return err == nil
		})
		h.equal("generation", second.Generation, int64(2))
		_, err = h.Fence(again).Change(h.ctx, pool.Change{ID: h.creating("a").ID, From: []pool.InstanceState{pool.Creating}, To: pool.Failed, Now: h.now})
		h.is(err, pool.ErrHeld)
		rows, err := h.Pools(h.ctx)
		h.no(err)
		h.equal("hold in the row", rows[0].Hold, second)
		h.pools(6, "a")
		rows, err = h.Pools(h.ctx)
		h.no(err)
		h.equal("configuring keeps the hold", rows[0].Hold, second)
		_, err = h.Hold(h.ctx, "never", "replica-1", time.Hour)
		h.is(err, pool.ErrNotFound)
		_, err = h.Hold(h.ctx, "a", "replica-2", 0)
		h.is(err, pool.ErrInvalid)
	}},
	{"a snapshot has the counts, the waiting and the drifted of its pool", func(h *harness) {
		h.pools(30, "a", "b")
		h.warm("a")
		h.warm("a")
		old := func(i *pool.Instance) { i.Recipe = "recipe-0" }
		drifted := []pool.Instance{h.warm("a", old), h.warm("a", old)}
		h.booting("a", func(i *pool.Instance) { i.Variant, i.Tenant = "v", "t" })
		h.warm("b")
		h.gone(h.creating("a").ID)
		h.gitspace("space-1", "a")
		odd := func(id string) pool.Lease {
			a := h.arrival(id, "b", "a")
			a.Choices[0].Shape, a.Choices[1].Shape = "odd", "odd"
			return h.arrive(a).Lease
		}
		waiting := []pool.Lease{odd("lease-1"), odd("lease-2"), odd("lease-3")}
		orphan := odd("lease-0")
		h.no(h.Unwait(h.ctx, orphan.Key(), "run-1", h.tick(), h.now))
		s, err := h.Snapshot(h.ctx, "a", 2, h.now)
		h.no(err)
		group := func(state pool.InstanceState, recipe string, n int) pool.Group {
			return pool.Group{State: state, Variant: "default", Tenant: "default", Shape: shape, Recipe: recipe, Count: n}
		}
		want := pool.Snapshot{
			Pool: "a", Counted: 6, Max: 30, Waiting: waiting[:2], WaitingMore: true, Drifted: drifted,
			Groups: []pool.Group{
				{State: pool.Booting, Variant: "v", Tenant: "t", Shape: shape, Recipe: "recipe-1", Count: 1},
				group(pool.Warm, "recipe-0", 2), group(pool.Warm, "recipe-1", 2),
			},
		}
		h.equal("snapshot", s, want)
		s, err = h.Snapshot(h.ctx, "a", 3, h.now)
		h.no(err)
		if len(s.Waiting) != 3 || s.WaitingMore {
			h.Fatalf("waiting %d, more %v", len(s.Waiting), s.WaitingMore)
		}
		_, err = h.Snapshot(h.ctx, "never", 3, h.now)
		h.is(err, pool.ErrNotFound)
	}},
	{"a snapshot counts held machines apart, and they are no drift", func(h *harness) {
		h.pools(9, "a")
		other := func(i *pool.Instance) { i.Recipe = "recipe-0" }
		held := h.warm("a", other)
		h.hold(held.ID, true)
		h.hold(h.booting("a").ID, true)
		h.warm("a")
		h.warm("a")
		group := func(state pool.InstanceState, recipe string, held bool, n int) pool.Group {
			return pool.Group{State: state, Variant: "default", Tenant: "default", Shape: shape, Recipe: recipe, Held: held, Count: n}
		}
		s, err := h.Snapshot(h.ctx, "a", 0, h.now)
		h.no(err)
		h.equal("groups", s.Groups, []pool.Group{
			group(pool.Booting, "recipe-1", true, 1), group(pool.Warm, "recipe-0", true, 1), group(pool.Warm, "recipe-1", false, 2),
		})
		h.equal("drifted", len(s.Drifted), 0)
		h.hold(held.ID, false)
		s, err = h.Snapshot(h.ctx, "a", 0, h.now)
		h.no(err)
		h.equal("groups after it was let go", s.Groups, []pool.Group{
			group(pool.Booting, "recipe-1", true, 1), group(pool.Warm, "recipe-0", false, 1), group(pool.Warm, "recipe-1", false, 2),
		})
		h.equal("drifted after it was let go", len(s.Drifted), 1)
	}},
	{"a snapshot counts what no lease holds", func(h *harness) {
		h.pools(30, "a")
		count := func() map[pool.InstanceState]int {
			s, err := h.Snapshot(h.ctx, "a", 0, h.now)
			h.no(err)
			out := map[pool.InstanceState]int{}
			for _, g := range s.Groups {
				out[g.State] += g.Count
			}
			return out
		}
		l := h.waiting("lease-1", "a")
		i := h.cold(l, "a")
		h.equal("a machine made for a lease", count(), map[pool.InstanceState]int{})
		h.prove(h.accept(i))
		h.equal("in use", count(), map[pool.InstanceState]int{})
		h.end("lease-1")
		h.equal("after the end", count(), map[pool.InstanceState]int{pool.Destroying: 1})
		h.gone(i.ID)
		h.equal("gone", count(), map[pool.InstanceState]int{})
	}},
}

var dueTests = []test{
	{"due instances: the longest due first, of the pools asked for, at most limit", func(h *harness) {
		h.pools(30, "a", "b")
		at := h.now.Add(time.Hour)
		due := func(in string, d time.Duration) string {
			return h.creating(in, func(i *pool.Instance) { i.Due = at.Add(d) }).ID
		}
		third, first, second := due("a", 0), due("a", -2*time.Minute), due("b", -time.Minute)
		later := due("a", time.Millisecond)
		gone := h.creating("a")
		h.gone(gone.ID)
		ids := func(pools []string, limit int) []string {
			rows, err := h.DueInstances(h.ctx, pools, at, limit)
			h.no(err)
			out := []string{}
			for _, r := range rows {
				out = append(out, r.ID)
			}
			return out
		}
		h.equal("all", ids(nil, 10), []string{first, second, third})
		h.equal("limited", ids(nil, 2), []string{first, second})
		h.equal("of a", ids([]string{"a"}, 10), []string{first, third})
		h.equal("of b twice and one unknown", ids([]string{"b", "never", "b"}, 10), []string{second})
		h.equal("of none", ids([]string{}, 10), []string{})
		rows, err := h.DueInstances(h.ctx, nil, at, 1)
		h.no(err)
		h.equal("whole row", rows[0], h.get(first))
		_ = later
	}},
	{"due leases: the longest due first, no final ones", func(h *harness) {
		h.pools(30, "a")
		at := h.now.Add(time.Hour)
		for k, d := range []time.Duration{0, -2 * time.Minute, -time.Minute, time.Millisecond, -time.Hour} {
			a := h.arrival(fmt.Sprint("lease-", k), "a")
			a.Due = at.Add(d)
			h.arrive(a)
		}
		h.end("lease-4")
		rows, err := h.DueLeases(h.ctx, at, 10)
		h.no(err)
		var ids []string
		for _, r := range rows {
			ids = append(ids, r.ID)
		}
		h.equal("due", ids, []string{"lease-1", "lease-2", "lease-0"})
		h.equal("whole row", rows[0], h.lease("lease-1"))
		rows, err = h.DueLeases(h.ctx, at, 1)
		h.no(err)
		h.equal("limited", len(rows), 1)
	}},
	{"adopted: what was being worked on is due now", func(h *harness) {
		h.pools(100, "a", "b")
		transitional := map[pool.InstanceState]bool{
			pool.Creating: true, pool.Booting: true, pool.Hibernating: true, pool.Resuming: true, pool.Suspending: true, pool.Destroying: true,
		}
		before := map[string]pool.Instance{}
		for _, s := range pool.InstanceStates() {
			i := h.reach(s)
			before[i.ID] = i
		}
		other := h.creating("b")
		now := h.now.Add(-time.Minute) // clocks may go back
		n, err := h.Adopt(h.ctx, []string{"a"}, now)
		h.no(err)
		h.equal("adopted", n, len(transitional))
		for id, want := range before {
			if transitional[want.State] {
				want.Due = now
			}
			h.equal("instance", h.get(id), want)
		}
		h.equal("of another pool", h.get(other.ID), other)
		n, err = h.Adopt(h.ctx, nil, now)
		h.no(err)
		h.equal("adopted of all pools", n, len(transitional)+1)
	}},
}

var listTests = []test{
	{"instances are listed newest first and narrowed by each field", func(h *harness) {
		h.pools(30, "a", "b")
		one := h.creating("a")
		two := h.warm("b")
		_, three := h.active("lease-1", "a")
		four := h.creating("b")
		h.gone(four.ID)
		for what, tt := range map[string]struct {
			q    pool.InstanceQuery
			want []string
		}{
			"all":         {pool.InstanceQuery{}, []string{four.ID, three.ID, two.ID, one.ID}},
			"limit":       {pool.InstanceQuery{Limit: 2}, []string{four.ID, three.ID}},
			"live":        {pool.InstanceQuery{Live: true}, []string{three.ID, two.ID, one.ID}},
			"pool":        {pool.InstanceQuery{Pool: "b"}, []string{four.ID, two.ID}},
			"scope":       {pool.InstanceQuery{Scope: "noop:a"}, []string{three.ID, one.ID}},
			"states":      {pool.InstanceQuery{States: []pool.InstanceState{pool.Warm, pool.Creating}}, []string{two.ID, one.ID}},
			"lease":       {pool.InstanceQuery{Lease: "lease-1"}, []string{three.ID}},
			"all at once": {pool.InstanceQuery{Pool: "a", Scope: "noop:a", Lease: "lease-1", States: []pool.InstanceState{pool.Leased}, Live: true, Limit: 9}, []string{three.ID}},
			"nothing":     {pool.InstanceQuery{Pool: "a' OR '1'='1"}, []string{}},
		} {
			rows, err := h.Instances(h.ctx, tt.q)
			h.no(err)
			ids := []string{}
			for _, r := range rows {
				ids = append(ids, r.ID)
				h.equal("whole row", r, h.get(r.ID))
			}
			h.equal(what, ids, tt.want)
		}
	}},
	{"leases are listed newest first and narrowed by each field", func(h *harness) {
		h.pools(30, "a", "b")
		h.active("active", "a")
		h.waiting("both", "a", "b")
		h.waiting("ended", "b")
		h.end("ended")
		for what, tt := range map[string]struct {
			q    pool.LeaseQuery
			want []string
		}{
			"all":                     {pool.LeaseQuery{}, []string{"ended", "both", "active"}},
			"limit":                   {pool.LeaseQuery{Limit: 1}, []string{"ended"}},
			"live":                    {pool.LeaseQuery{Live: true}, []string{"both", "active"}},
			"states":                  {pool.LeaseQuery{States: []pool.LeaseState{pool.LeaseEnded, pool.LeaseActive}}, []string{"ended", "active"}},
			"held or waited for in a": {pool.LeaseQuery{Pool: "a"}, []string{"both", "active"}},
			"waited for in b":         {pool.LeaseQuery{Pool: "b", Live: true, States: []pool.LeaseState{pool.LeaseWaiting}, Limit: 3}, []string{"both"}},
		} {
			rows, err := h.Leases(h.ctx, tt.q)
			h.no(err)
			ids := []string{}
			for _, r := range rows {
				ids = append(ids, r.ID)
				h.equal("whole row", r, h.lease(r.ID))
			}
			h.equal(what, ids, tt.want)
		}
	}},
	{"events are listed oldest first, from where one has read", func(h *harness) {
		h.no(h.Note(h.ctx,
			pool.Event{At: h.tick(), Pool: "a", Instance: "i", Lease: "l", Generation: 3, Reason: "one", Message: "text with 'quotes' and \x00"},
			pool.Event{At: h.now.Add(500 * time.Microsecond), Pool: "b", Reason: "two"},
			pool.Event{At: h.tick(), Lease: "l", Reason: "three"},
			pool.Event{At: h.now, Instance: "i", Reason: "four"},
		))
		all, err := h.Events(h.ctx, pool.EventQuery{})
		h.no(err)
		h.equal("first", all[0], pool.Event{
			ID: all[0].ID, At: h.now.Add(-time.Second), Pool: "a", Instance: "i", Lease: "l", Generation: 3, Reason: "one", Message: "text with 'quotes' and \uFFFD",
		})
		if !slices.IsSortedFunc(all, func(a, b pool.Event) int { return int(a.ID - b.ID) }) || all[0].ID <= 0 {
			h.Errorf("ids do not ascend: %+v", all)
		}
		for what, tt := range map[string]struct {
			q    pool.EventQuery
			want []string
		}{
			"all":      {pool.EventQuery{}, []string{"one", "two", "three", "four"}},
			"limit":    {pool.EventQuery{Limit: 2}, []string{"one", "two"}},
			"after":    {pool.EventQuery{After: all[1].ID}, []string{"three", "four"}},
			"pool":     {pool.EventQuery{Pool: "a"}, []string{"one"}},
			"instance": {pool.EventQuery{Instance: "i"}, []string{"one", "four"}},
			"lease":    {pool.EventQuery{Lease: "l", After: all[0].ID, Limit: 5}, []string{"three"}},
		} {
			h.equal(what, h.story(tt.q), tt.want)
		}
		h.is(h.Note(h.ctx, pool.Event{Reason: "timeless"}), pool.ErrInvalid)
	}},
}

var upkeepTests = []test{
	{"a counter that is right is left alone", func(h *harness) {
		h.pools(9, "a", "b")
		h.warm("a")
		h.gone(h.creating("a").ID)
		drift, err := h.Recount(h.ctx)
		h.no(err)
		h.equal("drift", len(drift), 0)
		h.equal("counter", h.counted("a"), 1)
	}},
	{"purged: what is final and old, at most limit of each kind", func(h *harness) {
		h.pools(90, "a")
		for k := range 3 {
			id := fmt.Sprint("old-", k)
			_, i := h.active(id, "a")
			h.end(id)
			h.gone(i.ID)
			h.no(h.Note(h.ctx, pool.Event{At: h.now, Reason: "old"}))
			_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "unseen-" + id}, Tombstone: h.now.Add(time.Second), Now: h.now})
			h.no(err)
		}
		cutoff := h.tick().Add(time.Second)
		h.tick()
		h.tick()
		_, stays := h.active("stays", "a")
		h.no(h.Note(h.ctx, pool.Event{At: h.now, Reason: "new"}))
		_, recent := h.active("recent", "a")
		h.end("recent")
		h.gone(recent.ID)
		_, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "unseen"}, Tombstone: h.now.Add(time.Hour), Now: h.now})
		h.no(err)
		p := pool.Purge{Rows: cutoff, Events: cutoff, Now: h.now, Limit: 2}
		for _, want := range []int{8, 4, 0} {
			n, err := h.Purge(h.ctx, p)
			h.no(err)
			h.equal("purged", n, want)
		}
		h.equal("events", h.story(pool.EventQuery{}), []string{"new"})
		h.equal("leases", len(h.all()), 2)
		rows, err := h.Instances(h.ctx, pool.InstanceQuery{})
		h.no(err)
		h.equal("instances", len(rows), 2)
		h.equal("the one in use", h.get(stays.ID), stays)
		_, err = h.Arrive(h.ctx, h.arrival("unseen", "a"))
		h.is(err, pool.ErrDestroyedFirst)
		_, err = h.Lease(h.ctx, "old-0")
		h.is(err, pool.ErrNotFound)
		h.sound()
	}},
	{"a lease stays while its machine is not gone, however old", func(h *harness) {
		h.pools(9, "a")
		_, i := h.active("lease-1", "a")
		h.end("lease-1")
		p := pool.Purge{Rows: h.now.Add(time.Hour), Limit: 10}
		n, err := h.Purge(h.ctx, p)
		h.no(err)
		h.equal("purged", n, 0)
		h.gone(i.ID)
		n, err = h.Purge(h.ctx, p)
		h.no(err)
		h.equal("purged", n, 2)
	}},
	{"times that are not given purge nothing", func(h *harness) {
		h.pools(9, "a")
		h.gone(h.creating("a").ID)
		h.no(h.Note(h.ctx, pool.Event{At: h.now, Reason: "stays"}))
		n, err := h.Purge(h.ctx, pool.Purge{Limit: 10})
		h.no(err)
		h.equal("purged", n, 0)
	}},
}

// eventually polls until ok, for as long as a busy machine may take.
func (h *harness) eventually(what string, ok func() bool) {
	h.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			h.Fatalf("not in 20 s: %s", what)
		}
		<-tick.C
	}
}
