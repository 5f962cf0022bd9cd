package pool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Service is what the server needs of the engine; Manager implements it.
// Methods are safe for concurrent use. They return when their work is done or
// ctx ends; work that must not be lost goes on without the caller.
type Service interface {
	// Setup gives a machine to a lease, joining what is there already. See
	// SetupError for what it says when it cannot.
	Setup(ctx context.Context, r SetupRequest) (SetupResult, error)
	// Step runs a step on the lease's machine, or attaches to the running or
	// finished step of the same id, and returns the agent's answer.
	Step(ctx context.Context, r StepRequest) (json.RawMessage, error)
	// Destroy ends a lease. Unknown and ended leases are no error.
	Destroy(ctx context.Context, r DestroyRequest) error
	// Suspend puts a gitspace to sleep. A sleeping one is no error.
	Suspend(ctx context.Context, r SuspendRequest) error
	// Owns says whether the pool is configured here and, if lease is set,
	// whether that lease is known and in this pool.
	Owns(ctx context.Context, pool, lease string) (bool, error)
	// Pending lists what is missing before the runner is ready, empty if
	// nothing is.
	Pending(ctx context.Context) []string

	// The readers behind /v1.
	PoolStatus(ctx context.Context) ([]PoolStatus, error)
	Instances(ctx context.Context, q InstanceQuery) ([]Instance, error)
	Leases(ctx context.Context, q LeaseQuery) ([]Lease, error)
	Lease(ctx context.Context, id string) (Lease, error)
	Instance(ctx context.Context, id string) (Instance, error)
	Events(ctx context.Context, q EventQuery) ([]Event, error)
	// Explain tells the story of a lease, an instance (by id or name) or a
	// pool, and what keeps it from going on. An empty subject is tried in this
	// order. It reads at most a few hundred rows.
	Explain(ctx context.Context, subject Subject, id string) (Story, error)
	// StepOutput copies a step's output from a byte offset to w, until the
	// step ends if follow is set, else as much as there is now, and returns
	// the next offset.
	StepOutput(ctx context.Context, lease, step string, offset int64, follow bool, w io.Writer) (int64, error)
	// StepIDs lists the steps started under a lease by this process, in order.
	StepIDs(ctx context.Context, lease string) ([]string, error)
	// Counters are the engine's running totals, for metrics.
	Counters() Counters

	Operator
}

// SetupRequest asks for a machine.
type SetupRequest struct {
	ID   string
	Kind Kind
	// Pools in the order to try, at least one; unknown names are skipped with
	// a cause.
	Pools []string
	Want  Want
	// Reset replaces a gitspace's machine and keeps its disks. With Known set it
	// replaces that machine, so that the same reset sent twice makes one.
	Reset bool
	// InitScript, if not "", is run on a new machine of a gitspace before its
	// setup answers. It may hold secrets.
	InitScript string
	// Timeout bounds the wait for a machine; zero: the pools' own wait.
	Timeout time.Duration
	// Known is the machine as the caller remembers it, nil if it does not.
	Known *KnownInstance
	// Body is the agent's setup request, edited and ready to be sent, but for
	// what depends on the machine: that is Fit's.
	Body json.RawMessage
	Fit  Fit
	// Digest identifies the request, so that a different body for an active
	// lease becomes an event.
	Digest string
	// Progress, if set, is given lines for the user as the setup goes on, one
	// at a time, without newline.
	Progress func(Progress)
}

// Fit changes a body for the agent to suit the machine it goes to. Nil changes
// nothing. An error is an ErrInvalid of the body.
type Fit func(body json.RawMessage, on Instance) (json.RawMessage, error)

// of fits a body that what names.
func (f Fit) of(body json.RawMessage, on Instance, what string) (json.RawMessage, error) {
	if f == nil {
		return body, nil
	}
	fitted, err := f(body, on)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, what, err)
	}
	return fitted, nil
}

// Progress is one step of a setup.
type Progress struct {
	// Phase is "waiting", "provisioned", "healthy", "ready", "failed".
	Phase string
	// Step is what failed, for "failed": "create", "boot", "health" or "setup"
	// of a machine; "" for the setup as a whole.
	Step     string
	Pool     string
	Instance *Instance
	Message  string
}

// KnownInstance is what a caller says of a machine it was given once.
type KnownInstance struct {
	ID, Name, Address string
	Port              int
	OS, Arch          string
	Provider, Pool    string
	Zone, StorageID   string
	Proxy             string
	Identity          drivers.Identity
}

// SetupResult is the machine of a lease.
type SetupResult struct {
	Lease    Lease
	Instance Instance
	// Ports maps a gitspace's ports to the host's; nil for a build.
	Ports map[int]int
	// Joined says that the lease had its machine before this call.
	Joined bool
}

// StepRequest asks for a step to be run.
type StepRequest struct {
	Lease string
	// Instance, if set, is the machine the caller means, as in Ending.
	Instance string
	Step     string
	// Timeout is the step's own, zero if it has none; it is enforced here too.
	Timeout time.Duration
	// Body makes the agent's request from the variables exported so far.
	Body func(exported map[string]string) (json.RawMessage, error)
	// Fit is done to it afterwards.
	Fit   Fit
	Known *KnownInstance
}

// DestroyRequest asks for the end of a lease.
type DestroyRequest struct {
	Lease    string
	Instance string
	Disks    drivers.DiskPolicy
	Known    *KnownInstance
}

// SuspendRequest asks for the sleep of a gitspace.
type SuspendRequest struct {
	Lease    string
	Instance string
	// Body is the agent's suspend request.
	Body  json.RawMessage
	Known *KnownInstance
}

// PoolStatus is one pool for people.
type PoolStatus struct {
	PoolRow
	Default bool
	// Counts is how many live machines are in each state.
	Counts map[InstanceState]int
	// Waiting is how many requests wait for it, at least.
	Waiting int
	// Failing is how many of its machines could not be destroyed yet, FailingSince
	// since when the one that has waited longest is to go.
	Failing      int
	FailingSince time.Time
	// SpentHours are the machine-hours of this UTC day, measured once a minute
	// by the process that plans the pool; 0 elsewhere.
	SpentHours float64
	// Problem says why the pool is not as it should be, "" if it is.
	Problem string
	// Here says that the pool's loops run in this process.
	Here bool
}

// Counters are totals since the start of the process.
type Counters struct {
	// Setups by outcome ("warm", "cold", "joined", "resumed", "failed",
	// "abandoned").
	Setups map[string]int64
	// Creates and Destroys by pool and outcome.
	Creates  map[PoolOutcome]int64
	Destroys map[PoolOutcome]int64
	// Fallbacks by pool and success.
	Fallbacks map[PoolOutcome]int64
	// Renewals of machines' certificates by outcome ("renewed", "failed",
	// "unsupported").
	Renewals map[string]int64
	// Phases holds durations by phase ("claim", "create", "boot", "health",
	// "setup", "total") in seconds.
	Phases map[string]Histogram
	// Orphans is how many machines and disks of ours have no row, as of the
	// last sweeps.
	Orphans map[OrphanLabel]int
}

// OrphanLabel labels orphans: their scope, why they are left alone, and whether
// they are disks.
type OrphanLabel struct {
	Scope  string
	Reason Reason
	Disk   bool
}

// PoolOutcome labels a counter.
type PoolOutcome struct{ Pool, Outcome string }

// Histogram is a cumulative histogram: Counts[i] observations were at most
// Bounds[i] seconds.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
	Count  uint64
}
