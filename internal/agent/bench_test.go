//go:build unix

package agent_test

import (
	"fmt"
	"log/slog"
	"os/exec"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// BenchmarkStep is a step that runs true, from start to the answer of the poll,
// over mutual TLS on loopback, beside the bare command.
func BenchmarkStep(b *testing.B) {
	b.Run("bare command", func(b *testing.B) {
		for b.Loop() {
			if err := exec.CommandContext(b.Context(), "sh", "-c", "true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, dir := range []bool{false, true} {
		b.Run(fmt.Sprintf("agent, working_dir %v", dir), func(b *testing.B) {
			r := newRig(b, func(o *agent.Options) { o.Log = slog.New(slog.DiscardHandler) })
			n := 0
			for b.Loop() {
				n++
				s := ci(fmt.Sprintf("s%d", n), "true")
				if dir {
					s.WorkingDir = r.work
				}
				if got := r.run(s); got.ExitCode != 0 {
					b.Fatalf("%+v", got)
				}
			}
		})
	}
}
