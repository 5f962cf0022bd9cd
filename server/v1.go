package server

import (
	"context"
	"net/http"
	"runtime"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// question reads parameters and answers them.
type question[Q, A any] struct {
	read   func(*query) Q
	answer func(context.Context, Q) (A, error)
}

// routeV1 is one route below /v1.
type routeV1 struct {
	// path is below /v1, in the form of http.ServeMux.
	path string
	// method is GET, which stands for HEAD too, or POST for what changes
	// something.
	method string
	serve  handler
}

// v1Routes lists them all; the OpenAPI file is compared with it.
func (s *Server) v1Routes() []routeV1 {
	get := func(path string, serve handler) routeV1 {
		return routeV1{path: path, method: http.MethodGet, serve: serve}
	}
	return append([]routeV1{
		get("/pools", ask(question[none, api.PoolList]{noParameters, s.v1Pools})),
		get("/instances", ask(question[listed[pool.InstanceQuery], api.InstanceList]{instanceQuery, s.v1Instances})),
		get("/instances/{id}", ask(question[string, api.Instance]{pathID, s.v1Instance})),
		get("/leases", ask(question[listed[pool.LeaseQuery], api.LeaseList]{leaseQuery, s.v1Leases})),
		get("/leases/{id}", ask(question[string, api.Lease]{pathID, s.v1Lease})),
		get("/leases/{id}/steps", ask(question[string, api.StepList]{pathID, s.v1Steps})),
		get("/leases/{id}/steps/{step}/log", s.v1Log),
		get("/events", ask(question[listed[pool.EventQuery], api.EventList]{eventQuery, s.v1Events})),
		get("/explain/{id}", ask(question[explained, api.Story]{explainQuery, s.v1Explain})),
		get("/version", ask(question[none, api.Version]{noParameters, s.v1Version})),
		get("/orphans", ask(question[none, api.Orphans]{noParameters, s.v1Orphans})),
	}, s.v1Orders()...)
}

// routesV1 registers the routes of /v1, and what is none of them.
func (s *Server) routesV1(mux *http.ServeMux) {
	known := http.NewServeMux()
	for _, route := range s.v1Routes() {
		path := api.V1 + route.path
		known.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			callOf(r.Context()).route = path
			if err := route.answer(w, r); err != nil {
				s.fail(w, r, cutOff(r.Context(), err))
			}
		})
	}
	known.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		callOf(r.Context()).route = api.V1
		s.fail(w, r, &requestError{status: http.StatusNotFound, text: "there is no such resource; see docs/openapi.yaml"})
	})
	mux.Handle(api.V1, known)
	mux.Handle(api.V1+"/", known)
}

// answer serves the route's own methods, and changes on the admin socket only.
func (route routeV1) answer(w http.ResponseWriter, r *http.Request) error {
	switch {
	case route.method == http.MethodGet && r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		return &requestError{status: http.StatusMethodNotAllowed, text: "this resource is only read: GET and HEAD"}
	case route.method != http.MethodGet && r.Method != route.method:
		w.Header().Set("Allow", route.method)
		return &requestError{status: http.StatusMethodNotAllowed, text: "this resource takes orders: " + route.method}
	case route.method != http.MethodGet && !callOf(r.Context()).admin:
		return errOnlyAdmin
	}
	return route.serve(w, r)
}

// ask makes a handler that reads, answers and encodes.
func ask[Q, A any](q question[Q, A]) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		parameters := newQuery(r)
		in := q.read(parameters)
		if err := parameters.done(); err != nil {
			return err
		}
		out, err := q.answer(r.Context(), in)
		if err != nil {
			return err
		}
		return replyJSON(w, http.StatusOK, out)
	}
}

type none struct{}

func noParameters(*query) none { return none{} }

func pathID(q *query) string { return q.path("id") }

// listed is a query and the limit its answer is cut to: one more is asked for,
// to know whether there are more.
type listed[Q any] struct {
	query Q
	limit int
}

func instanceQuery(q *query) listed[pool.InstanceQuery] {
	limit := q.limit()
	return listed[pool.InstanceQuery]{limit: limit, query: pool.InstanceQuery{
		Pool: q.text("pool"), Lease: q.text("lease"), States: states(q, "state", pool.InstanceStates()),
		Live: q.bool("live"), Limit: limit + 1,
	}}
}

func leaseQuery(q *query) listed[pool.LeaseQuery] {
	limit := q.limit()
	return listed[pool.LeaseQuery]{limit: limit, query: pool.LeaseQuery{
		Pool: q.text("pool"), States: states(q, "state", pool.LeaseStates()), Live: q.bool("live"), Limit: limit + 1,
	}}
}

func eventQuery(q *query) listed[pool.EventQuery] {
	limit := q.limit()
	return listed[pool.EventQuery]{limit: limit, query: pool.EventQuery{
		Pool: q.text("pool"), Instance: q.text("instance"), Lease: q.text("lease"), After: q.number("after"), Limit: limit + 1,
	}}
}

func (s *Server) v1Pools(ctx context.Context, _ none) (api.PoolList, error) {
	pools, err := s.await(ctx).PoolStatus(ctx)
	return api.PoolList{Pools: convert(pools, apiPool)}, err
}

func (s *Server) v1Instances(ctx context.Context, q listed[pool.InstanceQuery]) (api.InstanceList, error) {
	all, err := s.await(ctx).Instances(ctx, q.query)
	all, more := cut(all, q.limit)
	return api.InstanceList{Instances: convert(all, apiInstance), More: more}, err
}

func (s *Server) v1Instance(ctx context.Context, id string) (api.Instance, error) {
	i, err := s.await(ctx).Instance(ctx, id)
	return apiInstance(i), err
}

func (s *Server) v1Leases(ctx context.Context, q listed[pool.LeaseQuery]) (api.LeaseList, error) {
	all, err := s.await(ctx).Leases(ctx, q.query)
	all, more := cut(all, q.limit)
	return api.LeaseList{Leases: convert(all, apiLease), More: more}, err
}

func (s *Server) v1Lease(ctx context.Context, id string) (api.Lease, error) {
	l, err := s.await(ctx).Lease(ctx, id)
	return apiLease(l), err
}

func (s *Server) v1Steps(ctx context.Context, lease string) (api.StepList, error) {
	ids, err := s.await(ctx).StepIDs(ctx, lease)
	return api.StepList{Steps: convert(ids, func(id string) api.Step { return api.Step{ID: id} })}, err
}

func (s *Server) v1Events(ctx context.Context, q listed[pool.EventQuery]) (api.EventList, error) {
	all, err := s.await(ctx).Events(ctx, q.query)
	all, more := cut(all, q.limit)
	next := q.query.After
	if len(all) > 0 {
		next = all[len(all)-1].ID
	}
	return api.EventList{Events: convert(all, apiEvent), Next: next, More: more}, err
}

func (s *Server) v1Version(ctx context.Context, _ none) (api.Version, error) {
	return api.Version{Version: s.c.Version, Go: runtime.Version(), Started: s.started, Pending: s.pending(ctx)}, nil
}

// cut shortens a list to what was asked for.
func cut[T any](all []T, limit int) ([]T, bool) {
	if len(all) <= limit {
		return all, false
	}
	return all[:limit], true
}
