package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/chaos"
)

// called runs the command with a folder of its own.
func called(t *testing.T, args ...string) (code int, stdout, stderr, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	var out, said bytes.Buffer
	code = run(t.Context(), append([]string{"-dir", dir, "-seed", "42"}, args...), &out, &said)
	return code, out.String(), said.String(), dir
}

func TestHelpNamesEveryMode(t *testing.T) {
	t.Parallel()
	code, _, said, dir := called(t, "-h")
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, m := range chaos.Modes() {
		if !strings.Contains(said, m.Name) || !strings.Contains(said, m.What) {
			t.Errorf("help lacks mode %s: %s", m.Name, said)
		}
		if !m.Default && m.Why == "" {
			t.Errorf("nobody says why %s does not run by itself", m.Name)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("help made a folder: %v", err)
	}
}

func TestWrongUsageExits2AndSaysWhatIsRight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no program under test", nil, "-runner"},
		{"a flag that is none", []string{"-nosuch"}, "-nosuch"},
		{"a number that is none", []string{"-kills", "many"}, "kills"},
		{"a mode that is none", []string{"-runner", "/bin/false", "nosuch"}, `no mode "nosuch"; there are kills, replicas`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, out, said, _ := called(t, c.args...)
			if code != 2 || out != "" || !strings.Contains(said, c.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 2, nothing and %q", code, out, said, c.want)
			}
		})
	}
}

func TestAModeThatCannotRunHereIsSkippedByName(t *testing.T) {
	t.Parallel()
	code, out, _, dir := called(t, "-runner", "/bin/false", "replicas")
	if code != 0 || !strings.Contains(out, "skipped") || !strings.Contains(out, "Postgres") {
		t.Errorf("exit code %d, %s", code, out)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestAModeThatFailsExits1AndKeepsItsFolder(t *testing.T) {
	t.Parallel()
	code, out, said, dir := called(t, "-runner", "/bin/false", "kills")
	if code != 1 || !strings.Contains(out, "FAILED") || !strings.Contains(out, "ended by itself") {
		t.Errorf("exit code %d, %s", code, out)
	}
	if !strings.Contains(said, "SEED=42") || !strings.Contains(said, dir) {
		t.Errorf("how to run it again and where to look is not said: %s", said)
	}
	if _, err := os.Stat(filepath.Join(dir, "kills")); err != nil {
		t.Errorf("its folder is not kept: %v", err)
	}
}

func TestTheReportAsJSON(t *testing.T) {
	t.Parallel()
	code, out, _, _ := called(t, "-runner", "/bin/false", "-json", "kills", "replicas")
	var report chaos.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code != 1 || report.Seed != 42 || len(report.Results) != 2 || report.Results[0].Outcome != "FAILED" || report.Results[1].Outcome != "skipped" {
		t.Errorf("exit code %d, %+v", code, report)
	}
}
