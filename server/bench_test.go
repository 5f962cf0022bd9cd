package server_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

// BenchmarkSetup is what the server itself costs a setup, with a body of the
// usual size and an engine that answers at once.
func BenchmarkSetup(b *testing.B) {
	s := server.New(server.Config{Service: &fake{
		setup: func(context.Context, pool.SetupRequest) (pool.SetupResult, error) {
			return pool.SetupResult{Instance: machine()}, nil
		},
	}})
	body := `{"id":"st1","pool_id":"linux","setup_request":{"envs":{"A":"` + strings.Repeat("x", 4000) + `"},"log_config":{"account_id":"a"}}}`
	for b.Loop() {
		exchange(b, s.Handler(), "POST", "/setup", body)
	}
}

// BenchmarkStep is the same for a step, its edits included.
func BenchmarkStep(b *testing.B) {
	s := server.New(server.Config{Service: &fake{
		step: func(_ context.Context, r pool.StepRequest) (json.RawMessage, error) {
			_, err := r.Body(map[string]string{"A": "1"})
			return json.RawMessage(`{"exited":true}`), err
		},
	}})
	body := `{"stage_runtime_id":"st1","start_step_request":{"id":"s","environment":{"B":"2"},"run":{"commands":["` + strings.Repeat("x", 4000) + `"]}}}`
	for b.Loop() {
		exchange(b, s.Handler(), "POST", "/step", body)
	}
}
