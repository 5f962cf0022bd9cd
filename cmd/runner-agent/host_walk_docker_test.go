//go:build docker

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// block is code of a page: commands, or what they answer.
type block struct {
	language string
	lines    []string
}

// blocks are the blocks of code between two marks of a page.
func blocks(t *testing.T, page, from, to string) []block {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, walk, ok := strings.Cut(string(text), from)
	walk, _, closed := strings.Cut(walk, to)
	if !ok || !closed {
		t.Fatalf("%s has no %s … %s", page, from, to)
	}
	var all []block
	inside := false
	for line := range strings.Lines(walk) {
		line = strings.TrimSuffix(line, "\n")
		switch language, fence := strings.CutPrefix(line, "```"); {
		case fence && !inside:
			all = append(all, block{language: language})
			inside = true
		case fence:
			inside = false
		case inside:
			last := &all[len(all)-1]
			last.lines = append(last.lines, line)
		}
	}
	return all
}

// shows says whether a line of got is the line that is shown, "…" standing for
// anything.
func shows(got, shown string) bool {
	parts := strings.Split(shown, "…")
	return slices.ContainsFunc(strings.Split(got, "\n"), func(line string) bool {
		for i, part := range parts {
			at := strings.Index(line, part)
			if at < 0 || i == 0 && at > 0 {
				return false
			}
			line = line[at+len(part):]
		}
		return line == "" || parts[len(parts)-1] == ""
	})
}

// TestDockerTheReadmesWalkOnAPlainHost does what the page says, word by word, and
// gets what it shows.
func TestDockerTheReadmesWalkOnAPlainHost(t *testing.T) {
	t.Parallel()
	host := dockertest.Start(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "bin/runner-agent")); err != nil {
		t.Fatal(err)
	}
	p := startHostOn(t, host, "runner-agent", "host", "--bind", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"))
	addr := strings.TrimPrefix(p.url, "http://")
	// The walk's own places are everybody's.
	here := strings.NewReplacer("localhost:3000", addr, "127.0.0.1:3000", addr, "/tmp/harness", filepath.Join(dir, "harness"))

	steps := blocks(t, "../../README.md", "<!-- host walk -->", "<!-- end of host walk -->")
	ran := 0
	for i, b := range steps {
		if b.language != "sh" {
			continue
		}
		ran++
		script := here.Replace(strings.Join(b.lines, "\n"))
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), asProgram+"=1", "DOCKER_HOST="+host, "SERVER_HTTPS_BIND="+addr, "RUNNER_HOST_DATA_DIR="+filepath.Join(dir, "data"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		if i+1 == len(steps) || steps[i+1].language != "text" {
			continue
		}
		for _, line := range steps[i+1].lines {
			if !shows(string(out), here.Replace(line)) {
				t.Errorf("%s\nshows no %q:\n%s", script, line, out)
			}
		}
	}
	if ran < 5 {
		t.Errorf("the walk has %d blocks of commands", ran)
	}
	if left := ask(t, host, "ps", "--all", "--quiet"); left != "" {
		t.Errorf("containers after the walk: %s", left)
	}
}
