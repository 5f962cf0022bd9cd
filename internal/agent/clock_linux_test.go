package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

func TestASetupCorrectsTheClockOfAMachineThatMayHaveSlept(t *testing.T) {
	t.Parallel()
	for _, wanted := range []bool{true, false} {
		dir := t.TempDir()
		called := filepath.Join(dir, "called")
		script := "#!/bin/sh\necho \"$@\" > '" + called + ".new' && mv '" + called + ".new' '" + called + "'\n"
		if err := os.WriteFile(filepath.Join(dir, "chronyc"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		a, err := agent.New(agent.Options{
			StateDir: filepath.Join(dir, "state"), SharedDir: filepath.Join(dir, "shared"),
			Env: []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, StepClock: wanted,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Setup(t.Context(), &agentapi.SetupRequest{}); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for wanted && time.Now().Before(deadline) {
			if _, err := os.Stat(called); err == nil {
				break
			}
			<-time.After(5 * time.Millisecond)
		}
		if err := a.Close(); err != nil { // waits for what was begun
			t.Fatal(err)
		}
		text, _ := os.ReadFile(called) // "" if it was not called
		if want := map[bool]string{true: "makestep", false: ""}[wanted]; strings.TrimSpace(string(text)) != want {
			t.Errorf("wanted %v: chronyc was called with %q", wanted, text)
		}
	}
}
