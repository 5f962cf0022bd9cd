// Package testbubble runs tests in bubbles of fake time (testing/synctest), also
// under the race detector. Only tests import it.
package testbubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Run is synctest.Test. It may be called by tests that run in parallel.
//
// Under the race detector the process has one processor while a bubble lives.
// The timers of a bubble share one context of the race detector, but a timer
// that expired while nobody waited for its channel is run by the goroutine that
// next looks at it, on whatever processor that has; two at once break the
// detector down ("ThreadSanitizer: CHECK failed", or a segmentation fault
// inside it), which https://go.dev/issue/78156 reports of Go 1.26. On one
// processor there are never two, and a race is found as before: by what is
// ordered before what, not by what ran at the same moment.
func Run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceEnabled {
		one.take()
		defer one.give()
	}
	synctest.Test(t, f)
}

var one processors

// processors lowers the number of processors to one while anybody holds it. The
// zero value is ready.
type processors struct {
	mu      sync.Mutex
	holders int
	before  int
}

func (p *processors) take() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holders++; p.holders == 1 {
		p.before = runtime.GOMAXPROCS(1)
	}
}

func (p *processors) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holders--; p.holders == 0 {
		runtime.GOMAXPROCS(p.before)
	}
}
