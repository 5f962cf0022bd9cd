package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// maxOrder bounds the body of an order.
const maxOrder = 64 << 10

// order carries out what a body asks for on what the path names.
type order[In, A any] func(ctx context.Context, name string, in In) (A, error)

// v1Orders lists the routes that change something. They are served on the
// admin socket alone.
func (s *Server) v1Orders() []routeV1 {
	post := func(path string, serve handler) routeV1 {
		return routeV1{path: path, method: http.MethodPost, serve: serve}
	}
	return []routeV1{
		post("/pools/{id}/stop", command(s.v1StopPool)),
		post("/pools/{id}/start", command(s.v1StartPool)),
		post("/pools/{id}/scale", command(s.v1ScalePool)),
		post("/pools/{id}/drain", command(s.v1DrainPool)),
		post("/instances/{id}/destroy", command(s.v1DestroyInstance)),
		post("/instances/{id}/hold", command(s.v1HoldInstance)),
		post("/instances/{id}/unhold", command(s.v1UnholdInstance)),
		post("/leases/{id}/end", command(s.v1EndLease)),
		post("/orphans/{id}/remove", command(s.v1RemoveOrphan)),
	}
}

// command makes a handler that decodes an order strictly, carries it out and
// encodes its answer.
func command[In, A any](do order[In, A]) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		parameters := newQuery(r)
		name := pathID(parameters)
		if err := parameters.done(); err != nil {
			return err
		}
		in, err := decodeOrder[In](w, r)
		if err != nil {
			return err
		}
		out, err := do(r.Context(), name, in)
		if err != nil {
			return err
		}
		return replyJSON(w, http.StatusOK, out)
	}
}

// decodeOrder reads one JSON object without unknown fields; no body is an empty
// one.
func decodeOrder[In any](w http.ResponseWriter, r *http.Request) (In, error) {
	var in In
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
	d.DisallowUnknownFields()
	err := d.Decode(&in)
	switch {
	case errors.Is(err, io.EOF):
		return in, nil
	case err != nil:
		return in, badRequest("the body cannot be read: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return in, badRequest("something follows the body's object")
	}
	return in, nil
}

// errOnlyAdmin is the answer to a change that is asked for over TCP.
var errOnlyAdmin = &requestError{
	status: http.StatusForbidden,
	text:   "changes are taken on admin.sock in the runner's data directory only: use the command line on its host, as its user, or curl --unix-socket",
}

func orderOf(o api.Order) pool.Order { return pool.Order{By: o.By, Why: o.Why} }

func destroyOrderOf(o api.DestroyOrder) pool.DestroyOrder {
	return pool.DestroyOrder{Order: pool.Order{By: o.By, Why: o.Why}, Force: o.Force, Disks: o.Disks}
}

func (s *Server) v1StopPool(ctx context.Context, name string, o api.Order) (api.Ordered, error) {
	err := s.await(ctx).OverridePool(ctx, name, pool.Override{Stopped: true, By: o.By, Why: o.Why})
	return api.Ordered{Name: name, Done: "stopped"}, err
}

func (s *Server) v1StartPool(ctx context.Context, name string, o api.Order) (api.Ordered, error) {
	err := s.await(ctx).OverridePool(ctx, name, pool.Override{By: o.By, Why: o.Why})
	return api.Ordered{Name: name, Done: "started"}, err
}

func (s *Server) v1ScalePool(ctx context.Context, name string, o api.ScaleOrder) (api.Ordered, error) {
	if o.Min == nil || *o.Min < 0 {
		return api.Ordered{}, badRequest("min is missing or below 0: say how many machines to keep warm")
	}
	err := s.await(ctx).OverridePool(ctx, name, pool.Override{Min: o.Min, By: o.By, Why: o.Why})
	return api.Ordered{Name: name, Done: fmt.Sprintf("scaled to %d", *o.Min), Count: *o.Min}, err
}

func (s *Server) v1DrainPool(ctx context.Context, name string, o api.Order) (api.Ordered, error) {
	n, err := s.await(ctx).DrainPool(ctx, name, orderOf(o))
	return api.Ordered{Name: name, Done: "drained", Count: n}, err
}

func (s *Server) v1DestroyInstance(ctx context.Context, id string, o api.DestroyOrder) (api.Instance, error) {
	i, err := s.await(ctx).DestroyInstance(ctx, id, destroyOrderOf(o))
	return apiInstance(i), err
}

func (s *Server) v1HoldInstance(ctx context.Context, id string, o api.Order) (api.Instance, error) {
	i, err := s.await(ctx).HoldInstance(ctx, id, true, orderOf(o))
	return apiInstance(i), err
}

func (s *Server) v1UnholdInstance(ctx context.Context, id string, o api.Order) (api.Instance, error) {
	i, err := s.await(ctx).HoldInstance(ctx, id, false, orderOf(o))
	return apiInstance(i), err
}

func (s *Server) v1EndLease(ctx context.Context, id string, o api.DestroyOrder) (api.Lease, error) {
	l, err := s.await(ctx).EndLease(ctx, id, destroyOrderOf(o))
	return apiLease(l), err
}

func (s *Server) v1RemoveOrphan(ctx context.Context, name string, o api.RemovalOrder) (api.Ordered, error) {
	err := s.await(ctx).RemoveOrphan(ctx, name, pool.OrphanOrder{
		Order: pool.Order{By: o.By, Why: o.Why}, Foreign: o.Foreign, Gitspace: o.Gitspace, Disks: o.Disks,
	})
	return api.Ordered{Name: name, Done: "removed"}, err
}

func (s *Server) v1Orphans(ctx context.Context, _ none) (api.Orphans, error) {
	r, err := s.await(ctx).Orphans(ctx)
	out := api.Orphans{
		Machines: convert(r.Machines, apiOrphan), Disks: convert(r.Disks, apiOrphan),
		Missing: convert(r.Missing, func(m pool.Missing) api.Missing {
			return api.Missing{Instance: apiInstance(m.Instance), Since: m.Since, Times: m.Times}
		}),
		Failing: convert(r.Failing, apiInstance), Held: convert(r.Held, apiInstance),
		Unreachable: convert(r.Unreachable, apiInstance),
		Scopes: convert(r.Scopes, func(sc pool.ScopeStatus) api.Scope {
			return api.Scope{Scope: sc.Scope, Pools: append([]string{}, sc.Pools...), Listed: at(sc.Listed), Complete: sc.Complete, Problem: sc.Problem}
		}),
	}
	for _, u := range r.Unopened {
		out.Scopes = append(out.Scopes, api.Scope{Scope: u.Scope, Pools: []string{u.Pool}, Problem: "cannot be opened: " + u.Problem})
	}
	return out, err
}

func apiOrphan(o pool.Orphan) api.Orphan {
	return api.Orphan{
		Name: o.Name, CloudID: o.CloudID, Zone: o.Zone, Scope: o.Scope, Pool: o.Tags.Pool, Kind: o.Tags.Kind,
		InstanceID: o.Tags.Instance, Controller: o.Tags.Controller, Foreign: o.Foreign, SizeGiB: o.SizeGiB,
		AttachedTo: o.AttachedTo, Created: at(o.Tags.Created), Deadline: at(o.Tags.Deadline), FirstSeen: at(o.FirstSeen),
		Sightings: o.Sightings, Reason: string(o.Reason), Explanation: o.Explain(),
	}
}

func apiOverride(o pool.Override) *api.Override {
	if o == (pool.Override{}) {
		return nil
	}
	return &api.Override{Stopped: o.Stopped, Min: o.Min, By: o.By, Why: o.Why, Since: o.Since}
}
