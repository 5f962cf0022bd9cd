package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
)

// failedCode is the exit code of a step the agent itself could not run, or
// ended because its time was up.
const failedCode = 255

// timeoutText is the error callers know a timeout by.
const timeoutText = "context deadline exceeded"

// answerGrace is how long after its timeout a step is answered at the latest,
// whether or not its processes have ended: killing goes on beside it.
const answerGrace = 750 * time.Millisecond

// step is one step from its start to its result.
type step struct {
	agent    *Agent
	stage    *stage
	req      *agentapi.StartStepRequest
	setup    agentapi.SetupRequest
	egress   *egress
	stageLog *stageLog
	number   int
	files    stepFiles
	out      *output
	spool    *spool
	log      *logservice.Stream // nil: the output goes to no log service
	cancel   context.CancelCauseFunc

	begun chan struct{} // closed when the process runs or cannot
	done  chan struct{} // closed when result is set

	mu     sync.Mutex
	proc   *target
	ending *ending               // ends the process; nil: the step itself does
	ctr    *containers.Container // of a step with an image, while and after it runs
	result *agentapi.PollStepResponse
}

func newStep(a *Agent, req *agentapi.StartStepRequest, at admission) (*step, error) {
	eg, err := newEgress(at.setup.EgressPolicy, req.EgressPolicy)
	if err != nil {
		return nil, err
	}
	sp, err := newSpool(a.state.outputPath(at.number), a.opts.OutputLimit, a.opts.Log)
	if err != nil {
		return nil, err
	}
	secrets := append(append([]string(nil), at.setup.Secrets...), req.Secrets...)
	if at.setup.Envs[envExtraMask] == "true" || req.Environment[envExtraMask] == "true" {
		secrets = secretVariants(secrets)
	}
	secrets = append(secrets, eg.secrets()...)
	return &step{
		agent:    a,
		stage:    at.stage,
		req:      req,
		setup:    at.setup,
		egress:   eg,
		stageLog: at.log,
		number:   at.number,
		files:    newStepFiles(a.opts.SharedDir, req),
		out:      &output{mask: newMasker(secrets), patterns: newPatterns(at.log.patterns), spool: sp},
		spool:    sp,
		begun:    make(chan struct{}),
		done:     make(chan struct{}),
	}, nil
}

// wait returns the result once there is one.
func (s *step) wait(ctx context.Context) (*agentapi.PollStepResponse, error) {
	if s.req.Detach {
		return s.waitDetached(ctx)
	}
	select {
	case <-s.done:
		return s.get(), nil
	case <-ctx.Done():
	}
	select {
	case <-s.done: // meanwhile: a result that is there is given
		return s.get(), nil
	default:
		return nil, context.Cause(ctx)
	}
}

// waitDetached answers as soon as the process runs: with nothing, or with the
// reason why it could not be started.
func (s *step) waitDetached(ctx context.Context) (*agentapi.PollStepResponse, error) {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s.runs() {
		return &agentapi.PollStepResponse{}, nil
	}
	<-s.done // follows at once
	return s.get(), nil
}

func (s *step) get() *agentapi.PollStepResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.result
}

func (s *step) forgetOutput() { s.spool.remove() }

// run is the step's life. Whatever happens in it, there is a result.
func (s *step) run(ctx context.Context) {
	res := &agentapi.PollStepResponse{}
	defer func() {
		if p := recover(); p != nil {
			s.agent.opts.Log.Error("step panicked", "step", s.req.ID, "panic", p, "stack", string(debug.Stack()))
			res = s.failed(fmt.Errorf("internal error: %v", p))
		}
		s.hint(res)
		s.out.close()
		s.endLog(ctx)
		s.cancel(nil)
		s.mu.Lock()
		s.result = res
		s.mu.Unlock()
		s.closeBegun()
		close(s.done)
	}()
	s.openLog(ctx)
	res = s.execute(ctx)
}

func (s *step) closeBegun() {
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
}

// execute prepares, starts and awaits the process or the container.
func (s *step) execute(ctx context.Context) *agentapi.PollStepResponse {
	if s.req.Image != "" {
		return s.executeContainer(ctx)
	}
	args, shown, err := argv(s.req, s.files)
	if err != nil {
		return s.failed(err)
	}
	if err := s.prepare(); err != nil {
		return s.failed(err)
	}
	s.remark(slices.Concat(startRemarks(s.req), s.diskRemarks(), s.logRemarks()))
	if !s.req.LogDrone {
		_, _ = s.out.Write([]byte(header(shown))) // an output never fails
	}
	marker := envDroneExport + "=" + s.files.exported
	s.agent.state.note(s.number, target{Marker: marker})
	proc, err := startProcess(ctx, s.agent.opts.Spawner, startOptions{
		args:   args,
		dir:    hostPath(s.req.WorkingDir),
		env:    environ(s.agent.opts.Env, stepEnv(&s.setup, s.req, s.egress, s.agent.opts.SharedDir, s.files)),
		user:   s.req.User,
		marker: marker,
		sink:   s.out,
	})
	if err != nil {
		s.agent.state.forget(s.number)
		return s.failed(err)
	}
	s.agent.state.note(s.number, proc.target)
	s.mu.Lock()
	s.proc = &proc.target
	s.mu.Unlock()
	s.closeBegun()
	return s.await(ctx, proc)
}

// diskRemarks look at the disks the step writes to.
func (s *step) diskRemarks() remarks {
	return diskRemarks([]string{s.agent.opts.SharedDir, hostPath(s.req.WorkingDir)}, s.agent.opts.DiskSpace)
}

// prepare makes the files of the step and removes what an earlier step of the
// same id has left for its caller.
func (s *step) prepare() error {
	if err := makeShared(s.agent.opts.SharedDir); err != nil {
		return err
	}
	for _, path := range s.files.own {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("file of an earlier step: %w", err)
		}
	}
	err := writeFiles(s.req.Files)
	s.req.Files = nil // may be large, and the step stays in the table
	return err
}

// await waits for the process, its timeout, or the end of its stage.
func (s *step) await(ctx context.Context, proc *process) *agentapi.PollStepResponse {
	ended := make(chan error, 1)
	s.agent.steps.Go(func() {
		err := proc.wait(s.agent.opts.Spawner)
		if s.req.ProcessConfig.WaitOnProcessGroup {
			waitGone(ctx, proc.target)
		}
		ended <- err
	})
	expired, stop := s.expiry()
	defer stop()
	select {
	case err := <-ended:
		return s.finished(ctx, proc, err)
	case <-expired:
		return s.timedOut(proc, ended)
	case <-ctx.Done():
		return s.ended(ctx, proc, ended)
	}
}

// expiry is when the step's time is over, never if it has none.
func (s *step) expiry() (expired <-chan time.Time, stop func() bool) {
	if s.req.Timeout <= 0 {
		return nil, func() bool { return true }
	}
	timer := time.NewTimer(time.Duration(s.req.Timeout) * time.Second)
	return timer.C, timer.Stop
}

// ended ends the process because its stage ends. The result is what the
// process then exits with.
func (s *step) ended(ctx context.Context, proc *process, ended <-chan error) *agentapi.PollStepResponse {
	s.mu.Lock()
	e := s.ending
	s.mu.Unlock()
	if e == nil { // started just now, so nobody else ends it
		e = newEnding()
		e.end([]target{proc.target})
	}
	select {
	case waitErr := <-ended: // what it has left behind is being ended
		return s.finished(ctx, proc, waitErr)
	case <-e.done:
	}
	if e.err == nil {
		return s.finished(ctx, proc, <-ended)
	}
	s.agent.opts.Log.Warn("step cannot be ended", "step", s.req.ID, "err", e.err)
	grace := time.NewTimer(answerGrace)
	defer grace.Stop()
	select {
	case waitErr := <-ended: // what is left may be another step's
		return s.finished(ctx, proc, waitErr)
	case <-grace.C:
		return s.failed(e.err)
	}
}

// groupPause is the time between two looks at a session that is waited for.
const groupPause = 50 * time.Millisecond

// waitGone waits until nothing of the target is left.
func waitGone(ctx context.Context, t target) {
	for countAlive([]target{t}) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(groupPause):
		}
	}
}

// timedOut ends the process and answers, at the latest after answerGrace.
func (s *step) timedOut(proc *process, ended <-chan error) *agentapi.PollStepResponse {
	killed := make(chan struct{})
	s.agent.steps.Go(func() {
		defer close(killed)
		if err := terminate([]target{proc.target}, newKillPolicy(s.req.ProcessConfig)); err != nil {
			s.agent.opts.Log.Warn("step cannot be ended after its timeout", "step", s.req.ID, "err", err)
		}
	})
	grace := time.NewTimer(answerGrace)
	defer grace.Stop()
	select {
	case <-killed:
		select {
		case <-ended: //nolint:errcheck // its time was up, whatever it says
		case <-grace.C:
		}
	case <-grace.C:
	}
	return s.expiredResult()
}

// expiredResult is the answer of a step whose time is over.
func (s *step) expiredResult() *agentapi.PollStepResponse {
	s.remark(lateRemarks(&s.setup, s.req))
	s.remark(endRemarks(s.req, s.files))
	s.removeTempFiles()
	return &agentapi.PollStepResponse{Exited: true, ExitCode: failedCode, Error: timeoutText}
}

// finished makes the result of a process that has ended by itself.
func (s *step) finished(ctx context.Context, proc *process, waitErr error) *agentapi.PollStepResponse {
	if waitErr != nil {
		return s.failed(waitErr)
	}
	return s.exited(ctx, proc.exitCode(), false)
}

// exited makes the result of a process or container that has ended by itself.
func (s *step) exited(ctx context.Context, code int, oomKilled bool) *agentapi.PollStepResponse {
	defer s.removeTempFiles()
	defer func() { s.remark(endRemarks(s.req, s.files)) }()
	if code != 0 {
		s.remark(s.diskRemarks())
	}
	res := s.answer()
	switch {
	case oomKilled:
		res.ExitCode, res.OOMKilled = code, true
		res.Error = frame("oom killed")
	case code != 0:
		res.ExitCode = code
		res.Error = frame(fmt.Sprintf("exit status %d", code))
	}
	tests := s.collectReports(ctx)
	if s.req.LogDrone {
		return res
	}
	collect(res, s.req, s.files, func(text string) { s.remark(remarks{"warning: " + text}) })
	s.addSummary(res, tests)
	return res
}

func (s *step) removeTempFiles() {
	if !s.req.DeleteTempStepFiles {
		return
	}
	for _, path := range append([]string{s.files.output, s.files.secrets}, s.files.own...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.agent.opts.Log.Warn("temporary file of a step cannot be removed", "path", path, "err", err)
		}
	}
}

// failed is the result of a step the agent could not run.
func (s *step) failed(err error) *agentapi.PollStepResponse {
	res := s.answer()
	res.ExitCode = failedCode
	res.Error = frame(err.Error())
	if s.req.LogDrone && errors.Is(err, errNoEntrypoint) {
		res.Error = err.Error()
	}
	return res
}

// answer is what the results of all ended steps have in common.
func (s *step) answer() *agentapi.PollStepResponse {
	res := &agentapi.PollStepResponse{Exited: true}
	if !s.req.LogDrone {
		res.OptimizationState = agentapi.OptimizationDisabled
		res.TelemetryData = &agentapi.TelemetryData{}
	}
	return res
}

// frame puts a cause into the frame callers know.
func frame(cause string) string {
	return "1 error occurred:\n\t* " + strings.TrimSpace(cause) + "\n\n"
}
