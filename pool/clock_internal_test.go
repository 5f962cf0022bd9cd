package pool

import (
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// After the clock was set back, what was written before lies ahead. Nothing
// waits for that time to come again.
func TestWhatWasWrittenBeforeTheClockWasSetBackHoldsNothingUp(t *testing.T) {
	t.Parallel()
	before := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	now := before.Add(-24 * time.Hour)
	m := &Manager{t: Timeouts{}.withDefaults()}

	gate := Gate{Reason: "quota", Since: before, Until: before.Add(time.Minute)}
	if gate.Closed(now) || !gate.Closed(before) {
		t.Errorf("closed now %t, before %t; want it open now", gate.Closed(now), gate.Closed(before))
	}
	if other := before.Add(-time.Second); !gate.Closed(other) {
		t.Error("a replica whose clock is a second behind takes the gate for open")
	}

	lease := Lease{Arrived: before, WaitUntil: before.Add(10 * time.Minute)}
	if got, want := m.waitDue(lease, now), now.Add(10*time.Minute+m.t.Grace); !got.Equal(want) {
		t.Errorf("a waiting lease is due %s, want %s", got, want)
	}
	if got, want := m.waitDue(lease, before.Add(time.Minute)), before.Add(10*time.Minute+m.t.Grace); !got.Equal(want) {
		t.Errorf("while the clock is right it is due %s, want %s", got, want)
	}

	sc := newScope("s", true)
	row := Instance{ID: "i", Since: before}
	first := sc.entered(row.ID, row.Since, now)
	if !first.Equal(now) || !sc.entered(row.ID, row.Since, now.Add(time.Minute)).Equal(now) {
		t.Errorf("the row entered its state at %s, want when it was first seen, %s", first, now)
	}
	row.Since = now.Add(2 * time.Minute)
	if got := sc.entered(row.ID, row.Since, now.Add(3*time.Minute)); !got.Equal(row.Since) {
		t.Errorf("a later transition counts from %s, want its own time", got)
	}
}

// The clock is set back under a sweeper that has looked before: what it saw then
// lies ahead too.
func TestASweeperNoticesDeathsAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	before := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	now := before.Add(-24 * time.Hour)
	listed := func(at time.Time) listing {
		return listing{Listing: drivers.Listing{At: at, Complete: true}}
	}
	sc := newScope("s", true)
	row := Instance{ID: "i", Since: before}
	if got := sc.entered(row.ID, row.Since, before.Add(time.Minute)); !got.Equal(before) {
		t.Errorf("while the clock is right it entered its state at %s, want %s", got, before)
	}
	if sc.missed(row, listed(before.Add(time.Minute)), before.Add(time.Minute)) {
		t.Error("missing after one listing")
	}
	if got := sc.entered(row.ID, row.Since, now); !got.Equal(now) {
		t.Errorf("after the clock was set back it entered its state at %s, want %s", got, now)
	}
	for n := 1; n <= 2; n++ {
		at := now.Add(time.Duration(n) * time.Minute)
		if got, want := sc.missed(row, listed(at), at), n == 2; got != want {
			t.Errorf("missing after %d listings since then: %t, want %t", n, got, want)
		}
	}

	var s sighting
	s.see(listed(before), before)
	for n := 1; n <= 2; n++ {
		s.see(listed(now.Add(time.Duration(n)*time.Minute)), now.Add(time.Duration(n)*time.Minute))
	}
	if s.times != 2 || !s.first.Equal(now.Add(time.Minute)) {
		t.Errorf("a stranger was seen %d times since %s, want 2 since the clock was set back", s.times, s.first)
	}
}

// What began before a jump is written after it: once is not enough.
func TestDueTimesAreMendedForAWhileAfterAJump(t *testing.T) {
	t.Parallel()
	var r mending
	if r.due(time.Hour, false) {
		t.Error("without a jump")
	}
	var at []time.Duration
	for up := time.Hour; up < 2*time.Hour; up += 5 * time.Second {
		if r.due(up, up == time.Hour) {
			at = append(at, up-time.Hour)
		}
	}
	if len(at) != 10 || at[0] != 0 || at[1] != time.Minute || at[9] != 9*time.Minute {
		t.Errorf("mended %v after the jump", at)
	}
}
