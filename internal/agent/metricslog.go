package agent

import (
	"encoding/json"
	"io"
	"runtime"
	"sync"
	"time"
)

// metricsEvery is how often the machine is looked at for a log of metrics.
const metricsEvery = time.Second

// diskUsage is what disks have read and written since the boot, in bytes.
type diskUsage struct{ read, written uint64 }

// metricsLine is the machine at one moment, as readers of such logs know it.
type metricsLine struct {
	TotalMemory       float64 `json:"totalMemory"` // GiB
	TotalCPU          int     `json:"totalCPU"`    // cores
	AvailableMemory   float64 `json:"avaMemory"`   // GiB
	AvailableCPU      float64 `json:"avalCPU"`     // percent
	DiskReadPerSecond uint64  `json:"diskReadBytesSec"`
	DiskWritePerSec   uint64  `json:"diskWriteBytesSec"`
}

// metricsSummary is the last line of such a log.
type metricsSummary struct {
	IsSummary bool    `json:"osStatsSummary"`
	PeakCPU   float64 `json:"peakCPUUsagePct"`
	AvgCPU    float64 `json:"avgCPUUsagePct"`
	P90CPU    float64 `json:"p90CPUUsagePct"`
	DiskRead  uint64  `json:"totalDiskReadBytes"`
	DiskWrite uint64  `json:"totalDiskWriteBytes"`
}

// logStream is where metrics go.
type logStream interface {
	io.Writer
	End()
	Done() <-chan struct{}
}

// metricsLog writes a line about the machine each second until it is ended.
type metricsLog struct {
	stream logStream
	usage  func() (usage, error)
	disk   func() (diskUsage, error)
	stop   func() // may be called again
	ended  chan struct{}
}

func startMetricsLog(stream logStream, read func() (usage, error), disk func() (diskUsage, error)) *metricsLog {
	stop := make(chan struct{})
	m := &metricsLog{
		stream: stream, usage: read, disk: disk,
		stop: sync.OnceFunc(func() { close(stop) }), ended: make(chan struct{}),
	}
	go m.run(stop)
	return m
}

// end writes the summary and ends the log. A second call does nothing.
func (m *metricsLog) end() {
	m.stop()
	<-m.ended
}

func (m *metricsLog) run(stop <-chan struct{}) {
	defer close(m.ended)
	defer m.stream.End()
	tick := time.NewTicker(metricsEvery)
	defer tick.Stop()
	var t tally
	t.last.usage, _ = m.usage() // what a system does not tell stays 0
	t.last.disk, _ = m.disk()
	t.first = t.last.disk
	t.at = time.Now()
	for {
		select {
		case <-stop:
			m.write(t.summary())
			return
		case now := <-tick.C:
			u, err := m.usage()
			if err != nil || u.memTotal == 0 {
				continue
			}
			d, _ := m.disk()
			m.write(map[string]metricsLine{now.Format(time.RFC3339Nano): t.add(now, u, d)})
		}
	}
}

func (m *metricsLog) write(line any) {
	text, err := json.Marshal(line)
	if err != nil {
		return // all of it are numbers
	}
	_, _ = m.stream.Write(append(text, '\n')) // never fails
}

// tally is what a log of metrics remembers. CPU times are kept by whole
// percents, so that any length of it takes the same memory.
type tally struct {
	at   time.Time
	last struct {
		usage usage
		disk  diskUsage
	}
	first   diskUsage
	count   int
	sum     float64
	peak    float64
	percent [101]int
}

// add takes the machine as it is now into account.
func (t *tally) add(now time.Time, u usage, d diskUsage) metricsLine {
	var busy float64
	if u.cpuAll > t.last.usage.cpuAll && u.cpuBusy >= t.last.usage.cpuBusy {
		busy = percent(u.cpuBusy-t.last.usage.cpuBusy, u.cpuAll-t.last.usage.cpuAll)
	}
	t.count++
	t.sum += busy
	t.peak = max(t.peak, busy)
	t.percent[int(busy)]++
	seconds := max(now.Sub(t.at).Seconds(), 0.001)
	const gib = 1 << 30
	line := metricsLine{
		TotalMemory:       float64(u.memTotal) / gib,
		TotalCPU:          runtime.NumCPU(),
		AvailableMemory:   float64(u.memFree) / gib,
		AvailableCPU:      100 - busy,
		DiskReadPerSecond: perSecond(t.last.disk.read, d.read, seconds),
		DiskWritePerSec:   perSecond(t.last.disk.written, d.written, seconds),
	}
	t.at, t.last.usage, t.last.disk = now, u, d
	return line
}

func perSecond(before, after uint64, seconds float64) uint64 {
	if after < before {
		return 0
	}
	return uint64(float64(after-before) / seconds)
}

func (t *tally) summary() metricsSummary {
	s := metricsSummary{
		IsSummary: true,
		PeakCPU:   t.peak,
		DiskRead:  t.last.disk.read - min(t.first.read, t.last.disk.read),
		DiskWrite: t.last.disk.written - min(t.first.written, t.last.disk.written),
	}
	if t.count == 0 {
		return s
	}
	s.AvgCPU = t.sum / float64(t.count)
	below := 0
	for p, n := range t.percent {
		if below += n; below*10 >= t.count*9 {
			s.P90CPU = min(float64(p), t.peak)
			return s
		}
	}
	return s
}
