package server

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// scrapeTimeout bounds what one scrape asks of the store, statusAge how often
// it asks.
const (
	scrapeTimeout = 3 * time.Second
	statusAge     = time.Second
)

// engineCollector reads the engine's totals and the pools' counts when it is
// scraped, so nothing is reset and set again between two scrapes. While the
// store does not answer, the last counts stay and drone_runner_store_up is 0.
type engineCollector struct {
	svc func() pool.Service

	mu     sync.Mutex
	pools  []pool.PoolStatus
	read   time.Time
	failed bool
}

func newEngineCollector(svc func() pool.Service) *engineCollector {
	return &engineCollector{svc: svc}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descStoreUp   = desc("drone_runner_store_up", "1 if the counts of pools could be read.")
	descOrphans   = desc("drone_runner_orphans", "Machines and disks in a cloud that carry our tags and have no row, by why they are left alone.", "scope", "kind", "reason")
	descFailing   = desc("drone_runner_destroys_failing", "Machines that could not be destroyed yet.", "pool_id")
	descOldest    = desc("drone_runner_destroys_failing_oldest_seconds", "How long the one that has waited longest is to go.", "pool_id")
	descSetups    = desc("drone_runner_setups_total", "Setups by outcome.", "outcome")
	descRenewals  = desc("drone_runner_certificate_renewals_total", "Renewals of machines' certificates by outcome; unsupported: the machine has an agent that cannot.", "outcome")
	descPhase     = desc("drone_runner_setup_phase_duration_seconds", "Time of each phase on the way to a machine.", "phase")
	descPoolMin   = desc("drone_runner_pool_min", "Machines to keep warm.", "pool_id")
	descPoolMax   = desc("drone_runner_pool_max", "Machines that may exist.", "pool_id")
	descPoolCount = desc("drone_runner_pool_counted", "Machines that count toward the limit.", "pool_id")
	descPoolWait  = desc("drone_runner_pool_waiting", "Requests that wait for the pool.", "pool_id")
	descStopped   = desc("drone_runner_pool_stopped", "1 if an operator has stopped the pool.", "pool_id")
	descClosed    = desc("drone_runner_pool_closed", "1 for the reason for which the pool begins no machines now.", "pool_id", "reason")
	descSpent     = desc("drone_runner_pool_spent_hours", "Machine-hours of this UTC day, as the replica that plans the pool measures them.", "pool_id")
	descPoolHeld  = desc("drone_runner_pool_held", "1 if this replica runs the pool's loops.", "pool_id")
	descPoolGen   = desc("drone_runner_pool_generation", "How often the pool has changed hands between replicas.", "pool_id")
	descPoolBad   = desc("drone_runner_pool_problem", "1 if the pool is not as it should be.", "pool_id")

	descRunning   = desc("harness_ci_pipeline_running_executions", "Machines that belong to a lease.", "pool_id", "os", "arch", "driver", "state", "distributed")
	descWarm      = desc("harness_ci_pipeline_warm_pool_executions", "Machines by state.", "pool_id", "os", "arch", "driver", "state")
	descFallbacks = desc("harness_ci_pipeline_pool_fallbacks", "Setups that went on to another pool.", "pool_id", "success")
	descVMs       = desc("runner_vms_current", "Machines by state.", "pool_id", "state")
	descCreates   = desc("runner_vm_creation_attempts_total", "Creations of machines by outcome.", "pool_id", "outcome")
	descCleanups  = desc("runner_cleanup_attempts_total", "Destructions by outcome.", "resource", "pool_id", "outcome")
)

// upstreamStates is which of our states existing dashboards call what.
var upstreamStates = []struct {
	name   string
	states []pool.InstanceState
}{
	{"busy", []pool.InstanceState{pool.Leased}},
	{"free", []pool.InstanceState{pool.Warm}},
	{"hibernated", []pool.InstanceState{pool.Hibernated}},
	{"hibernating", []pool.InstanceState{pool.Hibernating}},
	{"provisioning", []pool.InstanceState{pool.Creating, pool.Booting}},
}

// Describe sends nothing: which metrics there are depends on the engine, and
// the registry checks each at the scrape.
func (*engineCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (e *engineCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	c := e.svc().Counters()
	for o, n := range c.Orphans {
		kind := "machine"
		if o.Disk {
			kind = "disk"
		}
		gauge(descOrphans, float64(n), o.Scope, kind, string(o.Reason))
	}
	for outcome, n := range c.Setups {
		count(descSetups, n, outcome)
	}
	for outcome, n := range c.Renewals {
		count(descRenewals, n, outcome)
	}
	for k, n := range c.Creates {
		count(descCreates, n, k.Pool, k.Outcome)
	}
	for k, n := range c.Destroys {
		count(descCleanups, n, "vm", k.Pool, k.Outcome)
	}
	for k, n := range c.Fallbacks {
		count(descFallbacks, n, k.Pool, k.Outcome)
	}
	for phase, h := range c.Phases {
		buckets := make(map[float64]uint64, len(h.Bounds))
		for i, bound := range h.Bounds {
			if i < len(h.Counts) {
				buckets[bound] = h.Counts[i]
			}
		}
		out <- prometheus.MustNewConstHistogram(descPhase, h.Count, h.Sum, buckets, phase)
	}

	e.mu.Lock()
	pools, failed := e.pools, e.failed
	e.mu.Unlock()
	gauge(descStoreUp, number(!failed))
	for _, p := range pools {
		where := []string{p.Name, p.Platform.OS, p.Platform.Arch, p.Driver}
		gauge(descPoolMin, float64(p.Min), p.Name)
		gauge(descPoolMax, float64(p.Max), p.Name)
		gauge(descPoolCount, float64(p.Counted), p.Name)
		gauge(descPoolWait, float64(p.Waiting), p.Name)
		oldest := 0.0
		if p.Failing > 0 {
			oldest = time.Since(p.FailingSince).Seconds()
		}
		gauge(descFailing, float64(p.Failing), p.Name)
		gauge(descOldest, oldest, p.Name)
		gauge(descStopped, number(p.Override.Stopped), p.Name)
		for _, reason := range []string{pool.GateBreaker, pool.GateThrottled, pool.GateQuota, pool.GateCapacity, pool.GateCost} {
			gauge(descClosed, number(p.Gate.Reason == reason), p.Name, reason)
		}
		gauge(descSpent, p.SpentHours, p.Name)
		gauge(descPoolHeld, number(p.Here), p.Name)
		gauge(descPoolGen, float64(p.Hold.Generation), p.Name)
		gauge(descPoolBad, number(p.Problem != ""), p.Name)
		gauge(descRunning, float64(p.Counts[pool.Leased]), append(where, "inuse", distributed)...)
		for _, u := range upstreamStates {
			n := 0
			for _, state := range u.states {
				n += p.Counts[state]
			}
			gauge(descWarm, float64(n), append(where, u.name)...)
		}
		for _, state := range pool.InstanceStates() {
			if !state.Final() {
				gauge(descVMs, float64(p.Counts[state]), p.Name, string(state))
			}
		}
	}
}

// refresh reads the pools' counts for the scrape that is about to come, unless
// another has just done so.
func (e *engineCollector) refresh(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.read.IsZero() && time.Since(e.read) < statusAge {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	pools, err := e.svc().PoolStatus(ctx)
	if e.failed = err != nil; err == nil {
		e.read, e.pools = time.Now(), pools
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
