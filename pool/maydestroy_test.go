package pool

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// orphanEvidence is evidence on which a machine without a row is destroyed;
// each case of the table takes one thing away.
func orphanEvidence() evidence {
	created := noon.Add(-time.Hour)
	return evidence{
		Why: ReasonOrphan, Controller: "ours",
		Machine: &drivers.Instance{
			Ref:  drivers.Ref{Name: "runner-p-x"},
			Tags: drivers.Tags{Controller: "ours", Kind: string(Build), Created: created},
		},
		Lifetimes: []Lifetime{{From: created.Add(-time.Hour), To: created.Add(time.Hour)}},
		Complete:  true, ListedAt: noon.Add(-time.Second),
		Sightings: 2, FirstSeen: noon.Add(-10 * time.Minute), Grace: 5 * time.Minute,
	}
}

func TestMayDestroyOrphan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		edit func(*evidence)
		why  Reason // "" means it is destroyed
	}{
		{"a build machine made under this store's eyes, seen twice over the grace", func(*evidence) {}, ""},
		{"a gitspace is only reported", func(e *evidence) { e.Machine.Tags.Kind = string(Gitspace) }, KeepGitspace},
		{"a machine without a kind may be a gitspace", func(e *evidence) { e.Machine.Tags.Kind = "" }, KeepGitspace},
		{"another controller's", func(e *evidence) { e.Machine.Tags.Controller = "theirs" }, KeepForeign},
		{"nobody's", func(e *evidence) { e.Machine.Tags.Controller = "" }, KeepForeign},
		{"seen once", func(e *evidence) { e.Sightings = 1 }, KeepSightings},
		{"seen twice in quick succession", func(e *evidence) { e.FirstSeen = noon.Add(-time.Minute) }, KeepSightings},
		{"in a partial listing", func(e *evidence) { e.Complete = false }, KeepIncomplete},
		{"in a stale listing", func(e *evidence) { e.ListedAt = noon.Add(-6 * time.Minute) }, KeepIncomplete},
		{"in a listing from the future", func(e *evidence) { e.ListedAt = noon.Add(time.Hour) }, KeepIncomplete},
		{"in a listing without a time", func(e *evidence) { e.ListedAt = time.Time{} }, KeepIncomplete},
		{"the store is empty: it was never alive before", func(e *evidence) { e.Lifetimes = nil }, KeepUnwatched},
		{
			"the store is younger than the machine",
			func(e *evidence) { e.Lifetimes = []Lifetime{{From: noon.Add(-time.Minute), To: noon}} },
			KeepUnwatched,
		},
		{
			"the store is an old copy: the machine was made after its last heartbeat",
			func(e *evidence) {
				e.Lifetimes = []Lifetime{{From: noon.Add(-48 * time.Hour), To: noon.Add(-24 * time.Hour)}, {From: noon.Add(-time.Minute), To: noon}}
			},
			KeepUnwatched,
		},
		{
			"the cloud made it after its end was confirmed, while no store was watching",
			func(e *evidence) { e.Lifetimes, e.HadRow = nil, true }, "",
		},
		{"a machine without a creation time", func(e *evidence) { e.Machine.Tags.Created = time.Time{} }, KeepUnwatched},
		{"the clock jumped", func(e *evidence) { e.ClockSuspicious = true }, KeepClock},
		{"no machine", func(e *evidence) { e.Machine = nil }, KeepUnknown},
		{"another reason than being an orphan", func(e *evidence) { e.Why = ReasonExpired }, KeepUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := orphanEvidence()
			tc.edit(&e)
			may, why := mayDestroy(nil, e, noon)
			if want := tc.why == ""; may != want || (!want && why != tc.why) {
				t.Errorf("got %t %q, want %t %q", may, why, want, tc.why)
			}
		})
	}
}

func TestMayDestroyRow(t *testing.T) {
	t.Parallel()
	warm := Instance{ID: "i", State: Warm, Kind: Build, Created: noon.Add(-80 * time.Hour), Warmed: noon.Add(-73 * time.Hour)}
	leased := Instance{ID: "i", State: Leased, Kind: Build, LeaseID: "l", LeaseGeneration: 2, Created: noon.Add(-30 * time.Hour)}
	live := Lease{ID: "l", Generation: 2, InstanceID: "i", State: LeaseActive, Kind: Build, Arrived: noon.Add(-30 * time.Hour), LastCall: noon.Add(-2 * time.Hour)}
	with := func(l Lease, f func(*Lease)) *Lease { f(&l); return &l }
	inst := func(i Instance, f func(*Instance)) Instance { f(&i); return i }
	busy := evidence{Why: ReasonBusyAge, BusyAge: 24 * time.Hour, Idle: time.Hour}
	for _, tc := range []struct {
		name string
		row  Instance
		e    evidence
		why  Reason // "" means it is destroyed
	}{
		{"a warm machine past its free age", warm, evidence{Why: ReasonExpired, FreeAge: 72 * time.Hour}, ""},
		{"a warm machine that is younger", warm, evidence{Why: ReasonExpired, FreeAge: 96 * time.Hour}, KeepYoung},
		{"a warm machine past its own deadline", inst(warm, func(i *Instance) { i.Deadline = noon }), evidence{Why: ReasonExpired, FreeAge: 96 * time.Hour}, ""},
		{"by age after a clock jump", warm, evidence{Why: ReasonExpired, FreeAge: 72 * time.Hour, ClockSuspicious: true}, KeepClock},
		{"held by an operator", inst(warm, func(i *Instance) { i.Held = true }), evidence{Why: ReasonExpired, FreeAge: 72 * time.Hour}, KeepHeld},
		{"held, although its lease ended", inst(leased, func(i *Instance) { i.Held = true }), evidence{Why: ReasonReleased}, KeepHeld},
		{"a drifted warm machine", warm, evidence{Why: ReasonDrifted}, ""},
		{"a drifted machine that was claimed meanwhile", leased, evidence{Why: ReasonDrifted, Lease: &live}, KeepLeased},
		{"a surplus machine that is booting", inst(warm, func(i *Instance) { i.State = Booting }), evidence{Why: ReasonSurplus}, KeepState},
		{"a suspended gitspace by age", inst(leased, func(i *Instance) { i.Kind, i.State = Gitspace, Suspended }), evidence{Why: ReasonExpired, FreeAge: 1}, KeepGitspace},
		{"the machine of a live lease", leased, evidence{Why: ReasonReleased, Lease: &live}, KeepLeased},
		{"the machine of an ended lease", leased, evidence{Why: ReasonReleased, Lease: with(live, func(l *Lease) { l.State = LeaseEnded })}, ""},
		{
			"an older machine of a lease that has another by now",
			leased,
			evidence{Why: ReasonReleased, Lease: with(live, func(l *Lease) { l.InstanceID = "j" })},
			"",
		},
		{"a broken machine of a live lease", leased, evidence{Why: ReasonBroken, Lease: &live}, KeepLeased},
		{"a build past its busy age in which nothing happens", leased, withLease(busy, &live), ""},
		{"a running step outlives the busy age", leased, withSteps(withLease(busy, &live), 1), KeepBusy},
		{"nobody can say whether a step runs", leased, withSteps(withLease(busy, &live), -1), KeepBusy},
		{"a call an hour ago at most", leased, withLease(busy, with(live, func(l *Lease) { l.LastCall = noon.Add(-59 * time.Minute) })), KeepBusy},
		{"a build within its busy age", leased, withLease(busy, with(live, func(l *Lease) { l.Arrived = noon.Add(-23 * time.Hour) })), KeepYoung},
		{"a gitspace has no busy age", inst(leased, func(i *Instance) { i.Kind = Gitspace }), withLease(busy, &live), KeepGitspace},
		{"busy age after a clock jump", leased, evidence{Why: ReasonBusyAge, BusyAge: 1, Idle: 1, Lease: &live, ClockSuspicious: true}, KeepClock},
		{"no reason", warm, evidence{}, KeepUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			may, why := mayDestroy(&tc.row, tc.e, noon)
			if want := tc.why == ""; may != want || (!want && why != tc.why) {
				t.Errorf("got %t %q, want %t %q", may, why, want, tc.why)
			}
		})
	}
}

func withLease(e evidence, l *Lease) evidence { e.Lease = l; return e }
func withSteps(e evidence, n int) evidence    { e.RunningSteps = n; return e }
func pick[T any](r *rand.Rand, from ...T) T   { return from[r.IntN(len(from))] }
func within(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(2*d))) - d
}

// TestMayDestroyProperties asks the gate about a hundred thousand worlds drawn
// at random and checks the sentences that must hold in all of them.
func TestMayDestroyProperties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	yes, orders := 0, 0
	for range 100_000 {
		e := evidence{
			Why:             pick(r, ReasonReleased, ReasonBroken, ReasonExpired, ReasonDrifted, ReasonSurplus, ReasonBusyAge, ReasonOrphan, ReasonOperator),
			RunningSteps:    r.IntN(3) - 1,
			ClockSuspicious: r.IntN(4) == 0,
			FreeAge:         72 * time.Hour, BusyAge: 24 * time.Hour, Idle: time.Hour,
			Controller: pick(r, "ours", ""), Complete: r.IntN(4) > 0,
			ListedAt: noon.Add(within(r, 8*time.Minute)), Sightings: r.IntN(4),
			FirstSeen: noon.Add(within(r, 10*time.Minute)), Grace: 5 * time.Minute, HadRow: r.IntN(4) == 0,
			HasRow: r.IntN(4) == 0, Order: OrphanOrder{Foreign: r.IntN(2) == 0, Gitspace: r.IntN(2) == 0, Disks: r.IntN(2) == 0},
		}
		var row *Instance
		if r.IntN(3) > 0 {
			row = &Instance{
				ID: pick(r, "i", "j"), Kind: pick(r, Build, Gitspace), State: pick(r, InstanceStates()...),
				Held: r.IntN(5) == 0, LeaseID: pick(r, "", "l"), LeaseGeneration: int64(r.IntN(2)),
				Created: noon.Add(within(r, 100*time.Hour)), Warmed: noon.Add(within(r, 100*time.Hour)),
				Deadline: noon.Add(within(r, 100*time.Hour)),
			}
		}
		if r.IntN(2) == 0 {
			e.Lease = &Lease{
				ID: "l", Generation: int64(r.IntN(2)), InstanceID: pick(r, "i", "j"), Kind: pick(r, Build, Gitspace),
				State: pick(r, LeaseStates()...), Arrived: noon.Add(within(r, 50*time.Hour)), LastCall: noon.Add(within(r, 3*time.Hour)),
			}
		}
		if r.IntN(3) > 0 {
			created := noon.Add(within(r, 50*time.Hour))
			e.Machine = &drivers.Instance{Tags: drivers.Tags{
				Controller: pick(r, "ours", "theirs", ""), Kind: pick(r, string(Build), string(Gitspace), ""), Created: created,
			}}
			e.Lifetimes = []Lifetime{{From: created.Add(within(r, time.Hour)), To: created.Add(within(r, 2*time.Hour))}}
		}
		if e.Machine == nil && r.IntN(2) == 0 {
			e.Disk = &drivers.Disk{Tags: drivers.Tags{Controller: pick(r, "ours", "theirs", "")}}
		}
		may, why := mayDestroy(row, e, noon)
		if why == "" {
			t.Fatalf("no reason given: row %+v evidence %+v", row, e)
		}
		if !may {
			continue
		}
		yes++
		if why != e.Why {
			t.Fatalf("destroyed for %q, asked for %q", why, e.Why)
		}
		switch {
		case row == nil && e.HasRow:
			t.Fatalf("what has a row is destroyed as an orphan: %+v", e)
		case row == nil && e.Why == ReasonOperator:
			orders++
			checkOrder(t, e)
			continue
		case row == nil && e.Disk != nil:
			t.Fatalf("a disk is deleted without an order: %+v", e)
		}
		if row == nil {
			m := e.Machine
			if m.Tags.Kind != string(Build) || m.Tags.Controller != e.Controller || !e.Complete || e.Sightings < 2 || e.ClockSuspicious {
				t.Fatalf("an orphan is destroyed on thin evidence: %+v", e)
			}
			continue
		}
		live := e.Lease != nil && !e.Lease.State.Final() && e.Lease.ID == row.LeaseID &&
			e.Lease.Generation == row.LeaseGeneration && e.Lease.InstanceID == row.ID
		switch {
		case row.Held:
			t.Fatalf("a held machine is destroyed: %+v", row)
		case live && e.Why != ReasonBusyAge:
			t.Fatalf("the machine of a live lease is destroyed: %+v %+v", row, e.Lease)
		case live && (e.RunningSteps != 0 || e.Lease.Kind == Gitspace || e.ClockSuspicious):
			t.Fatalf("a busy lease is ended by age: %+v %+v", row, e)
		case row.Kind == Gitspace && (e.Why == ReasonExpired || e.Why == ReasonDrifted || e.Why == ReasonSurplus):
			t.Fatalf("a gitspace is destroyed by policy: %+v", row)
		}
	}
	if yes < 1000 || orders < 100 {
		t.Fatalf("only %d of the worlds let anything be destroyed, %d by order: the test has lost its teeth", yes, orders)
	}
}

// checkOrder checks what an operator's order for something without a row may
// reach: only what it names by its words.
func checkOrder(t *testing.T, e evidence) {
	t.Helper()
	var tags drivers.Tags
	switch {
	case e.Machine != nil:
		tags = e.Machine.Tags
		if tags.Kind != string(Build) && !e.Order.Gitspace {
			t.Fatalf("what may be a gitspace is destroyed without the word for it: %+v", e)
		}
	case e.Disk != nil:
		tags = e.Disk.Tags
		if !e.Order.Disks {
			t.Fatalf("a disk is deleted without the word for it: %+v", e)
		}
	default:
		t.Fatalf("nothing is destroyed: %+v", e)
	}
	if (tags.Controller == "" || tags.Controller != e.Controller) && !e.Order.Foreign {
		t.Fatalf("another controller's is destroyed without the word for it: %+v", e)
	}
	if noon.Sub(e.ListedAt) > maxListingAge {
		t.Fatalf("an order is carried out on an old listing: %+v", e)
	}
}

func TestClockGuard(t *testing.T) {
	t.Parallel()
	var c clockGuard
	if c.check(noon, 0) || c.check(noon.Add(10*time.Second), 10*time.Second) {
		t.Error("a steady clock is suspected")
	}
	if c.suspicious(11 * time.Second) {
		t.Error("a steady clock is distrusted")
	}
	for _, wall := range []time.Time{noon.Add(time.Hour), noon.Add(-24 * time.Hour)} {
		c := clockGuard{}
		c.check(noon, 0)
		if !c.check(wall, 10*time.Second) {
			t.Errorf("a jump to %s is not noticed", wall)
		}
		if !c.suspicious(time.Minute) || c.suspicious(2*time.Hour) {
			t.Errorf("distrust after a jump to %s does not last an hour", wall)
		}
	}
}

func TestBackoffGrowsToAMinute(t *testing.T) {
	t.Parallel()
	for i := range 12 {
		if d := backoffAfter(i); d < backoffAfterLeast(i) || d > backoffMost {
			t.Errorf("pause %d is %s", i, d)
		}
	}
}

func backoffAfterLeast(n int) time.Duration {
	if n >= 6 {
		return backoffMost * 3 / 4
	}
	return (backoffFirst << n) * 3 / 4
}

func TestOnlyItsOwnersDoomedDetachedDiskWithOurTagsIsDeleted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, c := range []struct {
		name string
		edit func(e *evidence)
		want Reason
	}{
		{"its owner's wish", func(*evidence) {}, ReasonReleased},
		{"taken over with the tags of a store that was lost", func(e *evidence) {
			e.Disk.Tags.Controller, e.DiskRow.Controller = "lost", "lost"
		}, ReasonReleased},
		{"nobody has asked", func(e *evidence) { e.DiskRow.Doomed = time.Time{} }, KeepDisk},
		{"a machine has it", func(e *evidence) { e.DiskRow.Instance = "i" }, KeepDisk},
		{"another disk's row", func(e *evidence) { e.DiskRow.Name = "other" }, KeepDisk},
		{"no row", func(e *evidence) { e.DiskRow = nil }, KeepUnknown},
		{"another controller's tags", func(e *evidence) { e.Disk.Tags.Controller = "theirs" }, KeepForeign},
		{"no tags", func(e *evidence) { e.Disk.Tags = drivers.Tags{} }, KeepForeign},
		{"a build's tags", func(e *evidence) { e.Disk.Tags.Kind = string(Build) }, KeepForeign},
		{"an old listing", func(e *evidence) { e.ListedAt = now.Add(-time.Hour) }, KeepIncomplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := evidence{
				Why: ReasonReleased, Controller: "ours", ListedAt: now, Complete: true,
				Disk:    &drivers.Disk{Name: "home", Tags: drivers.Tags{Controller: "ours", Kind: string(Gitspace)}},
				DiskRow: &Disk{Name: "home", Doomed: now.Add(-time.Minute)},
			}
			c.edit(&e)
			may, why := mayDestroy(nil, e, now)
			if why != c.want || may != (c.want == ReasonReleased) {
				t.Errorf("may %v, %s; want %s", may, why, c.want)
			}
		})
	}
}
