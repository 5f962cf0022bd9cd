package sqlite_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// TestCostDoesNotGrow counts what the operations on a request's path run, in
// small and large pools and beside many old rows. That each statement visits as
// little is TestPlans' part.
func TestCostDoesNotGrow(t *testing.T) {
	t.Parallel()
	cost := func(warm, old int) map[string]int {
		path := filepath.Join(t.TempDir(), "database.sqlite3")
		s := inner(t, sqlite.Options{Path: path, Sync: sqlite.SyncOff}, nil)
		ctx := t.Context()
		no := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		no(s.Configure(ctx, []pool.PoolRow{{Name: "a", Max: 1 << 30}}, begin))
		if old > 0 {
			execute(t, path, fmt.Sprintf(`WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < %d)
				INSERT INTO instances SELECT 'old' || k, 'old' || k, 'a', '', '', 'gone', 'build', '', '', '', '', '', '', '', '', '', 0, '', '', 0,
				'', '', 'old' || k, 1, 0, 1, 1, 0, 0, 1, 0, '', '', 0, 0, 0 FROM n`, old))
			execute(t, path, fmt.Sprintf(`WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < %d)
				INSERT INTO leases SELECT k, 'old' || k, 1, 'build', 'ended', '', '', '', 'a', 'old' || k, 1, 1, 1, 1, 1, 1, 0, '', '', '', '', 0, 0, 0, 0 FROM n`, old))
		}
		warmUp := func(id string) {
			_, err := s.Intend(ctx, pool.Intent{Instance: pool.Instance{ID: id, Name: id, Pool: "a"}, Now: begin})
			no(err)
			_, err = s.Accepted(ctx, pool.Acceptance{ID: id, Now: begin})
			no(err)
			_, _, err = s.Proven(ctx, pool.Proof{ID: id, Now: begin, Due: begin.Add(time.Hour)})
			no(err)
		}
		for k := range min(warm, 1000) {
			warmUp(fmt.Sprint("i", k))
		}
		if more := warm - 1000; more > 0 {
			// Younger ones: a claim takes the oldest.
			execute(t, path, fmt.Sprintf(`WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < %d)
				INSERT INTO instances SELECT 'more' || k, 'more' || k, 'a', '', '', 'warm', 'build', '', '', '', '', '', '', '', '', '', 0, '', '', 0,
				'', '', '', 0, 0, %[2]d, %[2]d, %[2]d, 0, %[2]d, 0, '', '', 0, 0, 0 FROM n`, more, begin.Add(time.Hour).UnixMilli()))
		}
		out := map[string]int{}
		measure := func(what string, do func()) {
			s.Statements = 0
			do()
			out[what] = s.Statements
		}
		var g pool.Grant
		measure("arrive", func() {
			var err error
			g, err = s.Arrive(ctx, pool.Arrival{ID: "l", Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin})
			no(err)
			if !g.Claimed {
				t.Fatal("no machine was claimed")
			}
		})
		measure("join", func() {
			_, err := s.Arrive(ctx, pool.Arrival{ID: "l", Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin})
			no(err)
		})
		measure("activate", func() {
			_, err := s.Activate(ctx, g.Lease.Key(), begin, begin)
			no(err)
		})
		measure("end", func() {
			_, err := s.End(ctx, pool.Ending{Lease: g.Lease.Key(), Now: begin})
			no(err)
		})
		measure("refill", func() { warmUp("new") })
		measure("wait", func() {
			_, err := s.Arrive(ctx, pool.Arrival{ID: "w", Choices: []pool.Choice{{Pool: "a", Shape: "other"}}, Waiter: "w", Now: begin})
			no(err)
		})
		return out
	}
	small := cost(10, 0)
	if diff := cmp.Diff(map[string]int{"arrive": 3, "join": 2, "activate": 2, "end": 4, "refill": 9, "wait": 5}, small); diff != "" {
		t.Errorf("statements of each operation differ (-want +got):\n%s", diff)
	}
	for name, other := range map[string]map[string]int{
		"1,000 warm": cost(1000, 0), "10,000 warm": cost(10_000, 0), "100,000 old rows": cost(10, 100_000),
	} {
		if diff := cmp.Diff(small, other); diff != "" {
			t.Errorf("with %s (-small +now):\n%s", name, diff)
		}
	}
}

// TestCostWithGatesAndFlavours counts the same beside everything a pool can
// have: hibernated machines, flavours with limits, a gate with a canary, a bound
// per minute, and a lease that two pools refuse in turn.
func TestCostWithGatesAndFlavours(t *testing.T) {
	t.Parallel()
	cost := func(machines, flavours int) map[string]int {
		path := filepath.Join(t.TempDir(), "database.sqlite3")
		s := inner(t, sqlite.Options{Path: path, Sync: sqlite.SyncOff}, nil)
		ctx := t.Context()
		no := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		row := pool.PoolRow{Name: "a", Max: 1 << 30, PerMinute: 1 << 30}
		for k := range flavours {
			row.Flavours = append(row.Flavours, pool.FlavourRow{Variant: fmt.Sprint("v", k), Max: -1})
		}
		row.Flavours[0].Max = 1 << 20
		no(s.Configure(ctx, []pool.PoolRow{row, {Name: "b", Max: 0}, {Name: "c", Max: 9}}, begin))
		no(s.SetGate(ctx, "c", pool.Gate{Reason: "throttled", Until: begin.Add(time.Hour)}, begin))
		intend := func(id string) {
			_, err := s.Intend(ctx, pool.Intent{Instance: pool.Instance{ID: id, Name: id, Pool: "a", Variant: "v0"}, Now: begin})
			no(err)
		}
		asleep := func(id string) {
			intend(id)
			_, err := s.Accepted(ctx, pool.Acceptance{ID: id, Now: begin})
			no(err)
			_, _, err = s.Proven(ctx, pool.Proof{ID: id, Now: begin})
			no(err)
			_, err = s.Change(ctx, pool.Change{ID: id, From: []pool.InstanceState{pool.Warm}, To: pool.Hibernating, Now: begin})
			no(err)
			_, err = s.Change(ctx, pool.Change{ID: id, From: []pool.InstanceState{pool.Hibernating}, To: pool.Hibernated, Now: begin})
			no(err)
		}
		for k := range machines {
			asleep(fmt.Sprint("i", k))
		}
		out := map[string]int{}
		measure := func(what string, do func()) {
			s.Statements = 0
			do()
			out[what] = s.Statements
		}
		measure("arrive", func() {
			g, err := s.Arrive(ctx, pool.Arrival{ID: "l", Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin})
			no(err)
			if !g.Claimed || g.Instance.State != pool.Resuming {
				t.Fatalf("it was not given one that sleeps: %+v", g)
			}
		})
		measure("intend", func() { intend("one") })
		no(s.SetGate(ctx, "a", pool.Gate{Reason: "breaker", Until: begin, Canary: time.Minute}, begin))
		measure("canary", func() { intend("two") })
		no(s.SetGate(ctx, "a", pool.Gate{}, begin))
		measure("asleep", func() { asleep("three") })
		_, err := s.Arrive(ctx, pool.Arrival{
			ID: "w", Choices: []pool.Choice{{Pool: "b", Shape: "other"}, {Pool: "c", Shape: "other"}}, Waiter: "w", Now: begin,
		})
		no(err)
		refuse := func(in string, want error) {
			_, err := s.Intend(ctx, pool.Intent{
				Instance: pool.Instance{ID: "never", Name: "never", Pool: in}, Lease: pool.LeaseKey{ID: "w"}, Now: begin,
			})
			if !errors.Is(err, want) {
				t.Fatalf("pool %s answers %v, want %v", in, err, want)
			}
		}
		measure("refused at a limit", func() { refuse("b", pool.ErrLimit) })
		measure("refused by a gate", func() { refuse("c", pool.ErrClosed) })
		measure("refused at a limit again", func() { refuse("b", pool.ErrLimit) })
		measure("refused by a gate again", func() { refuse("c", pool.ErrClosed) })
		return out
	}
	small := cost(3, 1)
	if diff := cmp.Diff(map[string]int{
		"arrive": 3, "intend": 7, "canary": 7, "asleep": 17, "refused at a limit": 6, "refused by a gate": 5,
		"refused at a limit again": 4, "refused by a gate again": 3,
	}, small); diff != "" {
		t.Errorf("statements of each operation differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(small, cost(300, 40)); diff != "" {
		t.Errorf("with 300 that sleep and 40 flavours (-small +now):\n%s", diff)
	}
}
