package sim

import (
	"context"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// bus carries announcements between the processes of a seed. It loses some,
// and tells of it now and then, as NOTIFY over a broken connection does.
type bus struct {
	d *dice

	mu   sync.Mutex
	ears map[*process]func(topic string)
}

var _ pool.Notifier = fused{}

// Announce implements pool.Notifier.
func (f fused) Announce(topics ...string) {
	b := f.w.s.bus
	b.mu.Lock()
	ears := make([]func(string), 0, len(b.ears))
	for p, ear := range b.ears {
		if p != f.p && p.running() {
			ears = append(ears, ear)
		}
	}
	b.mu.Unlock()
	if len(ears) == 0 {
		return
	}
	n := b.d.nth("announcement")
	if b.d.chance(.2, "announcement-lost", n) {
		return
	}
	time.AfterFunc(b.d.span(300*time.Millisecond, "announcement-time", n), func() {
		for _, ear := range ears {
			for _, topic := range topics {
				ear(topic)
			}
		}
	})
}

// Listen implements pool.Notifier.
func (f fused) Listen(ctx context.Context, ear func(topic string)) error {
	b := f.w.s.bus
	b.mu.Lock()
	b.ears[f.p] = ear
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	delete(b.ears, f.p)
	b.mu.Unlock()
	return ctx.Err()
}
