package pool

import "sync/atomic"

const (
	// rampFirst is how many machines a pool begins as refill before one of them
	// is proven, after a start or when another replica's pool is taken over: a
	// thousand at once would find a bad image or a full cloud a thousand times.
	rampFirst = 4
	// rampFactor is how many may be under way for each that was proven.
	rampFactor = 2
)

// ramp bounds refill after a restart. The zero value is ready and begins anew.
// Safe for concurrent use.
type ramp struct{ proven atomic.Int64 }

// begin forgets what was proven: the pool is new to this process.
func (r *ramp) begin() { r.proven.Store(0) }

// up counts a machine that was proven.
func (r *ramp) up() { r.proven.Add(1) }

// limit is how many machines may be under way as refill.
func (r *ramp) limit() int { return int(max(rampFirst, rampFactor*r.proven.Load())) }
