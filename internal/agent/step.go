package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
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
	agent  *Agent
	req    *agentapi.StartStepRequest
	setup  agentapi.SetupRequest
	number int
	files  stepFiles
	out    *output
	spool  *spool
	cancel context.CancelCauseFunc

	begun chan struct{} // closed when the process runs or cannot
	done  chan struct{} // closed when result is set

	mu     sync.Mutex
	proc   *target
	result *agentapi.PollStepResponse
}

func newStep(a *Agent, req *agentapi.StartStepRequest, setup agentapi.SetupRequest, number int) (*step, error) {
	sp, err := newSpool(a.state.outputPath(number), a.opts.OutputLimit, a.opts.Log)
	if err != nil {
		return nil, err
	}
	secrets := append(append([]string(nil), setup.Secrets...), req.Secrets...)
	if setup.Envs[envExtraMask] == "true" || req.Environment[envExtraMask] == "true" {
		secrets = secretVariants(secrets)
	}
	return &step{
		agent:  a,
		req:    req,
		setup:  setup,
		number: number,
		files:  newStepFiles(a.opts.SharedDir, req),
		out:    &output{mask: newMasker(secrets), spool: sp},
		spool:  sp,
		begun:  make(chan struct{}),
		done:   make(chan struct{}),
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
	if _, ok := s.started(); ok {
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

// started returns what the step's process was started as, if it was.
func (s *step) started() (target, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return target{}, false
	}
	return *s.proc, true
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
		s.out.close()
		s.cancel(nil)
		s.mu.Lock()
		s.result = res
		s.mu.Unlock()
		s.closeBegun()
		close(s.done)
	}()
	res = s.execute(ctx)
}

func (s *step) closeBegun() {
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
}

// execute prepares, starts and awaits the process.
func (s *step) execute(ctx context.Context) *agentapi.PollStepResponse {
	if err := notBuiltIn(s.req); err != nil {
		return s.failed(err)
	}
	args, shown, err := argv(s.req, s.files)
	if err != nil {
		return s.failed(err)
	}
	if err := s.prepare(); err != nil {
		return s.failed(err)
	}
	s.remark(startRemarks(&s.setup, s.req))
	if !s.req.LogDrone {
		_, _ = s.out.Write([]byte(header(shown))) // an output never fails
	}
	marker := envDroneExport + "=" + s.files.exported
	s.agent.state.note(s.number, target{Marker: marker})
	proc, err := startProcess(ctx, s.agent.opts.Spawner, startOptions{
		args:   args,
		dir:    hostPath(s.req.WorkingDir),
		env:    environ(s.agent.opts.Env, stepEnv(&s.setup, s.req, s.agent.opts.SharedDir, s.files)),
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
	var expired <-chan time.Time
	if s.req.Timeout > 0 {
		timer := time.NewTimer(time.Duration(s.req.Timeout) * time.Second)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case err := <-ended:
		return s.finished(proc, err)
	case <-expired:
		return s.timedOut(proc, ended)
	case <-ctx.Done():
		return s.ended(proc, ended)
	}
}

// ended ends the process because its stage ends. The result is what the
// process then exits with.
func (s *step) ended(proc *process, ended <-chan error) *agentapi.PollStepResponse {
	err := terminate([]target{proc.target}, killPolicy{terms: 1, interval: destroyGrace})
	if err != nil {
		s.agent.opts.Log.Warn("step cannot be ended", "step", s.req.ID, "err", err)
		return s.failed(err)
	}
	return s.finished(proc, <-ended)
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
		case <-ended:
		case <-grace.C:
		}
	case <-grace.C:
	}
	s.remark(endRemarks(&s.setup, s.req, s.files))
	s.removeTempFiles()
	return &agentapi.PollStepResponse{Exited: true, ExitCode: failedCode, Error: timeoutText}
}

// finished makes the result of a process that has ended by itself.
func (s *step) finished(proc *process, waitErr error) *agentapi.PollStepResponse {
	if waitErr != nil {
		return s.failed(waitErr)
	}
	defer s.removeTempFiles()
	defer func() { s.remark(endRemarks(&s.setup, s.req, s.files)) }()
	res := s.answer()
	if code := proc.exitCode(); code != 0 {
		res.ExitCode = code
		res.Error = frame(fmt.Sprintf("exit status %d", code))
	}
	if s.req.LogDrone {
		return res
	}
	collect(res, s.req, s.files, func(text string) { s.remark(remarks{"warning: " + text}) })
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
