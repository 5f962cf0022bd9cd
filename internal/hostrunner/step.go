package hostrunner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// stepEntry is a step of a stage in this run.
type stepEntry struct {
	rec stepRecord // guarded by the stage's mu once begun is closed
	// begun is closed when the step runs, or err says why it cannot.
	begun chan struct{}
	err   error
}

// restartCode and restartText are the result of a step that ran when its runner
// was killed.
const (
	restartCode = 255
	restartText = "1 error occurred:\n\t* the runner was stopped while the step ran, and has ended what was left of it\n\n"
)

// reviveSteps reads the steps of a stage of an earlier run. Those that ran then
// have ended with it.
func (r *Runner) reviveSteps(key Key) (map[string]*stepEntry, error) {
	records, err := readSteps(r.dirs.steps(key))
	if err != nil {
		return nil, err
	}
	entries := make(map[string]*stepEntry, len(records))
	for id, rec := range records {
		if rec.Result == nil {
			rec.Result = &agentapi.PollStepResponse{Exited: true, ExitCode: restartCode, Error: restartText}
		}
		begun := make(chan struct{})
		close(begun)
		entries[id] = &stepEntry{rec: *rec, begun: begun}
	}
	return entries, nil
}

// Step runs a step of a stage and returns its result when it has ended, a
// detached one's at once. The same id again does not run it again: the caller
// gets the same result, at once if there is one. The step goes on when ctx ends.
func (r *Runner) Step(ctx context.Context, req *stepRequest) (*agentapi.PollStepResponse, error) {
	if req.Step.ID == "" {
		return nil, badRequest("ID needs to be set")
	}
	st, err := r.await(ctx, req.StageRuntimeID)
	if err != nil {
		return nil, err
	}
	st.called(r.c.Now())
	step := remapStep(st.rec.layout, req.Step)
	entry, fresh := st.enter(step.ID, r.c.Now())
	if entry == nil {
		return nil, unknownStage(st.rec.ID)
	}
	if fresh {
		r.begin(ctx, st, entry, &step)
	}
	return r.result(ctx, st, entry)
}

// await returns a stage that is ready for steps.
func (r *Runner) await(ctx context.Context, id string) (*stage, error) {
	if id == "" {
		return nil, badRequest("stage_runtime_id not specified")
	}
	st := r.find(id)
	if st == nil {
		return nil, unknownStage(id)
	}
	select {
	case <-st.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if st.fault != nil {
		return nil, fmt.Errorf("stage %s was not set up: %w", id, st.fault)
	}
	return st, nil
}

// enter returns the step of an id, fresh if it is new, and nil for a new one of
// a stage that ends. Who gets a fresh one must begin it.
func (st *stage) enter(id string, now time.Time) (entry *stepEntry, fresh bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if e := st.steps[id]; e != nil {
		return e, false
	}
	if st.ended {
		return nil, false
	}
	st.followers.Add(1)
	e := &stepEntry{rec: stepRecord{ID: id, Started: now}, begun: make(chan struct{})}
	st.steps[id] = e
	return e, true
}

// begin starts a new step. It is written down before, so that a runner that
// follows a killed one does not run it a second time.
func (r *Runner) begin(ctx context.Context, st *stage, e *stepEntry, step *agentapi.StartStepRequest) {
	followed := false
	defer func() { // also when something panics: a destroy waits for it
		if !followed {
			st.followers.Done()
		}
		close(e.begun)
	}()
	file := r.dirs.stepFile(st.rec.Key, step.ID)
	if e.err = agent.ReplaceJSON(file, e.rec); e.err == nil {
		e.err = st.agent.Start(ctx, step)
	}
	if e.err != nil {
		st.mu.Lock()
		delete(st.steps, step.ID)
		st.mu.Unlock()
		e.err = errors.Join(e.err, ignoreMissing(os.Remove(file)))
		return
	}
	if step.Detach {
		return
	}
	st.mu.Lock()
	st.running++
	st.mu.Unlock()
	followed = true
	r.work.Go(func() { r.follow(context.WithoutCancel(ctx), st, e) })
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// follow writes a step's result down.
func (r *Runner) follow(ctx context.Context, st *stage, e *stepEntry) {
	defer st.followers.Done()
	res, err := st.agent.Poll(ctx, e.rec.ID)
	st.mu.Lock()
	st.running--
	st.lastCall = r.c.Now()
	e.rec.Result = res
	rec := e.rec
	st.mu.Unlock()
	if err == nil {
		err = agent.ReplaceJSON(r.dirs.stepFile(st.rec.Key, rec.ID), rec)
	}
	if err != nil {
		r.log.WarnContext(ctx, "the result of a step is not recorded; it would be lost in a restart", "stage", st.rec.ID, "step", rec.ID, "err", err)
	}
}

// result waits for a step's end.
func (r *Runner) result(ctx context.Context, st *stage, e *stepEntry) (*agentapi.PollStepResponse, error) {
	select {
	case <-e.begun:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e.err != nil {
		return nil, e.err
	}
	st.mu.Lock()
	res := e.rec.Result
	st.mu.Unlock()
	if res != nil {
		return res, nil
	}
	return st.agent.Poll(ctx, e.rec.ID)
}

// Poll returns the result of a step when it has ended. Callers of old name the
// step alone; that is enough as long as one stage has a step of that id.
func (r *Runner) Poll(ctx context.Context, stageID, id string) (*agentapi.PollStepResponse, error) {
	if id == "" {
		return nil, badRequest("ID needs to be set")
	}
	var in []*stage
	r.mu.Lock()
	for _, st := range r.stages {
		if (stageID == "" || st.rec.ID == stageID) && st.step(id) != nil {
			in = append(in, st)
		}
	}
	known := stageID == "" || r.stages[stageID] != nil
	r.mu.Unlock()
	switch {
	case !known:
		return nil, unknownStage(stageID)
	case len(in) == 0:
		return nil, badRequest("Step has not started")
	case len(in) > 1:
		return nil, badRequest(fmt.Sprintf("%d stages have a step %s; name one with stage_runtime_id", len(in), id))
	}
	st := in[0]
	e := st.step(id)
	if e == nil {
		return nil, badRequest("Step has not started")
	}
	st.called(r.c.Now())
	return r.result(ctx, st, e)
}

func (st *stage) step(id string) *stepEntry {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.steps[id]
}
