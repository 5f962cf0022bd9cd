package pool

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The failures callers tell apart with errors.Is. The server maps each to a
// status in one table.
var (
	// ErrNotFound: no such lease, instance or pool.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the row is not in the state the caller expected; somebody
	// else was first.
	ErrConflict = errors.New("changed meanwhile")
	// ErrLimit: the pool has as many machines as its limit allows, or the free
	// places belong to requests that wait longer.
	ErrLimit = errors.New("limit reached")
	// ErrClosed: the pool begins no machines now; see ClosedError.
	ErrClosed = errors.New("pool is closed")
	// ErrRetired: the pool has left the pool file and makes no new machines.
	ErrRetired = errors.New("pool is retired")
	// ErrHeld: the generation of the pool's row is another replica's by now.
	ErrHeld = errors.New("pool is held by another replica")
	// ErrDestroyedFirst: a destroy came before this setup.
	ErrDestroyedFirst = errors.New("a destroy for this id came first")
	// ErrDisk: a disk that was asked for is in use or on its way out; see
	// DiskError.
	ErrDisk = errors.New("disk is not to be had")
	// ErrLost: the lease's machine died.
	ErrLost = errors.New("machine lost")
	// ErrInvalid: the request can never succeed as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrNotYet: asked for something that is not built in yet.
	ErrNotYet = errors.New("not built in yet")
	// ErrUnavailable: the store cannot be reached or written.
	ErrUnavailable = errors.New("store unavailable")
	// ErrForeign: what the caller says of a machine fits neither our row nor
	// the machine's tags.
	ErrForeign = errors.New("not a machine of this runner")
)

// LimitError is an ErrLimit with its numbers.
type LimitError struct {
	Pool string
	// Tenant and Variant are set if it is a flavour's own limit.
	Tenant, Variant string
	// Counted machines of Max are in use; Ahead requests wait longer.
	Counted, Max, Ahead int
}

// Error names the pool and its numbers.
func (e *LimitError) Error() string {
	what := "pool " + e.Pool
	if e.Tenant != "" || e.Variant != "" {
		what = fmt.Sprintf("variant %s of tenant %s in pool %s", e.Variant, e.Tenant, e.Pool)
	}
	msg := fmt.Sprintf("%s is at its limit (%d of %d machines)", what, e.Counted, e.Max)
	if e.Counted < e.Max {
		msg = fmt.Sprintf("the free places of pool %s (%d of %d machines) belong to requests that wait longer", e.Pool, e.Counted, e.Max)
	}
	if e.Ahead > 0 {
		msg += ", " + requests(e.Ahead) + " ahead"
	}
	return msg
}

// Is makes errors.Is(err, ErrLimit) true.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }

// ClosedError is an ErrClosed with why and until when.
type ClosedError struct {
	Pool string
	// Gate is the pool's; its Reason is "stopped" or "per_minute" for what is
	// no gate.
	Gate Gate
}

// Error names the pool, the reason and the time.
func (e *ClosedError) Error() string {
	msg := fmt.Sprintf("pool %s makes no machines now (%s)", e.Pool, e.Gate.Reason)
	if e.Gate.Reason == ClosedStopped {
		msg = fmt.Sprintf("pool %s is stopped by an operator", e.Pool)
	}
	if !e.Gate.Until.IsZero() {
		msg += " until " + e.Gate.Until.UTC().Format(time.RFC3339)
	}
	if e.Gate.Detail != "" {
		msg += ": " + e.Gate.Detail
	}
	return msg
}

// Is makes errors.Is(err, ErrClosed) true.
func (e *ClosedError) Is(target error) bool { return target == ErrClosed }

// HeldError is an ErrHeld of Store.Hold with who holds the pool and for how long.
type HeldError struct {
	Pool, Holder string
	// Until is when the hold ends unless it is renewed, by the database's
	// clock; Left is how long from the asking that was.
	Until time.Time
	Left  time.Duration
}

// Error names pool, holder and time.
func (e *HeldError) Error() string {
	return fmt.Sprintf("pool %s is held by replica %s until %s", e.Pool, e.Holder, e.Until.UTC().Format(time.RFC3339Nano))
}

// Is makes errors.Is(err, ErrHeld) true.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// SetupError is why no machine could be given: every pool that was tried with
// its phase and cause, in the order of trying.
type SetupError struct {
	Causes []Cause
	// Err is the last underlying error, for errors.Is.
	Err error
}

// Error lists the causes, separated by semicolons.
func (e *SetupError) Error() string {
	parts := make([]string, len(e.Causes))
	for i, c := range e.Causes {
		parts[i] = c.String()
	}
	if len(parts) == 0 && e.Err != nil {
		return e.Err.Error()
	}
	return strings.Join(parts, "; ")
}

// Unwrap gives the last underlying error.
func (e *SetupError) Unwrap() error { return e.Err }

// LostError is an ErrLost with what is known of the machine's end.
type LostError struct {
	Lease, Instance string
	Cause           string
	Console         string
}

// Error tells which machine died of what.
func (e *LostError) Error() string {
	msg := fmt.Sprintf("the machine %s of %s died: %s", e.Instance, e.Lease, e.Cause)
	if e.Console != "" {
		msg += fmt.Sprintf(" (console tail: %q)", e.Console)
	}
	return msg
}

// Is makes errors.Is(err, ErrLost) true.
func (e *LostError) Is(target error) bool { return target == ErrLost }

// AgentError is an answer of a machine's agent that says no.
type AgentError struct {
	// Op is the agent's route without slash, for example "setup".
	Op string
	// Status is the HTTP status, Message the agent's own text.
	Status  int
	Message string
}

// Error gives the agent's own text and status.
func (e *AgentError) Error() string {
	return fmt.Sprintf("agent %s: %d: %s", e.Op, e.Status, e.Message)
}

// Final says that repeating the call cannot help: a 4xx other than 429.
func (e *AgentError) Final() bool {
	return e.Status >= 400 && e.Status < 500 && e.Status != 429
}
