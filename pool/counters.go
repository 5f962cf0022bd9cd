package pool

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// phaseBounds are the buckets of phase durations, in seconds: milliseconds for
// a warm claim, minutes for a cold boot.
var phaseBounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600}

// counters are the totals behind metrics. Safe for concurrent use.
type counters struct {
	mu       sync.Mutex
	c        Counters
	byScope  map[string]map[OrphanLabel]int
	phaseMap map[string]*Histogram
}

func (c *counters) init() {
	c.c = Counters{
		Setups: map[string]int64{}, Creates: map[PoolOutcome]int64{},
		Destroys: map[PoolOutcome]int64{}, Fallbacks: map[PoolOutcome]int64{}, Renewals: map[string]int64{},
	}
	c.byScope = map[string]map[OrphanLabel]int{}
	c.phaseMap = map[string]*Histogram{}
}

func (c *counters) setup(outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Setups[outcome]++
}

func (c *counters) created(pool, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Creates[PoolOutcome{pool, outcome}]++
}

func (c *counters) destroyed(pool, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Destroys[PoolOutcome{pool, outcome}]++
}

// renewed counts a renewal of a machine's certificates.
func (c *counters) renewed(outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Renewals[outcome]++
}

// fallback counts a setup that did not get its machine from the first pool.
func (c *counters) fallback(asked []string, got string) {
	if len(asked) == 0 || asked[0] == got {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Fallbacks[PoolOutcome{got, "true"}]++
}

func (c *counters) orphans(scope string, n map[OrphanLabel]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byScope[scope] = n
}

func (c *counters) phase(name string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.phaseMap[name]
	if h == nil {
		h = &Histogram{Bounds: phaseBounds, Counts: make([]uint64, len(phaseBounds))}
		c.phaseMap[name] = h
	}
	s := d.Seconds()
	i, _ := slices.BinarySearch(phaseBounds, s)
	for ; i < len(h.Counts); i++ {
		h.Counts[i]++
	}
	h.Sum += s
	h.Count++
}

// Counters implements Service.
func (m *Manager) Counters() Counters {
	c := &m.counters
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Counters{
		Setups: maps.Clone(c.c.Setups), Creates: maps.Clone(c.c.Creates),
		Destroys: maps.Clone(c.c.Destroys), Fallbacks: maps.Clone(c.c.Fallbacks), Renewals: maps.Clone(c.c.Renewals),
		Phases: make(map[string]Histogram, len(c.phaseMap)), Orphans: map[OrphanLabel]int{},
	}
	for name, h := range c.phaseMap {
		cp := *h
		cp.Counts = slices.Clone(h.Counts)
		out.Phases[name] = cp
	}
	for _, counts := range c.byScope {
		maps.Copy(out.Orphans, counts)
	}
	return out
}
