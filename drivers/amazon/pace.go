//go:build !no_amazon

package amazon

import (
	"context"
	"sync"
	"time"
)

// rate is one of EC2's published token buckets: so many calls at once, then so
// many a second.
type rate struct {
	burst     int
	perSecond float64
}

// What EC2 gives an account at least. Calls beyond it are only refused, so
// that they wait here rather than there.
var (
	launchRate = rate{5, 2}
	endRate    = rate{100, 5}
)

// pacer spreads calls over time as a token bucket allows. It is safe for
// concurrent use; those who wait are served in the order they came.
type pacer struct {
	rate rate

	mu sync.Mutex
	// full is when the bucket would be full again, were nobody to come.
	full time.Time
}

func newPacer(r rate) *pacer { return &pacer{rate: r} }

// wait returns when the call may be made, or with the error of ctx.
func (p *pacer) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return sleep(ctx, p.take(time.Now()))
}

// take takes a token and says how long it is until it is there.
func (p *pacer) take(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := time.Duration(float64(time.Second) / p.rate.perSecond)
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(each)
	return p.full.Sub(now) - time.Duration(p.rate.burst)*each
}
