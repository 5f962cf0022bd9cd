//go:build !no_google

package google

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// group is a quota group of calls: the cloud counts each by itself.
type group int

const (
	mutations group = iota
	gets
	lists
	operationGets
	groups // how many there are
)

// The cloud allows 1,500 calls of a group in each minute of the clock. What may
// be called within one, the bucket and what flows into it, stays below that and
// leaves something to others in the project.
const (
	bucketSize   = 200
	callsASecond = 20 // 1,200 a minute
	// afterLimit is what a group may call at once when a minute begins after the
	// cloud has refused: everybody who waited would come together otherwise.
	afterLimit = 20
)

// budget is how many calls an account may make, by group. It is safe for
// concurrent use.
type budget struct {
	mu      sync.Mutex
	buckets [groups]bucket
}

// bucket has tokens, which may be owed: whoever takes one of these waits.
type bucket struct {
	filled time.Time
	tokens float64
	opens  time.Time // nobody calls before
}

// reserve takes a token and says how long to wait until it may be used.
func (b *bucket) reserve(now time.Time) time.Duration {
	at := now
	if b.opens.After(at) {
		at = b.opens
	}
	switch d := at.Sub(b.filled); {
	case b.filled.IsZero():
		b.filled, b.tokens = at, bucketSize
	case d > 0:
		b.filled, b.tokens = at, min(bucketSize, b.tokens+callsASecond*d.Seconds())
	}
	b.tokens--
	wait := at.Sub(now)
	if b.tokens < 0 {
		wait += time.Duration(-b.tokens / callsASecond * float64(time.Second))
	}
	return wait
}

// limited notes that the cloud refused a call: the group is closed until then.
func (b *bucket) limited(until time.Time) {
	if until.After(b.opens) {
		b.opens, b.filled, b.tokens = until, until, afterLimit
	}
}

// take waits for leave to call. Where that would take longer than ctx has, it
// answers a RateLimitError at once, and takes nothing.
func (b *budget) take(ctx context.Context, g group) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	now := time.Now()
	b.mu.Lock()
	wait := b.buckets[g].reserve(now)
	if deadline, ok := ctx.Deadline(); ok && now.Add(wait).After(deadline) {
		b.buckets[g].tokens++
		b.mu.Unlock()
		return &drivers.RateLimitError{After: wait, Err: errBudget}
	}
	b.mu.Unlock()
	return pause(ctx, wait)
}

// limited closes a group after the cloud has refused a call of it: for as long
// as the cloud says, or else until its next minute begins.
func (b *budget) limited(g group, after time.Duration) time.Duration {
	now := time.Now()
	if after <= 0 {
		after = now.Truncate(time.Minute).Add(time.Minute).Sub(now)
	}
	after += time.Duration(rand.Int64N(int64(time.Second)))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buckets[g].limited(now.Add(after))
	return after
}

// pause waits, or returns why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
