package testbubble

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// Without one processor this often breaks the race detector down:
// more goroutines than it has slots (256), which all look at expired timers.
func TestExpiredTimersDoNotBreakTheRaceDetector(t *testing.T) {
	for range 5 {
		Run(t, func(t *testing.T) {
			var all sync.WaitGroup
			for range 600 {
				all.Go(func() {
					for range 100 {
						expired := time.NewTimer(time.Second)
						<-time.After(2 * time.Second)
						<-expired.C
					}
				})
			}
			all.Wait()
		})
	}
}

func TestProcessorsComeBackAfterTheLastHolder(t *testing.T) {
	before := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	var p processors
	for range 2 {
		p.take()
		p.take()
		p.give()
		if n := runtime.GOMAXPROCS(0); n != 1 {
			t.Fatalf("%d processors while one holder is left", n)
		}
		p.give()
		if n := runtime.GOMAXPROCS(0); n != 3 {
			t.Fatalf("%d processors after the last, not 3", n)
		}
	}
}
