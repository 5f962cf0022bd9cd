package gce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// stockout is a lack of machines.
type stockout struct {
	zone, machineType string // empty for all
	until             time.Time
	hints             []string
}

// metrics are the quotas that are kept.
var metrics = []string{"CPUS", "PREEMPTIBLE_CPUS", "INSTANCES", "DISKS_TOTAL_GB", "SSD_TOTAL_GB", "IN_USE_ADDRESSES"}

// ample is the limit of what nobody limits.
const ample = 1_000_000

func (c *Cloud) limit(region, metric string) float64 {
	if n, ok := c.quotas[region][metric]; ok {
		return n
	}
	if n, ok := c.o.Quotas[metric]; ok {
		return n
	}
	return ample
}

// usage is what a project uses of a region's quotas.
func (c *Cloud) usage(project, region string) map[string]float64 {
	used := map[string]float64{}
	for _, i := range c.instances {
		if i.project != project || c.regionOf(i.zone) != region {
			continue
		}
		if i.made {
			used["INSTANCES"]++
		}
		if i.granted {
			addUsage(used, i)
		}
	}
	for _, d := range c.disks {
		if d.project == project && c.regionOf(d.zone) == region {
			used[d.metric()] += float64(d.size)
		}
	}
	return used
}

// addUsage adds what an instance uses while it runs.
func addUsage(used map[string]float64, i *instance) {
	cpus := "CPUS"
	if i.scheduling.preemptible {
		cpus = "PREEMPTIBLE_CPUS"
	}
	used[cpus] += float64(i.machine.CPUs)
	for _, n := range i.nics {
		if n.outside {
			used["IN_USE_ADDRESSES"]++
		}
	}
}

// grant gives an instance what it needs to run, or says what there is not. A
// reservation has room that nobody else can take.
func (c *Cloud) grant(i *instance, at time.Time) *Error {
	region := c.regionOf(i.zone)
	used := c.usage(i.project, region)
	addUsage(used, i)
	if !i.made {
		used["INSTANCES"]++
	}
	for _, metric := range metrics {
		if limit := c.limit(region, metric); used[metric] > limit {
			return QuotaExceeded(region, metric, limit)
		}
	}
	res, err := c.reserved(i)
	if err != nil {
		return err
	}
	if res != nil {
		res.used++
	} else if out := c.out(i.zone, i.machine.Name, at); out != nil {
		return Stockout(i.zone, i.machine.Name, out.hints...)
	}
	i.granted, i.made, i.reservation = true, true, res
	return nil
}

// out is the stockout that a machine of a type meets in a zone, if any.
func (c *Cloud) out(zone, machineType string, at time.Time) *stockout {
	for n := range c.outs {
		s := &c.outs[n]
		if (s.zone == "" || s.zone == zone) && (s.machineType == "" || s.machineType == machineType) && (s.until.IsZero() || at.Before(s.until)) {
			return s
		}
	}
	return nil
}

// StopOut has a zone ("" for all) have no machines of a type ("" for all) until
// then, for ever where it is zero: creations, starts and resumes fail at the end
// of their operation. Hints are what the error names as zonesAvailable.
func (c *Cloud) StopOut(zone, machineType string, until time.Time, hints ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outs = append(c.outs, stockout{zone, machineType, until, hints})
}

// Restock ends all stockouts of a zone and a machine type, as StopOut was told
// them.
func (c *Cloud) Restock(zone, machineType string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outs = slices.DeleteFunc(c.outs, func(s stockout) bool { return s.zone == zone && s.machineType == machineType })
}

// SetQuota sets a region's limit of a metric ("CPUS", "PREEMPTIBLE_CPUS",
// "INSTANCES", "DISKS_TOTAL_GB", "SSD_TOTAL_GB", "IN_USE_ADDRESSES"): what goes
// beyond it fails at the end of its operation with QUOTA_EXCEEDED.
func (c *Cloud) SetQuota(region, metric string, limit float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	limits := maps.Clone(c.quotas[region])
	if limits == nil {
		limits = map[string]float64{}
	}
	limits[metric] = limit
	c.quotas[region] = limits
}

// Unreachable has a zone answer 503 and be missing from aggregated lists until
// then, for ever where it is zero.
func (c *Cloud) Unreachable(zone string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away[zone] = until
}

// Reachable has a zone answer again.
func (c *Cloud) Reachable(zone string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.away, zone)
}

var netipNone netip.Addr

// address is where Options.Address wants a machine to be.
func (c *Cloud) address(i *instance) (internal, external netip.Addr) {
	if c.o.Address == nil {
		return internal, external
	}
	return c.o.Address(i.report())
}

// insideAddress takes a free address of a subnetwork. The first ones are the
// network's own.
func (c *Cloud) insideAddress(i *instance, path string, s Subnetwork) (netip.Addr, bool) {
	const first = 2
	start := s.Range.Masked().Addr()
	size := 1 << (32 - s.Range.Bits())
	for range size {
		n := c.nextIP[path] % size
		c.nextIP[path]++
		a := start.As4()
		v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
		v += uint32(n)
		ip := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		// The last two are the network's too.
		if n >= first && n < size-2 && c.taken[ip] == nil {
			c.taken[ip] = i
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// outsideAddress takes the next address of the range for tests of networks.
func (c *Cloud) outsideAddress() netip.Addr {
	const size = 1 << 17 // 198.18.0.0/15
	for {
		c.nextNAT = c.nextNAT%(size-1) + 1
		ip := netip.AddrFrom4([4]byte{198, byte(18 + c.nextNAT>>16), byte(c.nextNAT >> 8), byte(c.nextNAT)})
		if c.taken[ip] == nil {
			return ip
		}
	}
}
