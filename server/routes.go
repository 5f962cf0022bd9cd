package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// handler answers a request or says why not.
type handler func(w http.ResponseWriter, r *http.Request) error

// routes is everything that is served.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	post, get := []string{http.MethodPost}, []string{http.MethodGet, http.MethodHead}
	s.handle(mux, post, api.PathPoolOwner, s.poolOwner)
	s.handle(mux, post, api.PathSetup, s.setup)
	s.handle(mux, post, api.PathStep, s.step)
	s.handle(mux, post, api.PathDestroy, s.destroy)
	s.handle(mux, post, api.PathSuspend, s.suspend)
	s.handle(mux, get, api.PathHealthz, s.healthz)
	s.handle(mux, get, api.PathReadyz, s.readyz)
	// A mounted sub-tree: any method, any path below.
	s.handle(mux, nil, api.PathMetrics, s.metrics.serve)
	s.handle(mux, nil, api.PathMetrics+"/", s.metrics.serve)
	s.routesV1(mux)
	return mux
}

// handle serves exactly path for the methods, nil meaning any. A wrong method
// gets 405 without a body.
func (s *Server) handle(mux *http.ServeMux, methods []string, path string, h handler) {
	route := strings.TrimSuffix(path, "/")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		callOf(r.Context()).route = route
		if methods != nil && !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if err := h(w, r); err != nil {
			s.fail(w, r, cutOff(r.Context(), err))
		}
	})
}

// cutOff names the stop as the cause where the stop has cancelled the request.
func cutOff(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

// healthz says that the process works, and nothing else.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	send(w, http.StatusOK, "text/plain; charset=utf-8", []byte("OK"))
	return nil
}

// readyTimeout bounds the questions a readiness check asks.
const readyTimeout = 5 * time.Second

// readyz answers the list of what is missing, 200 if it is empty.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	status := http.StatusOK
	missing := s.pending(r.Context())
	if len(missing) > 0 {
		status = http.StatusServiceUnavailable
	}
	return replyJSON(w, status, missing)
}

// pending is never nil.
func (s *Server) pending(ctx context.Context) []string {
	select {
	case <-s.stopping:
		return []string{"the runner is stopping"}
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return append([]string{}, s.service().Pending(ctx)...)
}
