package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/guestinit"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

func TestAnAgentThatCannotListenLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	if ln, err := net.Listen("tcp", fmt.Sprintf(":%d", guestlink.AgentPort)); err == nil {
		defer ln.Close() // else somebody has the port, which serves as well
	}
	certs, err := agent.NewCertificates("runner.test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	err = serveIdentity(t.Context(), guestinit.Session{
		Identity: &guestlink.Identity{Machine: "m", CACert: certs.CACert, Cert: certs.Cert, Key: certs.Key},
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
		Ready:    func() { t.Error("it says that it listens") },
	}, agent.Options{StateDir: state, SharedDir: filepath.Join(t.TempDir(), "engine")})
	if err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(state, "runs"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("the folder of the run is left: %v", entries)
	}
}
