package sim

import (
	"context"
	"time"
)

// The clocks of two hosts are never quite the same, and do not stay as they are
// either: what one replica writes another compares with its own time.

// mostSkew is how wrong a host's clock may be.
const mostSkew = 5 * time.Second

// slack is how much later or earlier than by the right clock something may be
// done by one of a host's.
func (s *sim) slack() time.Duration {
	if s.plan.skewed {
		return 2*mostSkew + time.Second
	}
	return time.Second
}

// set sets the clock of a host, which remains as wrong as it is.
func (r *replica) set(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock.Set(by + r.off)
}

// drift makes the clocks wrong from the start, and a second more or less now
// and then.
func (s *sim) drift(ctx context.Context) {
	for i := 0; s.plan.skewed; i++ {
		for _, r := range s.replicas {
			r.mu.Lock()
			if i == 0 {
				r.off = s.d.span(2*mostSkew, "skew", r.name) - mostSkew
			} else {
				r.off += time.Duration(s.d.below(3, "drift", r.name, i)-1) * time.Second
			}
			r.off = min(max(r.off, -mostSkew), mostSkew).Truncate(time.Second)
			r.clock.Slew(s.host.Off() + r.off)
			r.mu.Unlock()
		}
		if nap(ctx, time.Minute+s.d.span(2*time.Minute, "drifts", i)) != nil {
			return
		}
	}
}
