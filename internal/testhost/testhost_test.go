package testhost_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// TestOfAHostWithoutIt is what the test below runs.
func TestOfAHostWithoutIt(t *testing.T) {
	if os.Getenv("TESTHOST_TRY") == "" {
		return
	}
	testhost.Program(t, "no-such-program", "no-such-package")
	t.Error("the test goes on without the program")
}

func TestWhatIsMissingIsSkippedAndFailsInCI(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ci, result string
		fails      bool
	}{{"", "--- SKIP", false}, {"true", "--- FAIL", true}} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOfAHostWithoutIt$", "-test.v")
		cmd.Env = append(os.Environ(), "TESTHOST_TRY=1", "CI="+c.ci)
		out, err := cmd.CombinedOutput()
		for _, want := range []string{c.result, "no-such-program is missing", "apt-get install no-such-package"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("CI=%q: no %q in\n%s", c.ci, want, out)
			}
		}
		if (err != nil) != c.fails || strings.Contains(string(out), "goes on") {
			t.Errorf("CI=%q: %v\n%s", c.ci, err, out)
		}
	}
}
