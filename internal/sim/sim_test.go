package sim

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/internal/testclock"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

var (
	simSeeds   = flag.Int("sim.seeds", 40, "how many seeds to run")
	simSeed    = flag.Uint64("sim.seed", 0, "run this seed only")
	simFirst   = flag.Uint64("sim.first", 1, "the first seed of a run of many")
	simVerbose = flag.Bool("sim.verbose", false, "print the whole story of each seed and the engine's log")
	simKind    = flag.String("sim.kind", "", "run only the seeds that have this kind of trouble")
	simReport  = flag.Duration("sim.report", 0, "how often to print progress; 0: never")
)

func TestSimulation(t *testing.T) {
	runSeeds(t, "TestSimulation", *simSeeds, storeSQLite, bite{})
}

// runSeeds runs seeds side by side, tells of its progress, and of each failure
// the command that runs it again.
func runSeeds(t *testing.T, name string, seeds int, open opener, b bite) {
	first := *simFirst
	if *simSeed != 0 {
		first, seeds = *simSeed, 1
	}
	var done, failed atomic.Int64
	begun := time.Now()
	stop := make(chan struct{})
	var reporter sync.WaitGroup
	if *simReport > 0 {
		reporter.Go(func() { report(stop, begun, seeds, &done, &failed) })
	}
	t.Run("seeds", func(t *testing.T) {
		for i := range uint64(seeds) {
			seed := first + i
			p := drawPlan(newDice(seed))
			if *simKind != "" && !slices.Contains(p.kinds, *simKind) {
				done.Add(1)
				continue
			}
			t.Run(fmt.Sprintf("%d=%s", seed, p), func(t *testing.T) {
				t.Parallel()
				defer done.Add(1)
				for _, c := range simulate(t, seed, open, b) {
					t.Errorf("%s\n%s", c.text, c.tale)
				}
				if t.Failed() {
					failed.Add(1)
					again := fmt.Sprintf("make sim SEED=%d VERBOSE=1", seed)
					if name != "TestSimulation" {
						again += " POSTGRES=1"
					}
					t.Logf("run it again with: %s", again)
					if *simReport > 0 {
						fmt.Fprintf(os.Stderr, "seed %d FAILED; run it again with: %s\n", seed, again)
					}
				}
			})
		}
	})
	close(stop)
	reporter.Wait()
	if *simReport > 0 {
		t.Logf("%d seeds, %d failed, %.1f a second", done.Load(), failed.Load(), float64(done.Load())/time.Since(begun).Seconds())
	}
}

func report(stop <-chan struct{}, begun time.Time, seeds int, done, failed *atomic.Int64) {
	tick := time.NewTicker(*simReport)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			n := done.Load()
			rate := float64(n) / time.Since(begun).Seconds()
			left := "unknown"
			if n > 0 {
				left = time.Duration(float64(int64(seeds)-n) / rate * float64(time.Second)).Round(time.Second).String()
			}
			fmt.Fprintf(os.Stderr, "%d of %d seeds, %d failed, %.1f a second, %s left\n", n, seeds, failed.Load(), rate, left)
		}
	}
}

// bite is what is broken on purpose in a seed; the zero bite is nothing.
type bite struct {
	// store replaces the store the engine is given.
	store func(*sim, pool.Store) pool.Store
	world sabotage
	// minOff and limitOff make the engine's configuration differ from what is
	// expected of it.
	minOff, limitOff int
	config           func(*pool.PoolConfig)
	// plan changes what the seed would do.
	plan func(*plan)
}

type finding struct {
	rule rule
	text string
	tale string
}

// simulate runs one seed and returns everything that was wrong.
func simulate(t *testing.T, seed uint64, open opener, b bite) (wrong []finding) {
	dir := t.TempDir()
	testbubble.Run(t, func(t *testing.T) {
		s := newSim(t, seed, dir, open, b)
		s.run()
		for _, c := range s.log.complaints() {
			wrong = append(wrong, finding{c.rule, c.text, s.log.tale(c.subject, 40)})
		}
		if *simVerbose {
			t.Logf("the whole story:\n%s", s.log.tale("", 1<<20))
		}
	})
	return wrong
}

// opener opens the store of a seed, and the same database for the witness.
type opener func(ctx context.Context, dir string) (pool.Store, *sql.DB, error)

func storeSQLite(ctx context.Context, dir string) (pool.Store, *sql.DB, error) {
	path := filepath.Join(dir, "database.sqlite3")
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		return nil, nil, err
	}
	st, err := sqlite.Open(ctx, sqlite.Options{Path: path, Seal: sealer, Sync: sqlite.SyncOff})
	if err != nil {
		return nil, nil, err
	}
	name := "sqlite3" // the library of a build with cgo
	if !slices.Contains(sql.Drivers(), name) {
		name = "sqlite"
	}
	db, err := sql.Open(name, "file:"+path)
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	return st, db, nil
}

// sim is one seed: its world, its store, and the runners as they are now.
type sim struct {
	t       *testing.T
	seed    uint64
	d       *dice
	plan    *plan
	times   pool.Timeouts
	bite    bite
	world   *world
	log     *ledger
	witness *witness
	dir     string
	vault   vault
	host    *testclock.Clock
	bus     *bus
	logger  *slog.Logger

	replicas []*replica
	orders   orders
	hungry   map[hunger]time.Time
	requests sync.WaitGroup
	quiet    atomic.Bool
	served   atomic.Int64
	refused  atomic.Int64
}

func newSim(t *testing.T, seed uint64, dir string, open opener, b bite) *sim {
	d := newDice(seed)
	s := &sim{t: t, seed: seed, d: d, plan: drawPlan(d), bite: b, log: newLedger(), hungry: map[hunger]time.Time{}, host: &testclock.Clock{}, logger: slog.New(slog.DiscardHandler)}
	if b.plan != nil {
		b.plan(s.plan)
	}
	<-time.After(s.plan.begins)
	s.times = s.plan.timeouts()
	s.log.busyAge, s.log.idle, s.log.grip = s.times.BusyAge, s.times.Idle, s.times.Create+5*time.Minute
	s.log.slack = s.slack()
	if *simVerbose {
		s.logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s.world = newWorld(d, s.plan.faults, s.log)
	s.world.copied = s.plan.restore != ""
	s.world.sabotage = b.world
	s.log.dead, s.log.steps = s.world.dead, s.world.running
	s.witness = newWitness(s, s.log)
	s.witness.serial = !s.plan.concurrent
	if s.plan.concurrent {
		s.log.refresh = func() { s.witness.refresh() }
	}
	s.bus = &bus{d: d, ears: map[*process]func(string){}}
	st, db, err := open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	s.dir = dir
	s.vault.fill(s.wrapped(st))
	if err := s.witness.open(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	for i := range s.plan.replicas {
		s.replicas = append(s.replicas, newReplica(s, string(rune('A'+i))))
	}
	return s
}

func (s *sim) isQuiet() bool { return s.quiet.Load() }

// wrapped is a store as a bite wants it.
func (s *sim) wrapped(st pool.Store) pool.Store {
	if s.bite.store == nil {
		return st
	}
	return s.bite.store(s, st)
}

// wait is how long a setup waits for a machine.
func (s *sim) wait() time.Duration { return min(pool.DefaultWait, s.plan.load/3) }

func (s *sim) poolNamed(name string) *poolPlan {
	for i := range s.plan.pools {
		if s.plan.pools[i].name == name {
			return &s.plan.pools[i]
		}
	}
	return nil
}

// run simulates the seed.
func (s *sim) run() {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var hosts, callers, others sync.WaitGroup
	for _, r := range s.replicas {
		hosts.Go(func() { r.supervise(ctx) })
	}
	load, endLoad := context.WithTimeout(ctx, s.plan.load)
	defer endLoad()
	others.Go(func() { s.trouble(load) })
	watch, endWatch := context.WithCancel(ctx)
	others.Go(func() { s.watch(watch) })
	for i := range s.plan.callers {
		callers.Go(func() { s.caller(load, i) })
	}
	callers.Go(func() { s.operate(load) })
	<-load.Done()
	s.calm()
	callers.Wait()
	s.requests.Wait()
	s.settle(ctx)
	endWatch()
	others.Wait()
	cancel()
	hosts.Wait()
	s.leaks()
	if err := s.witness.close(); err != nil {
		s.log.wrong(ruleError, "", "close: %v", err)
	}
	if err := s.store().Close(); err != nil {
		s.log.wrong(ruleError, "", "close: %v", err)
	}
	starts := 0
	for _, r := range s.replicas {
		starts += r.started
	}
	s.t.Logf("%d starts, %d leases served, %d refused, %d machines made, %d certificates renewed, %d steps looked at", starts, s.served.Load(), s.refused.Load(), s.world.made, s.world.renewals, s.witness.steps)
}

// calm ends all trouble: the cloud behaves, processes live, stores are quick.
func (s *sim) calm() {
	s.log.tell("sim", "", "", "from here on it is quiet")
	s.quiet.Store(true)
	s.world.calm()
	for _, r := range s.replicas {
		in := r.runner()
		if in == nil {
			continue
		}
		if s.plan.leaves {
			in.stop() // the next one has every pool
			continue
		}
		in.p.spare()
	}
}

// watch looks at what nobody's step shows: time going by.
func (s *sim) watch(ctx context.Context) {
	for nap(ctx, 20*time.Second) == nil {
		up := s.up()
		s.overdue(up)
		s.starving(up)
	}
}

// up is since when a runner has run without a break, zero if none does.
func (s *sim) up() (up time.Time) {
	for _, r := range s.replicas {
		if since := r.since(); !since.IsZero() && (up.IsZero() || since.Before(up)) {
			up = since
		}
	}
	return up
}

// trouble freezes processes and sets clocks while there is load.
func (s *sim) trouble(ctx context.Context) {
	var all sync.WaitGroup
	for i := range s.plan.freezes {
		all.Go(func() {
			if nap(ctx, s.d.span(s.plan.load*9/10, "freeze-at", i)) != nil {
				return
			}
			r := s.replicas[s.d.below(len(s.replicas), "freeze-which", i)]
			if in := r.runner(); in != nil {
				d := 5*time.Second + s.d.span(80*time.Second, "freeze-for", i)
				s.log.tell(in.p.name, "", "", "%s stands still for %s", in.p.name, d)
				in.p.freeze(d)
			}
		})
	}
	all.Go(func() {
		for i := range s.plan.jumps {
			if nap(ctx, s.plan.load/time.Duration(s.plan.jumps+1)) != nil {
				return
			}
			by := []time.Duration{24 * time.Hour, -24 * time.Hour, 20 * time.Minute, -20 * time.Minute, 0}[s.d.below(5, "jump", i)]
			s.log.tell("sim", "", "", "the wall clock is set to %s off", by)
			s.host.Set(by)
			for _, r := range s.replicas {
				r.set(by)
			}
		}
	})
	all.Go(func() { s.drift(ctx) })
	all.Go(func() { s.travel(ctx) })
	all.Wait()
}
