package loadgen

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets whose width is at most 1/128 of their
// value, so that every percentile is right to 0.8 %. Its size is fixed,
// whatever it counts. It is safe for concurrent use.
type histogram struct {
	buckets [buckets]atomic.Uint64
	count   atomic.Uint64
	sum     atomic.Int64
	min     atomic.Int64 // of the value plus one, so that zero means none
	max     atomic.Int64
}

const (
	subBits = 7 // 128 buckets per power of two
	subs    = 1 << subBits
	// For 63 bits of nanoseconds, of which the first 2*subs have exact buckets.
	buckets = (64 - subBits) * subs
)

func bucketOf(v uint64) int {
	if v < 2*subs {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift*subs + int(v>>shift)
}

// upperEdge is the largest value of a bucket.
func upperEdge(b int) uint64 {
	if b < 2*subs {
		return uint64(b)
	}
	shift := b/subs - 1
	return (uint64(b-shift*subs)+1)<<shift - 1
}

// record counts one duration; one below zero counts as zero.
func (h *histogram) record(d time.Duration) {
	v := max(int64(d), 0)
	h.buckets[bucketOf(uint64(v))].Add(1)
	h.count.Add(1)
	h.sum.Add(v)
	for {
		old := h.max.Load()
		if v <= old || h.max.CompareAndSwap(old, v) {
			break
		}
	}
	for {
		old := h.min.Load()
		if old != 0 && v+1 >= old || h.min.CompareAndSwap(old, v+1) {
			break
		}
	}
}

// quantile is a duration that at least the share q of all is not above.
func (h *histogram) quantile(q float64) time.Duration {
	total := h.count.Load()
	if total == 0 {
		return 0
	}
	rank := min(max(uint64(math.Ceil(q*float64(total))), 1), total)
	var seen uint64
	for b := range h.buckets {
		if seen += h.buckets[b].Load(); seen >= rank {
			return time.Duration(min(upperEdge(b), uint64(h.max.Load())))
		}
	}
	return time.Duration(h.max.Load())
}

func (h *histogram) mean() time.Duration {
	if n := h.count.Load(); n > 0 {
		return time.Duration(h.sum.Load() / int64(n))
	}
	return 0
}

func (h *histogram) smallest() time.Duration { return time.Duration(max(h.min.Load()-1, 0)) }
