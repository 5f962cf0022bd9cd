package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// engine is a real engine on a real store, with pretend machines and a
// pretend agent, inside a bubble of fake time. The world and the store outlive
// the engine, so that a restart can be played.
type engine struct {
	t     *testing.T
	world *noop.World
	store pool.Store
	mock  *agentclient.Mock
	// faults and hook may be set before start, or between restarts.
	faults *noop.Faults
	hook   func(ctx context.Context, op string, t pool.Target, step string) error
	pools  []poolSpec
	keep   bool
	// other is a second account: specs whose Capacity is otherAccount are in it.
	other *noop.World
	// limits are the engine's; tests about ages shorten them, and sweep less
	// often, since a fake hour costs real milliseconds.
	limits pool.Timeouts
	// cpus makes the driver one that can pause; nil: it cannot.
	cpus *cpus
	// disks makes the driver one whose gitspaces have disks; nil: it has none.
	disks *shelf
	// identified makes the driver one that brings machines their identity, and is
	// told of each; nil: it does not.
	identified func(ref drivers.Ref, id drivers.Identity) error
	// witness and uptime are the engine's; old makes its agents existing ones.
	witness pool.Witness
	now     func() time.Time
	uptime  func() time.Duration
	old     bool
	// cloud makes the machines those of a cloud rather than of this host.
	cloud bool
	// boot is the engine's.
	boot pool.Boot
	// zones makes it one with zones.
	zones bool
	// environment and serverName are the engine's.
	environment, serverName string

	m    *pool.Manager
	stop func()
	runs int
}

type poolSpec struct {
	name     string
	min, max int
	wait     time.Duration
	cfg      noop.Config
	// tune, if set, changes the pool's configuration.
	tune func(*pool.PoolConfig)
}

// otherAccount marks the specs of a second account.
const otherAccount = 77

// account is the world a spec is about, and its data directory, which makes it
// a scope of its own.
func (e *engine) account(cfg *noop.Config) (*noop.World, string) {
	if cfg.Capacity == otherAccount {
		return e.other, "/other"
	}
	return e.world, "/bubble"
}

// inBubble runs a test in fake time with a store of its own.
func inBubble(t *testing.T, f func(t *testing.T, e *engine)) {
	t.Helper()
	t.Parallel()
	aloneInBubble(t, f)
}

// aloneInBubble is inBubble for a test that measures the whole process.
func aloneInBubble(t *testing.T, f func(t *testing.T, e *engine)) {
	t.Helper()
	dir := t.TempDir()
	testbubble.Run(t, func(t *testing.T) {
		sealer, err := store.NewSealer(make([]byte, store.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		open := func(name string) pool.Store {
			st, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, name), Seal: sealer, Sync: sqlite.SyncOff})
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		e := &engine{t: t, world: noop.NewWorld(), other: noop.NewWorld(), store: open("a.sqlite3"), pools: []poolSpec{{name: "p", min: 2, max: 4}}}
		defer func() {
			if e.stop != nil {
				e.halt()
			}
			if err := e.store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}()
		f(t, e)
	})
}

// start runs an engine on whatever store and world there are.
func (e *engine) start() {
	e.t.Helper()
	e.runs++
	if e.mock != nil {
		e.run()
		return
	}
	e.mock = agentclient.NewMock(agentclient.MockConfig{StepTime: time.Minute, Old: e.old, Hook: func(ctx context.Context, op string, t pool.Target, step string) error {
		world := e.world
		if e.other.Has(t.Instance) {
			world = e.other
		}
		if err := world.Alive(t.Instance); err != nil {
			return err
		}
		if e.hook != nil {
			return e.hook(ctx, op, t, step)
		}
		return nil
	}})
	e.run()
}

// run starts an engine with the agents there are: those in the machines go on
// when an engine stops.
func (e *engine) run() {
	e.t.Helper()
	var cfgs []pool.PoolConfig
	for _, p := range e.pools {
		js, err := json.Marshal(p.cfg)
		if err != nil {
			e.t.Fatal(err)
		}
		cfgs = append(cfgs, pool.PoolConfig{
			Name: p.name, Driver: "noop", Min: p.min, Max: p.max, Wait: p.wait, Spec: &p.cfg, SpecJSON: js,
			Platform: drivers.Platform{OS: "linux", Arch: "amd64"},
		})
		if p.tune != nil {
			p.tune(&cfgs[len(cfgs)-1])
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	m, err := pool.New(ctx, pool.ManagerConfig{
		Store: e.store, Agent: e.mock, Boot: e.boot, ProxyCA: e.boot != nil, Pools: cfgs, Solo: true, KeepDrifted: e.keep,
		Witness: e.witness, Now: e.now, Uptime: e.uptime, Environment: e.environment, ServerName: e.serverName,
		Timeouts: e.limits, Incarnation: fmt.Sprintf("run-%d", e.runs), Log: slog.New(slog.DiscardHandler),
		Open: func(p pool.PoolConfig) (pool.Opened, error) {
			cfg, ok := p.Spec.(*noop.Config)
			if !ok {
				cfg = &noop.Config{}
				if err := json.Unmarshal(p.SpecJSON, cfg); err != nil {
					return pool.Opened{}, err
				}
			}
			world, dir := e.account(cfg)
			d, err := noop.New(drivers.Options{Pool: p.Name, Platform: p.Platform, Config: cfg, DataDir: dir, Log: slog.New(slog.DiscardHandler)},
				noop.Setup{World: world, Faults: e.faults})
			if err != nil {
				return pool.Opened{}, err
			}
			var driver drivers.Driver = d
			switch {
			case e.cpus != nil:
				driver = pauser{d, e.cpus}
			case e.disks != nil:
				driver = diskKeeper{d, e.disks}
			case e.identified != nil:
				driver = identifier{d, e.identified}
			}
			return pool.Opened{Client: drivers.NewClient(driver, drivers.ClientOptions{Pool: p.Name, Type: "noop"}), Local: !e.cloud, Zones: e.zones}, nil
		},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	e.m = m
	e.stop = func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("run: %v", err)
		}
		e.stop = nil
	}
	synctest.Wait()
}

// identifier is a driver that reaches machines over a channel of their host.
type identifier struct {
	*noop.Driver
	tell func(ref drivers.Ref, id drivers.Identity) error
}

func (d identifier) Identify(_ context.Context, ref drivers.Ref, id drivers.Identity) error {
	return d.tell(ref, id)
}

// halt stops the engine as a signal does; restart starts the next one.
func (e *engine) halt() { e.stop() }

func (e *engine) restart() {
	e.halt()
	e.start()
}

// pass lets fake time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (e *engine) request(id string, pools ...string) pool.SetupRequest {
	if len(pools) == 0 {
		pools = []string{e.pools[0].name}
	}
	return pool.SetupRequest{ID: id, Kind: pool.Build, Pools: pools, Body: json.RawMessage(`{}`)}
}

func (e *engine) setup(id string, pools ...string) pool.SetupResult {
	e.t.Helper()
	res, err := e.m.Setup(e.t.Context(), e.request(id, pools...))
	if err != nil {
		e.t.Fatalf("setup %s: %v", id, err)
	}
	return res
}

func (e *engine) gitspace(id string) pool.SetupRequest {
	r := e.request(id)
	r.Kind, r.Want.Ports = pool.Gitspace, []int{3000}
	return r
}

func (e *engine) destroy(id string) {
	e.t.Helper()
	if err := e.m.Destroy(e.t.Context(), pool.DestroyRequest{Lease: id}); err != nil {
		e.t.Fatalf("destroy %s: %v", id, err)
	}
}

func step(id, step string) pool.StepRequest {
	return pool.StepRequest{Lease: id, Step: step, Body: func(map[string]string) (json.RawMessage, error) {
		return json.RawMessage(fmt.Sprintf(`{"id":%q}`, step)), nil
	}}
}

// rows are the live machines, by state.
func (e *engine) rows() map[pool.InstanceState]int {
	e.t.Helper()
	live, err := e.store.Instances(e.t.Context(), pool.InstanceQuery{Live: true})
	if err != nil {
		e.t.Fatal(err)
	}
	out := map[pool.InstanceState]int{}
	for _, i := range live {
		out[i.State]++
	}
	return out
}

func (e *engine) wantRows(want map[pool.InstanceState]int) {
	e.t.Helper()
	got := e.rows()
	if len(got) != len(want) {
		e.t.Fatalf("machines: %v, want %v", got, want)
	}
	for s, n := range want {
		if got[s] != n {
			e.t.Fatalf("machines: %v, want %v", got, want)
		}
	}
}

func (e *engine) machines() []string {
	var out []string
	for _, m := range e.world.Machines() {
		out = append(out, m.Name)
	}
	return out
}

// reasons are the reason codes of the events so far.
func (e *engine) reasons() []string {
	e.t.Helper()
	events, err := e.store.Events(e.t.Context(), pool.EventQuery{Limit: 1000})
	if err != nil {
		e.t.Fatal(err)
	}
	var out []string
	for _, ev := range events {
		out = append(out, ev.Reason)
	}
	return out
}

func (e *engine) wantReason(reason string) {
	e.t.Helper()
	if got := e.reasons(); !slices.Contains(got, reason) {
		e.t.Errorf("events %v lack %q", got, reason)
	}
}
