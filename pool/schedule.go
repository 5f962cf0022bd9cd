package pool

import (
	"slices"
	"time"
)

// targets are the warm targets of a pool's flavours at now, in their order: the
// configured ones, where a schedule applies its own, and over both what an
// operator ordered. next is when a schedule changes them, zero for never.
func targets(p PoolConfig, flavours []*flavour, o Override, now time.Time) (mins []int, next time.Time) {
	mins = make([]int, len(flavours))
	for i, f := range flavours {
		mins[i] = f.Min
		for _, s := range slices.Backward(p.Schedules) {
			if same(s.Tenant, f.tenant.id) && same(s.Variant, f.ID) && s.applies(now) {
				mins[i] = s.Min
				break
			}
		}
		if o.Min != nil && (*o.Min == 0 || same(f.tenant.id, "") && same(f.ID, "")) {
			mins[i] = *o.Min
		}
	}
	for _, s := range p.Schedules {
		if at := s.next(now); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return mins, next
}

// applies says whether now is in one of the schedule's periods.
func (s Schedule) applies(now time.Time) bool {
	for days := -1; days <= 0; days++ {
		from, to, ok := s.period(now, days)
		if ok && !now.Before(from) && now.Before(to) {
			return true
		}
	}
	return false
}

// next is the first moment after now at which a period begins or ends.
func (s Schedule) next(now time.Time) time.Time {
	var first time.Time
	// A week from now the same day comes again; yesterday's period may still
	// go on.
	for days := -1; days <= 8; days++ {
		from, to, ok := s.period(now, days)
		for _, at := range []time.Time{from, to} {
			if ok && at.After(now) && (first.IsZero() || at.Before(first)) {
				first = at
			}
		}
	}
	return first
}

// period is the schedule's period that begins so many days from now's, by the
// zone's own calendar; ok is false if none begins on that day. The times are
// those that a clock on the wall shows: a night in which it is put forward or
// back makes the period an hour shorter or longer.
func (s Schedule) period(now time.Time, days int) (from, to time.Time, ok bool) {
	year, month, day := now.In(s.Zone).Date()
	begins := time.Date(year, month, day+days, 12, 0, 0, 0, s.Zone)
	if len(s.Days) > 0 && !slices.Contains(s.Days, begins.Weekday()) {
		return from, to, false
	}
	last := day + days
	if s.To <= s.From {
		last++
	}
	return wall(year, month, day+days, s.From, s.Zone), wall(year, month, last, s.To, s.Zone), true
}

// wall is when a clock in the zone shows that time of that day. A time that is
// left out when clocks go forward is taken by as much later; of one that comes
// twice the first is meant.
func wall(year int, month time.Month, day int, since time.Duration, zone *time.Location) time.Time {
	h, m, sec := int(since/time.Hour), int(since/time.Minute)%60, int(since/time.Second)%60
	return time.Date(year, month, day, h, m, sec, int(since%time.Second), zone)
}
