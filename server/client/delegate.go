package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// Setup asks for a machine and waits until it is there.
func (c *Client) Setup(ctx context.Context, r api.SetupRequest) (api.SetupResponse, error) {
	var out api.SetupResponse
	err := c.call(ctx, http.MethodPost, api.PathSetup, r, &out)
	return out, err
}

// Step runs a step, waits for its end and returns the agent's answer. A step
// whose command failed is no error.
func (c *Client) Step(ctx context.Context, r api.StepRequest) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, http.MethodPost, api.PathStep, r, &out)
	return out, err
}

// Destroy ends a stage. One that is gone or unknown is no error.
func (c *Client) Destroy(ctx context.Context, r api.DestroyRequest) error {
	return c.call(ctx, http.MethodPost, api.PathDestroy, r, nil)
}

// Suspend puts a gitspace to sleep.
func (c *Client) Suspend(ctx context.Context, r api.SuspendRequest) error {
	return c.call(ctx, http.MethodPost, api.PathSuspend, r, nil)
}

// PoolOwner says whether the runner has the pool and, if stage is not empty,
// whether the stage is in it.
func (c *Client) PoolOwner(ctx context.Context, pool, stage string) (bool, error) {
	q := url.Values{"pool": {pool}}
	if stage != "" {
		q.Set("stageId", stage)
	}
	var out api.PoolOwner
	err := c.call(ctx, http.MethodPost, api.PathPoolOwner+"?"+q.Encode(), nil, &out)
	return out.Owner, err
}

// Healthy is nil if the process works.
func (c *Client) Healthy(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, api.PathHealthz, nil, nil)
}

// Pending lists what is missing before the runner is ready, empty if nothing
// is.
func (c *Client) Pending(ctx context.Context) ([]string, error) {
	var missing []string
	err := c.call(ctx, http.MethodGet, api.PathReadyz, nil, &missing)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusServiceUnavailable {
		if json.Unmarshal(e.body, &missing) == nil {
			return missing, nil
		}
	}
	return missing, err
}
