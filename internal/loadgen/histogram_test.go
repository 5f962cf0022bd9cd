package loadgen

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/quick"
	"time"
)

func TestBucketsAreInOrderAndNarrow(t *testing.T) {
	t.Parallel()
	property := func(v uint64) bool {
		v &= math.MaxInt64
		b := bucketOf(v)
		if b < 0 || b >= buckets {
			t.Logf("%d is in bucket %d of %d", v, b, buckets)
			return false
		}
		edge := upperEdge(b)
		return edge >= v && float64(edge-v) <= float64(v)/subs && (b == 0 || upperEdge(b-1) < v)
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 100_000}); err != nil {
		t.Error(err)
	}
	for _, v := range []uint64{0, 1, 2*subs - 1, 2 * subs, 2*subs + 1, 4*subs - 1, 4 * subs, math.MaxInt64} {
		if !property(v) {
			t.Errorf("%d is in the wrong bucket", v)
		}
	}
}

func TestQuantilesAgreeWithSorting(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 10, 1000, 20_000} {
		var h histogram
		exact := make([]time.Duration, n)
		var sum time.Duration
		for i := range exact {
			exact[i] = time.Duration(math.Exp(rng.Float64() * 25))
			sum += exact[i]
			h.record(exact[i])
		}
		slices.Sort(exact)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			want := exact[max(int(math.Ceil(q*float64(n))), 1)-1]
			got := h.quantile(q)
			if got < want || float64(got-want) > float64(want)/subs {
				t.Errorf("of %d: quantile %v is %v, want %v", n, q, got, want)
			}
		}
		if h.smallest() != exact[0] || h.quantile(1) != exact[n-1] || h.mean() != sum/time.Duration(n) {
			t.Errorf("of %d: min %v, max %v, mean %v; want %v, %v, %v", n, h.smallest(), h.quantile(1), h.mean(), exact[0], exact[n-1], sum/time.Duration(n))
		}
	}
}

func TestEmptyHistogram(t *testing.T) {
	t.Parallel()
	var h histogram
	if h.quantile(0.5) != 0 || h.mean() != 0 || h.smallest() != 0 {
		t.Errorf("an empty histogram has %v, %v, %v", h.quantile(0.5), h.mean(), h.smallest())
	}
	h.record(-time.Second)
	if h.quantile(1) != 0 || h.count.Load() != 1 {
		t.Errorf("a negative duration counts as %v", h.quantile(1))
	}
}

func BenchmarkRecord(b *testing.B) {
	var h histogram
	for b.Loop() {
		h.record(3 * time.Millisecond)
	}
}
