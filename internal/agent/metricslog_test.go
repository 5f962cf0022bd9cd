package agent

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

// keptStream is a stream that keeps everything.
type keptStream struct {
	mu   sync.Mutex
	text strings.Builder
	done chan struct{}
}

func (k *keptStream) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text.Write(p)
}

func (k *keptStream) End()                  { close(k.done) }
func (k *keptStream) Done() <-chan struct{} { return k.done }

func TestALogOfMetricsHasALineASecondAndASummary(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		const gib = 1 << 30
		n := uint64(0)
		read := func() (usage, error) { // each second is busy for one percent more
			n++
			return usage{memTotal: 4 * gib, memFree: 3 * gib, cpuBusy: n * (n - 1) / 2, cpuAll: 100 * n}, nil
		}
		disk := func() (diskUsage, error) { return diskUsage{read: 1000 * n, written: 5000 * n}, nil }
		k := &keptStream{done: make(chan struct{})}
		m := startMetricsLog(k, read, disk)
		<-time.After(10*time.Second + time.Millisecond)
		m.end()
		m.end()
		<-k.done
		lines := strings.Split(strings.TrimSpace(k.text.String()), "\n")
		if len(lines) != 11 {
			t.Fatalf("%d lines, want one for each of ten seconds and a summary:\n%s", len(lines), k.text.String())
		}
		var first map[time.Time]map[string]float64
		if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
			t.Fatal(err)
		}
		for at, got := range first {
			if at.Year() != 2000 {
				t.Errorf("the first line is of %s", at)
			}
			delete(got, "totalCPU")
			want := map[string]float64{"totalMemory": 4, "avaMemory": 3, "avalCPU": 99, "diskReadBytesSec": 1000, "diskWriteBytesSec": 5000}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("first line (-want +got):\n%s", diff)
			}
		}
		const want = `{"osStatsSummary":true,"peakCPUUsagePct":10,"avgCPUUsagePct":5.5,"p90CPUUsagePct":9,"totalDiskReadBytes":10000,"totalDiskWriteBytes":50000}`
		if got := lines[10]; got != want {
			t.Errorf("summary %s, want %s", got, want)
		}
	})
}

func TestALogOfMetricsWhereTheSystemTellsNothing(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		k := &keptStream{done: make(chan struct{})}
		m := startMetricsLog(k, func() (usage, error) { return usage{}, errors.ErrUnsupported }, func() (diskUsage, error) { return diskUsage{}, errors.ErrUnsupported })
		<-time.After(time.Minute)
		m.end()
		if got := k.text.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, `{"osStatsSummary":true,"peakCPUUsagePct":0,`) {
			t.Errorf("got %q, want an empty summary", got)
		}
	})
}
