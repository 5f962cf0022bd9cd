//go:build unix

package agent_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

func TestOddOutputOfAStepOnTheMachine(t *testing.T) {
	t.Parallel()
	const long = 10_000_000
	for _, c := range []struct {
		name, script string
		code         int
		output       string
	}{
		{"it closes its output", "echo said; exec >&- 2>&-; sleep 1; exit 6", 6, "said\n"},
		{"it writes binary", `printf '\000\001\377\376end'`, 0, "\x00\x01\xff\xfeend"},
		{"it writes 10 MB on one line", "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end", 0, strings.Repeat("x", long) + "\nend\n"},
		{"it forks, and its children print after it", "(sleep 0.5; echo late) & (echo child); echo parent", 0, "child\nparent\n"},
		{"it prints nothing", ":", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if got := r.run(sh("s", c.script)); got.ExitCode != c.code {
				t.Errorf("result %+v", got)
			}
			if got := r.output("s"); got != c.output {
				t.Errorf("%d bytes of output, want %d: %s", len(got), len(c.output), cmp.Diff(tail(c.output), tail(got)))
			}
		})
	}
}

func tail(text string) string { return text[max(0, len(text)-100):] }

func TestAStepThatFailsOnAFullDiskSaysSo(t *testing.T) {
	t.Parallel()
	const warning = "[runner-agent] warning: the disk of "
	for _, c := range []struct {
		name, script string
		full         bool
		before       int // warnings before the step's own text
		after        int
	}{
		{"there is room", "echo text; exit 1", false, 0, 0},
		{"it fills the disk and fails", "echo text; : > \"$FULL\"; exit 1", false, 0, 1},
		{"it fills the disk and does not care", "echo text; : > \"$FULL\"", false, 0, 0},
		{"the disk was full before", "echo text", true, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var r *rig
			r = newRig(t, func(o *agent.Options) {
				o.DiskSpace = func(string) (free, total uint64, err error) {
					if _, err := os.Stat(r.path("full")); c.full || err == nil {
						return 1 << 20, 1 << 40, nil
					}
					return 1 << 39, 1 << 40, nil
				}
			})
			s := sh("s", c.script)
			s.Environment = map[string]string{"FULL": r.path("full")}
			r.run(s)
			before, after, _ := strings.Cut(r.output("s"), "text\n")
			if strings.Count(before, warning) != c.before || strings.Count(after, warning) != c.after {
				t.Errorf("output %q", r.output("s"))
			}
		})
	}
}
