package agentclient

import (
	"context"
	"errors"
	"net/http"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Rehearse asks once. An agent that does not know the route has nothing to
// rehearse: no error.
func (c *Client) Rehearse(ctx context.Context, t pool.Target) error {
	_, err := c.once(ctx, c.link(t), t, request{op: "rehearse", method: http.MethodPost, path: agentapi.PathRehearse, body: []byte("{}")})
	if refusal, ok := errors.AsType[*pool.AgentError](err); ok && refusal.Status == http.StatusNotFound {
		return nil
	}
	return err
}

// Rehearse has nothing to rehearse.
func (m *Mock) Rehearse(ctx context.Context, t pool.Target) error {
	return m.before(ctx, "rehearse", t, "")
}

// Rehearse asks the chosen agent.
func (m *Mux) Rehearse(ctx context.Context, t pool.Target) error {
	return m.Choose(t).Rehearse(ctx, t)
}
