package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
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

// fleet is several engines on one store, one pretend cloud and one set of
// pretend agents, inside a bubble of fake time.
type fleet struct {
	t      *testing.T
	world  *noop.World
	store  pool.Store
	agent  pool.Agent
	faults *noop.Faults
	// hook is asked before every call to an agent.
	hook   func(ctx context.Context, op string, t pool.Target) error
	pools  []poolSpec
	limits pool.Timeouts
	// deaf loses every announcement.
	deaf bool
	log  *slog.Logger

	mu       sync.Mutex
	replicas []*replica
	setups   map[string]int // by machine
}

// replica is one engine, its sight of the store, and how it ends.
type replica struct {
	pool.Store
	f    *fleet
	name string
	m    *pool.Manager
	stop func()
	ears func(topic string)
	// dead is set from its crash on: what it would still say to the store while
	// it ends does not arrive there.
	dead *atomic.Bool
	// late, if set, takes the place of Accepted.
	late func(ctx context.Context, s pool.Store, a pool.Acceptance) (pool.Instance, error)
}

var errDeadReplica = errors.New("this replica was killed")

func inFleet(t *testing.T, run func(t *testing.T, f *fleet)) {
	t.Helper()
	inFleetOn(t, sharedSQLite, run)
}

// sharedSQLite is a store that several engines of one process share.
func sharedSQLite(t *testing.T, dir string, sealer *store.Sealer) (pool.Store, error) {
	return sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "db"), Seal: sealer, Sync: sqlite.SyncOff})
}

// inFleetOn is inFleet on the store that open opens inside the bubble.
func inFleetOn(t *testing.T, open func(t *testing.T, dir string, sealer *store.Sealer) (pool.Store, error), run func(t *testing.T, f *fleet)) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	testbubble.Run(t, func(t *testing.T) {
		sealer, err := store.NewSealer(make([]byte, store.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		st, err := open(t, dir, sealer)
		if err != nil {
			t.Fatal(err)
		}
		f := &fleet{
			t: t, world: noop.NewWorld(), store: st, pools: []poolSpec{{name: "p", min: 2, max: 4}}, setups: map[string]int{},
			log: slog.New(slog.DiscardHandler),
		}
		f.agent = exporting{agentclient.NewMock(agentclient.MockConfig{StepTime: time.Minute, Hook: func(ctx context.Context, op string, t pool.Target, _ string) error {
			if op == "setup" {
				f.mu.Lock()
				f.setups[t.Instance]++
				f.mu.Unlock()
			}
			if err := f.world.Alive(t.Instance); err != nil {
				return err
			}
			if f.hook != nil {
				return f.hook(ctx, op, t)
			}
			return nil
		}})}
		defer func() {
			for _, r := range f.replicas {
				if r.stop != nil {
					r.stop()
				}
			}
			if err := st.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}()
		run(t, f)
	})
}

// exporting is an agent whose steps export their own name.
type exporting struct{ *agentclient.Mock }

func (e exporting) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	res, err := e.Mock.PollStep(ctx, t, step)
	res.Exported = map[string]string{"LAST_STEP": step}
	return res, err
}

// start begins another replica. edit may change its configuration.
func (f *fleet) start(name string, edit ...func(*pool.ManagerConfig)) *replica {
	f.t.Helper()
	r := &replica{Store: f.store, f: f, name: name, dead: new(atomic.Bool)}
	var cfgs []pool.PoolConfig
	for _, p := range f.pools {
		js, err := json.Marshal(p.cfg)
		if err != nil {
			f.t.Fatal(err)
		}
		cfgs = append(cfgs, pool.PoolConfig{
			Name: p.name, Driver: "noop", Min: p.min, Max: p.max, Wait: p.wait, Spec: &p.cfg, SpecJSON: js,
			Platform: drivers.Platform{OS: "linux", Arch: "amd64"},
		})
		if p.tune != nil {
			p.tune(&cfgs[len(cfgs)-1])
		}
	}
	cfg := pool.ManagerConfig{
		Store: r, Agent: f.agent, Pools: cfgs, KeepDrifted: true, Timeouts: f.limits, Incarnation: name, Log: f.log.With("replica", name),
		Open: func(p pool.PoolConfig) (pool.Opened, error) {
			cfg, ok := p.Spec.(*noop.Config)
			if !ok {
				cfg = &noop.Config{}
				if err := json.Unmarshal(p.SpecJSON, cfg); err != nil {
					return pool.Opened{}, err
				}
			}
			d, err := noop.New(drivers.Options{Pool: p.Name, Platform: p.Platform, Config: cfg, DataDir: "/bubble", Log: slog.New(slog.DiscardHandler)},
				noop.Setup{World: f.world, Faults: f.faults})
			if err != nil {
				return pool.Opened{}, err
			}
			return pool.Opened{Client: drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name, Type: "noop"}), Local: true}, nil
		},
	}
	for _, e := range edit {
		e(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m, err := pool.New(ctx, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	r.m = m
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	r.stop = func() {
		r.stop = nil
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("run of %s: %v", name, err)
		}
	}
	f.mu.Lock()
	f.replicas = append(f.replicas, r)
	f.mu.Unlock()
	synctest.Wait()
	return r
}

// kill ends a replica without a last word.
func (r *replica) kill() {
	r.dead.Store(true)
	r.stop()
}

// holder is the replica that has the pool by the store's word, "" if none.
func (f *fleet) holder(name string) string {
	f.t.Helper()
	rows, err := f.store.Pools(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, row := range rows {
		if row.Name == name && row.Hold.Until.After(time.Now()) {
			return row.Hold.Replica
		}
	}
	return ""
}

// until lets fake time go by until ok, for d at most, and returns how long it was.
func (f *fleet) until(d time.Duration, what string, ok func() bool) time.Duration {
	f.t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > d {
			f.t.Fatalf("no %s after %s", what, d)
		}
		pass(50 * time.Millisecond)
	}
	return time.Since(begun)
}

func (f *fleet) live() []pool.Instance {
	f.t.Helper()
	rows, err := f.store.Instances(f.t.Context(), pool.InstanceQuery{Live: true})
	if err != nil {
		f.t.Fatal(err)
	}
	return rows
}

func (f *fleet) count(state pool.InstanceState) int {
	f.t.Helper()
	n := 0
	for _, i := range f.live() {
		if i.State == state {
			n++
		}
	}
	return n
}

func (f *fleet) warm(n int) {
	f.t.Helper()
	f.until(30*time.Second, "warm pool", func() bool { return f.count(pool.Warm) == n })
}

func (f *fleet) lease(id string) pool.Lease {
	f.t.Helper()
	l, err := f.store.Lease(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

func build(id string, pools ...string) pool.SetupRequest {
	if len(pools) == 0 {
		pools = []string{"p"}
	}
	return pool.SetupRequest{ID: id, Kind: pool.Build, Pools: pools, Body: json.RawMessage(`{}`)}
}

func (r *replica) setup(id string) pool.SetupResult {
	r.f.t.Helper()
	res, err := r.m.Setup(r.f.t.Context(), build(id))
	if err != nil {
		r.f.t.Fatalf("setup %s on %s: %v", id, r.name, err)
	}
	return res
}

func (r *replica) destroy(id string) {
	r.f.t.Helper()
	if err := r.m.Destroy(r.f.t.Context(), pool.DestroyRequest{Lease: id}); err != nil {
		r.f.t.Fatalf("destroy %s on %s: %v", id, r.name, err)
	}
}

// Announce implements pool.Notifier: the others hear at once, or never.
func (r *replica) Announce(topics ...string) {
	if r.dead.Load() {
		return
	}
	r.f.mu.Lock()
	deaf := r.f.deaf
	var ears []func(string)
	for _, other := range r.f.replicas {
		if other.name != r.name && other.ears != nil {
			ears = append(ears, other.ears)
		}
	}
	r.f.mu.Unlock()
	for _, hear := range ears {
		for _, topic := range topics {
			if !deaf {
				hear(topic)
			}
		}
	}
}

// Listen implements pool.Notifier.
func (r *replica) Listen(ctx context.Context, hear func(topic string)) error {
	r.f.mu.Lock()
	r.ears = hear
	r.f.mu.Unlock()
	<-ctx.Done()
	r.f.mu.Lock()
	r.ears = nil
	r.f.mu.Unlock()
	return ctx.Err()
}

func (r *replica) Close() error { return nil }

// Fence keeps the replica's own ways in what its tenures write.
func (r *replica) Fence(h pool.Hold) pool.Store {
	return &replica{Store: r.Store.Fence(h), f: r.f, name: r.name, dead: r.dead, late: r.late}
}

func (r *replica) Hold(ctx context.Context, name, who string, ttl time.Duration) (pool.Hold, error) {
	if r.dead.Load() {
		return pool.Hold{}, errDeadReplica
	}
	return r.Store.Hold(ctx, name, who, ttl)
}

func (r *replica) Unhold(ctx context.Context, h pool.Hold) error {
	if r.dead.Load() {
		return errDeadReplica
	}
	return r.Store.Unhold(ctx, h)
}

func (r *replica) Unwait(ctx context.Context, k pool.LeaseKey, waiter string, due, now time.Time) error {
	if r.dead.Load() {
		return errDeadReplica
	}
	return r.Store.Unwait(ctx, k, waiter, due, now)
}

func (r *replica) Accepted(ctx context.Context, a pool.Acceptance) (pool.Instance, error) {
	if r.late != nil {
		return r.late(ctx, r.Store, a)
	}
	return r.Store.Accepted(ctx, a)
}
