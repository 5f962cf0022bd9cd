//go:build unix

package agent_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// BenchmarkStep is a step that runs true, from start to the answer of the poll,
// over mutual TLS on loopback, in turn with the bare command. It reports medians.
func BenchmarkStep(b *testing.B) {
	for _, dir := range []bool{false, true} {
		b.Run(fmt.Sprintf("working_dir=%v", dir), func(b *testing.B) {
			r := newRig(b, func(o *agent.Options) { o.Log = slog.New(slog.DiscardHandler) })
			var ours, bare []float64
			for b.Loop() {
				s := ci(fmt.Sprintf("s%d", len(ours)), "true")
				if dir {
					s.WorkingDir = r.work
				}
				begun := time.Now()
				if got := r.run(s); got.ExitCode != 0 {
					b.Fatalf("%+v", got)
				}
				ours = append(ours, milliseconds(begun))
				begun = time.Now()
				if err := exec.CommandContext(b.Context(), "sh", "-c", "true").Run(); err != nil {
					b.Fatal(err)
				}
				bare = append(bare, milliseconds(begun))
			}
			b.ReportMetric(median(ours), "step-ms")
			b.ReportMetric(median(bare), "bare-ms")
			b.ReportMetric(median(ours)-median(bare), "above-ms")
		})
	}
}

// BenchmarkFlood is a step that prints lines as fast as it can, until its
// result is there; beside the same command that prints into a pipe nobody but a
// copy to nowhere reads.
func BenchmarkFlood(b *testing.B) {
	const size = 128 << 20
	flood := fmt.Sprintf("yes 'an ordinary line of what a build prints, 1234567890 and so on' | head -c %d", size)
	b.Run("bare command", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if err := exec.CommandContext(b.Context(), "sh", "-c", flood+" | cat > /dev/null").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("agent", func(b *testing.B) {
		r := newRig(b, func(o *agent.Options) { o.Log = slog.New(slog.DiscardHandler) })
		b.SetBytes(size)
		n := 0
		for b.Loop() {
			n++
			s := sh(fmt.Sprintf("s%d", n), flood)
			s.Secrets = []string{"hunter2", "a-longer-secret-of-a-stage"}
			if got := r.run(s); got.ExitCode != 0 {
				b.Fatalf("%+v", got)
			}
		}
	})
}

// The pace of BenchmarkPaced: what is printed, in bytes, and for how long.
const (
	pacedSize = 50_000_000
	pacedTime = time.Second
	pacedStep = 2 * time.Millisecond
)

// pacedVariable makes the test's program print at that pace, and write how long
// it took, in milliseconds, into the file it names.
const pacedVariable = "RUNNER_AGENT_TEST_PACED"

// pacedText is the n-th piece of what is printed.
func pacedText(n int) []byte {
	const piece = pacedSize * int(pacedStep) / int(pacedTime)
	line := fmt.Sprintf("%08d an ordinary line of what a build prints, and so on\n", n)
	return bytes.Repeat([]byte(line), piece/len(line)+1)[:piece]
}

func paced(file string) int {
	begun := time.Now()
	for n := range int(pacedTime / pacedStep) {
		<-time.After(time.Until(begun.Add(time.Duration(n) * pacedStep)))
		if _, err := os.Stdout.Write(pacedText(n)); err != nil {
			return 1
		}
	}
	if os.WriteFile(file, []byte(strconv.FormatFloat(milliseconds(begun), 'f', 3, 64)), 0o600) != nil {
		return 1
	}
	return 0
}

// pacedSum is the checksum of what is printed from an offset on.
func pacedSum(offset int) [sha256.Size]byte {
	h := sha256.New()
	for n := range int(pacedTime / pacedStep) {
		text := pacedText(n)
		from := min(offset, len(text))
		h.Write(text[from:])
		offset -= from
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// sumFrom is that of what the agent has, which is not kept in memory.
func (r *rig) sumFrom(id string, offset int) [sha256.Size]byte {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+agentapi.PathStream, strings.NewReader(fmt.Sprintf(`{"id":%q,"offset":%d}`, id, offset)))
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, res.Body); err != nil {
		r.t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// BenchmarkPaced is a step that prints 50 MB a second for a second, beside the
// same program into a pipe that nobody keeps: how much longer it takes, and how
// much memory is in use meanwhile. All of it must be there, read by offset.
func BenchmarkPaced(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	r := newRig(b, func(o *agent.Options) { o.Log = slog.New(slog.DiscardHandler) })
	took := func(file string) float64 {
		ms, err := strconv.ParseFloat(r.read(file), 64)
		if err != nil {
			b.Fatal(err)
		}
		return ms
	}
	var ours, bare, heap []float64
	for b.Loop() {
		id := "s" + strconv.Itoa(len(ours))
		s := agentapi.StartStepRequest{ID: id, LogDrone: true, Environment: map[string]string{pacedVariable: r.path(id)}, Secrets: []string{"hunter2"}}
		s.Run.Entrypoint = []string{self}
		heap = append(heap, float64(peakHeap(r, s))/1e6)
		if got := r.poll(id); got.ExitCode != 0 {
			b.Fatalf("%+v", got)
		}
		ours = append(ours, took(r.path(id)))
		for _, offset := range []int{0, 1, pacedSize / 3, pacedSize - 1} {
			if got, want := r.sumFrom(id, offset), pacedSum(offset); got != want {
				b.Fatalf("from offset %d there is not what was printed", offset)
			}
		}
		cmd := exec.CommandContext(b.Context(), self)
		cmd.Env, cmd.Stdout = append(os.Environ(), pacedVariable+"="+r.path("bare")), struct{ io.Writer }{io.Discard}
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, took(r.path("bare")))
	}
	b.ReportMetric(median(ours), "step-ms")
	b.ReportMetric(median(bare), "bare-ms")
	b.ReportMetric((median(ours)/median(bare)-1)*100, "slower-%")
	b.ReportMetric(slices.Max(heap), "heap-MB")
}

func milliseconds(since time.Time) float64 { return time.Since(since).Seconds() * 1e3 }

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
