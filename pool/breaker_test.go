package pool

import (
	"testing"
	"time"
)

// story plays failures and successes, one a second, on a gate.
type story struct {
	t    *testing.T
	g    Gate
	c    Guards
	now  time.Time
	last bool
}

func tale(t *testing.T, c Guards) *story {
	return &story{t: t, c: c.withDefaults(), now: noon}
}

// fail is a failure of a machine begun just now, or if old before it closed.
func (s *story) fail(kind string, n int) {
	for range n {
		s.now = s.now.Add(time.Second)
		s.g, s.last = s.g.failed(s.c, failure{Kind: kind, Detail: kind, Begun: s.now.Add(-time.Millisecond), Trial: time.Minute}, s.now)
	}
}

func (s *story) want(reason string, pause time.Duration) {
	s.t.Helper()
	if s.g.Reason != reason {
		s.t.Fatalf("gate %+v, want reason %q", s.g, reason)
	}
	if got := s.g.Until.Sub(s.now); reason != "" && got != pause {
		s.t.Errorf("%s for %s, want %s", reason, got, pause)
	}
}

func TestBreakerOpensAfterFailuresInARowAndPausesLongerEachTime(t *testing.T) {
	t.Parallel()
	s := tale(t, Guards{Failures: 3, MaxPause: 5 * time.Minute})
	s.fail("transient", 2)
	s.want("", 0)
	s.g = s.g.succeeded(s.now, true)
	s.fail("transient", 2)
	s.want("", 0)
	s.fail("timeout", 1)
	s.want(GateBreaker, time.Minute)
	if !s.last {
		t.Error("the closing is not told")
	}
	// What was under way when it closed is no news, whatever becomes of it.
	before := s.g
	for _, kind := range []string{"transient", "capacity", "quota"} {
		g, trip := s.g.failed(s.c, failure{Kind: kind, Begun: before.Since}, s.now.Add(time.Second))
		if g != before || trip {
			t.Errorf("a late %s changed the gate to %+v", kind, g)
		}
	}
	if g := s.g.succeeded(before.Since, true); g != before {
		t.Errorf("a late success changed the gate to %+v", g)
	}
	for _, pause := range []time.Duration{2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		s.now = s.g.Until
		if s.g.Closed(s.now) || s.g.Canary == 0 {
			t.Fatalf("no canary after the pause: %+v", s.g)
		}
		s.fail("invalid", 1)
		s.want(GateBreaker, pause)
	}
	s.now = s.g.Until
	if s.g = s.g.succeeded(s.now.Add(time.Second), false); s.g.Reason != GateBreaker {
		t.Error("a machine the cloud has accepted closed the breaker before it was proven")
	}
	if s.g = s.g.succeeded(s.now.Add(time.Second), true); s.g != (Gate{}) {
		t.Errorf("a proven canary leaves %+v", s.g)
	}
	s.fail("auth", 3)
	s.want(GateBreaker, time.Minute)
}

func TestRefusalsOfTheCloudCloseTheGateForTheirOwnTime(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind, reason string
		pauses       []time.Duration
	}{
		{"capacity", GateCapacity, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 2 * time.Minute, 2 * time.Minute}},
		{"quota", GateQuota, []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 30 * time.Minute}},
		{"rate_limited", GateThrottled, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			t.Parallel()
			s := tale(t, Guards{})
			s.fail("transient", 3)
			for _, p := range tc.pauses {
				s.fail(tc.kind, 1)
				s.want(tc.reason, p)
			}
			if s.g.Failures != 3 {
				t.Errorf("%d failures count, want the 3 before", s.g.Failures)
			}
			s.g = s.g.succeeded(s.now.Add(time.Second), false)
			s.want("", 0)
		})
	}
}

func TestRetryAfterOfTheCloudIsKept(t *testing.T) {
	t.Parallel()
	g, _ := Gate{}.failed(Guards{}.withDefaults(), failure{Kind: "rate_limited", After: 90 * time.Second, Begun: noon}, noon)
	if g.Until.Sub(noon) != 90*time.Second {
		t.Errorf("closed for %s", g.Until.Sub(noon))
	}
}

func TestBreakerThatIsSwitchedOffStaysShut(t *testing.T) {
	t.Parallel()
	s := tale(t, Guards{Failures: -1})
	s.fail("transient", 100)
	s.want("", 0)
}

func TestRefillRestsAfterEachFailure(t *testing.T) {
	t.Parallel()
	s := tale(t, Guards{})
	for _, rest := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		s.fail("transient", 1)
		if got := s.g.refillAfter().Sub(s.now); got != rest {
			t.Errorf("after %d failures refill rests %s, want %s", s.g.Failures, got, rest)
		}
	}
}

func TestCostCapClosesUntilMidnightAndOpensThen(t *testing.T) {
	t.Parallel()
	midnight := noon.Truncate(24 * time.Hour).Add(24 * time.Hour)
	open := Gate{Failures: 2, Kept: "x"}
	if g := open.capped(10, 9*time.Hour, noon); g != open {
		t.Errorf("below the cap the gate is %+v", g)
	}
	if g := open.capped(0, 1e6*time.Hour, noon); g != open {
		t.Errorf("without a cap the gate is %+v", g)
	}
	g := open.capped(10, 10*time.Hour, noon)
	if g.Reason != GateCost || !g.Until.Equal(midnight) || !g.Closed(noon) || g.Closed(midnight) {
		t.Fatalf("at the cap the gate is %+v", g)
	}
	for name, other := range map[string]Gate{
		"a failure": first(g.failed(Guards{}.withDefaults(), failure{Kind: "transient", Begun: noon.Add(time.Hour)}, noon.Add(time.Hour))),
		"a success": g.succeeded(noon.Add(time.Hour), true),
		"a look":    g.capped(10, 12*time.Hour, noon.Add(time.Hour)),
	} {
		if other != g {
			t.Errorf("%s changed it to %+v", name, other)
		}
	}
	if g := g.capped(10, 0, midnight); g != (Gate{Failures: 2, Kept: "x"}) {
		t.Errorf("the next day the gate is %+v", g)
	}
	if g := g.capped(10, 11*time.Hour, midnight); g.Reason != GateCost || !g.Until.Equal(midnight.Add(24*time.Hour)) {
		t.Errorf("over the cap of the next day too the gate is %+v", g)
	}
	if g := g.capped(20, 11*time.Hour, noon); g.Reason != "" {
		t.Errorf("with a higher cap the gate is %+v", g)
	}
}

func first(g Gate, _ bool) Gate { return g }

// Whatever is written while the gate is being written is written next, and what
// was read before a change does not undo it.
func TestGateOfTheStoreDoesNotUndoAChange(t *testing.T) {
	t.Parallel()
	var b breaker
	_, version := b.now()
	b.change(func(Gate) (Gate, []Event) { return Gate{Failures: 1}, nil })
	b.adopt(Gate{}, version)
	if g, _ := b.now(); g.Failures != 1 {
		t.Error("an older reading undid a failure")
	}
	b.dirty = false
	_, version = b.now()
	b.adopt(Gate{Failures: 7}, version)
	if g, _ := b.now(); g.Failures != 7 {
		t.Error("a newer reading was not taken")
	}
}

func TestRampGrowsWithWhatWasProven(t *testing.T) {
	t.Parallel()
	var r ramp
	for _, want := range []int{4, 4, 4, 6, 8} {
		if got := r.limit(); got != want {
			t.Errorf("limit %d, want %d", got, want)
		}
		r.up()
	}
	r.begin()
	if got := r.limit(); got != 4 {
		t.Errorf("limit %d after a new beginning", got)
	}
}

func TestAPauseForWantOfRoomIsCutShortOnceForEachClosing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"quota", "capacity"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := tale(t, Guards{})
			s.fail(kind, 4)
			pause := s.g.Until.Sub(s.now)
			// At once, it waits for others that go at the same time.
			if g := s.g.freed(s.now); g.Until.Sub(s.now) != roomGap || !g.Closed(s.now) || g.Canary == 0 {
				t.Errorf("freed at the moment it closed: %+v", g)
			}
			s.now = s.now.Add(roomGap + time.Second)
			s.g = s.g.freed(s.now)
			if s.g.Closed(s.now) || s.g.Canary == 0 {
				t.Fatalf("no canary although there is room: %+v", s.g)
			}
			// The canary is on its way: another machine that goes begins no second one.
			trial := s.g
			trial.Until = s.now.Add(trial.Canary)
			if g := trial.freed(s.now.Add(time.Second)); g != trial {
				t.Errorf("a second try beside the first: %+v", g)
			}
			s.fail(kind, 1)
			if got := s.g.Until.Sub(s.now); got != pause {
				t.Errorf("the early try was in vain, and the pause after it is %s, was %s", got, pause)
			}
			if s.g.Freed {
				t.Error("no further try when the next machine goes")
			}
			s.now = s.g.Until
			s.fail(kind, 1)
			if got := s.g.Until.Sub(s.now); got <= pause {
				t.Errorf("a pause that was waited for is followed by one of %s, not a longer one than %s", got, pause)
			}
		})
	}
}

func TestAMachineThatGoesChangesNothingOfOtherGates(t *testing.T) {
	t.Parallel()
	for _, g := range []Gate{
		{},
		{Failures: 2, Since: noon},
		{Reason: GateBreaker, Since: noon, Until: noon.Add(time.Hour), Canary: time.Minute},
		{Reason: GateThrottled, Since: noon, Until: noon.Add(time.Minute), Canary: time.Minute},
		{Reason: GateCost, Since: noon, Until: noon.Add(time.Hour)},
		{Reason: GateQuota, Since: noon, Until: noon.Add(time.Second), Canary: time.Minute}, // open by then
	} {
		if next := g.freed(noon.Add(2 * time.Second)); next != g {
			t.Errorf("%+v became %+v", g, next)
		}
	}
}
