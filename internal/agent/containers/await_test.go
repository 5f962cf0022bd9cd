package containers

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

func TestADaemonIsMissedSinceAStepWaitedFirst(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var a absence
	for _, look := range []struct {
		at, want time.Duration
		why      string
	}{
		{0, 0, "the first one"},
		{20 * time.Second, 20 * time.Second, "the same step, or another that has come meanwhile"},
		{65 * time.Second, 65 * time.Second, "a step that comes when patience is over"},
		{3 * time.Minute, 0, "a step long after: the daemon may have been there since"},
		{3*time.Minute + time.Second, time.Second, "and the next"},
	} {
		if got := a.missed(begun.Add(look.at)); got != look.want {
			t.Errorf("%s: missed for %s, want %s", look.why, got, look.want)
		}
	}
	a.over()
	if got := a.missed(begun.Add(3*time.Minute + 2*time.Second)); got != 0 {
		t.Errorf("after it was there: missed for %s", got)
	}
}

// notes keeps what a step is told.
type notes struct{ text []string }

func (n *notes) Write(p []byte) (int, error) { return len(p), nil }
func (n *notes) Line(string)                 {}
func (n *notes) Note(text string)            { n.text = append(n.text, text) }

func TestNobodyWaitsWhereThereIsNoDocker(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	fake.Down()
	dir := t.TempDir()
	e := engineOn(t, fake)
	e.conf.Patience = time.Hour
	e.named, e.programs = false, []string{"", dir}
	var out notes
	if err := e.awaitDaemon(t.Context(), &out, e.conf.Patience); !isAway(err) {
		t.Errorf("error %v", err)
	}
	if len(out.text) != 1 || !strings.HasPrefix(out.text[0], "there is no Docker on this machine: install it") {
		t.Errorf("notes %q", out.text)
	}
	if err := os.WriteFile(filepath.Join(dir, "dockerd"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !e.expected() {
		t.Error("a daemon whose program is there is not expected")
	}
}

func TestASilentDaemonIsGivenUpAfterAWhile(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	fake.On("GET /_ping", func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
	e := engineOn(t, fake)
	e.conf.Patience = 1500 * time.Millisecond
	var out notes
	err := e.awaitDaemon(t.Context(), &out, e.conf.Patience)
	if err == nil || !strings.HasPrefix(err.Error(), "the Docker daemon did not answer within ") || !strings.HasSuffix(err.Error(), "(ping); see if it works with: docker info") {
		t.Errorf("error %v", err)
	}
	if len(out.text) != 2 || !strings.HasPrefix(out.text[0], "waiting up to 1.5s") || !strings.Contains(out.text[1], "has not come within 1.5s") {
		t.Errorf("notes %q", out.text)
	}
}
