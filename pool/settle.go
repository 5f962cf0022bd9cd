package pool

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// settler knows which machines' CPUs are not as their rows want them, and who
// is being settled. A row says nothing about that: a warm machine is as good
// while it runs, only dearer and a little slower. What a process that died has
// left undone the sweeper sees in its next listing.
type settler struct {
	mu      sync.Mutex
	wanted  map[string]bool      // by instance id
	running map[string]*settling // by instance id; the worker has one at most
}

// settling is one machine being settled.
type settling struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (s *settler) init() {
	s.wanted = map[string]bool{}
	s.running = map[string]*settling{}
}

// want has a machine settled at the worker's next look at it.
func (s *settler) want(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted[id] = true
}

// wants says whether a machine is to be settled, once.
func (s *settler) wants(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := s.wanted[id]
	delete(s.wanted, id)
	return wanted
}

// begin notes that a machine is being settled until end is called.
func (s *settler) begin(ctx context.Context, id string) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	g := &settling{cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.running[id] = g
	s.mu.Unlock()
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		delete(s.running, id)
		s.mu.Unlock()
		close(g.done)
	}
}

// errClaimed ends the settling of a machine that somebody has claimed.
var errClaimed = errors.New("the machine was claimed")

// leave breaks off the settling of a machine and returns when nothing of it is
// under way any more. It is called by whoever has claimed the machine: settling
// that begins later reads the row and leaves it alone.
func (s *settler) leave(ctx context.Context, id string) error {
	s.mu.Lock()
	g := s.running[id]
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	g.cancel(errClaimed)
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const (
	// rehearsal bounds what an agent may take for it.
	rehearsal = 20 * time.Second
	// pausing bounds stopping a machine's CPUs, which nothing breaks off.
	pausing = 10 * time.Second
)

// settleWarm lets a warm machine run through a stage and then stops its CPUs. It is
// in nobody's way: a claim breaks it off, waits for no more than a pause that
// has begun, and lets the machine run again.
func (m *Manager) settleWarm(ctx context.Context, rt *runtime, inst Instance) {
	if !rt.driver(inst).CanPause() {
		return
	}
	ctx, end := m.settler.begin(ctx, inst.ID)
	defer end()
	release, _, err := take(ctx, rt.boots)
	if err != nil {
		return
	}
	defer release()
	if !m.stillWarm(ctx, inst) {
		return
	}
	m.rehearse(ctx, inst)
	if !m.stillWarm(ctx, inst) {
		return
	}
	// Who claims the machine from here on waits, in leave, until it is paused:
	// a pause broken off could still come true after the claim's own words.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pausing)
	defer cancel()
	if err := rt.driver(inst).Pause(ctx, inst.Ref()); err != nil {
		m.log.Warn("warm machine not paused, tried again", "instance", inst.Name, "err", err)
		return // the sweeper sees that it runs
	}
	if m.stillWarm(ctx, inst) {
		return
	}
	// Another replica has claimed it meanwhile and did not wait.
	if err := rt.driver(inst).Unpause(ctx, inst.Ref()); err != nil && !errors.Is(err, drivers.ErrNotFound) {
		m.log.Warn("machine paused although it is not warm any more", "instance", inst.Name, "err", err)
	}
}

// stillWarm says whether the row certainly is, nobody has asked to leave the
// machine alone, and nobody holds it: what is held may be in use.
func (m *Manager) stillWarm(ctx context.Context, inst Instance) bool {
	row, err := m.store.Instance(ctx, inst.ID)
	return err == nil && row.State == Warm && !row.Held && ctx.Err() == nil
}

// rehearse lets a machine that is about to wait run through a stage first, so
// that a claim does not pay for code that runs for the first time. Nothing
// depends on it.
func (m *Manager) rehearse(ctx context.Context, inst Instance) {
	begun := m.now()
	ctx, cancel := context.WithTimeout(ctx, rehearsal)
	defer cancel()
	if err := m.agent.Rehearse(ctx, inst.Target()); err != nil {
		m.log.Debug("agent did not rehearse", "instance", inst.Name, "err", err)
		return
	}
	m.counters.phase("rehearse", m.now().Sub(begun))
}

// rouse lets a leased machine run that was found paused: whoever paused it died
// before it learned of the claim.
func (m *Manager) rouse(ctx context.Context, rt *runtime, inst Instance) {
	ctx, cancel := context.WithTimeout(ctx, pausing)
	defer cancel()
	if err := rt.driver(inst).Unpause(ctx, inst.Ref()); err != nil {
		m.log.Warn("leased machine is paused and does not run again", "instance", inst.Name, "lease", inst.LeaseID, "err", err)
		return // the sweeper sees that it stands
	}
	m.log.Info("leased machine was paused and runs again", "instance", inst.Name, "lease", inst.LeaseID)
}

// unsettled has a machine looked at whose CPUs are not as its row wants them:
// what a process that died has left so.
func (m *Manager) unsettled(row Instance, status drivers.Status) {
	rt := m.runtimeOf(row)
	if rt == nil || !rt.driver(row).CanPause() || !m.work.idle(row.ID) {
		return
	}
	if row.State == Warm && !row.Held && status == drivers.StatusRunning || row.State == Leased && status == drivers.StatusPaused {
		m.settler.want(row.ID)
		m.work.dispatch(m, row)
	}
}
