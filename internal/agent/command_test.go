package agent

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// TestOutputCodeOfEachShell holds the code still that is added to a step's
// command, also for shells that are not on the machine that tests.
func TestOutputCodeOfEachShell(t *testing.T) {
	t.Parallel()
	wanted := []agentapi.Output{{Key: "plain", Value: "PLAIN"}, {Key: "it's $odd", Value: "ODD"}, {Key: "number", Value: "1x"}}
	for _, entrypoint := range []string{"sh", "powershell", "python3"} {
		t.Run(entrypoint, func(t *testing.T) {
			t.Parallel()
			got := outputCode(entrypoint, wanted, "/tmp/it's/out.env") + "\n"
			path := filepath.Join("testdata", "output-code", entrypoint+".txt")
			if flag.Lookup("update").Value.String() == "true" {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("code (-want +got):\n%s", diff)
			}
		})
	}
}

func TestShellIsKnownByTheEntrypoint(t *testing.T) {
	t.Parallel()
	for entrypoint, want := range map[string]shell{
		"sh": posix, "/bin/bash": posix, "zsh": posix, "": posix, "ruby": posix,
		"powershell": powershell, "pwsh": powershell, `C:\Windows\PowerShell.exe`: powershell, "/usr/bin/pwsh": powershell,
		"python3": python, "/usr/bin/python": python, "python3.12": python,
	} {
		if got := shellOf(entrypoint); got != want {
			t.Errorf("%q is shell %d, want %d", entrypoint, got, want)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"A": true, "_a1": true, "": false, "1a": false, "a-b": false, "a b": false, "ä": false, "a\n": false} {
		if got := isIdentifier(name); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}

func TestEveryOtherStepFileNameIsPlain(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"a", "step_1-b.c", "01"} {
		if got := fileName(id); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	for _, id := range []string{"", ".hidden", "a/b", `a\b`, "a b", strings.Repeat("x", 129), "\x00", "a\n", "ä"} {
		if got := fileName(id); got == id || !isPlainName(got) {
			t.Errorf("%q became %q", id, got)
		}
	}
}
