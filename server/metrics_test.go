package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

func scrape(t testing.TB, s *server.Server) string {
	t.Helper()
	resp := exchange(t, s.Handler(), "GET", "/metrics", "")
	body := bodyOf(t, resp)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	return body
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := v1Fake()
	f.counters = pool.Counters{
		Setups:    map[string]int64{"warm": 5, "failed": 1},
		Renewals:  map[string]int64{"renewed": 4},
		Creates:   map[pool.PoolOutcome]int64{{Pool: "linux", Outcome: "success"}: 7},
		Destroys:  map[pool.PoolOutcome]int64{{Pool: "linux", Outcome: "error"}: 2},
		Fallbacks: map[pool.PoolOutcome]int64{{Pool: "linux", Outcome: "true"}: 1},
		Phases:    map[string]pool.Histogram{"claim": {Bounds: []float64{0.01, 1}, Counts: []uint64{2, 3}, Sum: 1.5, Count: 4}},
		Orphans:   map[pool.OrphanLabel]int{{Scope: "noop:/data", Reason: pool.KeepGitspace}: 1},
	}
	f.setup = func(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
		if r.ID == "bad" {
			return pool.SetupResult{}, &pool.SetupError{Causes: []pool.Cause{{Pool: "linux", Phase: "health", Message: "no"}}}
		}
		return pool.SetupResult{Instance: machine(), Lease: pool.Lease{Arrived: day, Claimed: day.Add(time.Second)}, Joined: r.ID == "again"}, nil
	}
	s := newServer(t, server.Config{Service: f})
	for _, id := range []string{"a", "again", "bad"} {
		exchange(t, s.Handler(), "POST", "/setup", `{"id":"`+id+`","pool_id":"linux","fallback_pool_ids":["x"],"resource_class":"m"}`)
	}
	exchange(t, s.Handler(), "POST", "/setup", `{"id":"bad","pool_id":"made-up"}`)
	exchange(t, s.Handler(), "GET", "/no/such/path", "")
	body := scrape(t, s)
	for _, want := range []string{
		`harness_ci_pipeline_execution_total{arch="amd64",distributed="false",driver="noop",image_name="",image_version="",os="linux",pool_id="linux",resource_class="m",variant_id="default",zone="zone-a"} 1`,
		`harness_ci_pipeline_execution_errors_total{arch="amd64",distributed="false",driver="noop",image_name="",image_version="",os="linux",pool_id="linux",resource_class="m"} 1`,
		`harness_ci_pipeline_execution_errors_total{arch="",distributed="false",driver="",image_name="",image_version="",os="",pool_id="unknown",resource_class=""} 1`,
		`harness_ci_pipeline_running_executions{arch="amd64",distributed="false",driver="noop",os="linux",pool_id="linux",state="inuse"} 1`,
		`harness_ci_pipeline_warm_pool_executions{arch="amd64",driver="noop",os="linux",pool_id="linux",state="free"} 2`,
		`harness_ci_pipeline_pool_fallbacks{pool_id="linux",success="true"} 1`,
		`harness_ci_runner_wait_duration_seconds_sum{arch="amd64",distributed="false",driver="noop",hibernated="false",is_fallback="false",os="linux",pool_id="linux",variant_id="default",warmed="true"} 1`,
		`harness_ci_runner_total_vm_init_duration_seconds_count{arch="amd64",distributed="false",driver="noop",hibernated="false",is_fallback="false",os="linux",pool_id="linux",variant_id="default",warmed="true"} 1`,
		`runner_vms_current{pool_id="linux",state="warm"} 2`,
		`runner_vms_current{pool_id="linux",state="failed"} 0`,
		`runner_vm_creation_attempts_total{outcome="success",pool_id="linux"} 7`,
		`runner_cleanup_attempts_total{outcome="error",pool_id="linux",resource="vm"} 2`,
		`runner_vm_init_attempts_total{outcome="success",pool_id="linux",reason="none",source="hotpool",zone="zone-a"} 1`,
		`runner_vm_init_attempts_total{outcome="error",pool_id="linux",reason="health_failed",source="ondemand",zone=""} 1`,
		`drone_runner_setups_total{outcome="warm"} 5`,
		`drone_runner_certificate_renewals_total{outcome="renewed"} 4`,
		`drone_runner_setup_phase_duration_seconds_bucket{phase="claim",le="0.01"} 2`,
		`drone_runner_setup_phase_duration_seconds_bucket{phase="claim",le="+Inf"} 4`,
		`drone_runner_orphans{kind="machine",reason="gitspace_is_only_reported",scope="noop:/data"} 1`,
		`drone_runner_destroys_failing{pool_id="linux"} 0`,
		`drone_runner_pool_max{pool_id="linux"} 10`,
		`drone_runner_pool_waiting{pool_id="linux"} 1`,
		`drone_runner_pool_problem{pool_id="old"} 1`,
		`drone_runner_pool_held{pool_id="linux"} 1`,
		`drone_runner_pool_held{pool_id="old"} 0`,
		`drone_runner_pool_generation{pool_id="linux"} 3`,
		`drone_runner_store_up 1`,
		`drone_runner_http_requests_total{code="200",route="/setup"} 2`,
		`drone_runner_http_requests_total{code="500",route="/setup"} 2`,
		`drone_runner_http_requests_total{code="404",route="other"} 1`,
		`drone_runner_http_requests_in_flight 1`,
		`drone_runner_build_info{goversion=`,
		`go_goroutines `,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		for line := range strings.SplitSeq(body, "\n") {
			if strings.HasPrefix(line, "harness") || strings.HasPrefix(line, "runner") || strings.HasPrefix(line, "drone") {
				t.Log(line)
			}
		}
	}
	if strings.Contains(body, "made-up") {
		t.Error("a name a caller made up is a label")
	}
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t, server.Config{Service: &fake{}, Progress: &sink{}})
	for n := range 1000 {
		exchange(t, s.AdminHandler(), "POST", "/setup", fmt.Sprintf(`{"id":"x","pool_id":"p%d","resource_class":"c%d"}`, n, n))
		exchange(t, s.AdminHandler(), "GET", fmt.Sprintf("/path%d", n), "")
		exchange(t, s.AdminHandler(), "GET", fmt.Sprintf("/v1/leases/l%d", n), "")
		exchange(t, s.AdminHandler(), fmt.Sprintf("M%d", n), "/setup", "")
	}
	if n := len(regexp.MustCompile(`(?m)^[a-z]`).FindAllString(scrape(t, s), -1)); n > 1000 {
		t.Errorf("%d series after 1000 made-up names of each kind", n)
	}
}

func TestCountsStayWhileTheStoreIsDown(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	var asked atomic.Int32
	f := v1Fake()
	up := f.status
	f.status = func(ctx context.Context) ([]pool.PoolStatus, error) {
		asked.Add(1)
		if down.Load() {
			return nil, errors.New("locked")
		}
		return up(ctx)
	}
	s := newServer(t, server.Config{Service: f})
	for range 20 {
		scrape(t, s)
	}
	if n := asked.Load(); n > 15 {
		t.Errorf("the store was asked %d times for 20 scrapes in a moment", n)
	}
	down.Store(true)
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(scrape(t, s), "\ndrone_runner_store_up 0") {
		if time.Now().After(deadline) {
			t.Fatal("the store is down and the metric says it is up")
		}
	}
	if body := scrape(t, s); !strings.Contains(body, "\nrunner_vms_current{pool_id=\"linux\",state=\"warm\"} 2") {
		t.Error("the counts are gone with the store")
	}
}

func BenchmarkScrape(b *testing.B) {
	var pools []pool.PoolStatus
	for n := range 50 {
		pools = append(pools, pool.PoolStatus{PoolRow: pool.PoolRow{
			Name: fmt.Sprint("pool", n), Driver: "noop", Platform: drivers.Platform{OS: "linux", Arch: "amd64"},
		}})
	}
	s := server.New(server.Config{Service: &fake{status: func(context.Context) ([]pool.PoolStatus, error) { return pools, nil }}})
	for b.Loop() {
		scrape(b, s)
	}
}
