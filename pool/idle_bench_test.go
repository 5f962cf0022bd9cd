package pool_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// BenchmarkIdlePass is a look at a pool of 10,000 warm machines with nothing to
// do, on SQLite: the planner's pass, that of each minute which measures what was
// spent too, and a sweep, which reads every row and compares it with the
// cloud. A pass that writes anything fails it.
func BenchmarkIdlePass(b *testing.B) {
	const size = 10_000
	path := filepath.Join(b.TempDir(), "database.sqlite3")
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	st, err := sqlite.Open(b.Context(), sqlite.Options{Path: path, Seal: sealer, Sync: sqlite.SyncOff})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	world := noop.NewWorld()
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	m, err := pool.New(ctx, pool.ManagerConfig{
		Store: st, Agent: agentclient.NewMock(agentclient.MockConfig{}), Solo: true, Timeouts: pool.Timeouts{SweepLocal: time.Hour},
		Pools: []pool.PoolConfig{{Name: "p", Driver: "noop", Min: size, Max: 2 * size, SpecJSON: json.RawMessage(`{}`)}},
		Open:  instant(b, world),
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	awaitWarm(b, st, size)
	measure := func(look func() error) func(b *testing.B) {
		return func(b *testing.B) {
			var worst time.Duration
			for b.Loop() {
				begun := time.Now()
				if err := look(); err != nil {
					b.Fatal(err)
				}
				worst = max(worst, time.Since(begun))
			}
			b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N), "ms")
			b.ReportMetric(worst.Seconds()*1000, "worst-ms")
		}
	}
	b.Run("sweep", measure(func() error { return m.Sweep(ctx) }))
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	for _, kind := range []struct {
		name string
		dear bool
	}{{"pass", false}, {"pass_of_a_minute", true}} {
		b.Run(kind.name, func(b *testing.B) {
			before := commits(b, path)
			measure(func() error { return m.Pass(b.Context(), "p", kind.dear) })(b)
			if after := commits(b, path); after != before {
				b.Errorf("idle passes have written: the log was %+v, is %+v", before, after)
			}
		})
	}
}

// commits is what every write to a SQLite file changes: its log.
func commits(b *testing.B, path string) (log struct {
	size int64
	at   time.Time
},
) {
	b.Helper()
	info, err := os.Stat(path + "-wal")
	if err != nil {
		b.Fatal(err)
	}
	log.size, log.at = info.Size(), info.ModTime()
	return log
}
