package pool

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustZone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func at(t *testing.T, zone *time.Location, text string) time.Time {
	t.Helper()
	v, err := time.ParseInLocation("2006-01-02 15:04", text, zone)
	if err != nil {
		t.Fatal(err)
	}
	return v.UTC()
}

const hour = time.Hour

func TestScheduleReplacesTheTargetWhileItApplies(t *testing.T) {
	t.Parallel()
	berlin, newYork := mustZone(t, "Europe/Berlin"), mustZone(t, "America/New_York")
	weekdays := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	office := Schedule{Days: weekdays, From: 8 * hour, To: 18 * hour, Zone: berlin, Min: 20}
	night := Schedule{Days: []time.Weekday{time.Friday}, From: 22 * hour, To: 6 * hour, Zone: berlin, Min: 7}
	always := Schedule{From: 0, To: 0, Zone: time.UTC, Min: 3}
	for _, tc := range []struct {
		name      string
		schedules []Schedule
		now       time.Time
		want      int
		next      time.Time
	}{
		{"without a schedule the pool's own target holds for ever", nil, at(t, berlin, "2026-03-03 12:00"), 1, time.Time{}},
		{"within the period", []Schedule{office}, at(t, berlin, "2026-03-03 08:00"), 20, at(t, berlin, "2026-03-03 18:00")},
		{"the end is outside", []Schedule{office}, at(t, berlin, "2026-03-03 18:00"), 1, at(t, berlin, "2026-03-04 08:00")},
		{"on another day", []Schedule{office}, at(t, berlin, "2026-03-07 12:00"), 1, at(t, berlin, "2026-03-09 08:00")},
		{"a period over midnight belongs to the day it begins on", []Schedule{night}, at(t, berlin, "2026-03-07 05:00"), 7, at(t, berlin, "2026-03-07 06:00")},
		{"and does not begin in the small hours of that day", []Schedule{night}, at(t, berlin, "2026-03-06 05:00"), 1, at(t, berlin, "2026-03-06 22:00")},
		{"the day is the zone's, not the runner's", []Schedule{{
			Days: []time.Weekday{time.Monday}, From: 20 * hour, To: 22 * hour, Zone: newYork, Min: 9,
		}}, at(t, time.UTC, "2026-03-03 02:00"), 9, at(t, time.UTC, "2026-03-03 03:00")},
		{"from a time to the same time is the whole day", []Schedule{always}, at(t, time.UTC, "2026-03-03 23:59"), 3, at(t, time.UTC, "2026-03-04 00:00")},
		{"of several that apply the last wins", []Schedule{always, office}, at(t, berlin, "2026-03-03 09:00"), 20, at(t, berlin, "2026-03-03 18:00")},
		{"in whatever order", []Schedule{office, always}, at(t, berlin, "2026-03-03 09:00"), 3, at(t, berlin, "2026-03-03 18:00")},
		{
			"before the clocks go forward eight o'clock is 07:00 UTC",
			[]Schedule{office},
			at(t, time.UTC, "2026-03-27 07:00"), 20, at(t, time.UTC, "2026-03-27 17:00"),
		},
		{
			"after they went forward it is 06:00 UTC",
			[]Schedule{office},
			at(t, time.UTC, "2026-03-30 06:00"), 20, at(t, time.UTC, "2026-03-30 16:00"),
		},
		{
			"across the change the next period is counted by the wall clock",
			[]Schedule{office},
			at(t, time.UTC, "2026-03-29 12:00"), 1, at(t, time.UTC, "2026-03-30 06:00"),
		},
		{
			"a night in which they go back is an hour longer",
			[]Schedule{{From: 22 * hour, To: 6 * hour, Zone: berlin, Min: 5}},
			at(t, time.UTC, "2026-10-25 04:59"), 5, at(t, time.UTC, "2026-10-25 05:00"),
		},
		{
			"a beginning that is left out when they go forward comes an hour later by the wall clock",
			[]Schedule{{From: 2*hour + 30*time.Minute, To: 10 * hour, Zone: berlin, Min: 5}},
			at(t, time.UTC, "2026-03-29 00:00"), 1, at(t, time.UTC, "2026-03-29 01:30"),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := PoolConfig{Name: "p", Min: 1, Schedules: tc.schedules}
			fs := flavoursOf(&tenancy{id: DefaultFlavour, cfg: p}, p.Min, -1, nil)
			mins, next := targets(p, fs, Override{}, tc.now)
			if mins[0] != tc.want {
				t.Errorf("target %d, want %d", mins[0], tc.want)
			}
			if !next.Equal(tc.next) {
				t.Errorf("next change at %s, want %s", next.UTC(), tc.next)
			}
		})
	}
}

// At every minute of a year the target is what it is until the change that was
// announced, and other than before right after.
func TestScheduleChangesOnlyWhenAnnounced(t *testing.T) {
	t.Parallel()
	zone := mustZone(t, "America/New_York")
	p := PoolConfig{Name: "p", Min: 1, Schedules: []Schedule{
		{Days: []time.Weekday{time.Monday, time.Sunday}, From: hour + 30*time.Minute, To: 9 * hour, Zone: zone, Min: 4},
		{Days: []time.Weekday{time.Saturday}, From: 22 * hour, To: 2*hour + 15*time.Minute, Zone: zone, Min: 6},
	}}
	fs := flavoursOf(&tenancy{id: DefaultFlavour, cfg: p}, p.Min, -1, nil)
	now := at(t, time.UTC, "2026-01-01 00:00")
	mins, next := targets(p, fs, Override{}, now)
	changes := 0
	for end := now.AddDate(1, 0, 0); now.Before(end); now = now.Add(time.Minute) {
		got, after := targets(p, fs, Override{}, now)
		switch {
		case now.Before(next) && got[0] != mins[0]:
			t.Fatalf("at %s the target is %d without an announcement", now, got[0])
		case !now.Before(next):
			changes++
		}
		if !after.After(now) || after.Sub(now) > 8*24*hour {
			t.Fatalf("at %s the next change is at %s", now, after)
		}
		mins, next = got, after
	}
	if changes < 250 {
		t.Errorf("only %d changes in a year", changes)
	}
}

func TestScheduleAndOverrideOfFlavours(t *testing.T) {
	t.Parallel()
	p := PoolConfig{
		Name: "p", Min: 2,
		Variants: []VariantConfig{{ID: "large", Min: 3, Max: -1}},
		Schedules: []Schedule{
			{Zone: time.UTC, Min: 8, Variant: "large"},
			{Zone: time.UTC, Min: 9, Tenant: "acme"},
		},
	}
	fs := flavoursOf(&tenancy{id: DefaultFlavour, cfg: p}, p.Min, -1, p.Variants)
	fs = append(fs, flavoursOf(&tenancy{id: "acme", cfg: p}, 1, -1, p.Variants)...)
	zero, four := 0, 4
	for _, tc := range []struct {
		name string
		o    Override
		want []int
	}{
		{"a schedule is for one flavour", Override{}, []int{2, 8, 9, 3}},
		{"an operator's target is for the default flavour", Override{Min: &four}, []int{4, 8, 9, 3}},
		{"zero is for all", Override{Min: &zero}, []int{0, 0, 0, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, _ := targets(p, fs, tc.o, noon)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("targets (-want +got):\n%s", diff)
			}
		})
	}
}
