package agentclient

import (
	"context"
	"encoding/json"
	"io"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Mux chooses an agent per machine: a pretend one for pretend machines, the
// real client for all others.
type Mux struct {
	// Choose names the agent of a machine. It must be quick and safe for
	// concurrent use.
	Choose func(t pool.Target) pool.Agent
	// All are the agents Choose may name: each is told to forget a machine.
	All []pool.Agent
}

var _ pool.Agent = (*Mux)(nil)

// Health asks the chosen agent.
func (m *Mux) Health(ctx context.Context, t pool.Target) (pool.Health, error) {
	return m.Choose(t).Health(ctx, t)
}

// Setup asks the chosen agent.
func (m *Mux) Setup(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return m.Choose(t).Setup(ctx, t, body)
}

// StartStep asks the chosen agent.
func (m *Mux) StartStep(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return m.Choose(t).StartStep(ctx, t, body)
}

// PollStep asks the chosen agent.
func (m *Mux) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	return m.Choose(t).PollStep(ctx, t, step)
}

// Output asks the chosen agent.
func (m *Mux) Output(ctx context.Context, t pool.Target, step string, offset int64, w io.Writer) (int64, error) {
	return m.Choose(t).Output(ctx, t, step, offset, w)
}

// Suspend asks the chosen agent.
func (m *Mux) Suspend(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return m.Choose(t).Suspend(ctx, t, body)
}

// Destroy asks the chosen agent.
func (m *Mux) Destroy(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return m.Choose(t).Destroy(ctx, t, body)
}

// Forget tells all of them, since by then the choice may be another.
func (m *Mux) Forget(instance string) {
	for _, a := range m.All {
		a.Forget(instance)
	}
}
