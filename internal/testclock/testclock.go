// Package testclock is a clock for tests whose wall reading can be set while
// its monotonic one goes on, as the clock of a real host can. Only tests import
// it.
package testclock

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Clock is a host's clock. The zero Clock is right. It is safe for concurrent
// use.
type Clock struct {
	off atomic.Int64
	// worst is the furthest it was ever off, set when it was last set.
	worst, at atomic.Int64
}

// Now is the time with both readings.
func (c *Clock) Now() time.Time { return reading(time.Now(), time.Duration(c.off.Load())) }

// Set makes the wall clock wrong by off, cut to seconds; no timer notices.
func (c *Clock) Set(off time.Duration) {
	c.off.Store(int64(off))
	c.at.Store(time.Now().UnixNano())
	c.worst.Store(max(c.worst.Load(), int64(off.Abs())))
}

// Slew makes the wall clock wrong by off, cut to seconds, as a clock that nobody
// sets becomes by itself: that is no jump.
func (c *Clock) Slew(off time.Duration) { c.off.Store(int64(off)) }

// Off is by how much it is wrong.
func (c *Clock) Off() time.Duration { return time.Duration(c.off.Load()) }

// Jumped is when it was last set, by the true time; zero if never.
func (c *Clock) Jumped() time.Time {
	if at := c.at.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Worst is the furthest it was ever off.
func (c *Clock) Worst() time.Duration { return time.Duration(c.worst.Load()) }

// monoZero is an arbitrary moment long before every other: what monotonic
// readings count from.
var monoZero = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)

// reading is the true time t on a clock that is off by whole seconds. Package
// time has no way to say that wall and monotonic clock differ (and its Now has
// no monotonic reading in a bubble), so this writes what its Now does outside
// of one: a flag, 33 bits of seconds since 1885, 30 bits of nanoseconds; and
// the monotonic reading.
func reading(t time.Time, off time.Duration) time.Time {
	const unixOf1885 = -2682288000
	t = t.Round(0)
	off = off.Truncate(time.Second)
	out := t
	raw := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&out))
	raw.wall = 1<<63 | uint64(t.Unix()+int64(off/time.Second)-unixOf1885)<<30 | uint64(t.Nanosecond())
	raw.ext = int64(t.Sub(monoZero))
	return out
}
