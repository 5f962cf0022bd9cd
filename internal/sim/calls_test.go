package sim

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var simFleet = flag.Int("sim.fleet", 100, "machines of the largest load in TestCloudCallsPerMachine")

// TestCloudCallsPerMachine has the engine serve builds with machines of each
// cloud, none of them warm, and counts what the cloud was asked: from the first
// creation until the last end is confirmed, sweeps included. Rates and times are
// the fakes' own, pages as large as the clouds'.
func TestCloudCallsPerMachine(t *testing.T) {
	withoutOwnAWS(t)
	clouds := map[string]func() *realCloud{
		"google": func() *realCloud { return googleFake(gce.Options{PageSize: 500}) },
		"amazon": func() *realCloud { return amazonFake(ec2.Options{Page: 1000}) },
	}
	for name, cloud := range clouds {
		for _, load := range []struct {
			name     string
			machines int
			every    time.Duration
			most     float64
		}{
			{"50 at once", 50, 0, 4},
			{"one every 10 s", 50, 10 * time.Second, 8},
			{fmt.Sprintf("%d at once", *simFleet), *simFleet, 0, 4},
		} {
			t.Run(name+"/"+load.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				testbubble.Run(t, func(t *testing.T) {
					c := cloud()
					took := liveOn(t, c, dir, load.machines, load.every)
					total := 0
					for _, n := range c.calls() {
						total += n
					}
					each := float64(total) / float64(load.machines)
					t.Logf("%.1f calls a machine, all gone after %s: %v", each, took.Round(time.Second), c.calls())
					if each > load.most {
						t.Errorf("%.1f calls a machine, at most %.0f", each, load.most)
					}
					made := 0
					for _, thing := range c.made() {
						if thing.Kind == "instance" {
							made++
						}
					}
					if made != load.machines {
						t.Errorf("%d machines were made for %d builds", made, load.machines)
					}
				})
			})
		}
	}
}

// liveOn has builds take a machine each, work, and give it back, one beginning
// every so often, and returns when the cloud has nothing left.
func liveOn(t *testing.T, c *realCloud, dir string, machines int, every time.Duration) time.Duration {
	t.Helper()
	st, db, err := storeSQLite(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := db.Close(); err != nil { // nobody looks past the store here
		t.Fatal(err)
	}
	client := &http.Client{Transport: fakecloud.Transport{Handler: c.handler}}
	agent := agentclient.NewMock(agentclient.MockConfig{Hook: func(_ context.Context, _ string, target pool.Target, _ string) error {
		if !c.answers(target.Address) {
			return errUnreachable
		}
		return nil
	}})
	running, stop := context.WithCancel(t.Context())
	m, err := pool.New(running, pool.ManagerConfig{
		Store: st, Agent: agent, Solo: true, Log: slog.New(slog.DiscardHandler),
		Pools: []pool.PoolConfig{{Name: "p", Driver: "cloud", Max: machines, Wait: 2 * time.Hour, SpecJSON: json.RawMessage(`{}`), Platform: drivers.Platform{OS: "linux", Arch: "amd64"}}},
		Open: func(pool.PoolConfig) (pool.Opened, error) {
			return pool.Opened{Client: drivers.NewClient(c.open(t, client), drivers.ClientOptions{Pool: "p", Type: "cloud"}), Zones: true}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(running) }()
	begun := time.Now()
	var builds sync.WaitGroup
	for n := range machines {
		builds.Go(func() {
			id := fmt.Sprintf("build-%d", n)
			if nap(t.Context(), time.Duration(n)*every) != nil {
				return
			}
			if _, err := m.Setup(t.Context(), pool.SetupRequest{ID: id, Kind: pool.Build, Pools: []string{"p"}, Body: bodyOf(id)}); err != nil {
				t.Errorf("setup %s: %v", id, err)
				return
			}
			if nap(t.Context(), 2*time.Minute) != nil {
				return
			}
			if err := m.Destroy(t.Context(), pool.DestroyRequest{Lease: id}); err != nil {
				t.Errorf("destroy %s: %v", id, err)
			}
		})
	}
	builds.Wait()
	for end := time.Now().Add(time.Hour); ; {
		rows, err := st.Instances(t.Context(), pool.InstanceQuery{Live: true, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		left := machinesAndDisks(c.living())
		if len(rows) == 0 && len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("left behind: %d things, %d rows: %.300v", len(left), len(rows), left)
			break
		}
		if nap(t.Context(), time.Second) != nil {
			break
		}
	}
	took := time.Since(begun)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return took
}
