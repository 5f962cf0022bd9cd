package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options are one run. Runner and Dir are needed.
type Options struct {
	// Runner is the program under test, Static one built without cgo, for the
	// inside of a virtual machine; empty: modes that need it are skipped.
	Runner, Static string
	// Dir is a folder of the run's own.
	Dir string
	// Seed decides every choice; when things happen is the runner's affair.
	Seed uint64
	// Kills is how often a mode kills.
	Kills int
	// Cuts is how often the power goes.
	Cuts int
	// Stopped is how long a runner is stopped in the mode that stops it.
	Stopped time.Duration
	// Watch is how long machines without a row are watched; over 5 minutes is
	// beyond the runner's own grace.
	Watch time.Duration
	// Soak is how long the soak takes.
	Soak time.Duration
	// Memory is how far back audits look at what is over; zero: all the run.
	Memory time.Duration
	// Postgres is the data source of a server; empty: modes that need one are
	// skipped.
	Postgres string
	// Images is a folder with the image "tiny"; empty: likewise.
	Images string
	// Parallel is how many modes run at a time. Zero: 1.
	Parallel int
	// Progress is told what goes on, one line at a time.
	Progress io.Writer
}

// Mode is one way to hurt a runner.
type Mode struct {
	Name string
	// What is said of it in tables and help.
	What string
	// Default says whether it runs when no modes are named; Why says why not.
	Default bool
	Why     string

	run func(ctx context.Context, o Options, res *Result) error
}

// Modes lists them in the order they run.
func Modes() []Mode {
	return []Mode{
		{Name: "kills", What: "SIGKILL of the runner under load, SQLite", Default: true, run: kills},
		{Name: "replicas", What: "SIGKILL of either and of both of two runners, Postgres", Default: true, run: replicas},
		{Name: "stop", What: "SIGSTOP of the runner under load, then SIGCONT", Default: true, run: stopped},
		{Name: "disk", What: "the data directory's disk is full, then not", Default: true, run: fullDisk},
		{Name: "lost", What: "the database is deleted while nobody looks", Default: true, run: lostStore},
		{Name: "restored", What: "the database is replaced by an older copy", Default: true, run: restoredStore},
		{Name: "machines", What: "SIGKILL of machines under load", Default: true, run: machinesDie},
		{Name: "power", What: "power cuts of a VM the runner runs in", Default: true, run: powerCuts},
		{Name: "liar", What: "the same on a disk that lies: it must be found", Default: true, run: lyingDisk},
		{Name: "soak", What: "load and kills for long, memory watched", Why: "it takes an hour; make soak runs it", run: soak},
	}
}

// Result is how one mode went.
type Result struct {
	Mode string `json:"mode"`
	What string `json:"what"`
	// Outcome is "ok", "FAILED" or "skipped".
	Outcome string `json:"outcome"`
	// Why says why it was skipped or failed.
	Why string `json:"why,omitempty"`
	// Kills, Audits and Steps are how often it hurt, how often it looked, and
	// how many results of steps were fetched that ran all the time.
	Kills  int `json:"kills"`
	Audits int `json:"audits"`
	Steps  int `json:"steps"`
	// Late are leases of setups that were read after the destroy that had
	// overtaken them.
	Late int `json:"late"`
	// Stages were begun, Claims of them answered with a machine, Refusals
	// answers that said no.
	Stages   int64   `json:"stages"`
	Claims   int     `json:"claims"`
	Refusals int64   `json:"refusals"`
	Seconds  float64 `json:"seconds"`
	// Notes are numbers of the mode's own.
	Notes    []string  `json:"notes,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
	// Said are the refusals heard most often, Log the end of the runner's log
	// of a mode that failed.
	Said []string `json:"said,omitempty"`
	Log  string   `json:"log,omitempty"`
}

const (
	outcomeOK      = "ok"
	outcomeFailed  = "FAILED"
	outcomeSkipped = "skipped"
)

func (r *Result) add(when string, found []Finding) {
	for _, f := range found[:min(len(found), 30)] {
		f.Text += " (at " + when + ")"
		r.Findings = append(r.Findings, f)
	}
}

func (r *Result) note(format string, a ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, a...)) }

// skipError is why a mode cannot run here.
type skipError string

func (e skipError) Error() string { return string(e) }

// Report is one run.
type Report struct {
	Seed    uint64   `json:"seed"`
	Results []Result `json:"modes"`
}

// OK says whether no mode failed.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Results, func(r Result) bool { return r.Outcome == outcomeFailed })
}

// Run runs the named modes, or those that run by default. An error is that it
// could not begin; what modes find is in the report.
func Run(ctx context.Context, o Options, names []string) (Report, error) {
	modes, err := choose(names)
	if err != nil {
		return Report{}, err
	}
	report := Report{Seed: o.Seed, Results: make([]Result, len(modes))}
	var g errgroup.Group
	g.SetLimit(max(o.Parallel, 1))
	for i, m := range modes {
		g.Go(func() error {
			report.Results[i] = m.once(ctx, o)
			return nil
		})
	}
	return report, g.Wait()
}

func choose(names []string) ([]Mode, error) {
	all := Modes()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(m Mode) bool { return !m.Default }), nil
	}
	var chosen []Mode
	for _, name := range names {
		i := slices.IndexFunc(all, func(m Mode) bool { return m.Name == name })
		if i < 0 {
			known := make([]string, len(all))
			for i, m := range all {
				known[i] = m.Name
			}
			return nil, fmt.Errorf("there is no mode %q; there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func (m Mode) once(ctx context.Context, o Options) Result {
	res := Result{Mode: m.Name, What: m.What, Outcome: outcomeOK}
	began := time.Now()
	err := m.run(ctx, o, &res)
	res.Seconds = time.Since(began).Seconds()
	skip, skipped := errors.AsType[skipError](err)
	switch {
	case skipped:
		res.Outcome, res.Why = outcomeSkipped, string(skip)
	case err != nil:
		res.Outcome, res.Why = outcomeFailed, err.Error()
	case len(res.Findings) > 0:
		res.Outcome, res.Why = outcomeFailed, errBroken.Error()
	}
	return res
}

// staged makes a rig, runs f on it, and gathers the numbers.
func staged(ctx context.Context, o Options, mode string, res *Result, s shape, f func(context.Context, *rig) error) (err error) {
	r, err := newRig(o, mode, res, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		r.keepers.wg.Wait()
		for _, l := range r.loads {
			l.wg.Wait()
			res.Stages += l.stages.Load()
			res.Refusals += l.refusals.Load()
			res.Said = append(res.Said, l.texts()...)
		}
		account := r.ledger.Read()
		res.Claims, res.Steps = account.Claims, r.keepers.done()
		if err != nil || len(res.Findings) > 0 {
			for _, p := range r.runners {
				res.Log += tail(p.log.Name(), 3000)
			}
		}
		err = errors.Join(err, r.close())
		if err == nil && len(res.Findings) == 0 {
			err = os.RemoveAll(r.dir)
		}
	}()
	return f(ctx, r)
}
