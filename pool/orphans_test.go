package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func (e *engine) orphans() pool.OrphanReport {
	e.t.Helper()
	r, err := e.m.Orphans(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	return r
}

// named are the orphans by name, with their reasons.
func named(list []pool.Orphan) string {
	var out []string
	for _, o := range list {
		out = append(out, o.Name+":"+string(o.Reason))
	}
	return strings.Join(out, " ")
}

func TestOrphansAreListedWithWhatWouldMakeThemGo(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0].min = 0
		controller, err := e.store.Controller(t.Context(), "before", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ours := controller.ID
		e.faults = &noop.Faults{Listing: func(l *drivers.Listing) {
			l.Disks = []drivers.Disk{{Name: "disk", SizeGiB: 5, Tags: drivers.Tags{Controller: ours, Instance: "long-gone"}}}
		}}
		e.start()
		pass(time.Minute)
		now := time.Now()
		e.foreign("gitspace", ours, pool.Gitspace, now)
		e.foreign("theirs", "another", pool.Build, now)
		e.foreign("ancient", ours, pool.Build, now.Add(-240*time.Hour))
		e.foreign("young", ours, pool.Build, now)
		pass(20 * time.Second)
		r := e.orphans()
		want := "ancient:not_seen_often_enough gitspace:gitspace_is_only_reported theirs:made_by_another_controller young:not_seen_often_enough"
		if got := named(r.Machines); got != want {
			t.Errorf("machines %q, want %q", got, want)
		}
		if got := named(r.Disks); got != "disk:disks_are_kept" {
			t.Errorf("disks %q", got)
		}
		for _, o := range append(r.Machines, r.Disks...) {
			if o.Explain() == "" || o.Explain() == string(o.Reason) {
				t.Errorf("%s (%s) has no explanation", o.Name, o.Reason)
			}
		}
		pass(10 * time.Minute)
		want = "ancient:made_while_this_store_was_not_alive gitspace:gitspace_is_only_reported theirs:made_by_another_controller"
		if got := named(e.orphans().Machines); got != want {
			t.Errorf("later: %q, want %q", got, want)
		}
		reported := 0
		for _, reason := range e.reasons() {
			if reason == "orphan_reported" {
				reported++
			}
		}
		if reported != 4 { // gitspace, ancient, disk, and on one's own host theirs
			t.Errorf("%d events of reported orphans, want one for each reason", reported)
		}
	})
}

func TestOrphansAreRemovedOnRequestOnlyWithTheRightWord(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		pass(time.Minute)
		ours := e.m.ControllerID()
		e.foreign("gitspace", ours, pool.Gitspace, time.Now())
		e.foreign("theirs", "another", pool.Build, time.Now())
		e.foreign("young", ours, pool.Build, time.Now())
		used := e.setup("a").Instance.Name
		by := pool.Order{By: "ann", Why: "cleaning"}
		for _, tc := range []struct {
			name  string
			order pool.OrphanOrder
			why   pool.Reason // "" means that it goes
		}{
			{"gitspace", pool.OrphanOrder{Order: by, Foreign: true}, pool.KeepGitspace},
			{"gitspace", pool.OrphanOrder{Order: by, Gitspace: true}, ""},
			{"theirs", pool.OrphanOrder{Order: by, Gitspace: true}, pool.KeepForeign},
			{"theirs", pool.OrphanOrder{Order: by, Foreign: true}, ""},
			{"young", pool.OrphanOrder{Order: by}, ""},
			{used, pool.OrphanOrder{Order: by, Foreign: true, Gitspace: true, Disks: true}, pool.KeepRow},
		} {
			err := e.m.RemoveOrphan(t.Context(), tc.name, tc.order)
			var kept *pool.KeptError
			switch {
			case tc.why == "" && err != nil:
				t.Errorf("%s: %v", tc.name, err)
			case tc.why != "" && (!errors.As(err, &kept) || kept.Why != tc.why):
				t.Errorf("%s with %+v: %v, want %s", tc.name, tc.order, err, tc.why)
			}
			if there := slices.Contains(e.machines(), tc.name); there != (tc.why != "") {
				t.Errorf("%s after %+v: exists is %t", tc.name, tc.order, there)
			}
		}
		if err := e.m.RemoveOrphan(t.Context(), "nosuch", pool.OrphanOrder{}); !errors.Is(err, pool.ErrNotFound) {
			t.Errorf("an unknown name: %v", err)
		}
		events, err := e.store.Events(t.Context(), pool.EventQuery{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if n := count(events, func(ev pool.Event) bool {
			return ev.Reason == "orphan_removed" && strings.Contains(ev.Message, "ann") && strings.Contains(ev.Message, "cleaning")
		}); n != 3 {
			t.Errorf("%d events say who removed what, want 3", n)
		}
	})
}

func count[T any](list []T, is func(T) bool) int {
	n := 0
	for _, v := range list {
		if is(v) {
			n++
		}
	}
	return n
}

// Rule 17: stale, repeated and partial listings are no sightings.
func TestOnlyNewCompleteListingsCountAsSightings(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spoils func(l *drivers.Listing, begun time.Time)
	}{
		{"the same listing again and again", func(l *drivers.Listing, begun time.Time) { l.At = begun }},
		{"listings that go back in time", func(l *drivers.Listing, begun time.Time) { l.At = begun.Add(-time.Since(begun)) }},
		{"partial listings", func(l *drivers.Listing, _ time.Time) { l.Complete = false }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				e.pools[0].min = 0
				begun := time.Now().Add(time.Minute)
				e.faults = &noop.Faults{Listing: func(l *drivers.Listing) {
					if time.Now().After(begun) {
						tc.spoils(l, begun)
					}
				}}
				e.start()
				pass(time.Minute)
				e.foreign("garbage", e.m.ControllerID(), pool.Build, time.Now())
				pass(2 * time.Hour)
				if len(e.machines()) != 1 {
					t.Error("destroyed on listings that are no evidence")
				}
				if got := e.orphans().Machines; len(got) != 1 || got[0].Sightings > 1 {
					t.Errorf("reported as %+v", got)
				}
			})
		})
	}
}

// Rule 17: absence counts from the row's last transition on, in two listings.
func TestARowsMachineIsMissedOnlyByListingsAfterItsLastChange(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Hour // listings come by kicks only
		e.pools[0].min, e.pools[0].max = 1, 1
		var blind atomic.Bool
		e.faults = &noop.Faults{Listing: func(l *drivers.Listing) {
			if blind.Load() {
				l.Instances = nil
			}
		}}
		e.start()
		pass(time.Hour + time.Minute)
		blind.Store(true)
		pass(time.Hour) // one listing misses the warm machine
		res := e.setup("a")
		pass(time.Hour) // and one the leased one: two in all, but one since the claim
		if got, err := e.store.Instance(t.Context(), res.Instance.ID); err != nil || got.State != pool.Leased {
			t.Fatalf("after one listing since the claim: %s %v", got.State, err)
		}
		if missing := e.orphans().Missing; len(missing) != 1 || missing[0].Times != 1 {
			t.Errorf("missing rows are reported as %+v", missing)
		}
		pass(time.Hour)
		if l, err := e.store.Lease(t.Context(), "a"); err != nil || l.State != pool.LeaseLost {
			t.Errorf("after two: %s %v, want lost", l.State, err)
		}
	})
}

// Rule 18: the listing's foreign machines are left alone, whatever they are.
func TestMachinesOfOtherControllersAreNeverTouched(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits.SweepLocal = time.Minute
		e.start()
		pass(time.Minute)
		for i := range 5 {
			e.foreign(fmt.Sprint("theirs-", i), "another", pool.Build, time.Now().Add(-time.Duration(i)*time.Hour))
			e.foreign(fmt.Sprint("nobodys-", i), "", pool.Build, time.Now())
		}
		pass(24 * time.Hour)
		if n := count(e.machines(), func(s string) bool { return strings.Contains(s, "theirs") || strings.Contains(s, "nobodys") }); n != 10 {
			t.Errorf("%d of 10 are left", n)
		}
		want := map[pool.OrphanLabel]int{{Scope: "noop:/bubble", Reason: pool.KeepForeign}: 10}
		if diff := cmp.Diff(want, e.m.Counters().Orphans); diff != "" {
			t.Errorf("on one's own host they are counted: -want +got\n%s", diff)
		}
	})
}

// Pools that left the file are swept as long as the store remembers them, also
// when they have no rows any more.
func TestRetiredPoolsAreSweptAcrossRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 1, max: 2}, {name: "old", min: 1, max: 2, cfg: noop.Config{}}}
		e.start()
		pass(time.Minute)
		if _, err := e.m.Setup(t.Context(), func() pool.SetupRequest { r := e.gitspace("g"); r.Pools = []string{"old"}; return r }()); err != nil {
			t.Fatal(err)
		}
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g"}); err != nil {
			t.Fatal(err)
		}
		e.pools = e.pools[:1]
		for range 2 {
			e.restart()
			pass(10 * time.Minute)
		}
		if _, err := e.m.Setup(t.Context(), e.gitspace("g")); err != nil {
			t.Errorf("resume in a retired pool: %v", err)
		}
		e.destroy("g")
		pass(time.Minute)
		e.restart()
		pass(time.Minute)
		e.foreign("late", e.m.ControllerID(), pool.Build, time.Now())
		pass(10 * time.Minute)
		for _, mach := range e.world.Machines() {
			if mach.Tags.Pool == "old" || mach.Name == "late" {
				t.Errorf("%s is left", mach.Name)
			}
		}
		if r := e.orphans(); !slices.ContainsFunc(r.Scopes, func(s pool.ScopeStatus) bool { return slices.Contains(s.Pools, "old") }) {
			t.Errorf("the retired pool without rows is not swept: %+v", r.Scopes)
		}
	})
}

// Rule 26: a cloud that answers nothing holds up nobody who asks.
func TestOrphansAndOrdersAnswerWhileTheCloudHangs(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		var hangs atomic.Bool
		e.faults = &noop.Faults{Before: func(ctx context.Context, _, _ string) error {
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		e.start()
		pass(time.Minute)
		hangs.Store(true)
		pass(3 * time.Minute)
		before := time.Now()
		r := e.orphans()
		if d := time.Since(before); d > 0 {
			t.Errorf("the report took %s", d)
		}
		if len(r.Scopes) != 1 || r.Scopes[0].Problem == "" {
			t.Errorf("the hanging scope is not reported: %+v", r.Scopes)
		}
	})
}
