package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

func TestStatisticsOfAStage(t *testing.T) {
	t.Parallel()
	busy := uint64(0)
	c := newCollector(func() (usage, error) {
		busy += 25
		return usage{memTotal: 4 << 30, memFree: 3 << 30, cpuBusy: busy, cpuAll: busy * 2}, nil
	})
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c.start(began)
	c.start(began.Add(time.Hour)) // does nothing while a series runs
	got := c.stop(began.Add(10 * time.Second))
	want := agentapi.OSStats{
		TotalMemMB: 4096, AvgMemUsagePct: 25, AvgCPUUsagePct: 50, MaxMemUsagePct: 25, MaxCPUUsagePct: 50,
		MemGraph: agentapi.Graph{Points: []agentapi.Point{{X: 10, Y: 25}}, XMetric: "seconds", YMetric: "mem_mb"},
		CPUGraph: agentapi.Graph{Points: []agentapi.Point{{X: 10, Y: 50}}, XMetric: "seconds", YMetric: "cpu_milli"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(agentapi.OSStats{}, "CPUCores")); diff != "" {
		t.Errorf("statistics (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(got, c.stop(began.Add(time.Hour))); diff != "" {
		t.Errorf("asked again (-want +got):\n%s", diff)
	}
}

func TestGraphsHaveAtMostTenPointsAndTheLastOne(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 9, 10, 11, 25, 1024} {
		var samples []sample
		for i := range n {
			samples = append(samples, sample{at: float64(i), mem: 1, cpu: 2})
		}
		s := summarize(samples, 1)
		points := s.CPUGraph.Points
		if len(points) != min(n, 10) || len(s.MemGraph.Points) != len(points) {
			t.Errorf("%d samples: %d points", n, len(points))
		}
		for i := range len(points) - 1 {
			if points[i].X >= points[i+1].X {
				t.Errorf("%d samples: points out of order: %v", n, points)
			}
		}
		if n > 0 && points[len(points)-1].X != float64(n-1) {
			t.Errorf("%d samples: the last is missing", n)
		}
	}
}

func TestALongStageKeepsABoundedSeries(t *testing.T) {
	t.Parallel()
	c := newCollector(func() (usage, error) { return usage{memTotal: 1, cpuAll: 1}, nil })
	now := time.Now()
	c.start(now)
	c.mu.Lock()
	for i := range 10 * maxSamples {
		c.sampleLocked(now.Add(time.Duration(i) * sampleEvery))
	}
	n := len(c.samples)
	c.mu.Unlock()
	if n > maxSamples {
		t.Errorf("%d samples kept", n)
	}
	c.stop(now)
}

func TestWithoutASourceStatisticsAreEmpty(t *testing.T) {
	t.Parallel()
	c := newCollector(func() (usage, error) { return usage{}, errors.ErrUnsupported })
	c.start(time.Now())
	if got := c.stop(time.Now()); got.MemGraph.Points == nil || len(got.MemGraph.Points) != 0 || got.MaxCPUUsagePct != 0 {
		t.Errorf("statistics %+v", got)
	}
}
