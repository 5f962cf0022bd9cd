package server

import (
	"cmp"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// metrics is what /metrics shows: names existing dashboards know where we have
// the same thing, and our own under drone_runner_.
type metrics struct {
	handler http.Handler

	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	running  prometheus.Gauge

	executions   *prometheus.CounterVec
	errors       *prometheus.CounterVec
	wait         *prometheus.HistogramVec
	total        *prometheus.HistogramVec
	initAttempts *prometheus.CounterVec
	initDuration *prometheus.HistogramVec

	asked  bounded
	engine *engineCollector
}

// Buckets in seconds. A warm machine is given in milliseconds, a cold one in
// minutes, and a step may take hours.
var (
	setupBuckets   = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	requestBuckets = []float64{0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300, 1800, 7200}
)

// maxAsked bounds the label values that callers choose freely: so many
// combinations are told apart, the rest is "other".
const maxAsked = 200

// distributed is a label existing dashboards filter by; this runner has one way
// to work.
const distributed = "false"

func newMetrics(version string, svc func() pool.Service) *metrics {
	reg := prometheus.NewRegistry()
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		reg.MustRegister(v)
		return v
	}
	where := []string{"pool_id", "os", "arch", "driver", "distributed"}
	m := &metrics{
		requests: counter("drone_runner_http_requests_total", "Requests answered.", "route", "code"),
		duration: histogram("drone_runner_http_request_duration_seconds", "Time from a request's header to its answer.", requestBuckets, "route"),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "drone_runner_http_requests_in_flight", Help: "Requests being served.",
		}),
		executions: counter("harness_ci_pipeline_execution_total", "Setups that got a machine.",
			append(where, "zone", "resource_class", "image_version", "image_name", "variant_id")...),
		errors: counter("harness_ci_pipeline_execution_errors_total", "Setups that got none.",
			append(where, "resource_class", "image_version", "image_name")...),
		wait: histogram("harness_ci_runner_wait_duration_seconds", "Time from a lease's arrival to its machine.", setupBuckets,
			append(where, "is_fallback", "warmed", "hibernated", "variant_id")...),
		total: histogram("harness_ci_runner_total_vm_init_duration_seconds", "Time of a successful setup.", setupBuckets,
			append(where, "is_fallback", "warmed", "hibernated", "variant_id")...),
		initAttempts: counter("runner_vm_init_attempts_total", "Setups by source of the machine and outcome.",
			"pool_id", "zone", "source", "outcome", "reason"),
		initDuration: histogram("runner_vm_init_duration_seconds", "Time of a setup by source and outcome.", setupBuckets,
			"pool_id", "zone", "source", "outcome"),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "drone_runner_build_info", Help: "What runs; always 1.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.engine = newEngineCollector(svc)
	reg.MustRegister(m.running, build, m.engine,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, MaxRequestsInFlight: 8})
	return m
}

func (m *metrics) serve(w http.ResponseWriter, r *http.Request) error {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	m.engine.refresh(r.Context())
	m.handler.ServeHTTP(w, r)
	return nil
}

// begin counts a request in; what it returns counts it out.
func (m *metrics) begin() func(route string, status int, took time.Duration) {
	m.running.Inc()
	return func(route string, status int, took time.Duration) {
		m.running.Dec()
		m.requests.WithLabelValues(route, strconv.Itoa(cmp.Or(status, http.StatusOK))).Inc()
		m.duration.WithLabelValues(route).Observe(took.Seconds())
	}
}

// setupDone counts a setup that got a machine. One that found its lease active
// before is no execution.
func (m *metrics) setupDone(in pool.SetupRequest, res pool.SetupResult, took time.Duration) {
	if res.Joined {
		return
	}
	i := res.Instance
	where := []string{i.Pool, i.OS, i.Arch, i.Driver, distributed}
	asked := m.asked.only(in.Want.ResourceClass, in.Want.ImageVersion, in.Want.Image)
	m.executions.WithLabelValues(append(where, i.Zone, asked[0], asked[1], asked[2], i.Variant)...).Inc()

	warm := strconv.FormatBool(!i.Cold)
	how := append(where, strconv.FormatBool(i.Pool != in.Pools[0]), warm, "false", i.Variant)
	m.total.WithLabelValues(how...).Observe(took.Seconds())
	if l := res.Lease; !l.Arrived.IsZero() && l.Claimed.After(l.Arrived) {
		m.wait.WithLabelValues(how...).Observe(l.Claimed.Sub(l.Arrived).Seconds())
	} else {
		m.wait.WithLabelValues(how...).Observe(0)
	}
	source := "ondemand"
	if !i.Cold {
		source = "hotpool"
	}
	m.initAttempts.WithLabelValues(i.Pool, i.Zone, source, "success", "none").Inc()
	m.initDuration.WithLabelValues(i.Pool, i.Zone, source, "success").Observe(took.Seconds())
}

// setupFailed counts a setup that got none, under its first pool if that is
// one of ours: a label a caller could make up has no bound.
func (m *metrics) setupFailed(e *engine, in pool.SetupRequest, err error, took time.Duration) {
	name := "unknown"
	p, ours := e.pools[in.Pools[0]]
	if ours {
		name = p.Name
	}
	asked := m.asked.only(in.Want.ResourceClass, in.Want.ImageVersion, in.Want.Image)
	m.errors.WithLabelValues(name, p.Platform.OS, p.Platform.Arch, p.Driver, distributed, asked[0], asked[1], asked[2]).Inc()
	source, reason := setupFailure(err)
	m.initAttempts.WithLabelValues(name, "", source, "error", reason).Inc()
	m.initDuration.WithLabelValues(name, "", source, "error").Observe(took.Seconds())
}

// setupFailure puts the last cause of a failed setup in the words of existing
// dashboards.
func setupFailure(err error) (source, reason string) {
	reasons := map[string]string{
		"claim": "pool_exhausted", "create": "cloud_create_failed", "boot": "health_failed",
		"health": "health_failed", "setup": "setup_failed",
	}
	source, reason = "ondemand", "unknown"
	if se, ok := errors.AsType[*pool.SetupError](err); ok && len(se.Causes) > 0 {
		reason = cmp.Or(reasons[se.Causes[len(se.Causes)-1].Phase], "unknown")
	} else if errors.Is(err, pool.ErrLimit) {
		reason = "pool_exhausted"
	} else if errors.Is(err, pool.ErrUnavailable) {
		reason = "state_failed"
	}
	return source, reason
}

// bounded lets through the first combinations of label values it sees, and
// shortens what is longer than a label should be.
type bounded struct {
	mu   sync.Mutex
	seen map[[3]string]bool
}

func (b *bounded) only(values ...string) [3]string {
	var key [3]string
	for i := range key {
		key[i] = values[i]
		if len(key[i]) > 128 {
			key[i] = "other"
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[key] {
		return key
	}
	if len(b.seen) >= maxAsked {
		return [3]string{"other", "other", "other"}
	}
	if b.seen == nil {
		b.seen = map[[3]string]bool{}
	}
	b.seen[key] = true
	return key
}
