package hostrunner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// stage is one stage from its first setup to its end.
type stage struct {
	rec record
	// ready is closed when the setup has succeeded or failed; fault, agent and
	// rec do not change afterwards, but for rec.Ending under ends.
	ready chan struct{}
	fault error
	agent *agent.Agent // nil if the setup got not that far
	// cancel ends the wait for room and the setup.
	cancel context.CancelCauseFunc

	// followers write the results of steps down.
	followers sync.WaitGroup

	ends sync.Mutex // one destroy at a time; guards the next two
	// released says that what it uses was given back, remove is what is still to
	// be removed then.
	released bool
	remove   []string

	mu       sync.Mutex
	admitted bool // has a place, so that hanging up does not end the setup
	callers  int  // who waits for the setup
	heard    bool // somebody was told that it is ready
	lastCall time.Time
	running  int // steps, detached ones left out
	steps    map[string]*stepEntry
	ended    bool     // a destroy has begun, no step does any more
	leftover []string // of the last try to end it
}

func newStage(rec *record, now time.Time) *stage {
	return &stage{
		rec: *rec, ready: make(chan struct{}), cancel: func(error) {},
		lastCall: now, heard: rec.Ready, admitted: rec.Ready, steps: make(map[string]*stepEntry),
	}
}

// over says why the stage is to be ended now though nobody has asked, "" if it
// is not. A running step keeps it in any case.
func (st *stage) over(now time.Time, maxAge time.Duration) string {
	select {
	case <-st.ready:
	default:
		return "" // the setup has a deadline of its own
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	silence := now.Sub(st.lastCall)
	switch {
	case len(st.leftover) > 0:
		return "what was left the last time is tried again"
	case st.running > 0:
		return ""
	case !st.heard && silence >= grace:
		return "its caller hung up during the setup and has not come back"
	case now.Sub(st.rec.Created) >= maxAge && silence >= quiet:
		return fmt.Sprintf("it is older than %s, no step runs and nobody has called for %s", maxAge, quiet)
	}
	return ""
}

// called notes that somebody asks for the stage.
func (st *stage) called(now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.lastCall, st.heard = now, true
}

// isIn says whether the stage has its place on the host.
func (st *stage) isIn() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.admitted
}

// close ends the steps of a stage that goes on in the next run.
func (st *stage) close() error {
	<-st.ready
	if st.agent == nil {
		return nil
	}
	return st.agent.Close()
}

// Setup gets room for a stage and prepares it. The same id again gets the same
// answer; all callers of an id share one piece of work.
func (r *Runner) Setup(ctx context.Context, req *setupRequest) error {
	if req.ID == "" {
		return badRequest("id not specified")
	}
	if err := refuseOther(wantedPlatform(req), thisPlatform); err != nil {
		return err
	}
	if _, err := findHarness(req.Setup.Volumes); err != nil {
		return err
	}
	st, err := r.join(ctx, req)
	if err != nil {
		return err
	}
	select {
	case <-st.ready:
		if st.fault != nil {
			return st.fault
		}
		st.called(r.c.Now())
		return nil
	case <-ctx.Done():
		st.mu.Lock()
		st.callers--
		if st.callers == 0 && !st.admitted {
			st.cancel(errCallers)
		}
		st.mu.Unlock()
		return context.Cause(ctx)
	}
}

// join returns the stage of an id, begun if it is new. One that is on its way
// out is ended first.
func (r *Runner) join(ctx context.Context, req *setupRequest) (*stage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st := r.stages[req.ID]; st != nil {
		if ending(st) {
			return nil, fmt.Errorf("stage %s is still being destroyed, left are: %v; the runner tries again each minute", req.ID, st.left())
		}
		st.mu.Lock()
		st.callers++
		st.mu.Unlock()
		return st, nil
	}
	if r.draining {
		return nil, errDraining
	}
	now := r.c.Now()
	st := newStage(&record{ID: req.ID, Key: KeyOf(req.ID), Created: now}, now)
	st.callers = 1
	// The setup outlives the request: others may have joined it.
	var work context.Context
	work, st.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	r.stages[req.ID] = st
	r.work.Go(func() {
		defer st.cancel(nil)
		defer close(st.ready)
		st.fault = r.prepare(work, st, req)
	})
	return st, nil
}

func ending(st *stage) bool { return len(st.left()) > 0 }

func (st *stage) left() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.leftover)
}

// prepare waits for room and sets a stage up. A failure leaves nothing behind.
func (r *Runner) prepare(ctx context.Context, st *stage, req *setupRequest) error {
	forget := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.stages, st.rec.ID)
		r.checkEmptyLocked()
	}
	if err := r.room.enter(ctx, st.rec.ID, r.c.Wait); err != nil {
		forget()
		return err
	}
	st.mu.Lock()
	st.admitted = true
	st.mu.Unlock()
	err := context.Cause(ctx) // of who left at this very moment
	if err == nil {
		err = r.build(ctx, st, req)
	}
	if err == nil {
		r.log.InfoContext(ctx, "stage set up", "stage", st.rec.ID, "dir", st.rec.Dir)
		return nil
	}
	left := r.tearDown(context.WithoutCancel(ctx), st)
	if len(left) > 0 {
		st.mu.Lock()
		st.leftover = left
		st.mu.Unlock()
		err = fmt.Errorf("%w; left behind, and tried again each minute: %v", err, left)
	} else {
		forget()
	}
	r.room.leave(st.rec.ID)
	return err
}

// build makes what a stage needs. The record is written before anything else
// is made, so that a runner that follows a killed one finds it.
func (r *Runner) build(ctx context.Context, st *stage, req *setupRequest) error {
	rec := &st.rec
	harness, err := findHarness(req.Setup.Volumes)
	if err != nil {
		return err
	}
	rec.Shared = r.dirs.newShared()
	if harness != nil {
		rec.Volume, rec.Root = harness.Name, harness.Path
	}
	if err := os.MkdirAll(r.dirs.steps(rec.Key), 0o700); err != nil {
		return err
	}
	save := func() error { return agent.ReplaceJSON(r.dirs.recordFile(rec.Key), rec) }
	rec.Uses, rec.Removes = hostPaths(&req.Setup, harness)
	r.uses.add(rec.Uses, rec.Removes)
	if err := save(); err != nil {
		return err
	}
	if err := r.makeDir(ctx, rec, harness, save); err != nil {
		return fmt.Errorf("stage folder: %w", err)
	}
	rec.Setup = remapSetup(rec.layout, req.Setup)
	if st.agent, err = agent.New(r.agentOptions(rec)); err != nil {
		return err
	}
	if err := st.agent.Setup(ctx, &rec.Setup); err != nil {
		return err
	}
	rec.Ready = true
	return save()
}

// makeDir makes the folder of a stage: beside the path its harness volume has,
// and in the data directory where there is no such volume, something is in the
// way, or this user may not write. All that names the folder follows it.
func (r *Runner) makeDir(ctx context.Context, rec *record, harness *agentapi.HostVolume, save func() error) error {
	if harness != nil {
		dir := filepath.Clean(agent.HostPath(harness.Path)) + "-" + string(rec.Key)
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("the working directory '%s' is invalid, %w", dir, errWorkingDir)
		}
		err := os.MkdirAll(filepath.Dir(dir), 0o755)
		if err == nil {
			// Whatever is there already is not ours, and would be removed at the end.
			if _, statErr := os.Lstat(dir); statErr == nil {
				err = fmt.Errorf("%s exists", dir)
			}
		}
		if err == nil {
			rec.Dir = dir
			if err = save(); err == nil {
				err = os.Mkdir(dir, 0o777)
			}
		}
		if err == nil {
			return os.Chmod(dir, 0o777) // steps may run as any user
		}
		rec.Dir = ""
		r.log.InfoContext(ctx, "the stage's folder is in the data directory", "stage", rec.ID, "because", err)
	}
	dir := r.dirs.work(rec.Key)
	if err := os.RemoveAll(dir); err != nil { // of a stage nobody knows any more
		return err
	}
	rec.Dir = dir
	if err := save(); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}
