package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// InstanceQuery narrows Instances. Zero fields do not narrow.
type InstanceQuery struct {
	Pool, Lease string
	States      []string
	Live        bool
	// Limit is at most api.MaxLimit; 0 means api.DefaultLimit.
	Limit int
}

// LeaseQuery narrows Leases. Zero fields do not narrow.
type LeaseQuery struct {
	Pool   string
	States []string
	Live   bool
	Limit  int
}

// EventQuery narrows Events. Zero fields do not narrow.
type EventQuery struct {
	Pool, Instance, Lease string
	// After is the Next of the answer before.
	After int64
	Limit int
}

// Pools lists every pool, retired ones included.
func (c *Client) Pools(ctx context.Context) ([]api.Pool, error) {
	var out api.PoolList
	err := c.get(ctx, nil, &out, "pools")
	return out.Pools, err
}

// Instances lists machines, newest first.
func (c *Client) Instances(ctx context.Context, q InstanceQuery) (api.InstanceList, error) {
	var out api.InstanceList
	err := c.get(ctx, query(map[string]string{
		"pool": q.Pool, "lease": q.Lease, "state": strings.Join(q.States, ","), "live": yes(q.Live), "limit": number(int64(q.Limit)),
	}), &out, "instances")
	return out, err
}

// Instance is one machine by its id.
func (c *Client) Instance(ctx context.Context, id string) (api.Instance, error) {
	var out api.Instance
	err := c.get(ctx, nil, &out, "instances", id)
	return out, err
}

// Leases lists leases, newest first.
func (c *Client) Leases(ctx context.Context, q LeaseQuery) (api.LeaseList, error) {
	var out api.LeaseList
	err := c.get(ctx, query(map[string]string{
		"pool": q.Pool, "state": strings.Join(q.States, ","), "live": yes(q.Live), "limit": number(int64(q.Limit)),
	}), &out, "leases")
	return out, err
}

// Lease is the latest generation of a lease.
func (c *Client) Lease(ctx context.Context, id string) (api.Lease, error) {
	var out api.Lease
	err := c.get(ctx, nil, &out, "leases", id)
	return out, err
}

// Steps lists the steps of a lease in the order of their start.
func (c *Client) Steps(ctx context.Context, lease string) ([]api.Step, error) {
	var out api.StepList
	err := c.get(ctx, nil, &out, "leases", lease, "steps")
	return out.Steps, err
}

// Explain tells the story of a lease, an instance (by id or name) or a pool,
// and what keeps it from going on. An empty subject is tried in this order.
func (c *Client) Explain(ctx context.Context, subject, id string) (api.Story, error) {
	var out api.Story
	err := c.get(ctx, query(map[string]string{"subject": subject}), &out, "explain", id)
	return out, err
}

// Events lists events after q.After, oldest first.
func (c *Client) Events(ctx context.Context, q EventQuery) (api.EventList, error) {
	var out api.EventList
	err := c.get(ctx, query(map[string]string{
		"pool": q.Pool, "instance": q.Instance, "lease": q.Lease, "after": number(q.After), "limit": number(int64(q.Limit)),
	}), &out, "events")
	return out, err
}

// Version is what runs.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	var out api.Version
	err := c.get(ctx, nil, &out, "version")
	return out, err
}

func (c *Client) get(ctx context.Context, q url.Values, out any, segments ...string) error {
	return c.call(ctx, http.MethodGet, resource(q, segments...), nil, out)
}

// resource is the path of something below /v1. Ids are opaque text, so what
// looks like a path to others is escaped, a lone dot included.
func resource(q url.Values, segments ...string) string {
	path := api.V1
	for _, s := range segments {
		s = url.PathEscape(s)
		if s == "." || s == ".." {
			s = strings.ReplaceAll(s, ".", "%2E")
		}
		path += "/" + s
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return path
}

// query leaves out what does not narrow.
func query(all map[string]string) url.Values {
	q := url.Values{}
	for k, v := range all {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
