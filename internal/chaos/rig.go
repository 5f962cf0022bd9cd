package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// rig is the stage of one mode: a folder, runners on it, callers, and the way
// to audit them.
type rig struct {
	o      Options
	mode   string
	dir    string // everything of the mode
	root   string // the machines' folder
	rng    *rand.Rand
	ledger *Ledger
	tables *Tables

	runners []*process
	keepers *keepers
	loads   []*load
	excused map[string]bool
	result  *Result
	closers []func() error
}

// shape is what modes differ in.
type shape struct {
	// warm and limit are the pool's.
	warm, limit int
	// runners is how many replicas there are, on Postgres if dsn is set.
	runners int
	dsn     string
	// keepers hold machines with running steps.
	keepers int
	// disk is where the database lies; empty: in the data directory.
	disk string
	// closers undo what was made for the mode, last first.
	closers []func() error
}

const (
	databaseFile = "database.sqlite3"
	// poolText is the pool. Machines that are killed while they begin say nothing
	// against it: its breaker would end the load and the kills with it.
	poolText = "version: \"1\"\ninstances:\n  - {name: %s, type: noop, pool: %d, limit: %d, wait: 30s, guards: {failures: 0}, spec: {process: true, create_delay: 10ms, boot_delay: 30ms}}\n"
)

// newRig makes the folder and prepares the runners; none is started.
func newRig(o Options, mode string, res *Result, s shape) (_ *rig, err error) {
	r := &rig{
		o: o, mode: mode, result: res, ledger: NewLedger(), excused: map[string]bool{}, closers: s.closers,
		rng: rand.New(rand.NewPCG(o.Seed, seedOf(mode))),
		dir: filepath.Join(o.Dir, mode),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	data := filepath.Join(r.dir, "data")
	// Replicas share the data directory, and see the same machines.
	r.root = filepath.Join(data, noopFolder)
	env := []string{"DRONE_LITE_ENGINE_ENABLE_MOCK=true", fmt.Sprintf("DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS=%d", stepTime/time.Second)}
	if s.dsn != "" {
		env = append(env, "DRONE_DATABASE_DRIVER=postgres", "DRONE_DATABASE_DATASOURCE="+s.dsn, "RUNNER_SEAL_KEY="+strings.Repeat("0123456789abcdef", 4))
	}
	database := filepath.Join(data, databaseFile)
	if s.disk != "" {
		database = filepath.Join(s.disk, databaseFile)
		env = append(env, "DRONE_DATABASE_DATASOURCE="+database)
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(poolText, poolName, s.warm, s.limit)
	if err := os.WriteFile(filepath.Join(data, "pool.yml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	for i := range max(s.runners, 1) {
		p, err := newProcess(o.Runner, data, filepath.Join(r.dir, fmt.Sprintf("runner-%d.log", i+1)), env)
		if err != nil {
			return nil, err
		}
		r.runners = append(r.runners, p)
	}
	if s.dsn != "" {
		r.tables, err = PostgresTables(s.dsn)
	} else {
		r.tables, err = SQLiteTables(database)
	}
	if err != nil {
		return nil, err
	}
	r.keepers = &keepers{ledger: r.ledger, targets: r.apis()}
	for i := range s.keepers {
		r.keepers.names = append(r.keepers.names, fmt.Sprintf("%s-keeper-%d", mode, i))
	}
	return r, nil
}

// seedOf makes one run's modes choose differently.
func seedOf(text string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(text) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

func (r *rig) apis() []*client.Client {
	all := make([]*client.Client, len(r.runners))
	for i, p := range r.runners {
		all[i] = p.api
	}
	return all
}

// say tells a person what goes on.
func (r *rig) say(format string, a ...any) {
	fmt.Fprintf(r.o.Progress, "%s %-9s %s\n", time.Now().Format("15:04:05"), r.mode, fmt.Sprintf(format, a...))
}

// begin starts all runners, waits for a full pool and lets the keepers take
// their machines.
func (r *rig) begin(ctx context.Context) error {
	for _, p := range r.runners {
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	if err := r.audited(ctx, "the start", true); err != nil {
		return err
	}
	if err := r.keepers.take(ctx); err != nil {
		return err
	}
	r.keepers.run(ctx)
	return nil
}

// clients is how many call at once.
const clients = 6

// callers starts load on the mode's runners.
func (r *rig) callers(ctx context.Context, name string, most time.Duration) *load {
	l := r.newCallers(name, clients, most)
	l.run(ctx)
	return l
}

// newCallers prepares load.
func (r *rig) newCallers(name string, clients int, most time.Duration) *load {
	l := &load{name: r.mode + "-" + name, seed: r.o.Seed ^ seedOf(r.mode+name), ledger: r.ledger, targets: r.apis(), clients: clients, most: most}
	r.loads = append(r.loads, l)
	return l
}

// finish lets everything end and audits the quiet world, with the keepers'
// machines and then without.
func (r *rig) finish(ctx context.Context, loads ...*load) error {
	if err := r.rest(ctx, "the end, keepers hold", loads...); err != nil {
		return err
	}
	r.keepers.stop()
	if err := r.keepers.give(ctx); err != nil {
		return err
	}
	return r.audited(ctx, "the end", true)
}

// rest lets callers finish and audits the quiet world.
func (r *rig) rest(ctx context.Context, when string, loads ...*load) error {
	for _, l := range loads {
		l.stop()
	}
	if err := r.late(ctx); err != nil {
		return err
	}
	return r.audited(ctx, when, true)
}

// late ends what setups have made that were read after the destroy that had
// overtaken them. Their callers went away, so the runner ends them too, after
// two seconds or, if it was killed meanwhile, minutes; callers that clean up do
// not wait so long.
func (r *rig) late(ctx context.Context) error {
	for range 3 {
		rows, err := r.tables.Read(ctx, time.Now())
		if err != nil {
			return err
		}
		stages := r.ledger.Read().Stages
		for _, l := range rows.Leases {
			s, known := stages[l.ID]
			if l.final() || !known || s.Ended.IsZero() || !l.overtaken(s) {
				continue
			}
			if err := r.runners[0].api.Destroy(ctx, api.DestroyRequest{ID: l.ID}); err != nil {
				return fmt.Errorf("destroy %s once more: %w", l.ID, err)
			}
			r.result.Late++
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// answerTakes is how much later than its row says a caller may have heard of a
// stage's end.
const answerTakes = time.Minute

// since is how far back audits read final rows: further than callers remember,
// who heard of each end after it was written.
func (r *rig) since() time.Time {
	if r.o.Memory <= 0 {
		return time.Time{}
	}
	cut := time.Now().Add(-r.o.Memory)
	r.ledger.Forget(cut)
	return cut.Add(-answerTakes)
}

// look gathers the evidence in the order that makes it one.
func (r *rig) look(ctx context.Context, quiet bool) (Evidence, error) {
	since := r.since()
	e := Evidence{Before: r.ledger.Read(), Excused: r.excused, Quiet: quiet}
	var err error
	if e.First, err = r.tables.Read(ctx, since); err != nil {
		return e, err
	}
	if e.Cloud, err = LookAround(r.root); err != nil {
		return e, err
	}
	if e.Second, err = r.tables.Read(ctx, since); err != nil {
		return e, err
	}
	e.After = r.ledger.Read()
	if quiet {
		told, err := ask(ctx, r.runners[0], e.After)
		if err != nil {
			return e, err
		}
		e.API = &told
	}
	return e, nil
}

// quietWithin is how long the world may take to come to rest.
const quietWithin = 90 * time.Second

// audited looks and audits. A quiet world is waited for; what a moment shows
// in between must be right at once.
func (r *rig) audited(ctx context.Context, when string, quiet bool) error {
	began := time.Now()
	for {
		e, err := r.look(ctx, quiet)
		if err != nil {
			return fmt.Errorf("audit at %s: %w", when, err)
		}
		found := append(Audit(e), r.keepers.findings(e.Cloud)...)
		if len(found) == 0 {
			r.result.Audits++
			return nil
		}
		restless := quiet && onlyRestless(found)
		if !restless || time.Since(began) > quietWithin {
			r.result.add(when, found)
			return fmt.Errorf("%w at %s", errBroken, when)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// errBroken ends a mode whose audit found something.
var errBroken = errors.New("the promise is broken")

// onlyRestless says whether findings may go away by waiting.
func onlyRestless(found []Finding) bool {
	for _, f := range found {
		if f.Rule != NotQuiet && f.Rule != Telling {
			return false
		}
	}
	return true
}

// close ends everything the mode started. The folder is kept if something was
// found in it.
func (r *rig) close() error {
	var errs []error
	for _, p := range r.runners {
		errs = append(errs, p.close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // also after an interrupt
	defer cancel()
	if r.root != "" {
		errs = append(errs, endMachines(ctx, r.root))
	}
	if r.tables != nil {
		errs = append(errs, r.tables.Close())
	}
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	return errors.Join(errs...)
}

// tail is the end of a file, for a report.
func tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err != nil || end > limit {
		if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
			return ""
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return ""
	}
	text, _ := io.ReadAll(f) // as much as can be read
	return string(text)
}
