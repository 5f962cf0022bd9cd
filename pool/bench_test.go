package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// BenchmarkCycle is a setup and a destroy through the whole engine on a durable
// SQLite, with instant machines and a pretend agent: what the engine and the
// store cost, without HTTP.
func BenchmarkCycle(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		for _, clients := range []int{8, 64} {
			b.Run(fmt.Sprintf("pool=%d/clients=%d", size, clients), func(b *testing.B) {
				benchmarkCycle(b, size, clients)
			})
		}
	}
}

func benchmarkCycle(b *testing.B, size, clients int) {
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	st, err := sqlite.Open(b.Context(), sqlite.Options{Path: filepath.Join(b.TempDir(), "database.sqlite3"), Seal: sealer})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	world := noop.NewWorld()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	m, err := pool.New(ctx, pool.ManagerConfig{
		Store: st, Agent: agentclient.NewMock(agentclient.MockConfig{}), Solo: true,
		Pools: []pool.PoolConfig{{Name: "p", Driver: "noop", Min: size, Max: 10 * size, SpecJSON: json.RawMessage(`{}`)}},
		Open:  instant(b, world),
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	awaitWarm(b, st, size)
	cycle := func(n int) error {
		id := fmt.Sprintf("s%d", n)
		if _, err := m.Setup(ctx, pool.SetupRequest{ID: id, Kind: pool.Build, Pools: []string{"p"}, Body: json.RawMessage(`{}`)}); err != nil {
			return err
		}
		return m.Destroy(ctx, pool.DestroyRequest{Lease: id})
	}
	var n atomic.Int64
	var g errgroup.Group
	b.ResetTimer()
	begun := time.Now()
	for range clients {
		g.Go(func() error {
			for i := int(n.Add(1)); i <= b.N; i = int(n.Add(1)) {
				if err := cycle(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "cycles/s")
}

// instant opens pools of machines that are there at once.
func instant(b *testing.B, world *noop.World) func(pool.PoolConfig) (pool.Opened, error) {
	return func(p pool.PoolConfig) (pool.Opened, error) {
		d, err := noop.New(drivers.Options{Pool: p.Name, Config: &noop.Config{}, DataDir: b.TempDir()}, noop.Setup{World: world})
		if err != nil {
			return pool.Opened{}, err
		}
		return pool.Opened{Client: drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name}), Local: true}, nil
	}
}

// awaitWarm waits until the pool "p" has so many warm machines and no others.
func awaitWarm(b *testing.B, st pool.Store, size int) {
	b.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; {
		if snap, err := st.Snapshot(b.Context(), "p", 1, time.Now()); err == nil && len(snap.Groups) == 1 && snap.Groups[0].State == pool.Warm && snap.Groups[0].Count == size {
			return
		}
		if time.Now().After(deadline) {
			b.Fatal("the pool was not filled in five minutes")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// BenchmarkRefillAfterClaim is the time from a claim's answer to the durable
// intent of the machine made in its place, on a pool that is full.
func BenchmarkRefillAfterClaim(b *testing.B) {
	for _, size := range []int{10, 1000} {
		b.Run(fmt.Sprintf("pool=%d", size), func(b *testing.B) {
			sealer, err := store.NewSealer(make([]byte, store.KeySize))
			if err != nil {
				b.Fatal(err)
			}
			st, err := sqlite.Open(b.Context(), sqlite.Options{Path: filepath.Join(b.TempDir(), "database.sqlite3"), Seal: sealer})
			if err != nil {
				b.Fatal(err)
			}
			defer st.Close()
			intents := &announced{Store: st, c: make(chan time.Time, 10*size)}
			world := noop.NewWorld()
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			m, err := pool.New(ctx, pool.ManagerConfig{
				Store: intents, Agent: agentclient.NewMock(agentclient.MockConfig{}), Solo: true,
				Pools: []pool.PoolConfig{{Name: "p", Driver: "noop", Min: size, Max: 1_000_000, SpecJSON: json.RawMessage(`{}`)}},
				Open: func(p pool.PoolConfig) (pool.Opened, error) {
					d, err := noop.New(drivers.Options{Pool: p.Name, Config: &noop.Config{}, DataDir: b.TempDir()}, noop.Setup{World: world})
					if err != nil {
						return pool.Opened{}, err
					}
					return pool.Opened{Client: drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name}), Local: true}, nil
				},
			})
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx) }()
			defer func() { cancel(); <-done }()
			for range size {
				<-intents.c
			}
			var took []time.Duration
			var total time.Duration
			n := 0
			for b.Loop() {
				if _, err := m.Setup(ctx, pool.SetupRequest{ID: fmt.Sprint("s", n), Kind: pool.Build, Pools: []string{"p"}, Body: json.RawMessage(`{}`)}); err != nil {
					b.Fatal(err)
				}
				claimed := time.Now()
				d := max(0, (<-intents.c).Sub(claimed))
				total += d
				took = append(took, d)
				n++
			}
			b.ReportMetric(float64(total.Microseconds())/float64(n), "µs-to-intent")
			slices.Sort(took)
			b.ReportMetric(float64(took[n*99/100].Microseconds()), "µs-p99")
			b.ReportMetric(float64(took[n-1].Microseconds()), "µs-worst")
		})
	}
}

// announced tells when an intent is durable.
type announced struct {
	pool.Store
	c chan time.Time
}

func (a *announced) Intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	inst, err := a.Store.Intend(ctx, in)
	if err == nil {
		a.c <- time.Now()
	}
	return inst, err
}
