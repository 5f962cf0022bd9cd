package sim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

var (
	simSeeds = flag.Int("sim.seeds", 20, "how many seeds to run")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed only, with its log")
	simFirst = flag.Uint64("sim.first", 1, "the first seed of a run of many")
	simHours = flag.Int("sim.hours", 1, "hours of load in each seed")
)

// shape is one kind of world; a seed picks one.
type shape struct {
	name    string
	faults  faults
	min     int
	max     int
	clients int
	crashes int // how often the runner is killed
}

var shapes = []shape{
	{"calm", faults{slow: 5 * time.Second}, 4, 12, 6, 0},
	{"crashes", faults{slow: 5 * time.Second}, 4, 12, 6, 8},
	{"bad cloud", faults{
		slow: 10 * time.Second, createFails: .15, createLies: .1, neverBoots: .05, destroyFail: .3,
		listPartial: .1, listStale: .1, listFails: .1, setupFails: .05,
	}, 4, 12, 6, 0},
	{"bad cloud and crashes", faults{
		slow: 10 * time.Second, createFails: .15, createLies: .1, neverBoots: .05, destroyFail: .3, diesEarly: .2,
		listPartial: .1, listStale: .1, listFails: .1, setupFails: .05,
	}, 4, 12, 6, 8},
	{"machines die", faults{slow: 5 * time.Second, diesEarly: .5}, 4, 12, 6, 2},
	{"at the limit", faults{slow: 5 * time.Second, createFails: .05}, 2, 3, 10, 3},
	{"stockout", faults{slow: 5 * time.Second, capacity: 4}, 4, 12, 8, 2},
	{"nothing kept warm", faults{slow: 5 * time.Second, createLies: .1}, 0, 6, 6, 4},
}

func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		runSeed(t, *simSeed, true)
		return
	}
	for i := range uint64(*simSeeds) {
		seed := *simFirst + i
		t.Run(fmt.Sprintf("seed=%d/%s", seed, shapes[seed%uint64(len(shapes))].name), func(t *testing.T) {
			t.Parallel()
			runSeed(t, seed, false)
		})
	}
}

func runSeed(t *testing.T, seed uint64, loud bool) {
	for _, wrong := range simulate(t, seed, loud, nil) {
		t.Error(wrong)
	}
	if t.Failed() {
		t.Logf("run it again with: go test ./internal/sim -run TestSimulation -sim.seed=%d", seed)
	}
}

// simulate runs one seed and returns everything that was wrong. sabotage, if
// set, breaks the world on purpose.
func simulate(t *testing.T, seed uint64, loud bool, sabotage func(*sim)) (wrong []string) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, seed, dir, loud)
		if sabotage != nil {
			sabotage(s)
		}
		wrong = s.run()
	})
	return wrong
}

// TestSimulationBites breaks one promise at a time on purpose: a simulation
// that does not notice proves nothing.
func TestSimulationBites(t *testing.T) {
	for _, tc := range []struct {
		name     string
		seed     uint64
		sabotage func(*sim)
		want     string
	}{
		{
			"a destroy that only says so leaks the machine", 8,
			func(s *sim) { s.w.sabotage.destroyLies = true },
			"has no row",
		},
		{
			"a claim that gives a machine away twice", 8,
			func(s *sim) { s.store = sharing{Store: s.store, last: new(atomic.Pointer[pool.Grant])} },
			"was given to",
		},
		{
			"a sweep that takes every machine for dead kills what is in use", 8,
			func(s *sim) { s.w.sabotage.allDead = true },
			"but it lives",
		},
		{
			"a limit that is not kept", 5,
			func(s *sim) { s.limitOff = 3 },
			"with a limit of",
		},
		{
			"a pool that is not refilled", 8,
			func(s *sim) { s.minOff = -2 },
			"warm machines of",
		},
		{
			"a lease that never ends", 8,
			func(s *sim) { s.store = deaf{s.store} },
			"is still",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			wrong := simulate(t, tc.seed, false, tc.sabotage)
			if !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, tc.want) }) {
				t.Errorf("not noticed; %d other complaints: %.2000q", len(wrong), wrong)
			}
		})
	}
}

// sharing is a store whose claims give a machine out a second time.
type sharing struct {
	pool.Store
	last *atomic.Pointer[pool.Grant]
}

func (s sharing) Arrive(ctx context.Context, a pool.Arrival) (pool.Grant, error) {
	g, err := s.Store.Arrive(ctx, a)
	if err != nil || !g.Claimed {
		return g, err
	}
	if old := s.last.Swap(&g); old != nil {
		g.Lease.InstanceID = old.Instance.ID
		g.Instance = old.Instance
	}
	return g, nil
}

// deaf is a store that says a destroy is done and does nothing.
type deaf struct{ pool.Store }

func (s deaf) End(ctx context.Context, e pool.Ending) (pool.Ended, error) {
	l, err := s.Lease(ctx, e.Lease.ID)
	if err != nil {
		return s.Store.End(ctx, e)
	}
	return pool.Ended{Outcome: pool.EndNow, Lease: l}, nil
}

// sim is one seed's world, its store, and the runner as it is now.
type sim struct {
	t     *testing.T
	seed  uint64
	shape shape
	w     *world
	store pool.Store
	log   *slog.Logger

	// minOff and limitOff make the engine's configuration differ from what
	// the audit expects.
	minOff, limitOff int

	mu      sync.Mutex
	current *incarnation
	started int
	served  atomic.Int64
	refused atomic.Int64
}

// incarnation is one life of the runner, from start to crash.
type incarnation struct {
	fuse *fuse
	m    *pool.Manager
	stop context.CancelFunc
	done chan struct{}
}

func newSim(t *testing.T, seed uint64, dir string, loud bool) *sim {
	sh := shapes[seed%uint64(len(shapes))]
	s := &sim{t: t, seed: seed, shape: sh, w: newWorld(seed, sh.faults), log: slog.New(slog.DiscardHandler)}
	if loud {
		s.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "database.sqlite3"), Seal: sealer, Sync: sqlite.SyncOff})
	if err != nil {
		t.Fatal(err)
	}
	s.store = st
	return s
}

const poolName = "p"

// begin starts a new incarnation of the runner on what the last one left.
func (s *sim) begin() *incarnation {
	s.started++
	f := &fuse{}
	if left := s.shape.crashes - s.started + 1; left > 0 {
		// Between two calls, or between a call and its answer, at random.
		f.at = 20 + int(s.w.draw("crash", s.started)*3000)
	}
	ctx, stop := context.WithCancel(context.Background())
	in := &incarnation{fuse: f, stop: stop, done: make(chan struct{})}
	f.blow = func() { stop() }
	log := s.log.With("incarnation", s.started)
	m, err := pool.New(ctx, pool.ManagerConfig{
		Store: fused{s.store, f}, Agent: agents{s.w, f}, Solo: true, Log: log,
		Incarnation: fmt.Sprintf("run-%d", s.started),
		Pools: []pool.PoolConfig{{
			Name: poolName, Driver: "sim", Min: s.shape.min + s.minOff, Max: s.shape.max + s.limitOff, Wait: 10 * time.Minute,
			SpecJSON: json.RawMessage(`{}`), Image: "img",
		}},
		Open: func(p pool.PoolConfig) (pool.Opened, error) {
			return pool.Opened{Client: drivers.NewClient(cloud{s.w, f}, drivers.ClientOptions{Pool: p.Name, Type: "sim", Log: log})}, nil
		},
	})
	if err != nil {
		if !errors.Is(err, errCrashed) {
			s.fail("start: %v", err)
		}
		close(in.done)
		return in // crashed while it started
	}
	in.m = m
	go func() {
		defer close(in.done)
		if err := in.m.Run(ctx); err != nil && !errors.Is(err, errCrashed) {
			s.fail("run: %v", err)
		}
	}()
	return in
}

// supervise keeps a runner running until ctx ends: after a crash a new one is
// started a little later, as a container's restart policy would.
func (s *sim) supervise(ctx context.Context) {
	for ctx.Err() == nil {
		in := s.begin()
		s.mu.Lock()
		s.current = in
		s.mu.Unlock()
		select {
		case <-in.done:
			_ = nap(ctx, 3*time.Second) // an ended ctx ends the loop
		case <-ctx.Done():
			in.stop()
			<-in.done
		}
	}
}

// runner is the present incarnation, or nil while it is being restarted.
func (s *sim) runner() *pool.Manager {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.m == nil {
		return nil
	}
	select {
	case <-s.current.done:
		return nil
	default:
		return s.current.m
	}
}

// run simulates the seed and returns what was wrong.
func (s *sim) run() []string {
	ctx, cancel := context.WithCancel(s.t.Context())
	var runner sync.WaitGroup
	runner.Go(func() { s.supervise(ctx) })
	var clients sync.WaitGroup
	load, endLoad := context.WithTimeout(ctx, time.Duration(*simHours)*time.Hour)
	for i := range s.shape.clients {
		clients.Go(func() { s.client(load, i) })
	}
	watch, endWatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(watch) })
	clients.Wait()
	endLoad()
	// Quiet: the cloud behaves, nothing is asked for, and an hour passes.
	s.w.calm()
	_ = nap(ctx, time.Hour)
	endWatch()
	watcher.Wait()
	s.audit()
	cancel()
	runner.Wait()
	if err := s.store.Close(); err != nil {
		s.fail("close: %v", err)
	}
	s.t.Logf("%d starts of the runner, %d leases served, %d refused, %d machines made", s.started, s.served.Load(), s.refused.Load(), s.w.made)
	if s.served.Load() == 0 {
		s.fail("no lease was served: the simulation proves nothing")
	}
	return s.w.complaints()
}

func (s *sim) fail(format string, args ...any) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.accuse(format, args...)
}

// client is one delegate: stages one after the other, with all its habits.
func (s *sim) client(ctx context.Context, n int) {
	for stage := 0; ctx.Err() == nil; stage++ {
		id := fmt.Sprintf("c%d-s%d", n, stage)
		s.stage(ctx, id)
		_ = nap(ctx, time.Duration(s.w.draw("think", id)*float64(time.Minute)))
	}
}

// call makes one request to whatever runner there is, as often as it takes.
// patience bounds one try.
func (s *sim) call(ctx context.Context, patience time.Duration, f func(context.Context, *pool.Manager) error) error {
	for try := 0; ; try++ {
		err := error(errCrashed)
		if m := s.runner(); m != nil {
			one, cancel := context.WithTimeout(ctx, patience)
			err = f(one, m)
			cancel()
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		transport := errors.Is(err, errCrashed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "stopping")
		if !transport || try > 50 {
			return err
		}
		if err := nap(ctx, 2*time.Second); err != nil {
			return err
		}
	}
}

// stage is the life of one lease from the caller's side. Once it has a machine
// it counts on it until it asks for its end.
func (s *sim) stage(ctx context.Context, id string) {
	habits := s.w.draw("habits", id)
	kind := pool.Build
	if habits > .3 && habits < .4 {
		kind = pool.Gitspace
	}
	req := pool.SetupRequest{ID: id, Kind: kind, Pools: []string{poolName}, Body: json.RawMessage(`{}`)}
	patience := 20 * time.Minute
	if habits < .15 {
		patience = 30 * time.Second // hangs up early, and asks again
	}
	if habits > .95 {
		// A destroy that overtakes its setup.
		_ = s.call(ctx, time.Minute, func(ctx context.Context, m *pool.Manager) error {
			return m.Destroy(ctx, pool.DestroyRequest{Lease: id})
		})
	}
	var res pool.SetupResult
	err := s.call(ctx, patience, func(ctx context.Context, m *pool.Manager) error {
		r, err := m.Setup(ctx, req)
		if err == nil {
			res = r
			s.w.hold(r.Instance.Name, id)
		}
		return err
	})
	// Whatever comes, the end is asked for, until it is granted: as the
	// delegate's clean-up does.
	end := context.WithoutCancel(ctx)
	defer func() {
		if err := s.call(end, time.Minute, func(ctx context.Context, m *pool.Manager) error {
			if res.Instance.Name != "" {
				s.w.drop(res.Instance.Name)
			}
			return m.Destroy(ctx, pool.DestroyRequest{Lease: id})
		}); err != nil {
			s.fail("destroy %s: %v", id, err)
		}
	}()
	if err != nil {
		s.refused.Add(1)
		if ctx.Err() == nil && err.Error() == "" {
			s.fail("setup %s failed without a reason", id)
		}
		return
	}
	s.served.Add(1)
	if habits > .5 && habits < .6 {
		// Asks a second time: the same machine, or none if it died.
		_ = s.call(ctx, patience, func(ctx context.Context, m *pool.Manager) error {
			r, err := m.Setup(ctx, req)
			if err == nil && r.Instance.ID != res.Instance.ID && !s.w.dead(res.Instance.Name) {
				s.fail("%s holds two machines: %s and %s", id, res.Instance.Name, r.Instance.Name)
			}
			if err == nil {
				s.w.drop(res.Instance.Name)
				res = r
				s.w.hold(r.Instance.Name, id)
			}
			return err
		})
	}
	if kind == pool.Gitspace && !s.sleep(ctx, id, req, &res) {
		return
	}
	for step := range 1 + int(s.w.draw("steps", id)*3) {
		err := s.call(ctx, time.Hour, func(ctx context.Context, m *pool.Manager) error {
			_, err := m.Step(ctx, pool.StepRequest{
				Lease: id, Step: fmt.Sprintf("%s-%d", id, step),
				Body: func(map[string]string) (json.RawMessage, error) { return json.RawMessage(`{}`), nil },
			})
			return err
		})
		if err != nil {
			if ctx.Err() == nil && !s.w.dead(res.Instance.Name) && errors.Is(err, pool.ErrLost) {
				s.fail("step of %s says its machine died, but it lives: %v", id, err)
			}
			return
		}
	}
}

// sleep suspends and resumes a gitspace. It is the same machine afterwards,
// whatever happened meanwhile; false means that it could not be resumed now.
func (s *sim) sleep(ctx context.Context, id string, req pool.SetupRequest, res *pool.SetupResult) bool {
	err := s.call(ctx, 10*time.Minute, func(ctx context.Context, m *pool.Manager) error {
		return m.Suspend(ctx, pool.SuspendRequest{Lease: id, Body: json.RawMessage(`{}`)})
	})
	if err != nil {
		return false // dead, or the time is over
	}
	_ = nap(ctx, time.Duration(s.w.draw("sleep", id)*float64(10*time.Minute)))
	for try := 0; try < 20 && ctx.Err() == nil; try++ {
		var again pool.SetupResult
		err = s.call(ctx, 10*time.Minute, func(ctx context.Context, m *pool.Manager) error {
			r, err := m.Setup(ctx, req)
			again = r
			return err
		})
		if err == nil {
			if again.Instance.ID != res.Instance.ID {
				s.fail("gitspace %s slept on %s and woke on %s", id, res.Instance.Name, again.Instance.Name)
			}
			*res = again
			return true
		}
		_ = nap(ctx, 10*time.Second)
	}
	return false
}

// watch checks, all the time, what must hold at every moment.
func (s *sim) watch(ctx context.Context) {
	for nap(ctx, 5*time.Second) == nil {
		live, err := s.store.Instances(ctx, pool.InstanceQuery{Live: true})
		if err != nil {
			if ctx.Err() == nil {
				s.fail("watch: %v", err)
			}
			return
		}
		if len(live) > s.shape.max {
			s.fail("%d machines with a limit of %d", len(live), s.shape.max)
		}
		held := map[string]string{}
		for _, inst := range live {
			if inst.Due.IsZero() {
				s.fail("%s is %s and never due", inst.Name, inst.State)
			}
			if inst.LeaseID == "" || inst.State != pool.Leased {
				continue
			}
			if other := held[inst.LeaseID]; other != "" {
				s.fail("lease %s holds %s and %s", inst.LeaseID, other, inst.Name)
			}
			held[inst.LeaseID] = inst.Name
		}
		if n := s.w.count(); n > s.shape.max {
			s.fail("%d machines in the cloud with a limit of %d", n, s.shape.max)
		}
	}
}

// audit checks what must hold once it is quiet.
func (s *sim) audit() {
	ctx := s.t.Context()
	live, err := s.store.Instances(ctx, pool.InstanceQuery{Live: true})
	if err != nil {
		s.t.Fatal(err)
	}
	want := min(s.shape.min, s.shape.max)
	if c := s.w.faults().capacity; c > 0 {
		want = min(want, c)
	}
	warm := 0
	rows := map[string]bool{}
	for _, inst := range live {
		rows[inst.Name] = true
		if inst.State == pool.Warm && !s.w.dead(inst.Name) {
			warm++
		} else {
			s.t.Logf("at the end %s is %s since %s: %s %s", inst.Name, inst.State, inst.Since, inst.Reason, inst.Detail)
		}
	}
	if warm != want {
		s.fail("quiet, but %d warm machines of %d wanted", warm, want)
	}
	s.w.mu.Lock()
	for name := range s.w.machines {
		if !rows[name] {
			s.w.accuse("machine %s has no row and nobody destroyed it", name)
		}
	}
	s.w.mu.Unlock()
	leases, err := s.store.Leases(ctx, pool.LeaseQuery{Live: true})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range leases {
		s.fail("lease %s is still %s, due %s", l.ID, l.State, l.Due)
	}
	drift, err := s.store.Recount(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range drift {
		s.fail("the counter says %d machines, there are %d", d.Counted, d.Truth)
	}
}
