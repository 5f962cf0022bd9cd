//go:build unix

package agent_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// counting is a spawner that counts what it starts.
type counting struct{ started *atomic.Int32 }

func (c counting) Start(cmd *exec.Cmd) error { c.started.Add(1); return cmd.Start() }
func (c counting) Exited(*exec.Cmd)          {}

func TestRehearsal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		brokenOff bool
		answer    string
		started   int32
	}{
		"runs a step and leaves the agent as it was": {answer: "{}\n", started: 1},
		"broken off by its caller runs nothing":      {brokenOff: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var started atomic.Int32
			r := newRig(t, func(o *agent.Options) { o.Spawner = counting{&started} })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.brokenOff {
				cancel()
			}
			w := httptest.NewRecorder()
			r.agent.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, agentapi.PathRehearse, strings.NewReader("{}")))
			if w.Body.String() != test.answer || started.Load() != test.started {
				t.Errorf("answer %q and %d processes, want %q and %d", w.Body, started.Load(), test.answer, test.started)
			}
			if got := r.run(sh("r", "exit 3")); got.ExitCode != 3 {
				t.Errorf("a step of the rehearsal's id afterwards: %+v", got)
			}
		})
	}
}
