package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// ErrStarting is what every call of Starting says.
var ErrStarting = errors.New("the runner is starting")

// Starting is the service of a runner that listens but has no engine yet:
// every call fails with an ErrStarting that lists what is missing.
func Starting(missing ...string) pool.Service {
	if len(missing) == 0 {
		missing = []string{"the engine"}
	}
	return starting(missing)
}

// await is the engine, once it has started. A caller that is early waits for
// it as long as Config.StartWait, until it hangs up, or until the runner stops;
// what it gets then fails every call with what is missing. Handlers call it
// when the body is read, since only then a hang-up is seen.
func (s *Server) await(ctx context.Context) *engine {
	e := s.service()
	if !e.starting() || s.c.StartWait < 0 {
		return e
	}
	timer := time.NewTimer(s.c.StartWait)
	defer timer.Stop()
	for e.starting() {
		select {
		case <-e.replaced:
			e = s.service()
		case <-timer.C:
			return e
		case <-ctx.Done():
			return e
		case <-s.stopping:
			return e
		}
	}
	return e
}

func (e *engine) starting() bool {
	_, yes := e.Service.(starting)
	return yes
}

type starting []string

var _ pool.Operator = starting{}

func (s starting) Orphans(context.Context) (pool.OrphanReport, error) {
	return pool.OrphanReport{}, s.err()
}

func (s starting) RemoveOrphan(context.Context, string, pool.OrphanOrder) error { return s.err() }

func (s starting) FindInstance(context.Context, string) (pool.Instance, error) {
	return pool.Instance{}, s.err()
}

func (s starting) DestroyInstance(context.Context, string, pool.DestroyOrder) (pool.Instance, error) {
	return pool.Instance{}, s.err()
}

func (s starting) HoldInstance(context.Context, string, bool, pool.Order) (pool.Instance, error) {
	return pool.Instance{}, s.err()
}

func (s starting) EndLease(context.Context, string, pool.DestroyOrder) (pool.Lease, error) {
	return pool.Lease{}, s.err()
}

func (s starting) OverridePool(context.Context, string, pool.Override) error { return s.err() }

func (s starting) DrainPool(context.Context, string, pool.Order) (int, error) { return 0, s.err() }

type startingError []string

func (e startingError) Error() string {
	return ErrStarting.Error() + ": waiting for " + strings.Join(e, ", ")
}

func (startingError) Is(target error) bool { return target == ErrStarting }

func (s starting) err() error { return startingError(s) }

func (s starting) Setup(context.Context, pool.SetupRequest) (pool.SetupResult, error) {
	return pool.SetupResult{}, s.err()
}

func (s starting) Step(context.Context, pool.StepRequest) (json.RawMessage, error) {
	return nil, s.err()
}
func (s starting) Destroy(context.Context, pool.DestroyRequest) error    { return s.err() }
func (s starting) Suspend(context.Context, pool.SuspendRequest) error    { return s.err() }
func (s starting) Owns(context.Context, string, string) (bool, error)    { return false, s.err() }
func (s starting) Pending(context.Context) []string                      { return s }
func (s starting) PoolStatus(context.Context) ([]pool.PoolStatus, error) { return nil, s.err() }
func (s starting) Lease(context.Context, string) (pool.Lease, error)     { return pool.Lease{}, s.err() }
func (s starting) StepIDs(context.Context, string) ([]string, error)     { return nil, s.err() }
func (s starting) Counters() pool.Counters                               { return pool.Counters{} }

func (s starting) Instance(context.Context, string) (pool.Instance, error) {
	return pool.Instance{}, s.err()
}

func (s starting) Instances(context.Context, pool.InstanceQuery) ([]pool.Instance, error) {
	return nil, s.err()
}

func (s starting) Leases(context.Context, pool.LeaseQuery) ([]pool.Lease, error) {
	return nil, s.err()
}

func (s starting) Events(context.Context, pool.EventQuery) ([]pool.Event, error) {
	return nil, s.err()
}

func (s starting) Explain(context.Context, pool.Subject, string) (pool.Story, error) {
	return pool.Story{}, s.err()
}

func (s starting) StepOutput(context.Context, string, string, int64, bool, io.Writer) (int64, error) {
	return 0, s.err()
}
