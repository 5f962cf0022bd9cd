package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// TestTheLinesOfASetupAreAllWithTheirLogServiceAfterAStop: a setup does not
// wait for them, so the stop does.
func TestTheLinesOfASetupAreAllWithTheirLogServiceAfterAStop(t *testing.T) {
	t.Parallel()
	service, address := logservicetest.Start(t, "acc", "LOGTOKEN")
	body, err := json.Marshal(agentapi.SetupRequest{LogConfig: agentapi.LogConfig{URL: address, AccountID: "acc", Token: "LOGTOKEN"}})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, onePool, nil)
	s.until(t, "readiness", func() bool {
		pending, err := s.api.Pending(t.Context())
		return err == nil && len(pending) == 0
	})
	if _, err := s.api.Setup(t.Context(), api.SetupRequest{ID: "st1", PoolID: "p", LogKey: "k", SetupRequest: body}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if err := s.result(t); err != nil {
		t.Fatal(err)
	}
	got := service.Log("k")
	if kept := got.Kept(); !strings.Contains(kept, "Stage Runtime ID: st1\n") || !strings.HasSuffix(kept, "✓ VM setup is complete\x1b[0m\n") || kept != got.Live() {
		t.Errorf("kept %q, live %q", kept, got.Live())
	}
	if got.Closes != 1 {
		t.Errorf("closed %d times", got.Closes)
	}
}
