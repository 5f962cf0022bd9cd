package fakecloud

import (
	"sync"
	"time"
)

// Minute is a rate as GCE has it: so many in each fixed minute of the clock.
// The zero value allows everything. It is safe for concurrent use.
type Minute struct {
	// Most is how many a minute, 0 for no bound.
	Most int

	mu     sync.Mutex
	minute int64
	used   int
}

// Take says whether n more are allowed at now.
func (m *Minute) Take(n int, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Most == 0 {
		return true
	}
	if minute := now.Unix() / 60; minute != m.minute {
		m.minute, m.used = minute, 0
	}
	if m.used+n > m.Most {
		return false
	}
	m.used += n
	return true
}

// Bucket is a rate as EC2 has it: a token bucket. The zero value allows
// everything. It is safe for concurrent use.
type Bucket struct {
	// Size is how many tokens it holds, 0 for no bound; PerSecond come back.
	Size, PerSecond float64

	mu     sync.Mutex
	filled time.Time
	tokens float64
}

// Take says whether n tokens are there at now, and takes them.
func (b *Bucket) Take(n float64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Size == 0 {
		return true
	}
	if b.filled.IsZero() {
		b.tokens = b.Size
	} else if d := now.Sub(b.filled); d > 0 {
		b.tokens = min(b.Size, b.tokens+b.PerSecond*d.Seconds())
	}
	b.filled = now
	if b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}
