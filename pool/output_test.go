package pool_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// TestOutputThatAnAgentDoesNotKeepIsExplained: existing agents refuse to stream
// the output of a step that is not in drone mode, in the words they have for a
// step they do not know.
func TestOutputThatAnAgentDoesNotKeepIsExplained(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		refused := &pool.AgentError{Op: "stream_output", Status: 400, Message: "Step has not started"}
		e.hook = func(_ context.Context, op string, _ pool.Target, _ string) error {
			if op == "stream_output" {
				return refused
			}
			return nil
		}
		e.start()
		if _, err := e.m.Setup(t.Context(), e.request("a")); err != nil {
			t.Fatal(err)
		}
		if _, err := e.m.Step(t.Context(), step("a", "known")); err != nil {
			t.Fatal(err)
		}
		for _, follow := range []bool{true, false} {
			_, err := e.m.StepOutput(t.Context(), "a", "known", 0, follow, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "keeps no output of step known") || !strings.Contains(err.Error(), refused.Error()) {
				t.Errorf("follow %t, a step that ran: %v", follow, err)
			}
			_, err = e.m.StepOutput(t.Context(), "a", "never", 0, follow, io.Discard)
			if err == nil || strings.Contains(err.Error(), "keeps no output") {
				t.Errorf("follow %t, a step nobody began: %v", follow, err)
			}
		}
	})
}
