//go:build linux

package qemu_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// BenchmarkClone measures a new machine: until it has its identity and its
// agent listens, and until a first request over a new mutual TLS connection is
// answered. Template and image are there already.
func BenchmarkClone(b *testing.B) {
	d, _ := fresh(b)
	if err := d.WarmTemplate(bounded(b)); err != nil {
		b.Fatal(err)
	}
	var created, identified, answered time.Duration
	n := 0
	for b.Loop() {
		n++
		name := fmt.Sprintf("one%d", n)
		b.StopTimer()
		id := identityOf(b, name)
		ctx := bounded(b)
		b.StartTimer()
		began := time.Now()
		ref, err := d.Create(ctx, specOf(name))
		if err != nil {
			b.Fatal(err)
		}
		created += time.Since(began)
		if err := d.Identify(ctx, ref, id); err != nil {
			b.Fatal(err)
		}
		identified += time.Since(began)
		g := &guest{tb: b, ref: ref, id: id}
		g.at(find(b, d, name))
		g.healthy()
		answered += time.Since(began)
		b.StopTimer()
		destroy(b, d, ref)
		b.StartTimer()
	}
	b.ReportMetric(ms(created, n), "ms-created")
	b.ReportMetric(ms(identified, n), "ms-identified")
	b.ReportMetric(ms(answered, n), "ms-answered")
}

func ms(total time.Duration, n int) float64 { return float64(total.Microseconds()) / 1000 / float64(n) }

func destroy(tb testing.TB, d drivers.Driver, ref drivers.Ref) {
	tb.Helper()
	for _, err := range d.Destroy(bounded(tb), []drivers.Ref{ref}, drivers.DestroyOptions{}) {
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkUnpause measures what a claim waits for: CPUs on, clock and entropy
// confirmed, and a request answered on the connection kept over the pause.
func BenchmarkUnpause(b *testing.B) {
	d, _ := fresh(b)
	g := machine(b, d, "one")
	var paused, woken, answered []time.Duration
	for b.Loop() {
		b.StopTimer()
		began := time.Now()
		if err := d.Pause(bounded(b), g.ref); err != nil {
			b.Fatal(err)
		}
		paused = append(paused, time.Since(began))
		ctx := bounded(b)
		b.StartTimer()
		began = time.Now()
		if err := d.Unpause(ctx, g.ref); err != nil {
			b.Fatal(err)
		}
		woken = append(woken, time.Since(began))
		g.healthy()
		answered = append(answered, time.Since(began))
	}
	b.ReportMetric(p50(paused), "p50-ms-paused")
	b.ReportMetric(p50(woken), "p50-ms-woken")
	b.ReportMetric(p50(answered), "p50-ms-answered")
}

// p50 is the median in milliseconds.
func p50(all []time.Duration) float64 {
	slices.Sort(all)
	return ms(all[len(all)/2], 1)
}

// BenchmarkMonitor measures one question on a connection of its own, as
// unpausing has one.
func BenchmarkMonitor(b *testing.B) {
	d, _ := fresh(b)
	ref := created(b, d, "one")
	if err := d.Pause(bounded(b), ref); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.AskMonitor(b.Context(), "one"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSuspendResume measures the way to disk and back, the latter until
// the machine has answered on its channel.
func BenchmarkSuspendResume(b *testing.B) {
	d, dir := fresh(b)
	g := machine(b, d, "one")
	var suspended, resumed time.Duration
	var size int64
	n := 0
	for b.Loop() {
		n++
		began := time.Now()
		if err := d.Suspend(bounded(b), g.ref); err != nil {
			b.Fatal(err)
		}
		suspended += time.Since(began)
		info, err := os.Stat(filepath.Join(dir, "machines", "one", "state"))
		if err != nil {
			b.Fatal(err)
		}
		size = info.Size()
		began = time.Now()
		if _, err := d.Resume(bounded(b), g.ref); err != nil {
			b.Fatal(err)
		}
		resumed += time.Since(began)
	}
	b.ReportMetric(ms(suspended, n), "ms-suspended")
	b.ReportMetric(ms(resumed, n), "ms-resumed")
	b.ReportMetric(float64(size)/(1<<20), "MiB-on-disk")
}

// BenchmarkPausedMemory measures what a machine that was proven and paused
// takes of the host's memory for itself: pages it does not share with the
// template, which exists once for all.
func BenchmarkPausedMemory(b *testing.B) {
	d, dir := fresh(b)
	g := machine(b, d, "one")
	if err := d.Pause(bounded(b), g.ref); err != nil {
		b.Fatal(err)
	}
	pid := processes(dir, "one")[0]
	var own float64
	for b.Loop() {
		own = ownMiB(b, pid)
	}
	b.ReportMetric(own, "MiB-own")
}

// ownMiB is a process' anonymous memory: what it has written, copies of the
// template's pages included.
func ownMiB(tb testing.TB, pid int) float64 {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		if key == "Anonymous" {
			kb, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return float64(kb) / 1024
		}
	}
	tb.Fatal("smaps_rollup names no anonymous memory")
	return 0
}

// BenchmarkList measures a listing, which is made every few seconds: of
// folders alone, since what monitors said is taken for a while.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("machines=%d", n), func(b *testing.B) {
			d, dir := fresh(b)
			record := `{"version":1,"name":"NAME","tags":{"controller":"c1"},"address":"127.77.0.1"}`
			for i := range n {
				name := fmt.Sprintf("m%d", i)
				folder := filepath.Join(dir, "machines", name)
				if err := os.Mkdir(folder, 0o700); err != nil {
					b.Fatal(err)
				}
				for file, data := range map[string][]byte{
					"meta.json": bytes.ReplaceAll([]byte(record), []byte("NAME"), []byte(name)), "status": []byte("suspended"), "state": nil, "lock": nil,
				} {
					if err := os.WriteFile(filepath.Join(folder, file), data, 0o600); err != nil {
						b.Fatal(err)
					}
				}
			}
			for b.Loop() {
				l, err := d.List(b.Context(), drivers.Query{Controller: "c1"})
				if err != nil || len(l.Instances) != n || !l.Complete {
					b.Fatalf("%d instances, %v", len(l.Instances), err)
				}
			}
		})
	}
}
