package server_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

// sink keeps the lines of one setup.
type sink struct {
	mu     sync.Mutex
	stream server.ProgressStream
	lines  []string
	closed int
}

func (s *sink) Open(_ context.Context, stream server.ProgressStream) server.ProgressWriter {
	s.stream = stream
	return s
}

func (s *sink) Line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, text)
}

func (s *sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
}

func TestProgressLines(t *testing.T) {
	t.Parallel()
	i := machine()
	failed := errors.New("linux: health: no answer; spare: setup: agent setup: 500: no docker")
	for _, tc := range []struct {
		name, body string
		steps      []pool.Progress
		err        error
	}{
		{
			name:  "a warm machine",
			body:  `{"id":"st1","pool_id":"linux","resource_class":"medium"}`,
			steps: []pool.Progress{{Phase: "provisioned"}, {Phase: "healthy", Instance: &i}, {Phase: "ready"}},
		},
		{
			name:  "a machine whose health is told with its readiness",
			body:  `{"id":"st1","pool_id":"linux"}`,
			steps: []pool.Progress{{Phase: "provisioned"}, {Phase: "ready", Instance: &i}},
		},
		{
			name: "an image of the request after a wait",
			body: `{"id":"st1","pool_id":"linux","nested_virtualization":true,"setup_request":{"vm_image_config":{"image_name":"img","image_version":"7"}}}`,
			steps: []pool.Progress{
				{Phase: "waiting", Message: "pool linux is at its limit (2 of 2 machines)"},
				{Phase: "provisioned"},
				{Phase: "healthy"},
				{Phase: "ready"},
			},
		},
		{
			name: "two pools that fail",
			body: `{"id":"st1","pool_id":"unknown","fallback_pool_ids":["linux"]}`,
			steps: []pool.Progress{
				{Phase: "provisioned"},
				{Phase: "failed", Message: "linux: health: no answer"},
				{Phase: "provisioned"},
				{Phase: "healthy", Instance: &i},
				{Phase: "failed", Message: "spare: setup: no docker"},
			},
			err: failed,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			out := &sink{}
			s := newServer(t, server.Config{Progress: out, Service: &fake{
				setup: func(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
					for _, p := range tc.steps {
						r.Progress(p)
					}
					t.Cleanup(func() { r.Progress(pool.Progress{Phase: "ready"}) }) // too late: dropped
					return pool.SetupResult{Instance: machine()}, tc.err
				},
			}})
			exchange(t, s.Handler(), "POST", "/setup", tc.body)
			golden(t, "progress/"+strings.ReplaceAll(tc.name, " ", "_")+".txt", strings.Join(out.lines, "\n")+"\n")
			if out.closed != 1 {
				t.Errorf("closed %d times, want once", out.closed)
			}
		})
	}
}

func TestProgressStream(t *testing.T) {
	t.Parallel()
	out := &sink{}
	s := newServer(t, server.Config{Progress: out, Service: delegateFake()})
	exchange(t, s.Handler(), "POST", "/setup", `{"id":"st1","pool_id":"linux","log_key":"k","setup_request":{"log_config":{"url":"u","token":"t","account_id":"a"}}}`)
	if got := out.stream; got.Lease != "st1" || got.LogKey != "k" || got.URL != "u" || got.Token != "t" || got.AccountID != "a" || len(got.SetupRequest) == 0 {
		t.Errorf("%+v", got)
	}
}
