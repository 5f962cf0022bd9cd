//go:build bench && linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/loadgen"
	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// TestBench measures the built program from outside and prints what becomes
// docs/performance.md (make bench). It asserts nothing about speed. One part
// alone: -run TestBench/machines.
func TestBench(t *testing.T) {
	var page strings.Builder
	(&bench{T: t, page: &page}).header()
	for _, part := range []struct {
		name    string
		measure func(*bench)
	}{
		{"starts", (*bench).starts},
		{"memory", (*bench).memory},
		{"throughput", (*bench).throughput},
		{"open loop", (*bench).openLoop},
		{"machines", (*bench).realMachines},
	} {
		t.Run(part.name, func(t *testing.T) { part.measure(&bench{T: t, page: &page}) })
	}
	out := os.Getenv("BENCH_OUT")
	if out == "" {
		t.Log("\n" + page.String())
		return
	}
	if err := os.WriteFile(out, []byte(page.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

type bench struct {
	*testing.T
	page *strings.Builder
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(b.page, format, args...) }

func (b *bench) header() {
	model := firstLine(b.output("sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ *//'"))
	b.printf(`# Performance

Written by `+"`make bench`"+`; nothing here is asserted by a test. Figures of one host:

| | |
|---|---|
| processor | %s, %d threads |
| kernel | %s |
| program | %s |
| QEMU | %s; KVM device: %t |
| load before the run (1, 5, 15 min) | %s |
| store | SQLite, `+"`synchronous=FULL`"+`; every claim is durable before it is answered |
`, model, runtime.NumCPU(), firstLine(b.output("uname", "-r")), versionText(),
		firstLine(b.output("qemu-system-"+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH], "--version")),
		exists("/dev/kvm"), strings.Join(strings.Fields(firstLine(b.output("cat", "/proc/loadavg")))[:3], " "))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (b *bench) output(name string, args ...string) string {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), name, args...).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// served is the built program with one pool.
type served struct {
	*client.Client
	b     *bench
	cmd   *exec.Cmd
	data  string
	url   string
	begun time.Time
}

// serve starts the program; healthz is answered when it returns.
func (b *bench) serve(data, poolFile string, env ...string) *served {
	b.Helper()
	if err := os.WriteFile(filepath.Join(data, "pool.yml"), []byte(poolFile), 0o600); err != nil {
		b.Fatal(err)
	}
	bin, err := filepath.Abs("../../bin/drone-runner-aws")
	if err != nil {
		b.Fatal(err)
	}
	address := "127.0.0.1:13" + strconv.Itoa(100+os.Getpid()%800)
	s := &served{b: b, data: data, url: "http://" + address}
	if s.Client, err = client.New(s.url); err != nil {
		b.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(data, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(bin, "delegate", "--pool", filepath.Join(data, "pool.yml"))
	s.cmd.Env = append(append(os.Environ(), "DRONE_HTTP_BIND="+address), env...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = data, log, log
	s.begun = time.Now()
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	s.until("healthz", time.Millisecond, func() bool { return s.Healthy(b.Context()) == nil })
	return s
}

func (s *served) until(what string, every time.Duration, ok func() bool) {
	s.b.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		<-tick.C
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.data, "log")) // what there is of it
			s.b.Fatalf("no %s\n%s", what, log)
		}
	}
}

func (s *served) warm(n int) {
	s.b.Helper()
	s.warmWithin(n, 2*time.Millisecond)
}

// warmWithin looks at a pace: looking costs the processors machines boot on.
func (s *served) warmWithin(n int, pace time.Duration) {
	s.b.Helper()
	s.until(fmt.Sprintf("%d warm machines", n), pace, func() bool {
		pools, err := s.Pools(s.b.Context())
		return err == nil && len(pools) == 1 && pools[0].Machines["warm"] >= n
	})
}

// settled waits until every local machine is paused, as its folder says.
func (s *served) settled() {
	s.b.Helper()
	s.until("paused machines", 20*time.Millisecond, func() bool {
		files, err := filepath.Glob(filepath.Join(s.data, "machines", "*", "status"))
		return err == nil && !slices.ContainsFunc(files, func(file string) bool {
			status, err := os.ReadFile(file)
			return err != nil || string(status) != "paused"
		})
	})
}

func (s *served) stop() {
	s.b.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		s.b.Error(err)
	}
	s.Close()
}

func (b *bench) folder() string {
	b.Helper()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

func noopPool(warm, limit int) string {
	return fmt.Sprintf("instances:\n  - {name: p, type: noop, pool: %d, limit: %d, spec: {}}\n", warm, limit)
}

func (b *bench) starts() {
	b.printf("\n## Start\n\nFrom starting the process to the first answer of `/healthz`, and to as many warm pretend machines as wanted.\n\n| pool | healthz p50 | all warm p50 | starts |\n|---|---|---|---|\n")
	for _, size := range []int{0, 10, 1000} {
		var healthy, warm []time.Duration
		for range 5 {
			dir := b.folder()
			s := b.serve(dir, noopPool(size, max(10, 2*size)))
			healthy = append(healthy, time.Since(s.begun))
			s.warm(size)
			warm = append(warm, time.Since(s.begun))
			s.stop()
			_ = os.RemoveAll(dir)
		}
		b.printf("| %d | %s | %s | %d |\n", size, ms(p(healthy, 50)), ms(p(warm, 50)), len(warm))
	}
}

func (b *bench) memory() {
	dir := b.folder()
	defer os.RemoveAll(dir)
	s := b.serve(dir, noopPool(100, 200))
	defer s.stop()
	s.warm(100)
	b.printf("\nAnonymous memory (RssAnon) with 100 warm pretend machines: %s.\n", field0(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid), "RssAnon:"))
}

// field0 is the value of a "Name: value" line of a file below /proc.
func field0(file, name string) string {
	data, _ := os.ReadFile(file) // gone: unknown
	for line := range strings.SplitSeq(string(data), "\n") {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "unknown"
}

func (b *bench) load(s *served, cfg loadgen.Config) loadgen.Report {
	b.Helper()
	cfg.URL = s.url
	if cfg.Pool == "" {
		cfg.Pool = "p"
	}
	r, err := loadgen.Run(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func phase(r loadgen.Report, name string) loadgen.Phase {
	for _, p := range r.Phases {
		if p.Name == name {
			return p
		}
	}
	return loadgen.Phase{}
}

func (b *bench) throughput() {
	b.printf("\n## Setup and destroy, pretend machines, closed loop\n\n`limit` is ten times the pool; 5 s each after 1 s of warming up; client and runner share the host.\n\n| warm | clients | cycles/s | setup p50 | setup p99 | destroy p50 | failed |\n|---|---|---|---|---|---|---|\n")
	for _, size := range []int{10, 100, 1000} {
		dir := b.folder()
		s := b.serve(dir, noopPool(size, 10*size))
		s.warm(size)
		b.load(s, loadgen.Config{Clients: 8, Duration: time.Second})
		for _, clients := range []int{1, 8, 64} {
			r := b.load(s, loadgen.Config{Clients: clients, Duration: 5 * time.Second})
			setup, destroy := phase(r, "setup"), phase(r, "destroy")
			b.printf("| %d | %d | %.0f | %.1f ms | %.1f ms | %.1f ms | %d |\n", size, clients, r.PerSecond, setup.P50MS, setup.P99MS, destroy.P50MS, r.Failed)
		}
		s.stop()
		_ = os.RemoveAll(dir)
	}
}

func (b *bench) openLoop() {
	b.printf("\n## The same, open loop\n\nCycles begin at fixed times whatever the answers take; a latency counts from when its cycle was due.\n\n| warm | begun/s | ended/s | setup p50 | setup p99 | failed |\n|---|---|---|---|---|---|\n")
	dir := b.folder()
	defer os.RemoveAll(dir)
	s := b.serve(dir, noopPool(100, 1000))
	defer s.stop()
	s.warm(100)
	for _, rate := range []float64{100, 400, 800} {
		r := b.load(s, loadgen.Config{Rate: rate, Duration: 5 * time.Second})
		setup := phase(r, "setup")
		b.printf("| 100 | %.0f | %.0f | %.1f ms | %.1f ms | %d |\n", rate, r.PerSecond, setup.P50MS, setup.P99MS, r.Failed)
	}
}

func (b *bench) realMachines() {
	dir := b.folder()
	b.Cleanup(func() { clean(b.T, dir) })
	images, err := filepath.Abs("../../.run/images")
	if err != nil {
		b.Fatal(err)
	}
	for _, err := range []error{os.Chmod(dir, 0o755), os.Symlink(images, filepath.Join(dir, "images"))} {
		if err != nil {
			b.Fatal(err)
		}
	}
	s := b.serve(dir, testPool)
	s.warm(2)
	first := time.Since(s.begun)
	const rounds = 20
	var setups, clones, again []time.Duration
	var resident []int
	for i := range rounds {
		s.warmWithin(2, 100*time.Millisecond)
		s.settled()
		id := "bench" + strconv.Itoa(i)
		t := time.Now()
		if _, err := s.Setup(b.Context(), api.SetupRequest{ID: id, PoolID: "local", SetupRequest: json.RawMessage(`{}`)}); err != nil {
			b.Fatal(err)
		}
		setups = append(setups, time.Since(t))
		if err := s.Destroy(b.Context(), api.DestroyRequest{ID: id}); err != nil {
			b.Fatal(err)
		}
	}
	s.warm(2)
	s.settled()
	list, err := s.Instances(b.Context(), client.InstanceQuery{Limit: 100})
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range list.Instances {
		if m.Warmed != nil {
			clones = append(clones, m.Warmed.Sub(m.Created))
		}
		if m.State == "warm" {
			resident = append(resident, private(m.Name))
		}
	}
	steps := b.steps(s)
	s.stop()
	t := time.Now()
	s = b.serve(dir, testPool)
	s.warm(2)
	again = append(again, time.Since(t))
	s.stop()
	b.printf(`
## Real local machines

A pool of two machines of the image tiny, 128 MiB each; %d setups one after the other, each after both were warm
again and at rest.

| what | p50 | p99 or most | n |
|---|---|---|---|
| first start, template included, to two warm machines | %s | | 1 |
| second start, machines found again, to two warm machines | %s | | 1 |
| row of a machine to proven warm, the template's first included | %s | %s | %d |
| warm setup, request to 200 | %s | %s | %d |
| step `+"`true`"+`, request to its result | %s | %s | %d |
| memory of a paused warm machine, private to it | %d MiB | %d MiB | %d |

Under emulation an eighth of a machine's memory, at least 16 MiB, is kept for translated code, of which a claim and its steps use 18. A machine
with `+"`memory_mb: 192`"+` keeps all of it: on the same host it was warm after 707 ms, set up after 45, did such a step in 20 and took 46 MiB when
it was paused; see `+"`translationMB`"+` in `+"`"+`drivers/qemu/arguments.go`+"`"+`. With KVM nothing is translated. The memory is what a process has for itself; pages of the
template that only one machine happens to have mapped are counted too, though the template has them anyway.
`, rounds, ms(first), ms(p(again, 50)), ms(p(clones, 50)), ms(p(clones, 99)), len(clones), ms(p(setups, 50)), ms(p(setups, 99)), len(setups),
		ms(p(steps, 50)), ms(p(steps, 99)), len(steps), median(resident), slices.Max(append(resident, 0)), len(resident))
}

// steps measures the step `true` on one machine.
func (b *bench) steps(s *served) []time.Duration {
	b.Helper()
	if _, err := s.Setup(b.Context(), api.SetupRequest{ID: "steps", PoolID: "local", SetupRequest: json.RawMessage(`{}`)}); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Destroy(context.WithoutCancel(b.Context()), api.DestroyRequest{ID: "steps"}); err != nil {
			b.Error(err)
		}
	}()
	var all []time.Duration
	for i := range 50 {
		body := fmt.Sprintf(`{"id":"s%d","kind":"Run","run":{"entrypoint":["sh","-c"],"commands":["true"]}}`, i)
		t := time.Now()
		if _, err := s.Step(b.Context(), api.StepRequest{StageRuntimeID: "steps", StartStepRequest: json.RawMessage(body)}); err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(t))
	}
	return all
}

// private is the memory of a machine's QEMU that it shares with nobody, MiB.
func private(name string) int {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is fine
	for _, file := range found {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		line, _ := io.ReadAll(f) // ended meanwhile: not it
		f.Close()
		program, rest, _ := strings.Cut(string(line), "\x00")
		if !strings.HasPrefix(filepath.Base(program), "qemu-system") || !strings.Contains(rest, "guest="+name) {
			continue
		}
		rollup := filepath.Join(filepath.Dir(file), "smaps_rollup")
		kib := 0
		for _, field := range []string{"Private_Clean:", "Private_Dirty:"} {
			n, _ := strconv.Atoi(strings.TrimSuffix(field0(rollup, field), " kB"))
			kib += n
		}
		return kib / 1024
	}
	return 0
}

// p is a percentile by nearest rank.
func p(all []time.Duration, percent int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

func median(all []int) int {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

func ms(d time.Duration) string {
	if d >= 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}
