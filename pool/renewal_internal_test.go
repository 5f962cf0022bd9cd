package pool

import (
	"testing"
	"time"
)

func TestWhenCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		kind     Kind
		validity time.Duration
		// before is how long before the end the earliest is, by a quarter of
		// which the machine's id may put it off.
		before time.Duration
	}{
		"a gitspace's, with a third of its life left":                 {Gitspace, 1080 * day, 360 * day},
		"a gitspace's on a machine that was made for builds":          {Gitspace, 5 * day, 40 * time.Hour},
		"a build's, when its machine has outlived its own deadline":   {Build, 5 * day, buildRenewal},
		"a build's that is good for a day, with a third of its life ": {Build, day, 8 * time.Hour},
	} {
		first, last := time.Duration(0), 10*c.validity
		for range 32 {
			id := NewID()
			identity, err := NewIdentity(id, id, "s", nil, made, c.validity)
			if err != nil {
				t.Fatal(err)
			}
			r, ok := renewalOf(Instance{ID: id, Kind: c.kind, Identity: identity}, 1080*day)
			if !ok || !r.end.Equal(made.Add(c.validity)) {
				t.Fatalf("%s: ends %s", name, r.end)
			}
			left := r.end.Sub(r.due)
			// The certificate begins five minutes before it was made.
			if left > c.before+2*time.Minute || left < c.before*3/4-time.Minute {
				t.Errorf("%s: %s before its end, want %s to %s", name, left, c.before*3/4, c.before)
			}
			first, last = max(first, left), min(last, left)
			if r.late(r.due) || !r.late(r.end.Add(-time.Minute)) {
				t.Errorf("%s: late at once, or never", name)
			}
		}
		if first-last < c.before/20 {
			t.Errorf("%s: 32 machines are renewed within %s", name, first-last)
		}
	}
	if _, ok := renewalOf(Instance{}, day); ok {
		t.Error("a machine without a certificate has one to renew")
	}
}

func TestHowSoonACertificateIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	end := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := renewal{due: end.Add(-48 * time.Hour), end: end}
	for name, c := range map[string]struct {
		left, want time.Duration
	}{
		"long before it is due":       {72 * time.Hour, time.Hour},
		"soon due":                    {48*time.Hour + 20*time.Minute, 20 * time.Minute},
		"due and not renewed":         {24 * time.Hour, time.Hour},
		"two hours before its end":    {2 * time.Hour, 30 * time.Minute},
		"a minute before its end":     {time.Minute, time.Minute},
		"ended, and nobody can renew": {-time.Minute, time.Hour},
	} {
		if got := r.next(end.Add(-c.left)); got != c.want {
			t.Errorf("%s: after %s, want %s", name, got, c.want)
		}
	}
}
