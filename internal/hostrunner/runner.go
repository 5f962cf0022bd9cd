package hostrunner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
)

// Defaults of a Config.
const (
	// DefaultWait is how long a stage waits for room.
	DefaultWait = 10 * time.Minute
	// DefaultMaxAge is after how long a stage that nobody asks for is ended.
	DefaultMaxAge = 24 * time.Hour
)

const (
	// quiet is how long nobody may have called for a stage, and no step run,
	// before its age ends it.
	quiet = time.Hour
	// grace is how long a stage is kept whose caller hung up before it was told
	// that its stage is ready: a repeated setup finds it.
	grace = 2 * time.Minute
	// careEvery is how often ages are looked at and what could not be removed
	// is tried again.
	careEvery = time.Minute
)

// Config is how a Runner is set up.
type Config struct {
	// Version is told to callers, "dev" if empty.
	Version string
	// DataDir is where the runner keeps stages; mandatory. One runner at a time
	// may have it.
	DataDir string
	// Limits is how much of the host stages may take.
	Limits Limits
	// Wait is how long a stage waits for room; 0: DefaultWait.
	Wait time.Duration
	// MaxAge is after how long a stage is ended if no step runs and nobody has
	// called for it for an hour; 0: DefaultMaxAge.
	MaxAge time.Duration
	// Mounts are what every container step gets.
	Mounts []Mount
	// NetworkDriver makes the stages' networks; "" is Docker's default here.
	NetworkDriver string
	// Environ is what steps inherit; nil: os.Environ.
	Environ []string
	// Facts looks at the host; nil: HostFacts of DataDir.
	Facts func() (Facts, error)
	// Docker tells whether the container daemon answers, nil if it does; nil:
	// the daemon of Environ.
	Docker func(context.Context) error
	// Log is where the runner reports; nil: nowhere.
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Runner runs stages. Make one with [New]; all methods are safe for concurrent
// use.
type Runner struct {
	c    Config
	log  *slog.Logger
	dirs folders
	lock *os.File
	room *queue

	docker dockerState

	mu       sync.Mutex
	stages   map[string]*stage // by id
	uses     *uses
	draining bool
	// emptied is closed when there is no stage left while draining.
	emptied chan struct{}

	work sync.WaitGroup
}

// Errors of calls. Their texts are part of the interface.
var (
	errDraining  = errors.New("this runner is being stopped and takes no new stages; send them elsewhere, or again when it has been restarted")
	errDestroyed = errors.New("the stage was destroyed")
	errCallers   = errors.New("the caller hung up while the stage waited for room")
)

// New makes a runner, after taking over what an earlier one has left in the
// data directory: processes and containers of its steps are ended, stages go
// on, half destroyed ones are finished. [Runner.Close] ends it.
func New(ctx context.Context, c Config) (*Runner, error) {
	if c.DataDir == "" {
		return nil, errors.New("no data directory; name one with --data-dir")
	}
	c.Version = cmp.Or(c.Version, "dev")
	c.Wait = cmp.Or(c.Wait, DefaultWait)
	c.MaxAge = cmp.Or(c.MaxAge, DefaultMaxAge)
	if c.Environ == nil {
		c.Environ = os.Environ()
	}
	c.Environ = inherited(c.Environ)
	if c.Facts == nil {
		c.Facts = func() (Facts, error) { return HostFacts(c.DataDir) }
	}
	if c.Docker == nil {
		c.Docker = NewDocker(c.Environ).Ping
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Runner{
		c: c, log: c.Log, dirs: folders{c.DataDir},
		room:    newQueue(c.Limits, c.Facts, c.Now),
		docker:  dockerState{ping: c.Docker, now: c.Now},
		stages:  make(map[string]*stage),
		uses:    newUses(),
		emptied: make(chan struct{}),
	}
	if err := r.dirs.make(); err != nil {
		return nil, err
	}
	var err error
	if r.lock, err = lockDir(r.dirs.lock()); err != nil {
		return nil, err
	}
	if err := r.takeOver(ctx); err != nil {
		return nil, errors.Join(err, unlock(r.lock))
	}
	return r, nil
}

// lockDir makes this process the one that uses a data directory.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	held, err := tryLock(f)
	if held {
		err = errors.New("another runner uses it; stop that one, or choose another with --data-dir")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: %s: %w", path, err), f.Close())
	}
	return f, nil
}

// secretVariables are for the runner alone and are not inherited by steps.
var secretVariables = []string{"RUNNER_HOST_TOKEN", "DELEGATE_SECRET", "DELEGATECAPACITY_DELEGATE_SECRET"}

// inherited is the environment steps inherit: the runner's own without its
// secrets.
func inherited(environ []string) []string {
	out := make([]string, 0, len(environ))
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.Contains(secretVariables, name) {
			out = append(out, kv)
		}
	}
	return out
}

// agentOptions is what the agent of a stage is made with: all it may touch is
// the stage's.
func (r *Runner) agentOptions(rec *record) agent.Options {
	mounts := make([]containers.Mount, 0, len(r.c.Mounts))
	for _, m := range r.c.Mounts {
		mounts = append(mounts, containers.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	return agent.Options{
		Version:         r.c.Version,
		SharedDir:       rec.Shared,
		StateDir:        r.dirs.agent(rec.Key),
		Env:             r.c.Environ,
		ContainerPrefix: string(rec.Key) + "-",
		ContainerMounts: mounts,
		NetworkDriver:   r.c.NetworkDriver,
		Netrc:           filepath.Join(rec.Shared, "netrc"), // the host's own is not a stage's
		Log:             r.log.With("stage", rec.ID),
	}
}

// takeOver reads what an earlier runner has left and goes on with it. A stage
// that cannot be read is named and left where it is: nothing of it is removed
// by guessing.
func (r *Runner) takeOver(ctx context.Context) error {
	entries, err := os.ReadDir(r.dirs.stages())
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		key, ok := strings.CutPrefix(e.Name(), "s-")
		if !ok || !e.IsDir() {
			continue
		}
		rec, err := readJSON[record](r.dirs.recordFile(Key(key)))
		switch {
		case errors.Is(err, os.ErrNotExist):
			// Killed before the first word of it was written: nothing was made.
			if err := os.RemoveAll(r.dirs.stage(Key(key))); err != nil {
				r.log.WarnContext(ctx, "a stage that never was cannot be removed", "key", key, "err", err)
			}
			continue
		case err != nil:
			r.log.ErrorContext(ctx, "a stage of an earlier run cannot be read and is left alone; remove its folder once its processes and containers are gone",
				"folder", r.dirs.stage(Key(key)), "err", err)
			continue
		}
		r.adopt(ctx, &rec)
	}
	return nil
}

// adopt takes over one stage.
func (r *Runner) adopt(ctx context.Context, rec *record) {
	st := newStage(rec, r.c.Now())
	r.stages[rec.ID] = st
	r.room.admit(rec.ID)
	r.uses.add(rec.Uses, rec.Removes)
	// Lasts as long as the stage does.
	var work context.Context
	work, st.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	st.fault = r.revive(ctx, st)
	close(st.ready)
	if st.fault != nil {
		r.log.WarnContext(ctx, "a stage of an earlier run cannot go on; it waits for its destroy", "stage", rec.ID, "err", st.fault)
	}
	if rec.Ending || !rec.Ready {
		if left := r.end(ctx, st); len(left) > 0 {
			r.log.WarnContext(ctx, "what an earlier run has left cannot be removed yet", "stage", rec.ID, "leftover", left)
		}
		return
	}
	if st.agent != nil {
		r.work.Go(func() { st.agent.SweepContainers(work) })
	}
	r.log.InfoContext(ctx, "a stage of an earlier run goes on", "stage", rec.ID, "steps", len(st.steps))
}

// revive gives a stage its agent back, which ends what its steps have left
// running. Files of the setup are not written again: steps may have changed
// them.
func (r *Runner) revive(ctx context.Context, st *stage) error {
	var err error
	if st.agent, err = agent.New(r.agentOptions(&st.rec)); err != nil {
		return err
	}
	if st.steps, err = r.reviveSteps(st.rec.Key); err != nil {
		return err
	}
	if st.rec.Ending || !st.rec.Ready {
		return nil
	}
	setup := st.rec.Setup
	setup.Files = nil
	return st.agent.Setup(ctx, &setup)
}

// Run takes care of stages nobody asks for any more, until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	tick := time.NewTicker(careEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.care(ctx, r.c.Now())
		}
	}
}

// care ends the stages whose time is up, and tries again to remove what could
// not be removed.
func (r *Runner) care(ctx context.Context, now time.Time) {
	r.mu.Lock()
	var due []*stage
	for _, st := range r.stages {
		if why := st.over(now, r.c.MaxAge); why != "" {
			r.log.WarnContext(ctx, "ending a stage", "stage", st.rec.ID, "why", why)
			due = append(due, st)
		}
	}
	r.mu.Unlock()
	for _, st := range due {
		r.end(ctx, st)
	}
}

// Drain makes the runner take no new stages; those it has go on. It returns
// when none is left, or when ctx ends.
func (r *Runner) Drain(ctx context.Context) {
	r.mu.Lock()
	if !r.draining {
		r.draining = true
		r.checkEmptyLocked()
	}
	running := len(r.stages)
	for _, st := range r.stages {
		if !st.isIn() {
			st.cancel(errDraining) // it waits for room
		}
	}
	r.mu.Unlock()
	r.log.InfoContext(ctx, "draining: no new stages are taken", "stages", running)
	select {
	case <-r.emptied:
	case <-ctx.Done():
	}
}

// checkEmptyLocked tells Drain when the last stage has gone.
func (r *Runner) checkEmptyLocked() {
	if !r.draining || len(r.stages) > 0 {
		return
	}
	select {
	case <-r.emptied:
	default:
		close(r.emptied)
	}
}

// Close ends the steps that run, and keeps the stages for the runner that comes
// next. Drain first; afterwards nothing can be called.
func (r *Runner) Close() error {
	r.mu.Lock()
	if !r.draining {
		r.draining = true
		r.checkEmptyLocked()
	}
	stages := make([]*stage, 0, len(r.stages))
	for _, st := range r.stages {
		st.cancel(errDraining)
		stages = append(stages, st)
	}
	r.mu.Unlock()
	errs := make([]error, len(stages))
	var closing sync.WaitGroup
	for i, st := range stages {
		closing.Go(func() { errs[i] = st.close() })
	}
	closing.Wait()
	r.work.Wait()
	return errors.Join(append(errs, unlock(r.lock))...)
}
