package client

import (
	"context"
	"net/http"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// Orders are taken on the runner's admin socket only.

// Orphans lists in what clouds and store differ, as of the last sweeps.
func (c *Client) Orphans(ctx context.Context) (api.Orphans, error) {
	var out api.Orphans
	err := c.get(ctx, nil, &out, "orphans")
	return out, err
}

// RemoveOrphan destroys a machine or disk that has no row, by its name.
func (c *Client) RemoveOrphan(ctx context.Context, name string, o api.RemovalOrder) (api.Ordered, error) {
	return post[api.Ordered](ctx, c, o, "orphans", name, "remove")
}

// StopPool has nothing begun in a pool and its free machines destroyed.
func (c *Client) StopPool(ctx context.Context, name string, o api.Order) (api.Ordered, error) {
	return post[api.Ordered](ctx, c, o, "pools", name, "stop")
}

// StartPool runs a pool as configured again.
func (c *Client) StartPool(ctx context.Context, name string, o api.Order) (api.Ordered, error) {
	return post[api.Ordered](ctx, c, o, "pools", name, "start")
}

// ScalePool keeps another number of machines warm than configured.
func (c *Client) ScalePool(ctx context.Context, name string, o api.ScaleOrder) (api.Ordered, error) {
	return post[api.Ordered](ctx, c, o, "pools", name, "scale")
}

// DrainPool destroys a pool's free machines.
func (c *Client) DrainPool(ctx context.Context, name string, o api.Order) (api.Ordered, error) {
	return post[api.Ordered](ctx, c, o, "pools", name, "drain")
}

// DestroyInstance has a machine destroyed, by id, cloud id or name.
func (c *Client) DestroyInstance(ctx context.Context, id string, o api.DestroyOrder) (api.Instance, error) {
	return post[api.Instance](ctx, c, o, "instances", id, "destroy")
}

// HoldInstance keeps a machine; UnholdInstance lets it go.
func (c *Client) HoldInstance(ctx context.Context, id string, o api.Order) (api.Instance, error) {
	return post[api.Instance](ctx, c, o, "instances", id, "hold")
}

// UnholdInstance lets a held machine go.
func (c *Client) UnholdInstance(ctx context.Context, id string, o api.Order) (api.Instance, error) {
	return post[api.Instance](ctx, c, o, "instances", id, "unhold")
}

// EndLease ends a lease, whatever its state.
func (c *Client) EndLease(ctx context.Context, id string, o api.DestroyOrder) (api.Lease, error) {
	return post[api.Lease](ctx, c, o, "leases", id, "end")
}

func post[A any](ctx context.Context, c *Client, in any, segments ...string) (A, error) {
	var out A
	err := c.call(ctx, http.MethodPost, resource(nil, segments...), in, &out)
	return out, err
}
