package loadgen_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/loadgen"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

var update = flag.Bool("update", false, "write golden files")

// runner is a pretend runner in this process: requests reach it without a
// network, so that it works on fake time.
type runner struct {
	setupTime, stepTime, destroyTime time.Duration
	// stall, if set, is how much longer the nth setup takes.
	stall func(n int) time.Duration
	// answer, if set, may answer in place of it.
	answer func(path, id string, n int) (status int, body string)
	// sameMachine gives every stage the same machine.
	sameMachine bool

	mu        sync.Mutex
	setups    int
	requests  []string
	stages    map[string]int // 1 set up, 2 destroyed
	arrivals  []time.Time
	destroyed int
}

func (r *runner) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var msg struct {
		ID             string          `json:"id"`
		PoolID         string          `json:"pool_id"`
		StageRuntimeID string          `json:"stage_runtime_id"`
		Step           json.RawMessage `json:"start_step_request"`
	}
	if err := json.Unmarshal(body, &msg); err != nil {
		return nil, fmt.Errorf("body %q: %w", body, err)
	}
	id := msg.ID + msg.StageRuntimeID
	wait, status, answer := r.handle(req.URL.Path, id, string(body))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(answer)), Request: req, Header: http.Header{}}, nil
}

func (r *runner) handle(path, id, body string) (wait time.Duration, status int, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stages == nil {
		r.stages = make(map[string]int)
	}
	r.requests = append(r.requests, path+" "+body)
	n := r.setups
	switch path {
	case "/setup":
		r.setups++
		r.stages[id] = 1
		r.arrivals = append(r.arrivals, time.Now())
		wait = r.setupTime
		if r.stall != nil {
			wait += r.stall(n)
		}
		answer = fmt.Sprintf(`{"ip_address":"127.0.0.1","instance_id":"machine-%d"}`, n)
		if r.sameMachine {
			answer = `{"instance_id":"the-one"}`
		}
	case "/step":
		wait, answer = r.stepTime, `{"exited":true}`
	case "/destroy":
		r.stages[id] = 2
		r.destroyed++
		wait, answer = r.destroyTime, `null`
	}
	status = 200
	if r.answer != nil {
		if s, a := r.answer(path, id, n); s != 0 {
			return wait, s, a
		}
	}
	return wait, status, answer
}

// left lists the stages that were not destroyed.
func (r *runner) left() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, state := range r.stages {
		if state != 2 {
			all = append(all, id)
		}
	}
	return all
}

func config(r *runner) loadgen.Config {
	return loadgen.Config{URL: "http://runner:3000/", Pool: "linux", Prefix: "t", Transport: r}
}

func run(ctx context.Context, t *testing.T, cfg loadgen.Config) loadgen.Report {
	t.Helper()
	report, err := loadgen.Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func phase(t *testing.T, r loadgen.Report, name string) loadgen.Phase {
	t.Helper()
	for _, p := range r.Phases {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no phase %s in %+v", name, r.Phases)
	return loadgen.Phase{}
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{setupTime: 10 * time.Millisecond, stepTime: 100 * time.Millisecond, destroyTime: 5 * time.Millisecond}
		cfg := config(r)
		cfg.Clients, cfg.Cycles, cfg.Command, cfg.Hold, cfg.Unique = 4, 40, "true", 85*time.Millisecond, true
		got := run(t.Context(), t, cfg)
		// 4 clients, 10 cycles of 200 ms each.
		if got.ElapsedMS != 2000 || got.Cycles != 40 || got.Failed != 0 || got.PerSecond != 20 || got.MostInFlight != 4 || *got.Doubles != 0 {
			t.Errorf("report %+v", got)
		}
		for name, want := range map[string]float64{"setup": 10, "step": 100, "destroy": 5, "cycle": 200} {
			p := phase(t, got, name)
			if p.Count != 40 || p.MinMS != want || p.MaxMS != want || p.P50MS != want || p.P999MS != want {
				t.Errorf("%s is %+v, want 40 of %v ms", name, p, want)
			}
		}
		if left := r.left(); len(left) > 0 {
			t.Errorf("not destroyed: %v", left)
		}
	})
}

func TestBodies(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{}
		cfg := config(r)
		cfg.Cycles, cfg.Command, cfg.Fallbacks = 1, `echo "a & b"`, []string{"spare"}
		run(t.Context(), t, cfg)
		want := []string{
			`/setup {"id":"t-1","pool_id":"linux","fallback_pool_ids":["spare"],"setup_request":{"envs":{"CI":"true"},"network":{"id":"drone"},"mount_docker_socket":false,"log_config":{},"ti_config":{}}}`,
			`/step {"stage_runtime_id":"t-1","start_step_request":{"environment":{"CI":"true"},"id":"load-step","kind":"Run","log_drone":true,"name":"load","run":{"commands":["echo \"a \u0026 b\""],"entrypoint":["sh","-c"]},"working_dir":"/tmp"}}`,
			`/destroy {"id":"t-1","pool_id":"linux"}`,
		}
		if d := cmp.Diff(want, r.requests); d != "" {
			t.Error(d)
		}
	})
}

func TestClosedLoopEndsByTime(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{setupTime: 30 * time.Millisecond}
		cfg := config(r)
		cfg.Clients, cfg.Duration = 2, time.Second
		got := run(t.Context(), t, cfg)
		// The last ones start at 990 ms and end in peace.
		if got.Cycles != 68 || got.Failed+got.Interrupted != 0 || got.ElapsedMS != 1020 {
			t.Errorf("report %+v", got)
		}
	})
}

// TestOpenLoopHidesNoStall: one setup of a runner that takes one at a time
// stalls for a second. A closed loop would count one slow request; in truth
// every stage that was due meanwhile has waited.
func TestOpenLoopHidesNoStall(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{setupTime: time.Millisecond, stall: func(n int) time.Duration {
			if n == 50 {
				return time.Second
			}
			return 0
		}}
		cfg := config(r)
		cfg.Rate, cfg.Cycles, cfg.InFlight = 100, 200, 1
		got := run(t.Context(), t, cfg)
		setup := phase(t, got, "setup")
		// 1 s at 100/s: 100 stages were due in the stall and, 1 ms each after
		// it, waited from 1 s downwards: about half waited for 0.5 s and more.
		if setup.MaxMS < 1000 || setup.P90MS < 800 || setup.P50MS < 100 {
			t.Errorf("setup %+v hides the stall", setup)
		}
		if got.Mode != "open" || got.Rate != 100 || got.Cycles != 200 || got.MostInFlight != 1 {
			t.Errorf("report %+v", got)
		}
	})
}

func TestOpenLoopArrivesOnTime(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{setupTime: 10 * time.Second}
		cfg := config(r)
		cfg.Rate, cfg.Duration = 4, 5*time.Second
		start := time.Now()
		got := run(t.Context(), t, cfg)
		if got.Cycles != 20 || got.MostInFlight != 20 {
			t.Errorf("%d stages, %d at a time; want 20 and 20, whatever the runner does", got.Cycles, got.MostInFlight)
		}
		slices.SortFunc(r.arrivals, time.Time.Compare)
		for i, at := range r.arrivals {
			if want := time.Duration(i) * 250 * time.Millisecond; at.Sub(start) != want {
				t.Errorf("stage %d arrives after %v, want %v", i, at.Sub(start), want)
			}
		}
	})
}

func TestErrorsAreCountedByText(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{answer: func(path, id string, n int) (int, string) {
			switch {
			case path == "/setup" && n%4 == 0:
				return 500, fmt.Sprintf(`{"error_msg":"no machine for %s"}`, id)
			case path == "/setup" && n%4 == 1:
				return 503, ""
			case path == "/step" && strings.HasSuffix(id, "3"):
				return 200, `{"exited":true,"exit_code":7,"error":"exit status 7\n"}`
			}
			return 0, ""
		}}
		cfg := config(r)
		cfg.Cycles, cfg.Command = 40, "exit 7"
		got := run(t.Context(), t, cfg)
		want := []loadgen.ErrorCount{
			{Phase: "setup", Text: "500: no machine for <id>", Count: 10},
			{Phase: "setup", Text: "503: Service Unavailable", Count: 10},
			{Phase: "step", Text: "exit code 7: exit status 7", Count: 2},
		}
		if d := cmp.Diff(want, got.Errors); d != "" {
			t.Error(d)
		}
		if got.Failed != 22 || phase(t, got, "setup").Errors != 20 || phase(t, got, "step").Errors != 2 {
			t.Errorf("report %+v", got)
		}
	})
}

func TestDoublyGivenMachineIsSeen(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{sameMachine: true}
		cfg := config(r)
		cfg.Clients, cfg.Cycles, cfg.Hold, cfg.Unique = 3, 3, time.Second, true
		got := run(t.Context(), t, cfg)
		if *got.Doubles != 2 {
			t.Errorf("%d doubles, want 2", *got.Doubles)
		}
		cfg.Clients = 1 // one after the other is no double
		if got := run(t.Context(), t, cfg); *got.Doubles != 0 {
			t.Errorf("%d doubles, want none", *got.Doubles)
		}
	})
}

func TestCancelledRunDestroysWhatItBegan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		r     *runner
		after time.Duration
	}{
		{"while machines are set up", &runner{setupTime: time.Hour}, time.Second},
		{"while steps run", &runner{stepTime: time.Hour}, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			testbubble.Run(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tc.after)
				defer cancel()
				cfg := config(tc.r)
				cfg.Clients, cfg.Duration, cfg.Command, cfg.Timeout = 5, time.Hour, "sleep 1h", 2*time.Hour
				got := run(ctx, t, cfg)
				if got.Interrupted != 5 || got.Failed != 0 || len(got.Errors) != 0 {
					t.Errorf("report %+v, want five interrupted and no error", got)
				}
				if left := tc.r.left(); len(left) > 0 {
					t.Errorf("not destroyed: %v", left)
				}
			})
		})
	}
}

func TestSetupThatTimesOutIsDestroyed(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		r := &runner{setupTime: time.Hour}
		cfg := config(r)
		cfg.Cycles, cfg.Timeout = 1, time.Second
		got := run(t.Context(), t, cfg)
		if got.Failed != 1 || len(got.Errors) != 1 || len(r.left()) != 0 {
			t.Errorf("report %+v, left %v", got, r.left())
		}
	})
}

func TestProgressIsTold(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		var told []loadgen.Progress
		cfg := config(&runner{setupTime: 100 * time.Millisecond})
		cfg.Clients, cfg.Duration = 2, 3*time.Second
		cfg.Progress = func(p loadgen.Progress) { told = append(told, p) }
		run(t.Context(), t, cfg)
		if len(told) < 2 || told[0].Elapsed != time.Second || told[1].Done <= told[0].Done || told[1].PerSecond < 15 {
			t.Errorf("told %+v", told)
		}
	})
}

func TestConfigProblemsComeAtOnce(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		cfg  loadgen.Config
		want []string
	}{
		{"nothing is given", loadgen.Config{}, []string{"runner address", "no pool", "would never end"}},
		{"a wrong address", loadgen.Config{URL: "127.0.0.1:3000", Pool: "p", Cycles: 1}, []string{"want http://host:port"}},
		{"numbers below zero", loadgen.Config{URL: "http://h", Pool: "p", Cycles: -1, Rate: -2}, []string{"must not be below zero", "rate -2"}},
		{"a setup that is no JSON", loadgen.Config{URL: "http://h", Pool: "p", Cycles: 1, Setup: []byte("{")}, []string{"not JSON"}},
		{"a prefix that breaks bodies", loadgen.Config{URL: "http://h", Pool: "p", Cycles: 1, Prefix: `a"b`}, []string{"JSON escapes"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := loadgen.Run(t.Context(), tc.cfg)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
		})
	}
}

func TestReportForPeopleAndScripts(t *testing.T) {
	t.Parallel()
	doubles := int64(1)
	r := loadgen.Report{
		Mode: "open", Pool: "linux", Rate: 12.5, ElapsedMS: 60123.4, Cycles: 751, Failed: 3, Interrupted: 2, PerSecond: 12.4, MostInFlight: 17, Doubles: &doubles,
		Phases: []loadgen.Phase{
			{Name: "setup", Count: 748, Errors: 3, MinMS: 1.5, MeanMS: 7.25, P50MS: 6, P90MS: 12, P99MS: 48.9, P999MS: 101, MaxMS: 1203.7},
			{Name: "destroy", Count: 748, MinMS: 0.4, MeanMS: 0.6, P50MS: 0.5, P90MS: 1, P99MS: 2, P999MS: 3, MaxMS: 4},
		},
		Errors: []loadgen.ErrorCount{{Phase: "setup", Text: "500: pool linux is at its limit (5 of 5 machines)", Count: 3}},
	}
	var text bytes.Buffer
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "open.txt", text.Bytes())
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "open.json", append(data, '\n'))

	r.Mode, r.Clients, r.Rate, r.Doubles, r.Errors, r.Interrupted = "closed", 64, 0, nil, nil, 0
	text.Reset()
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "closed.txt", text.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, d)
	}
}

// BenchmarkCycle is what one setup and destroy cost the generator, over
// loopback to a server that does nothing.
func BenchmarkCycle(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"instance_id":"i"}`)
	}))
	defer srv.Close()
	b.ReportAllocs()
	report, err := loadgen.Run(b.Context(), loadgen.Config{URL: srv.URL, Pool: "p", Clients: 8, Cycles: b.N})
	if err != nil || report.Failed > 0 {
		b.Fatalf("%+v, %v", report, err)
	}
}
