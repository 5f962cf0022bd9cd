//go:build !no_amazon

package amazon

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// place is one way to launch a machine.
type place struct {
	// zone and subnet may be empty: EC2 chooses.
	zone, subnet string
	size         string
	spot         bool
}

func (p place) String() string {
	s := p.size + " in " + cmp.Or(p.zone, p.subnet, "any zone")
	if p.spot {
		s += " (spot)"
	}
	return s
}

// sizeOf is the type a machine is wanted of.
func (d *Driver) sizeOf(spec *drivers.Spec) string { return cmp.Or(spec.MachineType, d.cfg.Size) }

// places are the ways to launch a machine in the order they are tried: zone
// after zone, then the other size, then on demand. A disk that exists leaves
// its zone alone.
func (d *Driver) places(spec *drivers.Spec, diskZone string) []place {
	sizes := []string{d.sizeOf(spec)}
	if d.cfg.SizeAlt != "" && sizes[0] == d.cfg.Size && d.cfg.SizeAlt != sizes[0] {
		sizes = append(sizes, d.cfg.SizeAlt)
	}
	markets := []bool{false}
	// Spot machines come and go, and cannot be stopped.
	if d.cfg.MarketType == "spot" && spec.Tags.Kind != "gitspace" && !spec.Hibernate {
		markets = []bool{true, false}
	}
	zones := d.zones(spec, diskZone)
	var all []place
	for _, spot := range markets {
		for _, size := range sizes {
			for _, z := range zones {
				all = append(all, place{z.AvailabilityZone, z.SubnetID, size, spot})
			}
		}
	}
	return all
}

// zones are where a machine may be, the preferred first.
func (d *Driver) zones(spec *drivers.Spec, diskZone string) []Zone {
	known := d.cfg.Network.ZoneDetails
	with := func(zone string) Zone {
		for _, z := range known {
			if z.AvailabilityZone == zone {
				return Zone{zone, cmp.Or(z.SubnetID, d.subnetIn(zone))}
			}
		}
		return Zone{zone, d.subnetIn(zone)}
	}
	switch {
	case diskZone != "":
		return []Zone{with(diskZone)}
	case spec.Zone != "":
		return []Zone{with(spec.Zone)}
	case len(spec.Zones) > 0:
		var all []Zone
		for _, zone := range spec.Zones {
			all = append(all, with(zone))
		}
		return all
	case len(known) > 0:
		// Each machine begins with another, so that they spread.
		h := fnv.New32a()
		fmt.Fprint(h, spec.Name)
		first := int(h.Sum32() % uint32(len(known)))
		all := make([]Zone, 0, len(known))
		for i := range known {
			z := known[(first+i)%len(known)]
			all = append(all, Zone{z.AvailabilityZone, z.SubnetID})
		}
		return all
	default:
		return []Zone{{d.cfg.Account.AvailabilityZone, d.cfg.Network.SubnetID}}
	}
}

// subnetIn is the pool's only subnet, where it is not said to be elsewhere.
func (d *Driver) subnetIn(zone string) string {
	if own := d.cfg.Account.AvailabilityZone; own != "" && own != zone || len(d.cfg.Network.ZoneDetails) > 0 {
		return ""
	}
	return d.cfg.Network.SubnetID
}

// A place without room is not tried again for a while; so many are remembered.
const (
	stockoutLasts = 15 * time.Minute
	mostStockouts = 1024
)

// stockouts remember where there was no room. The zero value remembers none.
// It is safe for concurrent use.
type stockouts struct {
	mu  sync.Mutex
	out map[place]time.Time
}

// add remembers a place until a while after now.
func (s *stockouts) add(p place, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		s.out = map[place]time.Time{}
	}
	maps.DeleteFunc(s.out, func(_ place, at time.Time) bool { return now.Sub(at) >= stockoutLasts })
	if len(s.out) < mostStockouts {
		s.out[p] = now
	}
}

// addAll remembers that places had no room at a time, if that is news.
func (s *stockouts) addAll(all []place, at time.Time) {
	if time.Since(at) < stockoutLasts {
		for _, p := range all {
			s.add(p, at)
		}
	}
}

// remove forgets a place: there was room.
func (s *stockouts) remove(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.out, p)
}

// worth are the places worth a try: those not remembered or, if all are, the
// one that has been so for longest.
func (s *stockouts) worth(all []place, now time.Time) []place {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(all), func(p place) bool {
		at, ok := s.out[p]
		return ok && now.Sub(at) < stockoutLasts
	})
	if len(left) > 0 || len(all) == 0 {
		return left
	}
	return []place{slices.MinFunc(all, func(a, b place) int { return s.out[a].Compare(s.out[b]) })}
}
