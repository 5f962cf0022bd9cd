package testclock

import (
	"testing"
	"time"
)

func TestTheWallClockIsSetWithoutTheMonotonicOne(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, off := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour} {
		before, after := reading(now, 0), reading(now.Add(3*time.Second), off)
		if got := after.Sub(before); got != 3*time.Second {
			t.Errorf("off by %v: the monotonic clock went on by %v, not 3s", off, got)
		}
		if got := after.Round(0).Sub(now.Round(0)); got != off+3*time.Second {
			t.Errorf("off by %v: the wall clock went on by %v", off, got)
		}
		if got, want := after.Unix(), now.Add(off+3*time.Second).Unix(); got != want {
			t.Errorf("off by %v: it is %d, not %d", off, got, want)
		}
	}
}
