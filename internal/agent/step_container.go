package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
)

// outcome is how a step's container has ended, or why it could not run.
type outcome struct {
	result containers.Result
	err    error
}

// executeContainer is execute for a step with an image. Its time includes the
// pull.
func (s *step) executeContainer(ctx context.Context) *agentapi.PollStepResponse {
	if s.stage.containers == nil {
		return s.failed(s.agent.noDocker)
	}
	entrypoint, command, shown, err := containerArgv(s.req, s.files)
	if err != nil {
		return s.failed(err)
	}
	if err := s.prepare(); err != nil {
		return s.failed(err)
	}
	s.remark(slices.Concat(startRemarks(s.req), s.diskRemarks(), s.logRemarks()))
	if !s.req.LogDrone && shown != "" {
		_, _ = s.out.Write([]byte(header(shown))) // an output never fails
	}
	what := &containers.Step{
		Setup:      &s.setup,
		Request:    s.req,
		Entrypoint: entrypoint,
		Command:    command,
		Env:        stepEnv(&s.setup, s.req, s.egress, s.agent.opts.SharedDir, s.files),
		SharedDir:  s.agent.opts.SharedDir,
		Netrc:      s.netrc(),
		Out:        stepOutput{s},
	}
	// The container outlives ctx until it has been asked to end.
	running, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan outcome, 1)
	s.agent.steps.Go(func() {
		defer abandon(nil)
		ended <- s.runContainer(running, what)
	})
	expired, stop := s.expiry()
	defer stop()
	select {
	case o := <-ended:
		return s.containerResult(ctx, o)
	case <-expired:
		return s.containerTimedOut(ctx, abandon, ended)
	case <-ctx.Done():
		s.endContainer(context.WithoutCancel(ctx), abandon, context.Cause(ctx), destroyGrace)
		return s.containerResult(ctx, <-ended)
	}
}

// runContainer starts the container and waits for its end.
func (s *step) runContainer(ctx context.Context, what *containers.Step) outcome {
	c, err := s.stage.containers.Start(ctx, what)
	if err != nil {
		return outcome{err: err}
	}
	s.mu.Lock()
	late := ctx.Err() != nil // endContainer has seen no container
	if !late {
		s.ctr = c
	}
	s.mu.Unlock()
	if late {
		return outcome{err: errors.Join(context.Cause(ctx), c.GiveUp(ctx))}
	}
	s.closeBegun()
	result, err := c.Wait(ctx)
	return outcome{result: result, err: err}
}

// endContainer ends the step's container: one that runs is asked to and then
// made to, one that is still being made is given up.
func (s *step) endContainer(ctx context.Context, abandon context.CancelCauseFunc, why error, grace time.Duration) {
	s.mu.Lock()
	c := s.ctr
	if c == nil {
		abandon(why)
	}
	s.mu.Unlock()
	if c == nil {
		return
	}
	var err error
	if s.stopsSoftly(why) {
		err = c.StopSoftly(ctx)
	} else {
		err = c.Stop(ctx, grace)
	}
	if err != nil {
		s.agent.opts.Log.Warn("container of a step cannot be ended", "step", s.req.ID, "err", err)
		abandon(errors.Join(why, err))
	}
}

// stopsSoftly says whether the step's container is to be given time when the
// step is ended for the reason: its caller asked for it, and the stage's end is
// the reason.
func (s *step) stopsSoftly(why error) bool {
	return s.req.SoftStop && s.req.Image != "" && errors.Is(why, errDestroyed)
}

// containerTimedOut answers, at the latest after answerGrace; ending the
// container goes on beside it.
func (s *step) containerTimedOut(ctx context.Context, abandon context.CancelCauseFunc, ended <-chan outcome) *agentapi.PollStepResponse {
	s.agent.steps.Go(func() {
		s.endContainer(context.WithoutCancel(ctx), abandon, context.DeadlineExceeded, defaultGrace)
	})
	grace := time.NewTimer(answerGrace)
	defer grace.Stop()
	select {
	case <-ended:
	case <-grace.C:
	}
	return s.expiredResult()
}

// containerResult is the answer of a container that has ended.
func (s *step) containerResult(ctx context.Context, o outcome) *agentapi.PollStepResponse {
	if o.err != nil {
		return s.failed(o.err)
	}
	return s.exited(ctx, o.result.Code, o.result.OOMKilled)
}

// runs says whether the step's process or container was started.
func (s *step) runs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc != nil || s.ctr != nil
}

// stepOutput gives a step's container its output.
type stepOutput struct{ s *step }

func (o stepOutput) Write(p []byte) (int, error) { return o.s.out.Write(p) }
func (o stepOutput) Line(text string)            { o.s.out.line(text + "\n") }
func (o stepOutput) Note(text string)            { o.s.remark(remarks{text}) }
