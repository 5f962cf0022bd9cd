package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
)

// Errors callers know by their text.
var (
	errNoID = errors.New("ID needs to be set")
	// ErrNotStarted is the sentinel of a step that was not started in this run.
	//lint:ignore ST1005 callers know it with this capital
	ErrNotStarted = errors.New("Step has not started")
	errDestroyed  = errors.New("the stage is destroyed; set it up before starting another step")
	errStopping   = errors.New("the agent is stopping")
	errKnown      = errors.New("step is known already")
)

// Agent is the agent of one machine. Make one with [New]; all methods are safe
// for concurrent use.
type Agent struct {
	opts   Options
	state  *state
	stats  *collector
	docker *containers.Engine // nil: see noDocker
	// noDocker says why the daemon cannot even be asked for, such as an address
	// that is none.
	noDocker error

	setups   sync.Mutex // one setup or destroy at a time
	renewals sync.Mutex // one renewal at a time

	mu        sync.Mutex
	preparing string // what is still missing before anything is served, "" if nothing
	stage     *stage
	changed   chan struct{} // closed and replaced when a step is added or the table is
	numbered  int           // steps so far, for file names
	stages    int           // stages so far
	stopping  bool
	use       use
	creds     *credentials // nil without TLS
	renewed   string       // where the next ones are kept, "" for nowhere
	// logClients are all there ever were; some still send.
	logClients []*logservice.Client

	steps sync.WaitGroup
	polls atomic.Int32 // that wait
}

// stage is what one setup has begun and one destroy ends.
type stage struct {
	setup      agentapi.SetupRequest
	steps      map[string]*step
	containers *containers.Stage // nil without a daemon that could be asked for
	removable  []string          // host folders a destroy removes
	log        *stageLog
	destroyed  bool
}

// New makes an agent, after ending what an earlier one that was killed has
// left. [Agent.Close] gives everything back.
func New(o Options) (*Agent, error) {
	o = o.withDefaults()
	st, dead, err := openState(o.StateDir, o.Log)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		opts:    o,
		state:   st,
		use:     openUse(o.StateDir, o.Machine),
		stats:   newCollector(readUsage),
		changed: make(chan struct{}),
	}
	a.openDocker(dead)
	a.stage = a.newStageLocked()
	return a, nil
}

// Preparing makes health answer 503 with what is missing, and everything else
// too, until it is called with "".
func (a *Agent) Preparing(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.preparing = what
}

// Close ends all steps, waits for them and removes the agent's files.
// Afterwards no step can be started.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.stopping = true
	st := a.stage
	steps := st.all()
	a.mu.Unlock()
	err := a.endSteps(steps, errStopping)
	err = errors.Join(err, a.closeDocker(st))
	gone := make(chan struct{})
	go func() { a.steps.Wait(); close(gone) }()
	timeout := time.NewTimer(stepPatience)
	defer timeout.Stop()
	select {
	case <-gone:
	case <-timeout.C:
		err = errors.Join(err, errors.New("some processes cannot be ended"))
	}
	a.closeLogs()
	a.stats.stop(time.Now())
	if err != nil {
		return err // the records stay, for the next run to try again
	}
	a.state.close()
	return nil
}

func (s *stage) all() []*step {
	steps := make([]*step, 0, len(s.steps))
	for _, st := range s.steps {
		steps = append(steps, st)
	}
	return steps
}

// Setup prepares the machine for a stage. After a destroy it starts a new
// table of steps; otherwise it only replaces what later steps are given.
func (a *Agent) Setup(ctx context.Context, req *agentapi.SetupRequest) error {
	return a.SetupFor(ctx, "", req)
}

// SetupFor does so for one use, named by the caller, "" for a caller that does
// not: a machine that was set up for another use before refuses.
func (a *Agent) SetupFor(ctx context.Context, use string, req *agentapi.SetupRequest) error {
	a.setups.Lock()
	defer a.setups.Unlock()
	a.mu.Lock()
	err := a.use.begin(use)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := newEgress(req.EgressPolicy, nil); err != nil {
		return err
	}
	if err := makeShared(a.opts.SharedDir); err != nil {
		return err
	}
	if err := writeFiles(req.Files); err != nil {
		return err
	}
	if err := makeVolumes(req.Volumes); err != nil {
		return err
	}
	if err := writeClientPair(req.MTLSConfig); err != nil {
		return err
	}
	next := a.nextStage()
	if err := a.setupContainers(ctx, next, req); err != nil {
		return err
	}

	log := a.setUpLog(ctx, req, a.presentLog())
	if err := a.enter(ctx, next, req, log); err != nil {
		log.end()
		return errors.Join(err, a.closeDocker(next))
	}
	return nil
}

// enter makes a setup the present one, and next its stage.
func (a *Agent) enter(ctx context.Context, next *stage, req *agentapi.SetupRequest, log *stageLog) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping {
		return errStopping
	}
	if a.stage != next {
		for _, st := range a.stage.steps {
			st.forgetOutput()
		}
		a.stage = next
		a.announceLocked()
	}
	a.stepClock(ctx)
	a.stage.setup = *req
	a.stage.log = log
	a.stage.removable = append(a.stage.removable, removablePaths(req.Volumes)...)
	a.stats.start(time.Now())
	return nil
}

// presentLog is that of the stage which a setup would go on with, nil if it
// would begin another.
func (a *Agent) presentLog() *stageLog {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stage.destroyed {
		return nil
	}
	return a.stage.log
}

// announceLocked wakes who waits for a step to appear.
func (a *Agent) announceLocked() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Start starts a step unless its id is known already.
func (a *Agent) Start(ctx context.Context, req *agentapi.StartStepRequest) error {
	if req.ID == "" {
		return errNoID
	}
	at, err := a.admit(req.ID)
	if errors.Is(err, errKnown) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := newStep(a, req, at)
	if err != nil {
		return err
	}
	// The step outlives the request that started it; destroy and Close end it.
	runCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	st.cancel = cancel
	if err := a.register(st, at.stage); err != nil {
		cancel(err)
		st.out.close()
		st.spool.remove()
		if errors.Is(err, errKnown) {
			return nil
		}
		return err
	}
	go func() {
		defer a.steps.Done()
		st.run(runCtx)
	}()
	return nil
}

// admission is what a new step is made from.
type admission struct {
	stage  *stage
	setup  agentapi.SetupRequest
	log    *stageLog
	number int
}

// admit gives a new step its number, or the reason why there is none.
func (a *Agent) admit(id string) (admission, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refusalLocked(id); err != nil {
		return admission{}, err
	}
	if err := a.use.begin(""); err != nil {
		return admission{}, err
	}
	a.numbered++
	return admission{stage: a.stage, setup: a.stage.setup, log: a.stage.log, number: a.numbered}, nil
}

// register enters a step into the table of the stage it was made for, unless
// something came between.
func (a *Agent) register(st *step, of *stage) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stage != of {
		return errDestroyed
	}
	if err := a.refusalLocked(st.req.ID); err != nil {
		return err
	}
	a.stage.steps[st.req.ID] = st
	a.steps.Add(1)
	a.announceLocked()
	return nil
}

func (a *Agent) refusalLocked(id string) error {
	switch {
	case a.stopping:
		return errStopping
	case a.stage.steps[id] != nil:
		return errKnown
	case a.stage.destroyed:
		return errDestroyed
	}
	return nil
}

// Poll returns a step's result when it has ended, or at once for a detached
// step that runs. It returns the cause of ctx if that ends first.
func (a *Agent) Poll(ctx context.Context, id string) (*agentapi.PollStepResponse, error) {
	if id == "" {
		return nil, errNoID
	}
	st, _ := a.find(id)
	if st == nil {
		return nil, ErrNotStarted
	}
	a.polls.Add(1)
	defer a.polls.Add(-1)
	return st.wait(ctx)
}

// find returns a step, or nil and a channel that is closed when there may be
// news.
func (a *Agent) find(id string) (*step, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stage.steps[id], a.changed
}

// await is find for a step that is about to be started: callers open the
// stream first.
func (a *Agent) await(ctx context.Context, id string, patience time.Duration) (*step, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		st, changed := a.find(id)
		if st != nil {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timeout.C:
			return nil, ErrNotStarted
		case <-changed:
		}
	}
}

// Destroy ends the stage: all processes its steps have started, and the
// folders it was told to remove. Results and output stay until the next setup.
// It may be called at any time and any number of times.
func (a *Agent) Destroy(ctx context.Context) *agentapi.DestroyResponse {
	a.setups.Lock()
	defer a.setups.Unlock()
	a.mu.Lock()
	st := a.stage
	st.destroyed = true
	steps := st.all()
	removable := st.removable
	st.removable = nil
	log := st.log
	a.mu.Unlock()

	res := &agentapi.DestroyResponse{}
	if err := a.endSteps(steps, errDestroyed); err != nil {
		res.Leftover = append(res.Leftover, err.Error())
	}
	for _, end := range []func() error{
		func() error { return a.destroyContainers(ctx, st) },
		func() error { return a.sweepNow(ctx) },
	} {
		if err := end(); err != nil {
			res.Leftover = append(res.Leftover, err.Error())
		}
	}
	slices.Sort(removable)
	for _, path := range slices.Compact(removable) {
		if err := os.RemoveAll(path); err != nil {
			res.Leftover = append(res.Leftover, fmt.Sprintf("volume: %v", err))
		}
	}
	log.end()
	if len(res.Leftover) > 0 {
		a.opts.Log.WarnContext(ctx, "destroy left something behind", "leftover", res.Leftover)
	}
	res.OSStats = a.stats.stop(time.Now())
	return res
}

// Health describes the agent; preparing is what it still waits for, "" if it
// serves.
func (a *Agent) Health() (res *agentapi.HealthResponse, preparing string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	res = &agentapi.HealthResponse{
		Version: a.opts.Version,
		OK:      true,
		Docker:  a.dockerState(),
		Machine: a.opts.Machine,
		Used:    a.use.Used,
	}
	for _, st := range a.stage.steps {
		select {
		case <-st.done:
		default:
			res.RunningSteps++
		}
	}
	return res, a.preparing
}
