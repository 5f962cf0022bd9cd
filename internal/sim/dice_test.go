package sim

import (
	"fmt"
	"sync"
	"time"
)

// dice draws everything that is random in a seed from the seed and the name of
// what it is for, never from a stream that actors share: what happens to the
// third machine does not depend on which goroutine asked first.
type dice struct {
	seed uint64

	mu    sync.Mutex
	times map[string]int
}

func newDice(seed uint64) *dice { return &dice{seed: seed, times: map[string]int{}} }

// draw is a number from 0 to 1 for the named thing.
func (d *dice) draw(what ...any) float64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037) ^ d.seed*0x9e3779b97f4a7c15
	for _, w := range what {
		switch w := w.(type) {
		case string:
			for i := range len(w) {
				h = (h ^ uint64(w[i])) * prime
			}
		case int:
			h = (h ^ uint64(w)) * prime
		default:
			panic(fmt.Sprintf("draw from a %T", w))
		}
		h = (h ^ 0xff) * prime
	}
	// FNV alone leaves the high bits of short names alike.
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return float64(h>>11) / (1 << 53)
}

// chance is true for a share p of all things.
func (d *dice) chance(p float64, what ...any) bool { return p > 0 && d.draw(what...) < p }

// below is a whole number from 0 to n-1.
func (d *dice) below(n int, what ...any) int { return int(d.draw(what...) * float64(n)) }

// span is a duration from 0 to most.
func (d *dice) span(most time.Duration, what ...any) time.Duration {
	return time.Duration(d.draw(what...) * float64(most))
}

// nth counts how often something has happened, from 1: the ordinal that tells
// one try from the next.
func (d *dice) nth(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times[what]++
	return d.times[what]
}
