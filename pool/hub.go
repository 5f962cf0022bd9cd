package pool

import (
	"math/rand/v2"
	"sync"
	"time"
)

// hub wakes goroutines that wait for a row to change: those of this process,
// and through announce those of the other replicas. A lost or early wake-up
// costs nothing but a look at the row: everybody who waits also looks again by
// itself after a while.
type hub struct {
	mu sync.Mutex
	m  map[string]map[chan struct{}]struct{}
	// announce tells the other replicas; it does nothing where there are none.
	announce func(topics ...string)
}

func (h *hub) init(announce func(topics ...string)) {
	h.m = map[string]map[chan struct{}]struct{}{}
	if h.announce = announce; announce == nil {
		h.announce = func(...string) {}
	}
}

// watch returns a channel that gets a value after each notify of key, merged
// to one while nobody reads, and the function that ends the watch.
func (h *hub) watch(key string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	set := h.m[key]
	if set == nil {
		set = map[chan struct{}]struct{}{}
		h.m[key] = set
	}
	set[ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(set, ch)
		if len(set) == 0 && len(h.m[key]) == 0 {
			delete(h.m, key)
		}
	}
}

// notify wakes everybody who waits for one of the keys, everywhere.
func (h *hub) notify(keys ...string) {
	h.wake(keys...)
	h.announce(keys...)
}

// wake wakes those of this process.
func (h *hub) wake(keys ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range keys {
		poke(h.m[key])
	}
}

// wakeAll wakes everybody in this process, whatever for.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range h.m {
		poke(set)
	}
}

func poke(set map[chan struct{}]struct{}) {
	for ch := range set {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// relook is how often a waiter looks at its row without having been woken:
// another replica's change is seen by then at the latest.
const relook = 5 * time.Second

const (
	backoffFirst = time.Second
	backoffMost  = time.Minute
)

// backoffAfter is the pause after the n-th failure in a row, counted from
// zero: doubling from backoffFirst to backoffMost, with a quarter of jitter so
// that many rows do not return as one.
func backoffAfter(n int) time.Duration {
	d := backoffMost
	if n < 6 {
		d = backoffFirst << n
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

// clockGuard notices when wall clock and monotonic clock part. Until
// suspicious says otherwise, ages computed from stored times are not to be
// trusted for destroying anything. Safe for concurrent use.
type clockGuard struct {
	mu    sync.Mutex
	seen  bool
	wall  time.Time
	mono  time.Duration
	until time.Duration
	news  bool // a jump that was not taken yet
}

const (
	clockJump     = 5 * time.Minute
	clockDistrust = time.Hour
)

// check compares how far both clocks have come since the last check; true if
// they parted. mono is the time since some fixed moment of this process, by
// the monotonic clock.
func (c *clockGuard) check(wall time.Time, mono time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	apart := wall.Round(0).Sub(c.wall) - (mono - c.mono)
	jumped := c.seen && apart.Abs() > clockJump
	c.seen, c.wall, c.mono = true, wall.Round(0), mono
	if jumped {
		c.until, c.news = mono+clockDistrust, true
	}
	return jumped
}

// take says whether there was a jump since it was last asked.
func (c *clockGuard) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	news := c.news
	c.news = false
	return news
}

func (c *clockGuard) suspicious(mono time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return mono < c.until
}
