package pool

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Target is one machine's agent, as far as a client needs to know.
type Target struct {
	// Instance is our id of the machine, the key of kept connections.
	Instance string
	Address  string
	Port     int
	// Identity holds the pair and CA of the machine and the TLS server name.
	Identity drivers.Identity
	OS       string
	// Use names what the machine is set up for, "" for nobody: one lease and
	// generation. Our agent refuses to be set up for a second one.
	Use string
}

// Agent talks to the programs inside machines. Methods are safe for concurrent
// use and return when ctx ends. A refusal by the agent is an *AgentError;
// every other error means that it could not be reached.
type Agent interface {
	// Health asks once whether the agent is ready; not ready is an error.
	Health(ctx context.Context, t Target) (Health, error)
	// Rehearse lets the agent run once through what a stage needs, with no
	// effect, so that the first real call finds everything in place. An agent
	// that cannot is no error.
	Rehearse(ctx context.Context, t Target) error
	// Setup prepares the machine for a stage. It repeats what can be repeated
	// until ctx ends, stops at a final refusal, and then returns the last
	// answer of the agent, not the time-out. An agent that was set up for
	// another use than t's refuses with StatusUsed.
	Setup(ctx context.Context, t Target, body json.RawMessage) error
	// StartStep starts a step, once per step id, with the same rules.
	StartStep(ctx context.Context, t Target, body json.RawMessage) error
	// PollStep waits until the step has ended or ctx does, over as many
	// connections as it takes. One poll per step and process is enough.
	PollStep(ctx context.Context, t Target, step string) (StepResult, error)
	// Output copies a step's output from a byte offset to w until the step
	// has ended and all is read, or ctx ends, and returns the next offset.
	Output(ctx context.Context, t Target, step string, offset int64, w io.Writer) (int64, error)
	// Renew gives the machine the certificates it is to use from now on, next, in
	// place of t's, in one try. The same again is no error. With certificates in t
	// that have ended it reaches the machine all the same, if that has exactly
	// these. An agent that cannot is an *AgentError of status 404.
	Renew(ctx context.Context, t Target, next drivers.Identity) error
	// Suspend tells the agent that its machine is about to be suspended.
	Suspend(ctx context.Context, t Target, body json.RawMessage) error
	// Destroy lets the agent clean up before its machine is destroyed.
	Destroy(ctx context.Context, t Target, body json.RawMessage) error
	// Forget drops whatever is kept for an instance: connections, mostly.
	Forget(instance string)
}

// StatusUsed is the status with which our agent refuses a setup because its
// machine was set up for another use before.
const StatusUsed = 409

// Health is what an agent says of itself.
type Health struct {
	Version string
	// RunningSteps is -1 if the agent does not tell.
	RunningSteps int
	// Used says whether the machine has ever been set up for somebody.
	Used Used
}

// Used is whether a machine has ever been set up for somebody.
type Used int

// UsedUnknown is what agents other than ours say.
const (
	UsedUnknown Used = iota
	UsedNever
	UsedOnce
)

// StepResult is how a step ended.
type StepResult struct {
	// Body is the agent's answer as it came, one JSON object.
	Body json.RawMessage
	// Exported are the variables the step exported to later host steps.
	Exported map[string]string
}

// Boot renders what a machine runs at its first boot, for drivers that need a
// script to bring the agent into the machine.
type Boot interface {
	// Render returns the boot data for one machine, or an error that says
	// which template and limit it breaks.
	Render(b BootRequest) ([]byte, error)
}

// BootRequest is what a boot script is made from.
type BootRequest struct {
	// Pool and Driver name where the machine belongs.
	Pool, Driver string
	Kind         Kind
	Platform     drivers.Platform
	Identity     drivers.Identity
	// Deadline is when the machine shuts itself down; zero: never.
	Deadline time.Time
	// InitScript is a gitspace's, decoded: run once, before the agent answers.
	InitScript string
	// Proxy is the address of the machine's only way out, "" if it has its own.
	Proxy string
	// Disks are the persistent disks the machine has, in their order.
	Disks []drivers.DiskSpec
	// Options are the pool's wishes and its cloud's rules.
	Options drivers.BootOptions
}
