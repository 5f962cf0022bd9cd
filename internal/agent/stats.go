package agent

import (
	"runtime"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

const (
	// firstSample and sampleEvery are when the machine is looked at.
	firstSample = time.Second
	sampleEvery = 30 * time.Second
	// maxSamples bounds the memory of a stage of any length: when it is
	// reached, every second sample goes.
	maxSamples = 1024
	// graphPoints is how many points a graph is reduced to.
	graphPoints = 10
)

// usage is the machine at one moment. CPU times count up, in any unit.
type usage struct {
	memTotal, memFree uint64 // bytes; free includes what caches would give back
	cpuBusy, cpuAll   uint64
}

// sample is the machine over the time since the sample before.
type sample struct {
	at       float64 // seconds since the stage began
	mem, cpu float64 // percent
}

// collector samples how busy the machine is, between start and stop; outside
// of that it costs nothing.
type collector struct {
	read func() (usage, error)

	mu      sync.Mutex
	began   time.Time
	last    usage
	samples []sample
	total   uint64
	timer   *time.Timer // nil while stopped
	summary *agentapi.OSStats
}

func newCollector(read func() (usage, error)) *collector { return &collector{read: read} }

// start begins a new series, unless one is running.
func (c *collector) start(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		return
	}
	c.began, c.samples, c.summary = now, nil, nil
	c.last, _ = c.read() // statistics are left out where the system gives none
	c.timer = time.AfterFunc(firstSample, c.tick)
}

func (c *collector) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		return
	}
	c.sampleLocked(time.Now())
	c.timer.Reset(sampleEvery)
}

func (c *collector) sampleLocked(now time.Time) {
	u, err := c.read()
	if err != nil || u.memTotal == 0 {
		return
	}
	s := sample{at: now.Sub(c.began).Seconds(), mem: percent(u.memTotal-min(u.memFree, u.memTotal), u.memTotal)}
	if u.cpuAll > c.last.cpuAll && u.cpuBusy >= c.last.cpuBusy {
		s.cpu = percent(u.cpuBusy-c.last.cpuBusy, u.cpuAll-c.last.cpuAll)
	}
	c.last, c.total = u, u.memTotal
	if len(c.samples) >= maxSamples {
		c.samples = everySecond(c.samples)
	}
	c.samples = append(c.samples, s)
}

func everySecond(all []sample) []sample {
	kept := all[:0]
	for i := 1; i < len(all); i += 2 {
		kept = append(kept, all[i])
	}
	return kept
}

func percent(part, whole uint64) float64 {
	return min(100, 100*float64(part)/float64(whole))
}

// stop ends the series and returns its summary; called again, the same one.
// Without a series it is the machine at this moment.
func (c *collector) stop(now time.Time) agentapi.OSStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.timer != nil:
		c.timer.Stop()
		c.timer = nil
		c.sampleLocked(now)
	case c.summary != nil:
		return *c.summary
	default:
		c.began = now
		c.sampleLocked(now)
	}
	s := summarize(c.samples, c.total)
	c.summary = &s
	return s
}

func summarize(samples []sample, memTotal uint64) agentapi.OSStats {
	s := agentapi.OSStats{
		TotalMemMB: float64(memTotal) / (1 << 20),
		CPUCores:   runtime.NumCPU(),
		MemGraph:   agentapi.Graph{Points: []agentapi.Point{}, XMetric: agentapi.MetricSeconds, YMetric: agentapi.MetricMemMB},
		CPUGraph:   agentapi.Graph{Points: []agentapi.Point{}, XMetric: agentapi.MetricSeconds, YMetric: agentapi.MetricCPUMilli},
	}
	for _, p := range samples {
		s.AvgMemUsagePct += p.mem / float64(len(samples))
		s.AvgCPUUsagePct += p.cpu / float64(len(samples))
		s.MaxMemUsagePct = max(s.MaxMemUsagePct, p.mem)
		s.MaxCPUUsagePct = max(s.MaxCPUUsagePct, p.cpu)
	}
	n := min(len(samples), graphPoints)
	for i := range n {
		// Evenly spread, the last sample included.
		p := samples[(i+1)*len(samples)/n-1]
		s.MemGraph.Points = append(s.MemGraph.Points, agentapi.Point{X: p.at, Y: p.mem})
		s.CPUGraph.Points = append(s.CPUGraph.Points, agentapi.Point{X: p.at, Y: p.cpu})
	}
	return s
}
