//go:build !no_google

package google

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// attempt is one way to make a machine.
type attempt struct {
	zone string
	spot bool
}

// regionOf is the region of a zone: us-central1 of us-central1-a.
func regionOf(zone string) string {
	if i := strings.LastIndexByte(zone, '-'); i > 0 {
		return zone[:i]
	}
	return zone
}

// zonesOf are the zones a machine may be in, the preferred first.
func zonesOf(s *Spec, n Network, spec drivers.Spec) []string {
	switch {
	case spec.Zone != "":
		return []string{spec.Zone}
	case len(spec.Zones) > 0:
		return spec.Zones
	case len(n.Zones) > 0:
		return n.Zones
	default:
		return s.Zone
	}
}

// attempts are the ways to make a machine in one of the zones, in the order of
// trying: zones that had room when last heard of, and one that had not. Spot
// machines come first where they are wanted.
func attempts(zones []string, spot bool, out func(zone string, spot bool) (since time.Time, ok bool)) []attempt {
	var all []attempt
	for _, cheap := range []bool{true, false} {
		if cheap && !spot {
			continue
		}
		var last *attempt
		var longest time.Time
		for _, zone := range zones {
			since, is := out(zone, cheap)
			switch {
			case !is:
				all = append(all, attempt{zone, cheap})
			case last == nil || since.Before(longest):
				last, longest = &attempt{zone, cheap}, since
			}
		}
		if last != nil {
			all = append(all, *last)
		}
	}
	return all
}

// hinted moves attempts in zones that the cloud has named to the front of those
// of their kind.
func hinted(left []attempt, hints []string) {
	slices.SortStableFunc(left, func(a, b attempt) int {
		rank := func(x attempt) int {
			n := 1
			if slices.Contains(hints, x.zone) {
				n = 0
			}
			if !x.spot {
				n += 2
			}
			return n
		}
		return rank(a) - rank(b)
	})
}

// What is remembered of stockouts.
const (
	rememberFor    = 15 * time.Minute
	mostRemembered = 1024
)

// scarce is what there was no room for.
type scarce struct {
	zone, machineType string
	spot              bool
}

// stockouts remembers where there was no room. It is safe for concurrent use.
type stockouts struct {
	mu  sync.Mutex
	out map[scarce]time.Time
}

// note remembers a stockout.
func (s *stockouts) note(what scarce, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		s.out = map[scarce]time.Time{}
	}
	if len(s.out) >= mostRemembered {
		for other, at := range s.out {
			if now.Sub(at) >= rememberFor {
				delete(s.out, other)
			}
		}
		for other := range s.out {
			if len(s.out) < mostRemembered {
				break
			}
			delete(s.out, other)
		}
	}
	s.out[what] = now
}

// clear forgets one: there is room again.
func (s *stockouts) clear(what scarce) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.out, what)
}

// since is when there was no room, if that is not long ago.
func (s *stockouts) since(what scarce, now time.Time) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.out[what]
	return at, ok && now.Sub(at) < rememberFor
}
