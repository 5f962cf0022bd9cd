package pool

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func group(s InstanceState, n int) Group { return Group{State: s, Count: n} }

// summary is a plan in a form that is easy to compare.
type summary struct {
	Cold     []string
	Refill   int
	Replaced []string
	Surplus  int
}

func summarise(actions []action) summary {
	var s summary
	for _, a := range actions {
		switch {
		case a.Cold != nil:
			s.Cold = append(s.Cold, a.Cold.ID)
		case a.Replace != nil:
			s.Replaced = append(s.Replaced, a.Replace.ID)
		default:
			s.Refill += a.Refill
			s.Surplus += a.Surplus
		}
	}
	return s
}

func waiters(ids ...string) []Lease {
	out := make([]Lease, len(ids))
	for i, id := range ids {
		out[i] = Lease{ID: id, State: LeaseWaiting}
	}
	return out
}

func drifted(ids ...string) []Instance {
	out := make([]Instance, len(ids))
	for i, id := range ids {
		out[i] = Instance{ID: id, State: Warm}
	}
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		want planConfig
		have Snapshot
		out  summary
	}{
		{"an empty pool is filled", planConfig{Min: 3, Max: 10}, Snapshot{}, summary{Refill: 3}},
		{"a full pool needs nothing", planConfig{Min: 3, Max: 10}, Snapshot{Counted: 3, Groups: []Group{group(Warm, 3)}}, summary{}},
		{
			"machines on their way count toward the target, so overlapping passes cannot overshoot",
			planConfig{Min: 5, Max: 10},
			Snapshot{Counted: 4, Groups: []Group{group(Creating, 1), group(Booting, 1), group(Warm, 1), group(Hibernated, 1)}},
			summary{Refill: 1},
		},
		{
			"failed and dying machines cost money but are no prospect",
			planConfig{Min: 2, Max: 10},
			Snapshot{Counted: 3, Groups: []Group{group(Failed, 1), group(Destroying, 2)}},
			summary{Refill: 2},
		},
		{"the limit bounds refill", planConfig{Min: 5, Max: 6}, Snapshot{Counted: 4}, summary{Refill: 2}},
		{"at the limit nothing is made", planConfig{Min: 5, Max: 4}, Snapshot{Counted: 4, Waiting: waiters("a")}, summary{}},
		{"over the limit nothing is made either", planConfig{Min: 5, Max: 4}, Snapshot{Counted: 6, Waiting: waiters("a")}, summary{}},
		{
			"waiting requests come before refill, in order of arrival",
			planConfig{Min: 5, Max: 3},
			Snapshot{Counted: 1, Waiting: waiters("a", "b", "c")},
			summary{Cold: []string{"a", "b"}},
		},
		{
			"refill gets what waiting requests leave over",
			planConfig{Min: 5, Max: 4},
			Snapshot{Counted: 0, Waiting: waiters("a", "b")},
			summary{Cold: []string{"a", "b"}, Refill: 2},
		},
		{
			"with more waiting than were read, refill takes nothing",
			planConfig{Min: 5, Max: 10},
			Snapshot{Waiting: waiters("a"), WaitingMore: true},
			summary{Cold: []string{"a"}},
		},
		{
			"after failures refill keeps still but requests are served",
			planConfig{Min: 5, Max: 10, Paused: true},
			Snapshot{Waiting: waiters("a")},
			summary{Cold: []string{"a"}},
		},
		{"a pool with nothing to keep warm makes only what is asked for", planConfig{Max: 10}, Snapshot{Waiting: waiters("a")}, summary{Cold: []string{"a"}}},
		{"a retired pool makes nothing", planConfig{Min: 5, Max: 10, Retired: true}, Snapshot{Waiting: waiters("a")}, summary{}},
		{
			"a retired pool gives up its warm machines and nothing else",
			planConfig{Min: 5, Max: 10, Retired: true},
			Snapshot{Counted: 4, Groups: []Group{group(Warm, 2), group(Booting, 1)}, Waiting: waiters("a")},
			summary{Surplus: 2},
		},
		{"a pool the store calls retired makes nothing", planConfig{Min: 5, Max: 10}, Snapshot{Retired: true}, summary{}},
		{
			"drifted machines all go at once by default",
			planConfig{Min: 2, Max: 10},
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Drifted: drifted("x", "y")},
			summary{Replaced: []string{"x", "y"}},
		},
		{
			"drifted machines go one by one where the pool is to be reused",
			planConfig{Min: 2, Max: 10, KeepDrifted: true},
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Drifted: drifted("x", "y")},
			summary{Replaced: []string{"x"}},
		},
		{
			"and not while the last replacement is on its way",
			planConfig{Min: 2, Max: 10, KeepDrifted: true},
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 1), group(Booting, 1)}, Drifted: drifted("y")},
			summary{},
		},
		{
			"a pool whose size was lowered gives up what is too much",
			planConfig{Min: 2, Max: 10},
			Snapshot{Counted: 5, Groups: []Group{group(Warm, 4), group(Booting, 1)}},
			summary{Surplus: 3},
		},
		{
			"what is still booting is never surplus",
			planConfig{Min: 1, Max: 10},
			Snapshot{Counted: 3, Groups: []Group{group(Booting, 3)}},
			summary{},
		},
		{
			"nothing is given up while somebody waits",
			planConfig{Min: 1, Max: 2},
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Waiting: waiters("a")},
			summary{},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.out, summarise(plan(tc.want, tc.have))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzPlan checks what must hold for every pool: the limit is never planned
// past, and a waiting request always beats refill.
func FuzzPlan(f *testing.F) {
	f.Add(3, 10, 2, 1, 1, 0, 2, false, false)
	f.Add(0, 0, 0, 0, 0, 0, 0, true, true)
	f.Fuzz(func(t *testing.T, minWarm, limit, warm, booting, leased, dying, waiting int, keep, paused bool) {
		bound := func(n int) int { return max(0, n%100) }
		warm, booting, leased, dying, waiting = bound(warm), bound(booting), bound(leased), bound(dying), bound(waiting)
		minWarm, limit = bound(minWarm), bound(limit)
		ids := make([]string, waiting)
		for i := range ids {
			ids[i] = string(rune('a' + i%26))
		}
		have := Snapshot{
			Counted: warm + booting + leased + dying, Waiting: waiters(ids...),
			Groups: []Group{group(Warm, warm), group(Booting, booting), group(Destroying, dying)},
		}
		got := summarise(plan(planConfig{Min: minWarm, Max: limit, KeepDrifted: keep, Paused: paused}, have))
		made := len(got.Cold) + got.Refill
		if made > 0 && have.Counted+made > limit {
			t.Fatalf("%d machines planned at %d of %d", made, have.Counted, limit)
		}
		if got.Refill > 0 && len(got.Cold) < waiting {
			t.Fatalf("refill of %d while %d of %d requests go without", got.Refill, waiting-len(got.Cold), waiting)
		}
		if got.Surplus > warm {
			t.Fatalf("surplus %d of %d warm", got.Surplus, warm)
		}
		if left := warm + booting - got.Surplus; got.Surplus > 0 && left < minWarm {
			t.Fatalf("surplus %d leaves %d of %d wanted", got.Surplus, left, minWarm)
		}
	})
}
